//! From what was typed to what was meant.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, error::ErrorKind};
use serde_json::Value;
use worker_wire::ApiBase;

use super::command::{
    Approval, Command, Invocation, Models, Password, Plugins, Registration, Results, Source,
    Submission, Work, Workers,
};
use super::typed::{
    Typed, TypedApproval, TypedCommand, TypedModels, TypedPlugin, TypedPrograms, TypedResults,
    TypedSubmit, TypedWorkers,
};

/// Reads a command line. The error prints itself, and knows its exit code: 2, or 0 for help and version.
pub(crate) fn invocation(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, clap::Error> {
    let typed = Typed::try_parse_from(arguments)?;
    Ok(Invocation {
        config: typed.config,
        command: command(typed.command)?,
    })
}

fn command(typed: TypedCommand) -> Result<Command, clap::Error> {
    Ok(match typed {
        TypedCommand::Run(folder) => Command::Run {
            plugins: folder.plugins,
        },
        TypedCommand::Studio {
            pushing: Some(pushing),
            ..
        } => Command::Pushing(pushing),
        TypedCommand::Studio {
            pushing: None,
            listen,
            plugins,
            approve,
        } => Command::Studio {
            listen,
            plugins: plugins.plugins,
            approval: match approve {
                TypedApproval::Auto => Approval::Automatic,
                TypedApproval::Manual => Approval::Manual,
            },
        },
        TypedCommand::Submit(typed) => Command::Submit(submission(typed)?),
        TypedCommand::Cancel { job } => Command::Cancel { job },
        TypedCommand::Workers { action, json } => Command::Workers {
            action: match action {
                None | Some(TypedWorkers::List) => Workers::List,
                Some(TypedWorkers::Approve { request }) => Workers::Approve(request),
                Some(TypedWorkers::Reject { request, reason }) => {
                    Workers::Reject { request, reason }
                }
                Some(TypedWorkers::Remove { worker }) => Workers::Remove(worker),
            },
            json,
        },
        TypedCommand::Results { action, json } => Command::Results {
            action: results(action)?,
            json,
        },
        TypedCommand::Models { action, json } => Command::Models {
            action: models(action)?,
            json,
        },
        TypedCommand::Pause => Command::Pause,
        TypedCommand::Resume => Command::Resume,
        TypedCommand::Register {
            api_base_url,
            reset,
        } => Command::Register(Registration {
            studio: api_base_url.map(|url| studio(&url)).transpose()?,
            reset,
        }),
        TypedCommand::Status(json) => Command::Status { json: json.json },
        TypedCommand::Config(json) => Command::Config { json: json.json },
        TypedCommand::SetThreshold { gigabytes } => Command::SetThreshold { gigabytes },
        TypedCommand::Plugin { action } => Command::Plugin(plugins(action)),
        TypedCommand::Programs { action, json } => Command::Programs {
            accept: match action {
                None | Some(TypedPrograms::List) => None,
                Some(TypedPrograms::Accept { sha256 }) => Some(sha256),
            },
            json,
        },
        TypedCommand::Doctor { plugins, json } => Command::Doctor {
            plugins: plugins.plugins,
            json: json.json,
        },
        TypedCommand::Plan {
            offer,
            plugins,
            json,
        } => Command::Plan {
            offer,
            plugins: plugins.plugins,
            json: json.json,
        },
    })
}

fn submission(typed: TypedSubmit) -> Result<Submission, clap::Error> {
    let work = match (typed.offer, typed.kind, typed.text) {
        (Some(offer), ..) => Work::Offer(offer),
        (None, Some(kind), Some(text)) => Work::Compose {
            kind,
            text,
            model: typed.model,
            settings: typed
                .settings
                .iter()
                .map(|text| setting(text))
                .collect::<Result<_, _>>()?,
            model_source: typed.model_source,
            vram_gb: typed.vram_gb.map(gpu_memory).transpose()?,
        },
        _ => {
            return Err(usage(
                ErrorKind::MissingRequiredArgument,
                "give KIND and TEXT, or --offer FILE",
            ));
        }
    };
    Ok(Submission {
        work,
        output: typed.output,
        json: typed.json,
        wait: !typed.no_wait,
    })
}

fn gpu_memory(given: f32) -> Result<f32, clap::Error> {
    if given.is_finite() && given >= 0.0 {
        Ok(given)
    } else {
        Err(usage(
            ErrorKind::InvalidValue,
            "--vram-gb takes a number of GiB that is not negative, such as --vram-gb 6.5",
        ))
    }
}

/// `KEY=VALUE`; a value that is no JSON is a text.
fn setting(text: &str) -> Result<(String, Value), clap::Error> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            Ok((key.trim().to_owned(), value))
        }
        _ => Err(usage(
            ErrorKind::InvalidValue,
            "--set takes KEY=VALUE, such as --set seed=7",
        )),
    }
}

