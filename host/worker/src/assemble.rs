//! Making the parts of a worker from its configuration.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Method;
use sha2::{Digest, Sha256};
use worker_backends::Marked;
use worker_config::{
    IdentityFile, Login, Network, Paths, Settings, StoredIdentity, Studio as Configured,
};
use worker_delivery::{Delivery, Event, Severity, Spool};
use worker_egress::{Credential, Egress};
use worker_files::{ModelCache, ScratchRoot};
use worker_plugins::contract::Platform;
use worker_plugins::{Generation, Loaded, Sandbox, SandboxOptions, Serving, Source};
use worker_runner::{
    GpuMemory, JournalStore, MachineFacts, PluginSecrets, ProgramRules, Programs, Runner,
    RunnerParts, RunnerSettings, Threshold,
};
use worker_servers::Servers;
use worker_session::{Identity, IdentityStore, LogShipper, SaveError};
use worker_studio::{Approval, Studio, StudioOptions};
use worker_swap::Swapper;
use worker_updates::Updates;
use worker_wire::{ApiBase, LogEntry, LogLevel, Secret};

use crate::cli::Failure;
use crate::client::Client;
use crate::compose::EngineComposer;
use crate::{VERSION, embedded};

/// Threads that plugins run on. A job needs one at a time, and progress is read on another; more would only take
/// cores from the programs.
const GUEST_THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// The sandbox, with its cache of compiled components.
pub(crate) fn sandbox(paths: &Paths) -> Result<Arc<Sandbox>, Failure> {
    let options = SandboxOptions {
        cache_dir: Some(paths.compiled.clone()),
        compiler: Some(worker_plugins::Compiler::this_program()?),
        guest_threads: GUEST_THREADS,
    };
    Ok(Sandbox::new(options)?)
}

/// The plugins of a folder, or those embedded.
pub(crate) async fn load(sandbox: &Arc<Sandbox>, folder: Option<&Path>) -> Result<Loaded, Failure> {
    let source = match folder {
        Some(folder) => Source::Folder(folder),
        None => Source::Embedded(embedded::FILES),
    };
    Ok(worker_plugins::load(sandbox, source).await?)
}

/// What a worker would serve with these plugins, or serves, where one runs with this configuration. Nothing is changed.
pub(crate) async fn would_serve(
    paths: &Paths,
    folder: Option<&Path>,
) -> Result<Arc<Generation>, Failure> {
    let swapper = beside(paths, &sandbox(paths)?, folder).await?;
    Ok(swapper.serving().current())
}

/// The same with all that is told of it.
pub(crate) async fn beside(
    paths: &Paths,
    sandbox: &Arc<Sandbox>,
    folder: Option<&Path>,
) -> Result<Arc<Swapper>, Failure> {
    let options = swap_options(paths, sandbox, folder, None)?;
    let runs = match Client::find(paths)? {
        // A worker that was killed leaves the file that says where it is.
        Some(client) => client.json(Method::GET, "/healthz", None).await.is_ok(),
        None => false,
    };
    Ok(Swapper::beside(options, runs).await?)
}

/// Decides which plugins serve, from the folder or from those embedded.
pub(crate) fn swap_options(
    paths: &Paths,
    sandbox: &Arc<Sandbox>,
    folder: Option<&Path>,
    programs: Option<Arc<Programs>>,
) -> Result<worker_swap::Options, Failure> {
    let place = match folder {
        Some(folder) => worker_swap::Place::Folder(std::path::absolute(folder)?),
        None => worker_swap::Place::Embedded,
    };
    let state = paths.state.join("plugins");
    std::fs::create_dir_all(&state)?;
    Ok(worker_swap::Options {
        place,
        embedded: embedded::FILES,
        state,
        journals: paths.journal.clone(),
        sandbox: sandbox.clone(),
        programs,
        egress: None,
    })
}

/// Takes what a studio pushes.
pub(crate) async fn updates(
    paths: &Paths,
    settings: &Settings,
    swapper: &Arc<Swapper>,
) -> Result<Arc<Updates>, Failure> {
    let network = Network::load(&paths.config)?;
    let options = worker_updates::Options {
        state: paths.state.join("plugins"),
        policy: egress_policy(settings, &network)?,
        swapper: swapper.clone(),
        limits: worker_updates::Limits::default(),
    };
    Ok(Updates::open(options).await?)
}

