//! What is in force: the environment over the file over the defaults, checked, and where each value came from.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml_edit::Item;
use url::Url;
use worker_wire::{ApiBase, Secret};

use crate::document::ConfigFile;
use crate::environment::Environment;
use crate::error::ConfigError;
use crate::keys::{self, Effect, KEYS, Key, Kind};

/// Which studio the worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Studio {
    /// The one inside.
    Embedded,
    /// One elsewhere.
    Remote(ApiBase),
}

/// Where the embedded studio listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address to bind.
    pub address: SocketAddr,
    /// Whether any free port does when this one is taken: only where the address was not named as a whole.
    pub else_any_port: bool,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// Nothing sets it.
    Default,
    /// The file.
    File {
        /// Its line there, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: &'static str,
    },
}

/// One key as it is in force, for people: a secret is never in it.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which.
    pub key: &'static Key,
    /// Its value as text; `<set>` or `<not set>` for a secret; `None`: nothing.
    pub shown: Option<String>,
    /// Where it came from.
    pub from: Provenance,
}

/// How programs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSettings {
    /// Whether they run in a sandbox.
    pub sandbox: bool,
    /// Whether plugins of others run programs where the sandbox is incomplete.
    pub without_sandbox: bool,
    /// What every program may read besides.
    pub readable: Vec<PathBuf>,
    /// What every program may write besides.
    pub writable: Vec<PathBuf>,
    /// Longest run.
    pub timeout: Duration,
    /// Longest silence.
    pub silence: Option<Duration>,
    /// Longest time to the first progress.
    pub start: Option<Duration>,
    /// Longest time from one progress to the next.
    pub step: Option<Duration>,
    /// Most bytes written by one run.
    pub written_bytes: u64,
    /// Most memory, in bytes; none: as much as the machine can spare.
    pub memory_bytes: Option<u64>,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which studio.
    pub studio: Studio,
    /// The largest job to take, in GiB of GPU memory.
    pub vram_threshold_gb: f64,
    /// Whether the operator said so; else it is the default.
    pub vram_threshold_is_set: bool,
    /// Where models are kept.
    pub models_root: PathBuf,
    /// How many bytes the model cache may hold; `None`: no bound.
    pub models_budget: Option<u64>,
    /// How many bytes one job may write.
    pub scratch_bytes: u64,
    /// How many bytes one file that a job writes may have.
    pub output_bytes: u64,
    /// Where results, journals and caches are kept.
    pub state_dir: PathBuf,
    /// Where the embedded studio listens.
    pub listen: Listen,
    /// How long a stop waits for the job in hand.
    pub drain_timeout: Duration,
    /// How long a warm server is kept that no job asks.
    pub server_idle: Duration,
    /// Failed reconnects in a row before the worker ends; `None`: it never does.
    pub reconnect_attempts: Option<NonZeroU32>,
    /// How programs are kept.
    pub programs: ProgramSettings,
    /// Whether journals hold prompts.
    pub prompts_in_journal: bool,
    /// How long a job's journal is kept.
    pub journal_age: Duration,
    /// Filter of the log, in the syntax of `tracing`'s `EnvFilter`.
    pub log: String,
    /// Told to the studio.
    pub auto_start: bool,
    /// Told to the studio.
    pub auto_update: bool,
    /// Told to the studio.
    pub start_minimised: bool,
    /// Told to the studio.
    pub only_when_idle: bool,
    /// Token of the local API, where the file names one.
    pub local_api_token: Option<Secret>,
    /// Every key for people, in the table's order.
    pub shown: Vec<Setting>,
    /// What was passed over, one line each, without values.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

impl Settings {
    /// Resolves a file. Every key is checked, also those that this worker only keeps.
    pub fn resolve(file: &ConfigFile, environment: &Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            file,
            environment,
            values: BTreeMap::new(),
            shown: Vec::new(),
            warnings: Vec::new(),
        };
        for key in KEYS {
            reader.read(key)?;
        }
        Ok(reader.settings())
    }
}

