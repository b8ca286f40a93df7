//! `config`: each setting, its value and where it came from.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use worker_config::{ConfigFile, Effect, Environment, Paths, Provenance, Setting, Settings};

use crate::cli::{Failure, Output};

/// Prints the configuration in force. Nothing is written.
pub(crate) fn run<W: Write>(
    config: &Path,
    json: bool,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let file = ConfigFile::load(config)?;
    let settings = Settings::resolve(&file, &Environment::of_process())?;
    let paths = Paths::new(config, &settings);
    if json {
        return output.json(&as_json(&file, &settings, &paths));
    }
    let missing = if file.exists() {
        ""
    } else {
        " (there is none; defaults)"
    };
    output.line(format_args!("# {}{missing}", config.display()))?;
    let width = settings
        .shown
        .iter()
        .map(|s| s.key.name.len())
        .max()
        .unwrap_or(0);
    for setting in &settings.shown {
        output.line(format_args!(
            "{:width$}  {}  # {}{}",
            setting.key.name,
            value_of(setting),
            origin(setting),
            note(setting.key.effect)
        ))?;
    }
    output.line(format_args!(
        "# models in {}",
        settings.models_root.display()
    ))?;
    output.line(format_args!("# state in {}", paths.state.display()))?;
    for name in file.unknown_keys() {
        output.line(format_args!(
            "# `{}` is not known to this version, and kept",
            crate::cli::one_line(&name)
        ))?;
    }
    for warning in &settings.warnings {
        output.line(format_args!("# warning: {warning}"))?;
    }
    Ok(())
}

fn as_json(file: &ConfigFile, settings: &Settings, paths: &Paths) -> Value {
    let values: serde_json::Map<String, Value> = settings
        .shown
        .iter()
        .map(|setting| {
            let value = json!({
                "value": setting.shown,
                "from": origin(setting),
                "meaning": setting.key.meaning,
            });
            (setting.key.name.to_owned(), value)
        })
        .collect();
    json!({
        "path": file.path(),
        "exists": file.exists(),
        "stateDir": paths.state,
        "modelsRoot": settings.models_root,
        "settings": values,
        "unknownKeys": file.unknown_keys(),
        "warnings": settings.warnings,
    })
}

fn value_of(setting: &Setting) -> String {
    setting
        .shown
        .as_deref()
        .map_or_else(|| "<not set>".to_owned(), crate::cli::one_line)
}

fn origin(setting: &Setting) -> String {
    match setting.from {
        Provenance::Default => "default".to_owned(),
        Provenance::File { line } => format!("file, line {line}"),
        Provenance::Environment { variable } => format!("environment, {variable}"),
    }
}

fn note(effect: Effect) -> &'static str {
    match effect {
        Effect::Used => "",
        Effect::Internal => "; written by the worker",
        Effect::Kept => "; kept for the reference worker",
    }
}