/// The studio to serve, the embedded one where none is configured, and the identity that goes with it.
pub(crate) async fn studio(
    paths: &Paths,
    settings: &Settings,
    url: &str,
    token: &Secret,
    serving: &Arc<Serving>,
) -> Result<(ApiBase, Option<Arc<Studio>>, Arc<StoredAt>), Failure> {
    match &settings.studio {
        Configured::Remote(base) => {
            let store = StoredAt::open(IdentityFile::remote(&paths.config, base), None)?;
            Ok((base.clone(), None, Arc::new(store)))
        }
        Configured::Embedded => {
            let options = StudioOptions {
                dir: paths.studio.clone(),
                token: token.clone(),
                approve: Approval::OwnInstall,
                limits: worker_studio::Limits::default(),
                timing: worker_studio::Timing::default(),
                compose: Arc::new(EngineComposer(serving.clone())),
            };
            let studio = Studio::open(options).await?;
            let file = IdentityFile::embedded(&paths.embedded_identity);
            let store = StoredAt::open(file, Some(studio.clone()))?;
            Ok((ApiBase::parse(url)?, Some(studio), Arc::new(store)))
        }
    }
}

/// Results on disk, and who sends them.
pub(crate) fn delivery(paths: &Paths, log: &LogShipper) -> Result<Arc<Delivery>, Failure> {
    let spool = Spool::open(&paths.spool, &paths.aside)?;
    let log = log.clone();
    let events = Arc::new(move |event: Event| ship(&log, &event));
    Ok(Delivery::new(
        spool,
        worker_egress::studio_client()?,
        events,
    ))
}

fn ship(log: &LogShipper, event: &Event) {
    let message = event.to_string();
    let level = match event.severity() {
        Severity::Info => {
            tracing::info!(target: "delivery", job = event.job(), "{message}");
            LogLevel::Info
        }
        Severity::Warn => {
            tracing::warn!(target: "delivery", job = event.job(), "{message}");
            LogLevel::Warn
        }
        Severity::Error => {
            tracing::error!(target: "delivery", job = event.job(), "{message}");
            LogLevel::Error
        }
    };
    log.push(LogEntry::now(
        level,
        "ws",
        message,
        event.job().map(str::to_owned),
    ));
}

/// The way out to the network.
pub(crate) fn egress(paths: &Paths, settings: &Settings) -> Result<Egress, Failure> {
    let network = Network::load(&paths.config)?;
    Ok(Egress::new(egress_policy(settings, &network)?)?)
}

/// Folders whose sizes the metrics tell.
pub(crate) fn measured(paths: &Paths, settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    vec![
        ("spool", paths.spool.clone()),
        ("aside", paths.aside.clone()),
        ("models", settings.models_root.clone()),
        ("compiled", paths.compiled.clone()),
        ("journal", paths.journal.clone()),
    ]
}

/// The runner and everything that only it needs.
pub(crate) async fn runner(
    paths: &Paths,
    settings: &Settings,
    egress: Egress,
    (scratch, delivery): (ScratchRoot, Arc<Delivery>),
    swapper: &Arc<Swapper>,
    programs: Arc<Programs>,
    log: &LogShipper,
) -> Result<Runner, Failure> {
    let gpu = gpu(settings, &programs).await;
    let log = log.clone();
    let network = Network::load(&paths.config)?;
    Ok(Runner::new(RunnerParts {
        serving: swapper.serving().clone(),
        witness: swapper.witness(),
        programs,
        scratch,
        cache: Arc::new(cache(settings)?),
        egress: Arc::new(egress),
        secrets: plugin_secrets(&network),
        delivery,
        servers: Servers::open(
            &paths.state.join("servers"),
            worker_servers::Limits {
                idle: settings.server_idle,
                ..worker_servers::Limits::default()
            },
        )?,
        journals: JournalStore::open(
            &paths.journal,
            settings.prompts_in_journal,
            settings.journal_age,
        )?,
        facts: facts(settings),
        gpu,
        log: Arc::new(move |entry| log.push(entry)),
        settings: RunnerSettings {
            programs: program_rules(paths, settings),
            files: worker_files::Limits {
                file_bytes: settings.output_bytes,
                scratch_bytes: settings.scratch_bytes,
                ..worker_files::Limits::default()
            },
            ..RunnerSettings::default()
        },
    }))
}