struct Reader<'a> {
    file: &'a ConfigFile,
    environment: &'a Environment,
    values: BTreeMap<&'static str, Scalar>,
    shown: Vec<Setting>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self, key: &'static Key) -> Result<(), ConfigError> {
        let (value, from) = match self.set(key)? {
            Some((value, from)) => (Some(value), from),
            None => (
                key.default.and_then(|text| scalar(key.kind, text)),
                Provenance::Default,
            ),
        };
        self.shown.push(Setting {
            key,
            shown: shown(key.kind, value.as_ref()),
            from,
        });
        if let Some(value) = value {
            self.values.insert(key.name, value);
        }
        Ok(())
    }

    /// What the environment or the file sets.
    fn set(&mut self, key: &'static Key) -> Result<Option<(Scalar, Provenance)>, ConfigError> {
        if let Some(variable) = key.variable
            && let Some(text) = self.environment.get(variable)
        {
            let value = scalar(key.kind, text).filter(|value| is_valid(key.kind, value));
            let value = value.ok_or_else(|| ConfigError::Environment {
                variable,
                expected: key.kind.expected(),
            })?;
            return Ok(Some((value, Provenance::Environment { variable })));
        }
        let Some((item, line)) = self.file.get(key.name) else {
            return Ok(None);
        };
        let wrong = || ConfigError::Value {
            path: self.file.path().to_owned(),
            line,
            key: key.name,
            expected: key.kind.expected(),
        };
        let value = of_item(key.kind, item).ok_or_else(wrong)?;
        if is_valid(key.kind, &value) {
            return Ok(Some((value, Provenance::File { line })));
        }
        if key.effect == Effect::Kept {
            // Nothing here goes by it, so it must not stop the worker.
            self.warnings
                .push(format!("{}; the default is taken", wrong()));
            return Ok(None);
        }
        Err(wrong())
    }

    fn settings(self) -> Settings {
        let folder = self.file.path().parent().unwrap_or_else(|| Path::new("."));
        let studio = self.text(keys::API_BASE_URL);
        let attempts = self.integer(keys::WS_RECONNECT_ATTEMPTS);
        let drain = self.integer(keys::DRAIN_TIMEOUT_SECS);
        Settings {
            studio: studio
                .and_then(|url| ApiBase::parse(url).ok())
                .map_or(Studio::Embedded, Studio::Remote),
            vram_threshold_gb: self.number(keys::VRAM_THRESHOLD_GB),
            vram_threshold_is_set: self.is_set(keys::VRAM_THRESHOLD_GB),
            models_root: self.models_root(),
            models_budget: bytes(self.number(keys::MODELS_BUDGET_GB)),
            scratch_bytes: gibibytes(self.integer(keys::SCRATCH_MAX_GB)),
            output_bytes: gibibytes(self.integer(keys::OUTPUT_MAX_GB)),
            state_dir: folder.join(
                expanded(self.text(keys::STATE_DIR).unwrap_or("state"))
                    .unwrap_or_else(|| "state".into()),
            ),
            listen: self.listen(),
            drain_timeout: Duration::from_secs(u64::try_from(drain).unwrap_or(0)),
            server_idle: Duration::from_secs(
                u64::try_from(self.integer(keys::SERVER_IDLE_SECS)).unwrap_or(0),
            ),
            reconnect_attempts: u32::try_from(attempts).ok().and_then(NonZeroU32::new),
            programs: self.programs(),
            prompts_in_journal: self.bool(keys::PROMPTS_IN_JOURNAL),
            journal_age: Duration::from_secs(
                u64::try_from(self.integer(keys::JOURNAL_DAYS)).unwrap_or(0) * 24 * 60 * 60,
            ),
            log: self.text(keys::LOG_FILTER).unwrap_or_default().to_owned(),
            auto_start: self.bool(keys::AUTO_START),
            auto_update: self.bool(keys::AUTO_UPDATE_ENABLED),
            start_minimised: self.bool(keys::START_MINIMISED),
            only_when_idle: self.bool(keys::ONLY_WHEN_IDLE),
            local_api_token: self
                .text(keys::LOCAL_TOKEN)
                .filter(|token| !token.is_empty())
                .map(Secret::new),
            shown: self.shown,
            warnings: self.warnings,
        }
    }

    fn programs(&self) -> ProgramSettings {
        let whole = |name| u64::try_from(self.integer(name)).unwrap_or(0);
        let seconds = |name| Some(Duration::from_secs(whole(name))).filter(|time| !time.is_zero());
        let paths = |name| {
            let text = self.text(name).unwrap_or_default();
            let listed = text.split(':').filter(|path| !path.is_empty());
            listed
                .filter_map(expanded)
                .filter(|path| path.is_absolute())
                .collect()
        };
        ProgramSettings {
            sandbox: self.bool(keys::PROGRAM_SANDBOX),
            without_sandbox: self.bool(keys::PROGRAMS_WITHOUT_SANDBOX),
            readable: paths(keys::PROGRAM_READABLE),
            writable: paths(keys::PROGRAM_WRITABLE),
            timeout: seconds(keys::PROGRAM_TIMEOUT_SECS).unwrap_or(Duration::from_secs(86_400)),
            silence: seconds(keys::PROGRAM_SILENCE_SECS),
            start: seconds(keys::PROGRAM_START_SECS),
            step: seconds(keys::PROGRAM_STEP_SECS),
            written_bytes: whole(keys::PROGRAM_WRITTEN_MIB) << 20,
            memory_bytes: Some(whole(keys::PROGRAM_MEMORY_GB) << 30).filter(|bytes| *bytes > 0),
        }
    }

    fn models_root(&self) -> PathBuf {
        self.text(keys::MODELS_ROOT)
            .and_then(expanded)
            .unwrap_or_else(|| std::env::temp_dir().join("studio-worker-models"))
    }

    fn listen(&self) -> Listen {
        if let Some(address) = self.text(keys::LISTEN).and_then(|text| text.parse().ok()) {
            return Listen {
                address,
                else_any_port: false,
            };
        }
        let port = u16::try_from(self.integer(keys::LOCAL_PORT)).unwrap_or(keys::DEFAULT_PORT);
        Listen {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            else_any_port: true,
        }
    }

    fn is_set(&self, name: &str) -> bool {
        let of_name = |setting: &&Setting| setting.key.name == name;
        let setting = self.shown.iter().find(of_name);
        setting.is_some_and(|setting| setting.from != Provenance::Default)
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Scalar::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn bool(&self, name: &str) -> bool {
        self.values.get(name) == Some(&Scalar::Bool(true))
    }

    fn integer(&self, name: &str) -> i64 {
        match self.values.get(name) {
            Some(Scalar::Integer(value)) => *value,
            _ => 0,
        }
    }

    fn number(&self, name: &str) -> f64 {
        match self.values.get(name) {
            Some(Scalar::Number(value)) => *value,
            _ => 0.0,
        }
    }
}

