//! A folder of plugins, a sandbox, and the log that came of it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tracing_subscriber::layer::{Context, SubscriberExt};
use worker_plugins::{
    CallError, Candidate, Engine, Fault, Job, LoadError, Loaded, Platform, Refusal, Rule, Sandbox,
    SandboxOptions, Source, WorkerState, load,
};

pub(crate) fn sandbox() -> Arc<Sandbox> {
    sandbox_in(None)
}

pub(crate) fn sandbox_in(cache_dir: Option<PathBuf>) -> Arc<Sandbox> {
    let options = SandboxOptions {
        cache_dir,
        compiler: None,
        guest_threads: NonZeroUsize::new(2).unwrap(),
    };
    Sandbox::new(options).unwrap()
}

/// A plugin folder.
pub(crate) struct Folder {
    dir: TempDir,
}

impl Folder {
    /// An empty one.
    pub(crate) fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// One that can serve: it has a router.
    pub(crate) fn serving() -> Self {
        Self::empty().put("router.wasm", &crate::guest::router().build())
    }

    pub(crate) fn put(self, name: &str, bytes: &[u8]) -> Self {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
        self
    }

    pub(crate) fn policy(self, text: &str) -> Self {
        self.put("plugins.toml", text.as_bytes())
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn load(&self, sandbox: &Arc<Sandbox>) -> Result<Loaded, LoadError> {
        load(sandbox, Source::Folder(self.path())).await
    }
}

/// Loads one file beside a router and returns the refusal of it.
pub(crate) async fn refusal(name: &str, bytes: &[u8]) -> Refusal {
    refusal_under(name, bytes, "").await
}

pub(crate) async fn refusal_under(name: &str, bytes: &[u8], policy: &str) -> Refusal {
    let folder = Folder::serving().put(name, bytes).policy(policy);
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert!(loaded.generation.engines().is_empty(), "{name} was loaded");
    loaded.refused.into_iter().next().unwrap()
}

#[track_caller]
pub(crate) fn assert_rule(refusal: &Refusal, rule: Rule, word: &str) {
    assert_eq!(refusal.rule, rule, "{refusal}");
    assert!(
        refusal.detail.contains(word),
        "{refusal} does not say {word:?}"
    );
    let line = refusal.to_string();
    assert!(
        line.starts_with(&format!("{} refused ({}): ", refusal.file, rule)),
        "{line}"
    );
    assert!(!line.contains('\n'), "{line}");
}

/// Loads one engine under the name `x` that must not be refused.
pub(crate) async fn engine(bytes: &[u8], policy: &str) -> Arc<Engine> {
    let folder = Folder::serving().put("x.wasm", bytes).policy(policy);
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert!(loaded.refused.is_empty(), "{:?}", loaded.refused);
    Arc::clone(loaded.generation.engine("x").unwrap())
}

pub(crate) fn job() -> Arc<Job> {
    Arc::new(Job {
        id: "j1".into(),
        kind: "haiku".into(),
        model: "m".into(),
        task: "{}".into(),
        model_source: "{}".into(),
        vram_gb_estimate: 1.0,
        entropy: 7,
        settings: "{}".into(),
        backends: vec![],
        platform: Platform {
            os: "linux".into(),
            arch: "x86_64".into(),
            gpu: None,
        },
    })
}

pub(crate) fn worker_state() -> WorkerState {
    WorkerState {
        paused: false,
        draining: false,
        current_job: None,
        vram_total_gb: 1.0,
        vram_threshold_gb: 1.0,
        device_free_gb: None,
        host_available_gb: None,
        warm: vec![],
        settings: "{}".into(),
    }
}

pub(crate) fn candidate(name: &str) -> Candidate {
    Candidate {
        name: name.into(),
        engines: vec![],
        kinds: vec![],
    }
}

#[track_caller]
pub(crate) fn fault<T: std::fmt::Debug>(answer: Result<T, CallError>) -> Fault {
    let error = answer.unwrap_err();
    let line = error.to_string();
    assert!(
        line.starts_with(&format!(
            "plugin `{}` failed in `{}`: ",
            error.plugin, error.export
        )),
        "{line}"
    );
    assert!(!line.contains('\n'), "{line}");
    error.fault
}

/// What plugins logged: name and message of each event, over the whole process.
#[derive(Clone, Default)]
pub(crate) struct Logged(Arc<Mutex<Vec<(String, String)>>>);

impl Logged {
    /// Catches all events from now on. Each test asks for a plugin name of its own.
    pub(crate) fn of(plugin: &str) -> Vec<String> {
        let lines = Self::global().0.lock().unwrap();
        lines
            .iter()
            .filter(|(of, _)| of == plugin)
            .map(|(_, line)| line.clone())
            .collect()
    }

    pub(crate) fn global() -> &'static Self {
        static LOGGED: std::sync::OnceLock<Logged> = std::sync::OnceLock::new();
        LOGGED.get_or_init(|| {
            let logged = Self::default();
            tracing::subscriber::set_global_default(
                tracing_subscriber::registry().with(logged.clone()),
            )
            .unwrap();
            logged
        })
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Logged {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        #[derive(Default)]
        struct Fields {
            plugin: String,
            message: String,
        }
        impl tracing::field::Visit for Fields {
            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if field.name() == "plugin" {
                    self.plugin = value.to_owned();
                }
            }
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.message = format!("{value:?}");
                }
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        if event.metadata().target() == "plugin" {
            self.0.lock().unwrap().push((fields.plugin, fields.message));
        }
    }
}