fn program_rules(paths: &Paths, settings: &Settings) -> ProgramRules {
    let set = &settings.programs;
    let folder = paths.config.parent().map(Path::to_owned);
    let home = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    let private = [paths.state.clone(), settings.models_root.clone()];
    ProgramRules {
        timeout: set.timeout,
        silence: set.silence,
        first_progress: set.start,
        next_progress: set.step,
        written_bytes: set.written_bytes,
        file_bytes: settings.output_bytes,
        memory_bytes: set
            .memory_bytes
            .or_else(worker_backends::default_memory_limit),
        sandbox: set.sandbox,
        without_sandbox: set.without_sandbox,
        first_party: first_party(),
        readable: set.readable.clone(),
        writable: set.writable.clone(),
        private: private.into_iter().chain(folder).chain(home).collect(),
        caches: Some(paths.state.join("program-cache")),
    }
}

/// Digests of the plugins that came with this worker.
fn first_party() -> HashSet<String> {
    embedded::FILES
        .iter()
        .map(|file| hex::encode(Sha256::digest(file.bytes)))
        .collect()
}

/// Says what keeps programs, marks them as this installation's, and ends those that a worker before this one left behind.
pub(crate) fn mark_programs(paths: &Paths, settings: &Settings) -> Result<(), Failure> {
    std::fs::create_dir_all(&paths.state)?;
    let support = worker_backends::support();
    if !settings.programs.sandbox {
        tracing::warn!(target: "worker", "program_sandbox is off: programs may do whatever this user may");
    } else if !support.is_complete() {
        tracing::warn!(target: "worker", "programs cannot be kept in a complete sandbox here: {support}");
    }
    let marked = worker_backends::mark(&paths.state)?;
    tracing::info!(target: "worker", "programs are held to their memory by {}", worker_backends::memory_keeper());
    let network = worker_backends::server_network(settings.programs.sandbox);
    tracing::info!(target: "worker", "warm servers listen in {network}");
    match marked {
        Marked::Ended(0) => {}
        Marked::Ended(count) => {
            tracing::warn!(target: "worker", count, "ended processes that an earlier worker left running");
        }
        Marked::InUse => {
            tracing::warn!(target: "worker", "another process runs programs of this installation; none were ended");
        }
    }
    Ok(())
}

/// The model cache of a configuration.
pub(crate) fn cache(settings: &Settings) -> Result<ModelCache, worker_files::CacheError> {
    Ok(ModelCache::open(&settings.models_root)?.with_budget(settings.models_budget))
}

/// Plain http reaches this machine only where the studio itself is on it: then its job inputs are too.
pub(crate) fn egress_policy(
    settings: &Settings,
    network: &Network,
) -> Result<worker_egress::Policy, Failure> {
    let local = match &settings.studio {
        Configured::Embedded => true,
        Configured::Remote(base) => base.is_loopback(),
    };
    let credential = |login: &Login| {
        let Login {
            host,
            path_prefix,
            registry,
            user,
            token,
        } = login;
        let credential = match user {
            Some(user) => Credential::basic(host, path_prefix, user, token.expose()),
            None => Credential::bearer(host, path_prefix, token.expose()),
        };
        credential.map(|credential| credential.for_registry(registry.as_deref()))
    };
    Ok(worker_egress::Policy {
        allow_http_loopback: local,
        only_hosts: network.download_hosts.clone(),
        credentials: network
            .logins
            .iter()
            .map(credential)
            .collect::<Result<_, _>>()?,
        ..worker_egress::Policy::default()
    })
}

