//! What a worker says when it starts: what it serves, and where everything is.

use worker_config::Paths;
use worker_runner::Runner;
use worker_wire::ApiBase;

use crate::cli::{Failure, Output};

/// Where the studio is and what is served, on standard output, for whoever started the worker.
pub(crate) fn started(
    base: &ApiBase,
    embedded: bool,
    url: &str,
    paths: &Paths,
    runner: &Runner,
) -> Result<(), Failure> {
    let capabilities = runner.capabilities();
    let own = if embedded { " (its own, inside)" } else { "" };
    let words = |words: &[String]| {
        if words.is_empty() {
            "nothing".to_owned()
        } else {
            words.join(" ")
        }
    };
    let mut output = Output::standard();
    output.line(format_args!("studio-worker {}", crate::VERSION))?;
    output.line(format_args!("  studio   {base}{own}"))?;
    output.line(format_args!("  api      {url}"))?;
    output.line(format_args!("  config   {}", paths.config.display()))?;
    output.line(format_args!("  state    {}", paths.state.display()))?;
    output.line(format_args!(
        "  serves   {}",
        words(&capabilities.task_kinds)
    ))?;
    output.line(format_args!(
        "  engines  {}",
        words(&capabilities.model_engines)
    ))
}