fn gibibytes(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0).saturating_mul(1 << 30)
}

/// GiB as bytes; none for 0.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "checked to be finite and not negative; the largest number of bytes is as good as more"
)]
fn bytes(gibibytes: f64) -> Option<u64> {
    let bytes = (gibibytes * (1u64 << 30) as f64) as u64;
    (bytes > 0).then_some(bytes)
}

/// A value of the file, if it is of the right type.
fn of_item(kind: Kind, item: &Item) -> Option<Scalar> {
    match kind {
        Kind::Bool => item.as_bool().map(Scalar::Bool),
        Kind::Integer { .. } => item.as_integer().map(Scalar::Integer),
        // Only whole numbers up to 2^53 are exact; no threshold is near.
        #[allow(clippy::cast_precision_loss, reason = "gigabytes")]
        Kind::Number { .. } => item
            .as_float()
            .or_else(|| item.as_integer().map(|whole| whole as f64))
            .map(Scalar::Number),
        _ => item.as_str().map(|text| Scalar::Text(text.to_owned())),
    }
}

/// A value of the environment or of the table of defaults.
fn scalar(kind: Kind, text: &str) -> Option<Scalar> {
    let text = text.trim();
    match kind {
        Kind::Bool => text.parse().ok().map(Scalar::Bool),
        Kind::Integer { .. } => text.parse().ok().map(Scalar::Integer),
        Kind::Number { .. } => text.parse().ok().map(Scalar::Number),
        _ => Some(Scalar::Text(text.to_owned())),
    }
}

fn is_valid(kind: Kind, value: &Scalar) -> bool {
    match (kind, value) {
        (Kind::Integer { min, max }, Scalar::Integer(value)) => (min..=max).contains(value),
        (Kind::Number { min }, Scalar::Number(value)) => value.is_finite() && *value >= min,
        (Kind::Path, Scalar::Text(text)) => !text.trim().is_empty(),
        (Kind::Url, Scalar::Text(text)) => is_plain_url(text),
        (Kind::StudioUrl, Scalar::Text(text)) => ApiBase::parse(text).is_ok(),
        (Kind::Address, Scalar::Text(text)) => text.parse::<SocketAddr>().is_ok(),
        (Kind::Bool, Scalar::Bool(_)) | (Kind::Text | Kind::Secret, Scalar::Text(_)) => true,
        _ => false,
    }
}

/// Whether a number may be written for a key.
pub(crate) fn is_valid_number(key: &str, value: f64) -> bool {
    keys::find(key).is_some_and(|key| is_valid(key.kind, &Scalar::Number(value)))
}

fn is_plain_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    })
}

fn shown(kind: Kind, value: Option<&Scalar>) -> Option<String> {
    if kind == Kind::Secret {
        let set = matches!(value, Some(Scalar::Text(text)) if !text.is_empty());
        return Some(if set { "<set>" } else { "<not set>" }.to_owned());
    }
    Some(match value? {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::Number(value) => format!("{value:?}"),
        // A query may carry a key.
        Scalar::Text(text) if matches!(kind, Kind::Url | Kind::StudioUrl) => {
            text.split(['?', '#']).next().unwrap_or_default().to_owned()
        }
        Scalar::Text(text) => text.clone(),
    })
}

/// A path with a leading `~` replaced by the home directory; `None` where there is none.
fn expanded(text: &str) -> Option<PathBuf> {
    let Some(rest) = text.strip_prefix('~') else {
        return Some(PathBuf::from(text));
    };
    if !rest.is_empty() && !rest.starts_with(['/', '\\']) {
        // `~name` is somebody else's home, or a file of that name: taken as it stands.
        return Some(PathBuf::from(text));
    }
    let home = directories::BaseDirs::new()?.home_dir().to_owned();
    Some(home.join(rest.trim_start_matches(['/', '\\'])))
}
