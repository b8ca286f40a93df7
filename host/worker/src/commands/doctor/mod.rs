//! `doctor`: looks at everything a job depends on and says of each what to do next.
//!
//! Nothing is changed, nothing is downloaded. Every look is bounded in time, so that a doctor at a sick machine comes to
//! an end too. The names and fields of the JSON are stable; docs/programs.md lists them.

mod clock;
mod machine;
mod parts;
mod places;
mod studio;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use worker_config::{Paths, Settings};

use crate::cli::{Failure, Output, one_line};

/// Longest time for the plugins and the programs together. Compiling plugins that were never compiled takes some seconds
/// each, and a program that loads a driver to print its help up to ten.
const PARTS_LIMIT: Duration = Duration::from_secs(120);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Jobs run, but not all of them or not as they should.
    Warning,
    /// Jobs will fail.
    Failure,
}

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What was looked at: stable, for scripts.
    pub(super) check: String,
    pub(super) level: Level,
    /// What was found.
    pub(super) found: String,
    /// What to do next; none where there is nothing to do.
    pub(super) next: Option<String>,
}

impl Check {
    pub(super) fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            level: Level::Ok,
            found: found.into(),
            next: None,
        }
    }

    pub(super) fn warning(
        check: impl Into<String>,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            next: Some(next.into()),
            ..Self::ok(check, found)
        }
    }

    pub(super) fn failure(
        check: impl Into<String>,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Failure,
            ..Self::warning(check, found, next)
        }
    }
}

/// Checks everything and prints a line each; fails when one of them failed.
pub(crate) async fn run<W: Write>(
    paths: &Paths,
    settings: &Settings,
    plugins: Option<&Path>,
    as_json: bool,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let parts = tokio::time::timeout(PARTS_LIMIT, parts::checks(paths, settings, plugins));
    let studio = studio::checks(paths, settings);
    let machine = machine::checks(paths, settings.programs.sandbox);
    let (parts, studio, machine) = tokio::join!(parts, studio, machine);
    let mut checks = places::checks(paths, settings);
    checks.extend(parts.unwrap_or_else(|_| {
        vec![Check::failure(
            "plugins",
            format!("not done within {} s", PARTS_LIMIT.as_secs()),
            "look what else keeps this machine busy, and run `studio-worker plugin list`",
        )]
    }));
    checks.extend(machine);
    checks.extend(studio);
    let failed = checks
        .iter()
        .filter(|it| it.level == Level::Failure)
        .count();
    if as_json {
        output.json(&serde_json::json!({ "ok": failed == 0, "checks": checks }))?;
    } else {
        print(&checks, output)?;
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::new(format!(
            "{n} of {} checks failed",
            checks.len()
        ))),
    }
}

fn print<W: Write>(checks: &[Check], output: &mut Output<W>) -> Result<(), Failure> {
    let width = checks.iter().map(|it| it.check.len()).max().unwrap_or(0);
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Failure => "FAILURE",
        };
        output.line(format_args!(
            "{level}  {:width$}  {}",
            one_line(&check.check),
            one_line(&check.found)
        ))?;
        if let Some(next) = &check.next {
            output.line(format_args!("{:9}{:width$}  -> {}", "", "", one_line(next)))?;
        }
    }
    Ok(())
}
