//! What was meant: everything optional decided, everything that belongs together in one value.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, error::ErrorKind};
use serde_json::Value;
use worker_wire::{ApiBase, JobId};

use super::typed::{
    Typed, TypedApproval, TypedCommand, TypedModels, TypedPlugin, TypedPrograms, TypedResults,
    TypedSubmit, TypedWorkers,
};

/// One call of the program.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Configuration file, where one was named.
    pub(crate) config: Option<PathBuf>,
    pub(crate) command: Command,
}

#[derive(Debug)]
pub(crate) enum Command {
    Run {
        plugins: Option<PathBuf>,
    },
    Studio {
        listen: Option<SocketAddr>,
        plugins: Option<PathBuf>,
        approval: Approval,
    },
    Submit(Submission),
    Cancel {
        job: JobId,
    },
    Workers {
        action: Workers,
        json: bool,
    },
    Results {
        action: Results,
        json: bool,
    },
    Models {
        action: Models,
        json: bool,
    },
    Pause,
    Resume,
    Register(Registration),
    Status {
        json: bool,
    },
    Config {
        json: bool,
    },
    SetThreshold {
        gigabytes: f64,
    },
    Plugin(Plugins),
    Programs {
        /// Digest of an archive to trust; none lists them.
        accept: Option<String>,
        json: bool,
    },
    Doctor {
        plugins: Option<PathBuf>,
        json: bool,
    },
    Plan {
        offer: PathBuf,
        plugins: Option<PathBuf>,
        json: bool,
    },
}

/// Who may register at a studio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// Every worker on this machine; others wait.
    Automatic,
    /// Those that its operator approves.
    Manual,
}

/// A job to queue.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) work: Work,
    /// Where the result goes.
    pub(crate) output: Option<PathBuf>,
    pub(crate) json: bool,
    /// Whether to stay until the job has ended.
    pub(crate) wait: bool,
}

/// What a job is made of.
#[derive(Debug, PartialEq)]
pub(crate) enum Work {
    /// An engine composes the task.
    Compose {
        kind: String,
        text: String,
        model: Option<String>,
        /// Fields of the task, in the order given.
        settings: Vec<(String, Value)>,
        model_source: Option<PathBuf>,
    },
    /// A file with a claim, sent as it is.
    Offer(PathBuf),
}

/// What to do about the workers of a studio. The ids have a shape that can stand in a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    List,
    Approve(JobId),
    Reject { request: JobId, reason: String },
    Remove(JobId),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Results {
    List,
    Show {
        wanted: String,
        output: Option<PathBuf>,
    },
    Remove {
        wanted: String,
    },
    RemoveAll,
}

/// What to do about the model cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Models {
    List,
    Verify {
        wanted: Vec<String>,
    },
    Remove {
        wanted: String,
    },
    /// `limit` in bytes; none: the budget.
    Gc {
        limit: Option<u64>,
    },
    Pin {
        wanted: String,
        pinned: bool,
    },
    Pull {
        offer: PathBuf,
        plugins: Option<PathBuf>,
    },
}

#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) studio: Option<ApiBase>,
    pub(crate) reset: bool,
}

#[derive(Debug)]
pub(crate) enum Plugins {
    List {
        folder: Option<PathBuf>,
        json: bool,
    },
    Inspect {
        file: PathBuf,
        json: bool,
    },
    Validate {
        files: Vec<PathBuf>,
        json: bool,
    },
    Add {
        file: PathBuf,
    },
    /// `remove`, `rollback`, `pin` or `unpin`, by the name that the local API has for it.
    Act {
        action: &'static str,
        name: String,
    },
    History {
        name: Option<String>,
        json: bool,
    },
    Diff {
        old: PathBuf,
        new: PathBuf,
        json: bool,
    },
    Replay {
        job: String,
        with: Option<PathBuf>,
        json: bool,
    },
}

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
        TypedPlugin::Add { file } => Plugins::Add { file },
        TypedPlugin::Remove(one) => act("remove", one.name),
        TypedPlugin::Rollback(one) => act("rollback", one.name),
        TypedPlugin::Pin(one) => act("pin", one.name),
        TypedPlugin::Unpin(one) => act("unpin", one.name),
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
mod tests {
    use super::*;

    fn read(line: &[&str]) -> Result<Invocation, clap::Error> {
        invocation(
            std::iter::once("studio-worker")
                .chain(line.iter().copied())
                .map(OsString::from),
        )
    }

    fn meant(line: &[&str]) -> Command {
        read(line).unwrap().command
    }

    #[test]
    fn the_definition_is_sound() {
        Typed::command().debug_assert();
    }

    #[test]
    fn words_and_settings_become_one_submission() {
        let Command::Submit(submission) = meant(&[
            "submit",
            "image",
            "--a koi pond",
            "--model",
            "m",
            "--set",
            "seed=7",
            "--set",
            "ext=webp",
            "--set",
            "tags=[1]",
            "-o",
            "koi.webp",
        ]) else {
            panic!("not a submission")
        };
        assert_eq!(
            submission.work,
            Work::Compose {
                kind: "image".into(),
                text: "--a koi pond".into(),
                model: Some("m".into()),
                settings: vec![
                    ("seed".into(), 7.into()),
                    ("ext".into(), "webp".into()),
                    ("tags".into(), serde_json::json!([1])),
                ],
                model_source: None,
            }
        );
        assert!(submission.wait && submission.output.is_some());
    }

    #[test]
    fn an_offer_stands_alone() {
        let Command::Submit(submission) = meant(&["submit", "--offer", "o.json", "--no-wait"])
        else {
            panic!("not a submission")
        };
        assert_eq!(submission.work, Work::Offer("o.json".into()));
        assert!(!submission.wait);
    }

    #[test]
    fn what_contradicts_itself_is_a_usage_error() {
        for line in [
            &["submit"][..],
            &["submit", "image"],
            &["submit", "image", "x", "--offer", "f"],
            &["submit", "image", "x", "--set", "seed"],
            &["submit", "image", "x", "--set", "=7"],
            &["submit", "image", "x", "--no-wait", "-o", "f"],
            &["results", "remove"],
            &["results", "remove", "x", "--all"],
            &["register", "--api-base-url", "ftp://h"],
            &["register", "--api-base-url", "https://me:pw@h"],
            &["studio", "--listen", "nowhere"],
            &["cancel", "../x"],
            &["set-threshold", "much"],
            &["plugin"],
            &["models", "remove"],
            &["models", "gc", "--max=-1"],
            &["models", "pull"],
            &["plugin", "validate"],
            &["programs", "accept"],
            &["programs", "accept", "abc"],
            &["nonsense"],
            &[],
        ] {
            assert_eq!(read(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn results_without_a_word_lists() {
        assert!(matches!(
            meant(&["results"]),
            Command::Results {
                action: Results::List,
                json: false
            }
        ));
        assert!(matches!(
            meant(&["results", "list", "--json"]),
            Command::Results {
                action: Results::List,
                json: true
            }
        ));
    }

    #[test]
    fn the_configuration_may_be_named_on_either_side() {
        for line in [
            ["--config", "c.toml", "status"],
            ["status", "--config", "c.toml"],
        ] {
            assert_eq!(
                read(&line).unwrap().config,
                Some("c.toml".into()),
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_negative_threshold_reaches_its_own_check() {
        assert!(
            matches!(meant(&["set-threshold", "-1"]), Command::SetThreshold { gigabytes } if gigabytes < 0.0)
        );
    }
}
