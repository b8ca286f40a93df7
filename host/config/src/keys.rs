//! Every key of `config.toml`, in one table: reading, checking, `studio-worker config` and the reference page all go by
//! it.

use crate::environment::{
    LOCAL_API_PORT, LOG, PROGRAM_READABLE as PROGRAM_READABLE_VARIABLE,
    PROGRAM_WRITABLE as PROGRAM_WRITABLE_VARIABLE,
};
use crate::error::Expected;

/// Type of a key, which says how it is checked and shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, bounds included.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A number of at least this; whole ones need no decimal point.
    Number {
        /// Smallest.
        min: f64,
    },
    /// A text.
    Text,
    /// A path; a leading `~` is the home directory.
    Path,
    /// An http or https URL.
    Url,
    /// The URL of a studio.
    StudioUrl,
    /// An IP address with a port.
    Address,
    /// A text that is never shown.
    Secret,
}

impl Kind {
    /// What a value of it must be.
    pub fn expected(self) -> Expected {
        match self {
            Self::Bool => Expected::Bool,
            Self::Integer { min, max } => Expected::Integer { min, max },
            Self::Number { min } => Expected::Number { min },
            Self::Text | Self::Secret => Expected::Text,
            Self::Path => Expected::Path,
            Self::Url => Expected::Url,
            Self::StudioUrl => Expected::StudioUrl,
            Self::Address => Expected::Address,
        }
    }
}

/// What a key does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The worker acts by it.
    Used,
    /// The worker writes it; not for people to edit.
    Internal,
    /// The reference worker's, checked and kept, and told to the studio where the protocol has a place for it.
    Kept,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it is where nothing is set, as text; `None`: nothing.
    pub default: Option<&'static str>,
    /// The environment variable that wins over the file.
    pub variable: Option<&'static str>,
    /// What it does here.
    pub effect: Effect,
    /// What it means, in one line.
    pub meaning: &'static str,
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    effect: Effect,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        variable: None,
        effect,
        meaning,
    }
}

const fn with_variable(mut key: Key, variable: &'static str) -> Key {
    key.variable = Some(variable);
    key
}

const PORT: Kind = Kind::Integer {
    min: 0,
    max: u16::MAX as i64,
};
/// A day: what takes longer is not meant.
const SECONDS: Kind = Kind::Integer {
    min: 0,
    max: 86_400,
};
const COUNT: Kind = Kind::Integer {
    min: 0,
    max: u32::MAX as i64,
};

const SCRATCH: Kind = Kind::Integer { min: 1, max: 64 };

/// Port of the local API where nothing else is asked for, as the reference worker's scripts expect it.
pub(crate) const DEFAULT_PORT: u16 = 4787;

