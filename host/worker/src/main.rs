//! Runs generation jobs of a studio on this machine, through sandboxed plugins.
//!
//! This binary is the command line and the wiring; every part it puts together is a crate of its own under `host/`.

mod afar;
mod assemble;
mod cli;
mod client;
mod commands;
mod compose;
mod control;
mod embedded;
mod local;
mod logging;
mod metrics;
mod narrate;
mod output;
mod side;
mod signals;
mod studio;
mod swapping;
mod worker;

use std::process::ExitCode;

use worker_config::{ConfigFile, Environment, Paths, Settings};

use crate::cli::{Command, Failure, Invocation, Output, Plugins};
use crate::swapping::Wish;

/// Version of the worker, as studios and operators see it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    // Compiling is done in a child of this program, which does that and nothing else.
    if worker_plugins::is_child(std::env::args_os().nth(1).as_deref()) {
        return worker_plugins::compile_as_child();
    }
    let invocation = match cli::invocation(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(usage) => usage.exit(),
    };
    match start(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            cli::report(&failure);
            ExitCode::FAILURE
        }
    }
}

fn start(invocation: Invocation) -> Result<(), Failure> {
    let path = Paths::config(invocation.config.as_deref())?;
    // Mends a configuration that the others could not be started with.
    if let Command::Register(asked) = &invocation.command {
        return commands::register::run(&path, asked, &mut Output::standard());
    }
    let file = ConfigFile::load(&path)?;
    let settings = Settings::resolve(&file, &Environment::of_process())?;
    let paths = Paths::new(&path, &settings);
    logging::start(&settings.log);
    for warning in &settings.warnings {
        tracing::warn!(target: "worker", "{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(dispatch(invocation.command, paths, settings));
    // A thread that is still busy with a file or a guest must not hold up the exit.
    runtime.shutdown_background();
    ended
}

async fn dispatch(command: Command, paths: Paths, settings: Settings) -> Result<(), Failure> {
    match command {
        Command::Run { plugins } => {
            let stop = signals::Stop::on_signals()?;
            worker::run(
                worker::Options {
                    paths,
                    settings,
                    plugins,
                },
                stop,
            )
            .await
        }
        Command::Studio {
            listen,
            plugins,
            approval,
        } => {
            let stop = signals::Stop::on_signals()?;
            studio::run(
                studio::Options {
                    paths,
                    settings,
                    listen,
                    plugins,
                    approval,
                },
                stop,
            )
            .await
        }
        Command::Pushing(pushing) => commands::pushing::run(&paths, &pushing).await,
        Command::Submit(submission) => commands::submit::run(&paths, &submission).await,
        Command::Cancel { job } => commands::cancel::run(&paths, &job).await,
        Command::Pause => commands::pause::run(&paths, true).await,
        Command::Resume => commands::pause::run(&paths, false).await,
        Command::Workers { action, json } => commands::workers::run(&paths, &action, json).await,
        Command::Status { json } => commands::status::run(&paths, &settings, json).await,
        Command::Plugin(Plugins::List { folder, json }) => {
            commands::plugin::list(&paths, &settings, folder.as_deref(), json).await
        }
        Command::Plugin(Plugins::Inspect { file, json }) => commands::plugin::inspect(&file, json),
        Command::Plugin(Plugins::Validate { files, json }) => {
            commands::plugin::validate(&paths, &files, json).await
        }
        Command::Programs { accept, json } => {
            let output = &mut Output::standard();
            commands::programs::run(&paths, accept.as_deref(), json, output)
        }
        Command::Doctor { plugins, json } => {
            let output = &mut Output::standard();
            commands::doctor::run(&paths, &settings, plugins.as_deref(), json, output).await
        }
        Command::Plugin(Plugins::Add { from }) => {
            commands::swap::add(&paths, &settings, from).await
        }
        Command::Plugin(Plugins::Act { action, name }) => {
            commands::swap::act(&paths, action, Wish::of(name)).await
        }
        Command::Plugin(Plugins::Grant { name, digest, json }) => {
            commands::swap::grant(&paths, &name, digest, json).await
        }
        Command::Plugin(Plugins::Forgive { digest }) => {
            let wish = Wish {
                digest: Some(digest),
                ..Wish::of(String::new())
            };
            commands::swap::act(&paths, "forgive", wish).await
        }
        Command::Plugin(Plugins::Keygen {
            secret,
            public,
            password,
        }) => commands::trust::keygen(&secret, &public, &password),
        Command::Plugin(Plugins::Sign {
            files,
            secret,
            password,
            replaces,
        }) => commands::trust::sign(&files, &secret, &password, replaces.as_deref()),
        Command::Plugin(Plugins::Verify {
            file,
            key_files,
            keys,
            signature,
            json,
        }) => {
            let wanted = commands::trust::Wanted {
                file: &file,
                key_files: &key_files,
                keys: &keys,
                signature: signature.as_deref(),
            };
            commands::trust::verify(&paths, &wanted, json).await
        }
        Command::Plugin(Plugins::History { name, json }) => {
            commands::swap::history(&paths, name.as_deref(), json).await
        }
        Command::Plugin(Plugins::Diff { old, new, json }) => {
            commands::swap::diff(&paths, &old, &new, json).await
        }
        Command::Plugin(Plugins::Replay { job, with, json }) => {
            commands::swap::again(&paths, &job, with.as_deref(), json).await
        }
        Command::Plan {
            offer,
            plugins,
            json,
        } => commands::plan::run(&paths, &settings, &offer, plugins.as_deref(), json).await,
        Command::Models { action, json } => {
            commands::models::run(&paths, &settings, action, json).await
        }
        Command::Register(_) => Ok(()),
        Command::SetThreshold { gigabytes } => {
            let output = &mut Output::standard();
            commands::set_threshold::run(&paths, gigabytes, output).await
        }
        Command::Config { json } => {
            commands::config::run(&paths.config, json, &mut Output::standard())
        }
        Command::Results { action, json } => {
            commands::results::run(&paths.aside, &action, json, &mut Output::standard())
        }
    }
}
