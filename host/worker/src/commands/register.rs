//! `register`: which studio, and whether to forget who this worker was there. Registering itself is `run`'s.

use std::io::Write;
use std::path::Path;

use worker_config::{
    ConfigFile, Environment, IdentityFile, Paths, Settings, StoredIdentity, Studio,
};

use crate::cli::{Failure, Output, Registration};

/// Changes the configuration.
pub(crate) fn run<W: Write>(
    config: &Path,
    asked: &Registration,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let done = worker_config::register(config, asked.studio.as_ref(), asked.reset)?;
    let settings = Settings::resolve(&ConfigFile::load(config)?, &Environment::of_process())?;
    let paths = Paths::new(config, &settings);
    let mut forgotten = done.identity_removed;
    if asked.reset && settings.studio == Studio::Embedded {
        forgotten |= forget_embedded(&paths)?;
    }
    output.line(format_args!("configuration: {}", config.display()))?;
    match &settings.studio {
        Studio::Embedded => output.line("studio: the worker's own")?,
        Studio::Remote(base) => output.line(format_args!("studio: {base}"))?,
    }
    if forgotten {
        output
            .line("registration: forgotten; the next `studio-worker run` asks for approval anew")?;
    } else if asked.reset {
        output.line("registration: there was none")?;
    }
    Ok(())
}

fn forget_embedded(paths: &Paths) -> Result<bool, Failure> {
    let file = IdentityFile::embedded(&paths.embedded_identity);
    if file.load()?.is_empty() {
        return Ok(false);
    }
    file.save(&StoredIdentity::default())?;
    Ok(true)
}