fn plugin_secrets(network: &Network) -> PluginSecrets {
    let mut secrets = PluginSecrets::default();
    for secret in &network.secrets {
        secrets.insert(&secret.plugin, &secret.name, secret.value.clone());
    }
    secrets
}

/// The programs of a configuration; nothing is looked for yet.
pub(crate) fn programs(paths: &Paths, settings: &Settings) -> Result<Arc<Programs>, Failure> {
    std::fs::create_dir_all(&paths.state)?;
    let rules = program_rules(paths, settings);
    Ok(Programs::new(&settings.models_root, &paths.programs, rules))
}

/// How large a job the operator takes.
pub(crate) fn threshold(settings: &Settings) -> Threshold {
    let gigabytes = settings.vram_threshold_gb as f32;
    if settings.vram_threshold_is_set {
        Threshold::Set(gigabytes)
    } else {
        Threshold::AtMost(gigabytes)
    }
}

async fn gpu(settings: &Settings, programs: &Programs) -> GpuMemory {
    let gpu = programs.machine().await.gpu;
    match &gpu {
        Some(gpu) => {
            let gigabytes = worker_backends::gib(gpu.total);
            tracing::info!(target: "worker", gpu = gpu.name, "{gigabytes:.1} GiB of GPU memory");
        }
        None => tracing::warn!(
            target: "worker",
            "no GPU memory can be measured: jobs are admitted without that check; `doctor` says more"
        ),
    }
    GpuMemory {
        total_gb: gpu
            .as_ref()
            .map_or(0.0, |gpu| worker_backends::gib(gpu.total) as f32),
        name: gpu.map(|gpu| gpu.name),
        threshold: threshold(settings),
    }
}

fn facts(settings: &Settings) -> MachineFacts {
    MachineFacts {
        machine_name: hostname::get()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "unknown-host".to_owned()),
        username: std::env::var("USER")
            .or_else(|_| std::env::var("USERNAME"))
            .unwrap_or_else(|_| "unknown".to_owned()),
        agent_version: VERSION.to_owned(),
        auto_start: settings.auto_start,
        auto_update: settings.auto_update,
        start_minimised: settings.start_minimised,
        only_when_idle: settings.only_when_idle,
        platform: platform(),
    }
}

/// The platform as plugins see it, but for its GPU.
pub(crate) fn platform() -> Platform {
    Platform {
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        gpu: None,
    }
}

/// The identity file as the session wants it. The studio inside hears of each new install id, because that is the one
/// worker that it approves by itself.
pub(crate) struct StoredAt {
    file: IdentityFile,
    studio: Option<Arc<Studio>>,
}

impl StoredAt {
    /// Checks that the file can be read, so that a broken one is said before anything starts.
    fn open(file: IdentityFile, studio: Option<Arc<Studio>>) -> Result<Self, Failure> {
        let stored = file.load()?;
        let store = Self { file, studio };
        store.introduce(stored.install_id.as_deref());
        Ok(store)
    }

    fn introduce(&self, install_id: Option<&str>) {
        if let (Some(studio), Some(install_id)) = (&self.studio, install_id) {
            studio.install_own_worker(install_id);
        }
    }
}

impl IdentityStore for StoredAt {
    fn load(&self) -> Identity {
        let stored = self.file.load().unwrap_or_else(|error| {
            // The file was read a moment ago; what it held then was checked.
            tracing::error!(target: "worker", %error, "the worker's identity cannot be read; it registers anew");
            StoredIdentity::default()
        });
        Identity {
            install_id: stored.install_id,
            registration_secret: stored.registration_secret,
            registration_request_id: stored.registration_request_id,
            worker_id: stored.worker_id,
            auth_token: stored.auth_token,
        }
    }

    fn save(&self, identity: &Identity) -> Result<(), SaveError> {
        let identity = identity.clone();
        let stored = StoredIdentity {
            install_id: identity.install_id,
            registration_secret: identity.registration_secret,
            registration_request_id: identity.registration_request_id,
            worker_id: identity.worker_id,
            auth_token: identity.auth_token,
        };
        self.introduce(stored.install_id.as_deref());
        self.file
            .save(&stored)
            .map_err(|error| SaveError(Box::new(error)))
    }
}
