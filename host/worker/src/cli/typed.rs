//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use worker_wire::JobId;

use super::pushing::Pushing;
use super::trust::{TypedForgive, TypedGrant, TypedKeygen, TypedSign, TypedVerify};

/// Runs generation jobs of a studio on this machine, through sandboxed plugins.
#[derive(Debug, Parser)]
#[command(
    name = "studio-worker",
    version,
    about,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(super) struct Typed {
    /// Configuration file; without it the user's own
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: TypedCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum TypedCommand {
    /// Serve the configured studio, or one of this worker's own when none is configured
    #[command(after_help = "Ctrl-C once finishes the job in hand and ends; twice cancels it.")]
    Run(PluginFolder),
    /// Run only a studio, for workers elsewhere to connect to; or have the running one push plugins to its workers
    #[command(args_conflicts_with_subcommands = true)]
    Studio {
        #[command(subcommand)]
        pushing: Option<Pushing>,
        /// Address to listen on
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
        #[command(flatten)]
        plugins: PluginFolder,
        /// Who may register: every worker on this machine at once, or only those that you approve
        #[arg(long, value_enum, default_value_t = TypedApproval::Manual)]
        approve: TypedApproval,
    },
    /// Queue a job at the running studio, wait for it and write its result
    #[command(after_help = "\
Examples:
  studio-worker submit image \"a koi pond\" --model synthetic -o koi.webp
  studio-worker submit --offer job.json --json

Ctrl-C cancels the job.")]
    Submit(TypedSubmit),
    /// Cancel a job
    Cancel {
        /// The job's id, as `submit` prints it
        #[arg(value_name = "JOB", value_parser = JobId::parse)]
        job: JobId,
    },
    /// List the workers of the running studio, approve or reject those that wait, remove one
    Workers {
        #[command(subcommand)]
        action: Option<TypedWorkers>,
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
    },
    /// List, show and remove results that no studio took
    Results {
        #[command(subcommand)]
        action: Option<TypedResults>,
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
    },
    /// List, check, remove, keep and fetch model files; safe beside a running worker
    Models {
        #[command(subcommand)]
        action: Option<TypedModels>,
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
    },
    /// Take no new jobs until `resume`; the job in hand is finished
    Pause,
    /// Take jobs again
    Resume,
    /// Set the studio, or forget the registration so that the next `run` asks anew
    Register {
        /// The studio's URL; one other than before also forgets the registration
        #[arg(long, value_name = "URL")]
        api_base_url: Option<String>,
        /// Forget this worker's identity
        #[arg(long)]
        reset: bool,
    },
    /// Show what the running worker does
    Status(Json),
    /// Show each setting, its value and where it came from; secrets are never shown
    Config(Json),
    /// Set the largest job to take, in GiB of GPU memory
    SetThreshold {
        /// GiB, at least 0
        #[arg(value_name = "GB", allow_negative_numbers = true)]
        gigabytes: f64,
    },
    /// List, inspect, check, swap, compare and roll back plugins
    Plugin {
        #[command(subcommand)]
        action: TypedPlugin,
    },
    /// List the programs that were downloaded, or accept one that its address gives changed
    Programs {
        #[command(subcommand)]
        action: Option<TypedPrograms>,
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
    },
    /// Check this installation: plugins, programs, GPU, disk, permissions, clock, studio; exit 1 if something fails
    Doctor {
        #[command(flatten)]
        plugins: PluginFolder,
        #[command(flatten)]
        json: Json,
    },
    /// Print what the plugins would do for an offer; nothing is downloaded, run or sent
    Plan {
        /// File with the offer's claim
        #[arg(value_name = "OFFER.json")]
        offer: PathBuf,
        #[command(flatten)]
        plugins: PluginFolder,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Args)]
pub(super) struct PluginFolder {
    /// Folder of plugins; without it the built-in ones
    #[arg(long, value_name = "DIR")]
    pub(super) plugins: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PluginName {
    /// The plugin's name
    #[arg(value_name = "NAME")]
    pub(super) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TypedApproval {
    /// Every worker on this machine; others wait
    Auto,
    /// Those that you approve
    Manual,
}

#[derive(Debug, Args)]
pub(super) struct TypedSubmit {
    /// Kind of the job, such as image
    #[arg(value_name = "KIND", required_unless_present = "offer")]
    pub(super) kind: Option<String>,
    /// What to make, in your words; for kinds that take a file, its URL
    #[arg(
        value_name = "TEXT",
        required_unless_present = "offer",
        allow_hyphen_values = true
    )]
    pub(super) text: Option<String>,
    /// Model to use
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Field of the task; a value that is JSON is taken as such (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) settings: Vec<String>,
    /// JSON file that says where the model's files are
    #[arg(long, value_name = "FILE")]
    pub(super) model_source: Option<PathBuf>,
    /// GPU memory that the job takes, in GiB; without it, the sizes of the model's files as far as they are known
    #[arg(long, value_name = "GIB")]
    pub(super) vram_gb: Option<f32>,
    /// Send this claim as it is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "text", "model", "settings", "model_source", "vram_gb"])]
    pub(super) offer: Option<PathBuf>,
    /// File to write the result to; without it JSON is printed and a file is named after the job
    #[arg(short, long, value_name = "FILE", conflicts_with = "no_wait")]
    pub(super) output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Queue the job, print its id and end
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum TypedResults {
    /// List them, oldest first; the same as without a word
    List,
    /// Show one, and with -o write it to a file
    Show {
        /// The result's id, or its job's
        #[arg(value_name = "ID")]
        id: String,
        /// File to write it to
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Remove one, or all, for good
    Remove {
        /// The result's id, or its job's
        #[arg(
            value_name = "ID",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        id: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TypedModels {
    /// List them, and downloads that are not finished; the same as without a word
    List,
    /// Read files from end to end; what is damaged is set aside and fetched again when it is needed
    Verify {
        /// Names, or first digits of ids; without one all
        #[arg(value_name = "MODEL")]
        wanted: Vec<String>,
    },
    /// Remove one; refused while it is in use or pinned
    Remove {
        /// Its name, or the first digits of its id
        #[arg(value_name = "MODEL")]
        wanted: String,
    },
    /// Remove those used longest ago until the budget is kept, and downloads given up long ago
    Gc {
        /// GiB to go down to; without it `models_budget_gb`
        #[arg(long, value_name = "GB")]
        max: Option<f64>,
    },
    /// Never remove one to make room
    Pin {
        /// Its name, or the first digits of its id
        #[arg(value_name = "MODEL")]
        wanted: String,
    },
    /// Let one be removed to make room again
    Unpin {
        /// Its name, or the first digits of its id
        #[arg(value_name = "MODEL")]
        wanted: String,
    },
    /// Fetch the models that an offer needs; goes on from what an earlier try left
    Pull {
        /// File with the offer's claim
        #[arg(value_name = "OFFER.json")]
        offer: PathBuf,
        #[command(flatten)]
        plugins: PluginFolder,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TypedWorkers {
    /// List them, those that wait first; the same as without a word
    List,
    /// Let a waiting worker in
    Approve {
        /// The registration request's id
        #[arg(value_name = "REQUEST", value_parser = JobId::parse)]
        request: JobId,
    },
    /// Turn a waiting worker away
    Reject {
        /// The registration request's id
        #[arg(value_name = "REQUEST", value_parser = JobId::parse)]
        request: JobId,
        /// Why, for the worker's operator
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Remove a worker for good; its session ends
    Remove {
        /// The worker's id
        #[arg(value_name = "WORKER", value_parser = JobId::parse)]
        worker: JobId,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TypedPrograms {
    /// List them; the same as without a word
    List,
    /// Trust the archive of this digest, which was refused because its address gave another one before
    Accept {
        /// SHA-256 of the archive, as the refusal and the list show it
        #[arg(value_name = "SHA256", value_parser = digest)]
        sha256: String,
    },
}

pub(super) fn digest(text: &str) -> Result<String, &'static str> {
    let sound = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    sound
        .then(|| text.to_ascii_lowercase())
        .ok_or("a SHA-256 digest has 64 hex digits")
}

#[derive(Debug, Subcommand)]
pub(super) enum TypedPlugin {
    /// List the plugins of a folder and what they serve
    List {
        #[command(flatten)]
        plugins: PluginFolder,
        #[command(flatten)]
        json: Json,
    },
    /// Show what one plugin file says of itself
    Inspect {
        /// The plugin
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Take a plugin into service, now: a file, or what an address gives, which must be signed
    Add {
        /// The plugin: a file named as it is to be called, https://…/NAME.wasm with NAME.wasm.minisig beside it, or
        /// oci://HOST/NAME[:TAG|@sha256:DIGEST]
        #[arg(value_name = "FILE|URL")]
        from: String,
    },
    /// Take a plugin out of service; its file stays, and serves again once it changes
    Remove(PluginName),
    /// Have the version before serve again
    Rollback(PluginName),
    /// Keep the version that serves, whatever comes
    Pin(PluginName),
    /// Let a pinned plugin be replaced again
    Unpin(PluginName),
    /// Grant a version that waits what it asks for, and take it into service
    Grant(TypedGrant),
    /// Lift the quarantine of a version that broke on probation, so that it may be brought again
    Forgive(TypedForgive),
    /// Make a key pair to sign plugins with, as minisign does
    Keygen(TypedKeygen),
    /// Sign plugin files, as minisign does
    #[command(after_help = "\
Examples:
  studio-worker plugin keygen -s release.key -p release.pub
  studio-worker plugin sign -s release.key sd-cpp.wasm
  studio-worker plugin verify -p release.pub sd-cpp.wasm")]
    Sign(TypedSign),
    /// Check a plugin file's signature; exit 1 unless it is one of a trusted key
    Verify(TypedVerify),
    /// Show what happened to plugins, oldest first
    History {
        /// Only this one
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Compare two versions of an engine on the kept journals; nothing is run
    Diff {
        /// The older file
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The newer file
        #[arg(value_name = "NEW")]
        new: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Step a job's journal through its engine; nothing is run
    Replay {
        /// The job's id
        #[arg(value_name = "JOB")]
        job: String,
        /// This file instead of the version that serves
        #[arg(long, value_name = "FILE")]
        with: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Check plugin files by every rule of loading; exit 1 if one breaks a rule
    Validate {
        /// The plugins
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
}
