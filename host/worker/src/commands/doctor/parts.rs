//! Plugins and the programs that they need.

use std::path::Path;
use std::sync::Arc;

use worker_config::{Paths, Settings};
use worker_plugins::contract::Backend;
use worker_plugins::{Engine, Generation, Loaded};
use worker_runner::Programs;

use super::Check;
use crate::assemble;
use crate::cli::Failure;
use crate::commands::plugin;

pub(super) async fn checks(
    paths: &Paths,
    settings: &Settings,
    folder: Option<&Path>,
) -> Vec<Check> {
    let (loaded, serves) = match load(paths, folder).await {
        Ok(loaded) => loaded,
        Err(failure) => {
            return vec![Check::failure(
                "plugins",
                failure.to_string(),
                "without plugins nothing is served; name their folder with --plugins",
            )];
        }
    };
    let Loaded {
        generation,
        refused,
    } = loaded;
    let mut checks: Vec<Check> = refused
        .iter()
        .map(|refusal| {
            Check::failure(
                format!("plugin {}", refusal.file),
                format!("refused ({}): {}", refusal.rule, refusal.detail),
                "`studio-worker plugin validate` says the same after a change",
            )
        })
        .collect();
    checks.extend(decided(&generation, serves));
    let programs = match assemble::programs(paths, settings) {
        Ok(programs) => programs,
        Err(failure) => {
            checks.push(Check::failure(
                "programs",
                failure.to_string(),
                "give this user the state folder",
            ));
            return checks;
        }
    };
    programs.discover(&generation).await;
    for engine in generation.engines() {
        let identity = engine.identity();
        let check = format!("plugin {}", identity.name);
        let found = format!("{} loaded", identity.version);
        checks.push(if programs.can_serve(engine) {
            Check::ok(check, format!("{found}, serves"))
        } else {
            Check::warning(
                check,
                format!("{found}, does not serve: a program is missing"),
                "see its programs below",
            )
        });
        let mut names = std::collections::HashSet::new();
        for backend in &engine.description().backends {
            // Several of one name are one thing, by whichever program.
            if names.insert(&backend.name) {
                checks.push(program(&programs, engine, backend));
            }
        }
    }
    if !generation
        .engines()
        .iter()
        .any(|engine| programs.can_serve(engine))
    {
        checks.push(Check::failure(
            "plugins",
            "no engine can serve",
            "install a program named above, or use a folder with an engine that needs none",
        ));
    }
    let router = std::iter::once(generation.router().identity());
    let finishers = generation
        .finishers()
        .iter()
        .map(|finisher| finisher.identity());
    checks.extend(router.chain(finishers).map(|identity| {
        Check::ok(
            format!("plugin {}", identity.name),
            format!("{} loaded", identity.version),
        )
    }));
    checks
}

/// The folder's plugins, and what would serve with them or does.
async fn load(
    paths: &Paths,
    folder: Option<&Path>,
) -> Result<(Loaded, Result<Arc<Generation>, Failure>), Failure> {
    let sandbox = assemble::sandbox(paths)?;
    let loaded = assemble::load(&sandbox, folder).await?;
    let beside = assemble::beside(paths, &sandbox, folder).await;
    Ok((loaded, beside.map(|one| one.serving().current())))
}

/// What serves although the folder says otherwise. That is somebody's decision, so it is no failure.
fn decided(files: &Generation, serves: Result<Arc<Generation>, Failure>) -> Vec<Check> {
    let next = "`studio-worker plugin history` says why";
    match serves {
        Ok(serves) => plugin::decided(files, &serves)
            .iter()
            .map(|one| Check::warning("plugins decided", plugin::decision(one), next))
            .collect(),
        Err(failure) => vec![Check::failure("plugins decided", failure.to_string(), next)],
    }
}

fn program(programs: &Programs, engine: &Engine, backend: &Backend) -> Check {
    let check = format!("program {}", backend.program);
    match programs.get(engine, &backend.name) {
        Ok(state) => {
            let release = state
                .release
                .map(|it| format!(", release {it}"))
                .unwrap_or_default();
            let told: usize = state.probes.iter().map(String::len).sum();
            let digest: String = state.digest.chars().take(12).collect();
            let found = format!(
                "{} ({}){release}, SHA-256 {digest}…, answered {told} bytes to {} probes",
                state.path.display(),
                state.origin,
                state.probes.len()
            );
            if told == 0 && !backend.probes.is_empty() {
                let next = "its options cannot be checked beforehand: run it by hand with --help";
                return Check::warning(check, found, next);
            }
            Check::ok(check, found)
        }
        Err(missing) if missing.archive.is_some() => Check::ok(check, missing.reason),
        Err(missing) if backend.optional => {
            Check::ok(check, format!("optional: {}", missing.reason))
        }
        Err(missing) => {
            let named = backend.overrides.path.as_ref();
            let next = format!(
                "until then `{}` is not offered to the studio",
                engine.identity().name
            );
            // What the operator named is meant; an engine that nobody asked for may lack its program.
            if named.is_some_and(|variable| std::env::var_os(variable).is_some()) {
                Check::failure(check, missing.reason, next)
            } else {
                Check::warning(check, missing.reason, next)
            }
        }
    }
}