pub(crate) const API_BASE_URL: &str = "api_base_url";
pub(crate) const WORKER_ID: &str = "worker_id";
pub(crate) const AUTH_TOKEN: &str = "auth_token";
pub(crate) const INSTALL_ID: &str = "install_id";
pub(crate) const REQUEST_ID: &str = "registration_request_id";
pub(crate) const REGISTRATION_SECRET: &str = "registration_secret";
pub(crate) const REGISTERED_STUDIO: &str = "registered_studio";
pub(crate) const VRAM_THRESHOLD_GB: &str = "vram_threshold_gb";
pub(crate) const AUTO_START: &str = "auto_start";
pub(crate) const AUTO_UPDATE_ENABLED: &str = "auto_update_enabled";
pub(crate) const START_MINIMISED: &str = "start_minimised";
pub(crate) const ONLY_WHEN_IDLE: &str = "only_when_idle";
pub(crate) const MEMORY_MAX_GB: &str = "memory_max_gb";
pub(crate) const MODELS_ROOT: &str = "models_root";
pub(crate) const MODELS_BUDGET_GB: &str = "models_budget_gb";
pub(crate) const SCRATCH_MAX_GB: &str = "scratch_max_gb";
pub(crate) const OUTPUT_MAX_GB: &str = "output_max_gb";
pub(crate) const STATE_DIR: &str = "state_dir";
pub(crate) const WS_RECONNECT_ATTEMPTS: &str = "ws_reconnect_attempts";
pub(crate) const DRAIN_TIMEOUT_SECS: &str = "drain_timeout_secs";
pub(crate) const SERVER_IDLE_SECS: &str = "server_idle_secs";
pub(crate) const LISTEN: &str = "listen";
pub(crate) const LOCAL_PORT: &str = "local_api_port";
pub(crate) const LOCAL_TOKEN: &str = "local_api_token";
pub(crate) const PROGRAM_SANDBOX: &str = "program_sandbox";
pub(crate) const PROGRAMS_WITHOUT_SANDBOX: &str = "programs_without_sandbox";
pub(crate) const PROGRAM_READABLE: &str = "program_readable";
pub(crate) const PROGRAM_WRITABLE: &str = "program_writable";
pub(crate) const PROGRAM_TIMEOUT_SECS: &str = "program_timeout_secs";
pub(crate) const PROGRAM_SILENCE_SECS: &str = "program_silence_secs";
pub(crate) const PROGRAM_START_SECS: &str = "program_start_secs";
pub(crate) const PROGRAM_STEP_SECS: &str = "program_step_secs";
pub(crate) const PROGRAM_MEMORY_GB: &str = "program_memory_gb";
pub(crate) const PROGRAM_WRITTEN_MIB: &str = "program_written_mib";
pub(crate) const PROMPTS_IN_JOURNAL: &str = "prompts_in_journal";
pub(crate) const JOURNAL_DAYS: &str = "journal_days";
pub(crate) const LOG_FILTER: &str = "log";

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key(
        API_BASE_URL,
        Kind::StudioUrl,
        None,
        Effect::Used,
        "the studio to work for; without it the worker starts one of its own",
    ),
    key(
        VRAM_THRESHOLD_GB,
        Kind::Number { min: 0.0 },
        Some("12.0"),
        Effect::Used,
        "the largest job to take, in GiB of GPU memory",
    ),
    key(
        MODELS_ROOT,
        Kind::Path,
        Some("~/models"),
        Effect::Used,
        "where models are kept",
    ),
    key(
        MODELS_BUDGET_GB,
        Kind::Number { min: 0.0 },
        Some("0.0"),
        Effect::Used,
        "how much the model cache may hold, in GiB, before the models used longest ago go; 0: as much as the disk holds",
    ),
    key(
        SCRATCH_MAX_GB,
        SCRATCH,
        Some("8"),
        Effect::Used,
        "how much one job may write, in GiB",
    ),
    key(
        OUTPUT_MAX_GB,
        SCRATCH,
        Some("2"),
        Effect::Used,
        "how large one file that a job writes may be, in GiB",
    ),
    key(
        STATE_DIR,
        Kind::Path,
        Some("state"),
        Effect::Used,
        "where results, journals and caches are kept; relative to the file's folder",
    ),
    key(
        LISTEN,
        Kind::Address,
        None,
        Effect::Used,
        "where the embedded studio listens; without it 127.0.0.1 and `local_api_port`",
    ),
    with_variable(
        key(
            LOCAL_PORT,
            PORT,
            Some("4787"),
            Effect::Used,
            "port of the embedded studio on 127.0.0.1; any free one when it is taken, or with 0",
        ),
        LOCAL_API_PORT,
    ),
    key(
        DRAIN_TIMEOUT_SECS,
        Kind::Integer {
            min: 0,
            max: 86_400,
        },
        Some("600"),
        Effect::Used,
        "how long a stop waits for the job in hand, in seconds",
    ),
    key(
        SERVER_IDLE_SECS,
        Kind::Integer {
            min: 0,
            max: 86_400,
        },
        Some("300"),
        Effect::Used,
        "how long a warm server is kept that no job asks, in seconds",
    ),
    key(
        WS_RECONNECT_ATTEMPTS,
        COUNT,
        Some("0"),
        Effect::Used,
        "failed reconnects in a row before the worker ends; 0: it never does",
    ),
    key(
        PROGRAM_SANDBOX,
        Kind::Bool,
        Some("true"),
        Effect::Used,
        "whether programs run in a sandbox; without it they may do whatever the worker's user may",
    ),
    key(
        PROGRAMS_WITHOUT_SANDBOX,
        Kind::Bool,
        Some("false"),
        Effect::Used,
        "whether plugins of others run programs too where this system has no complete sandbox",
    ),
    with_variable(
        key(
            PROGRAM_READABLE,
            Kind::Text,
            None,
            Effect::Used,
            "further files and folders that every program may read and execute, separated by `:`",
        ),
        PROGRAM_READABLE_VARIABLE,
    ),
    with_variable(
        key(
            PROGRAM_WRITABLE,
            Kind::Text,
            None,
            Effect::Used,
            "further folders that every program may write to, separated by `:`",
        ),
        PROGRAM_WRITABLE_VARIABLE,
    ),
    key(
        PROGRAM_TIMEOUT_SECS,
        SECONDS,
        Some("86400"),
        Effect::Used,
        "the longest that one run of a program may take, in seconds",
    ),
    key(
        PROGRAM_SILENCE_SECS,
        SECONDS,
        Some("1200"),
        Effect::Used,
        "the longest that a program may print nothing, in seconds; 0: as long as it likes",
    ),
    key(
        PROGRAM_START_SECS,
        SECONDS,
        Some("0"),
        Effect::Used,
        "the longest that a program may take to its first progress, in seconds; 0: as long as it likes",
    ),
    key(
        PROGRAM_STEP_SECS,
        SECONDS,
        Some("0"),
        Effect::Used,
        "the longest from one progress of a program to the next, in seconds; 0: as long as it likes",
    ),
    key(
        PROGRAM_WRITTEN_MIB,
        Kind::Integer {
            min: 1,
            max: 64 * 1024,
        },
        Some("8192"),
        Effect::Used,
        "the most that one run of a program may write, in MiB",
    ),
    key(
        PROGRAM_MEMORY_GB,
        Kind::Integer { min: 0, max: 4096 },
        Some("0"),
        Effect::Used,
        "the most memory that one program may hold, in GiB; 0: nine tenths of the machine's",
    ),
    key(
        PROMPTS_IN_JOURNAL,
        Kind::Bool,
        Some("true"),
        Effect::Used,
        "whether a job's journal holds its prompt; without it the job cannot be replayed",
    ),
    key(
        JOURNAL_DAYS,
        Kind::Integer { min: 1, max: 3650 },
        Some("30"),
        Effect::Used,
        "how many days the journal of a job is kept",
    ),
    with_variable(
        key(
            LOG_FILTER,
            Kind::Text,
            Some("warn,delivery=info,job=info,plugin=info,session=info,studio=info,worker=info"),
            Effect::Used,
            "filter of the log on the terminal",
        ),
        LOG,
    ),
    key(
        AUTO_START,
        Kind::Bool,
        Some("true"),
        Effect::Kept,
        "whether the worker starts with the machine; told to the studio",
    ),
    key(
        AUTO_UPDATE_ENABLED,
        Kind::Bool,
        Some("true"),
        Effect::Kept,
        "whether the worker updates itself; this one does not",
    ),
    key(
        "auto_update_interval_secs",
        Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        Some("1800"),
        Effect::Kept,
        "seconds between two checks for an update",
    ),
    key(
        "auto_update_feed",
        Kind::Url,
        None,
        Effect::Kept,
        "where updates are looked for",
    ),
    key(
        "auto_update_prerelease",
        Kind::Bool,
        Some("false"),
        Effect::Kept,
        "whether updates may be pre-releases",
    ),
    key(
        START_MINIMISED,
        Kind::Bool,
        Some("true"),
        Effect::Kept,
        "whether its window starts hidden; told to the studio",
    ),
    key(
        ONLY_WHEN_IDLE,
        Kind::Bool,
        Some("false"),
        Effect::Kept,
        "whether to work only while nobody uses the computer; told to the studio, which then offers nothing, because presence is not measured",
    ),
    key(
        MEMORY_MAX_GB,
        Kind::Integer { min: 4, max: 1024 },
        Some("32"),
        Effect::Kept,
        "memory ceiling of the reference worker's service, in GiB",
    ),
    key(
        "stream_port",
        PORT,
        None,
        Effect::Kept,
        "port of the reference worker's streaming listener",
    ),
    key(
        LOCAL_TOKEN,
        Kind::Secret,
        None,
        Effect::Used,
        "token of the local API; without it one is made in the state folder",
    ),
    key(
        INSTALL_ID,
        Kind::Text,
        None,
        Effect::Internal,
        "this installation, to a studio's operator",
    ),
    key(
        WORKER_ID,
        Kind::Text,
        None,
        Effect::Internal,
        "this worker's id at the studio",
    ),
    key(
        AUTH_TOKEN,
        Kind::Secret,
        None,
        Effect::Internal,
        "this worker's token at the studio",
    ),
    key(
        REQUEST_ID,
        Kind::Text,
        None,
        Effect::Internal,
        "the registration that waits for approval",
    ),
    key(
        REGISTRATION_SECRET,
        Kind::Secret,
        None,
        Effect::Internal,
        "proves that the waiting registration is this worker's",
    ),
    key(
        REGISTERED_STUDIO,
        Kind::Text,
        None,
        Effect::Internal,
        "the studio that the identity belongs to; at another one it is not used",
    ),
];

/// The key of that name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