fn results(typed: Option<TypedResults>) -> Result<Results, clap::Error> {
    Ok(match typed {
        None | Some(TypedResults::List) => Results::List,
        Some(TypedResults::Show { id, output }) => Results::Show { wanted: id, output },
        Some(TypedResults::Remove { all: true, .. }) => Results::RemoveAll,
        Some(TypedResults::Remove { id: Some(id), .. }) => Results::Remove { wanted: id },
        Some(TypedResults::Remove { .. }) => {
            return Err(usage(
                ErrorKind::MissingRequiredArgument,
                "give the result's ID, or --all",
            ));
        }
    })
}

fn models(typed: Option<TypedModels>) -> Result<Models, clap::Error> {
    Ok(match typed {
        None | Some(TypedModels::List) => Models::List,
        Some(TypedModels::Verify { wanted }) => Models::Verify { wanted },
        Some(TypedModels::Remove { wanted }) => Models::Remove { wanted },
        Some(TypedModels::Gc { max }) => Models::Gc {
            limit: max.map(gibibytes).transpose()?,
        },
        Some(TypedModels::Pin { wanted }) => Models::Pin {
            wanted,
            pinned: true,
        },
        Some(TypedModels::Unpin { wanted }) => Models::Pin {
            wanted,
            pinned: false,
        },
        Some(TypedModels::Pull { offer, plugins }) => Models::Pull {
            offer,
            plugins: plugins.plugins,
        },
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "checked just before; more than every disk holds is as good as the largest number"
)]
fn gibibytes(count: f64) -> Result<u64, clap::Error> {
    if count.is_finite() && count >= 0.0 {
        Ok((count * (1u64 << 30) as f64) as u64)
    } else {
        Err(usage(
            ErrorKind::InvalidValue,
            "--max takes GiB, at least 0",
        ))
    }
}

fn plugins(typed: TypedPlugin) -> Plugins {
    match typed {
        TypedPlugin::List { plugins, json } => Plugins::List {
            folder: plugins.plugins,
            json: json.json,
        },
        TypedPlugin::Inspect { file, json } => Plugins::Inspect {
            file,
            json: json.json,
        },
        TypedPlugin::Validate { files, json } => Plugins::Validate {
            files,
            json: json.json,
        },
        TypedPlugin::Add { from } => Plugins::Add {
            from: match from.contains("://") {
                true => Source::Address(from),
                false => Source::File(from.into()),
            },
        },
        TypedPlugin::Remove(one) => act("remove", one.name),
        TypedPlugin::Rollback(one) => act("rollback", one.name),
        TypedPlugin::Pin(one) => act("pin", one.name),
        TypedPlugin::Unpin(one) => act("unpin", one.name),
        TypedPlugin::Grant(one) => Plugins::Grant {
            name: one.name,
            digest: one.digest,
            json: one.json.json,
        },
        TypedPlugin::Forgive(one) => Plugins::Forgive { digest: one.digest },
        TypedPlugin::Keygen(pair) => Plugins::Keygen {
            secret: pair.secret_key,
            public: pair.public_key,
            password: match (pair.no_password, pair.password.password_file) {
                (true, _) => Password::None,
                (false, file) => password(file),
            },
        },
        TypedPlugin::Sign(sign) => Plugins::Sign {
            files: sign.files,
            secret: sign.secret_key,
            password: password(sign.password.password_file),
            replaces: sign.replaces,
        },
        TypedPlugin::Verify(verify) => Plugins::Verify {
            file: verify.file,
            key_files: verify.public_key,
            keys: verify.key,
            signature: verify.signature,
            json: verify.json.json,
        },
        TypedPlugin::History { name, json } => Plugins::History {
            name,
            json: json.json,
        },
        TypedPlugin::Diff { old, new, json } => Plugins::Diff {
            old,
            new,
            json: json.json,
        },
        TypedPlugin::Replay { job, with, json } => Plugins::Replay {
            job,
            with,
            json: json.json,
        },
    }
}

fn password(file: Option<PathBuf>) -> Password {
    file.map_or(Password::Asked, Password::File)
}

fn act(action: &'static str, name: String) -> Plugins {
    Plugins::Act { action, name }
}

fn studio(url: &str) -> Result<ApiBase, clap::Error> {
    ApiBase::parse(url).map_err(|e| usage(ErrorKind::InvalidValue, &e.to_string()))
}

fn usage(kind: ErrorKind, message: &str) -> clap::Error {
    Typed::command().error(kind, message)
}

#[cfg(test)]
mod tests;
