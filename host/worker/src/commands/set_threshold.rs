//! `set-threshold`: the largest job to take.

use std::io::Write;
use std::path::Path;

use crate::cli::{Failure, Output};

/// Writes the threshold. A running worker goes by it after its next start.
pub(crate) fn run<W: Write>(
    config: &Path,
    gigabytes: f64,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    worker_config::set_threshold(config, gigabytes)?;
    output.line(format_args!(
        "vram_threshold_gb = {gigabytes:?} in {}",
        config.display()
    ))
}
