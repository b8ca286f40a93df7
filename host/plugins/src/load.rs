//! From files to a generation.
//!
//! Each file is taken through the same stages, none of which trusts the next: name, size, sections, wishes, compilation, types,
//! shape, and at last a call of what it says about itself. A file that fails one is refused with the rule it broke, and the
//! others go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::folder::{Folder, ReadError, shown};
use crate::generation::{Engine, Finisher, Generation, Identity, Router};
use crate::names;
use crate::pipeline::ReadOnce;
use crate::policy::{self, Policy, PolicyError};
use crate::prepare::{Bytes, Candidate, Plugged, Prepared, probe};
use crate::refusal::{Broken, Refusal, Rule};
use crate::sandbox::Sandbox;
use crate::statistics::Statistics;
use crate::terms::{Signature, Terms};

/// Plugins of one set.
pub(crate) const MAX_PLUGINS: usize = 128;

/// Where plugins come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A folder of `*.wasm` and a `plugins.toml`.
    Folder(&'a Path),
    /// The same, built into the program.
    Embedded(&'a [EmbeddedFile]),
}

/// A file of an embedded set.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedFile {
    /// Its name: `router.wasm`, or `plugins.toml`.
    pub name: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
}

/// What came of loading.
#[derive(Debug)]
pub struct Loaded {
    /// The plugins that serve.
    pub generation: Arc<Generation>,
    /// The files that do not, each with the rule it broke. Each has been logged as a warning.
    pub refused: Vec<Refusal>,
}

/// Why no generation could be made at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder is not there or cannot be read.
    #[error("cannot read the plugin folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// There are too many files.
    #[error("{place} holds more than {MAX_PLUGINS} plugins")]
    TooMany {
        /// The folder, or the built-in set.
        place: String,
    },
    /// `plugins.toml` is there and cannot be read.
    #[error("plugins.toml in {place} {problem}")]
    PolicyFile {
        /// The folder, or the built-in set.
        place: String,
        /// Why not.
        problem: String,
    },
    /// `plugins.toml` is wrong.
    #[error("plugins.toml in {place}, {source}")]
    Policy {
        /// The folder, or the built-in set.
        place: String,
        /// Where and what.
        source: PolicyError,
    },
    /// There is no router, or no telling which: without one no offer can be taken.
    #[error("no router in {place}: {why}")]
    NoRouter {
        /// The folder, or the built-in set.
        place: String,
        /// What is missing.
        why: String,
    },
    /// The process is ending.
    #[error("loading was interrupted")]
    Interrupted,
}

/// A set of files whose names and policy are known.
pub(crate) struct Set {
    pub(crate) place: String,
    pub(crate) policy: Policy,
    pub(crate) policy_bytes: Vec<u8>,
    pub(crate) files: Vec<Candidate>,
}

/// Loads a set of plugins. Refused files do not stop it; a missing router does.
pub async fn load(sandbox: &Arc<Sandbox>, source: Source<'_>) -> Result<Loaded, LoadError> {
    let set = match source {
        Source::Folder(path) => {
            let path = path.to_owned();
            let read = tokio::task::spawn_blocking(move || read_folder(&path));
            read.await.map_err(|_| LoadError::Interrupted)??
        }
        Source::Embedded(files) => read_embedded(files)?,
    };
    let (place, policy_bytes) = (set.place.clone(), set.policy_bytes.clone());
    let (files, mut refused) = unique(set.files);
    let policy = Arc::new(set.policy);
    let plugged = plug_all(sandbox, &policy, files, &mut refused).await?;
    refused.sort_by(|a, b| a.file.cmp(&b.file));
    for refusal in &refused {
        tracing::warn!(target: "plugins", "{refusal}");
    }
    let generation = assemble(&place, &policy, &policy_bytes, plugged, &refused)?;
    Ok(Loaded {
        generation: Arc::new(generation),
        refused,
    })
}

pub(crate) fn read_folder(path: &Path) -> Result<Set, LoadError> {
    let unreadable = |source| LoadError::Folder {
        path: path.to_owned(),
        source,
    };
    let place = names::one_line(&path.display().to_string(), 512);
    let folder = Arc::new(Folder::open(path).map_err(unreadable)?);
    let policy_bytes = match folder.read(Path::new(policy::FILE), policy::MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(ReadError::Missing) => Vec::new(),
        Err(error) => {
            return Err(LoadError::PolicyFile {
                place,
                problem: error.to_string(),
            });
        }
    };
    let names = folder.plugins().map_err(unreadable)?;
    let files = names.into_iter().map(|name| Candidate {
        file: shown(&name),
        bytes: Bytes::InFolder(Arc::clone(&folder), name.into()),
    });
    Ok(Set {
        policy: parse_policy(&place, &policy_bytes)?,
        policy_bytes,
        files: files.collect(),
        place,
    })
}

pub(crate) fn read_embedded(files: &[EmbeddedFile]) -> Result<Set, LoadError> {
    let place = "the built-in set".to_owned();
    let policy_file = files.iter().find(|file| file.name == policy::FILE);
    let policy_bytes = policy_file.map_or(&[][..], |file| file.bytes).to_vec();
    let plugins = files.iter().filter(|file| file.name.ends_with(".wasm"));
    let plugins = plugins.map(|file| Candidate {
        file: file.name.to_owned(),
        bytes: Bytes::Embedded(file.bytes),
    });
    Ok(Set {
        policy: parse_policy(&place, &policy_bytes)?,
        policy_bytes,
        files: plugins.collect(),
        place,
    })
}

fn parse_policy(place: &str, bytes: &[u8]) -> Result<Policy, LoadError> {
    let text = std::str::from_utf8(bytes).map_err(|_| LoadError::PolicyFile {
        place: place.to_owned(),
        problem: "is not UTF-8".to_owned(),
    })?;
    Policy::parse(text).map_err(|source| LoadError::Policy {
        place: place.to_owned(),
        source,
    })
}

/// Refuses all files whose names differ by nothing but case: which of them is meant cannot be told, and on some systems they are one.
pub(crate) fn unique(files: Vec<Candidate>) -> (Vec<Candidate>, Vec<Refusal>) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in &files {
        *counts.entry(file.file.to_lowercase()).or_default() += 1;
    }
    let is_single = |file: &Candidate| counts.get(&file.file.to_lowercase()) == Some(&1);
    let (single, several): (Vec<_>, Vec<_>) = files.into_iter().partition(is_single);
    let refused = several.into_iter().map(|file| {
        Rule::UniqueName
            .broken("another file's name differs by nothing but case; remove one of them")
            .by(&file.file)
    });
    (single, refused.collect())
}

/// Takes all files through their stages, several at a time: compiling is the most of a cold start.
async fn plug_all(
    sandbox: &Arc<Sandbox>,
    policy: &Arc<Policy>,
    files: Vec<Candidate>,
    refused: &mut Vec<Refusal>,
) -> Result<Vec<Plugged>, LoadError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let slots = Arc::new(Semaphore::new(cores));
    let mut tasks = JoinSet::new();
    for file in files.into_iter().take(MAX_PLUGINS + 1) {
        let (sandbox, policy, slots) =
            (Arc::clone(sandbox), Arc::clone(policy), Arc::clone(&slots));
        tasks.spawn(async move {
            // Never closed, so there is always a slot to come.
            let _slot = slots.acquire().await;
            let name = file.file.clone();
            plug(&sandbox, &policy, file)
                .await
                .map_err(|broken| broken.by(&name))
        });
    }
    if tasks.len() > MAX_PLUGINS {
        return Err(LoadError::TooMany {
            place: "the plugin folder".to_owned(),
        });
    }
    let mut plugged = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended.map_err(|_| LoadError::Interrupted)? {
            Ok(Some(one)) => plugged.push(one),
            Ok(None) => {}
            Err(refusal) => refused.push(refusal),
        }
    }
    Ok(plugged)
}

/// One file, from its name to what it says about itself. None when the operator has disabled it.
pub(crate) async fn plug(
    sandbox: &Arc<Sandbox>,
    policy: &Arc<Policy>,
    file: Candidate,
) -> Result<Option<Plugged>, Broken> {
    let (for_task, policy) = (Arc::clone(sandbox), Arc::clone(policy));
    let prepared = tokio::task::spawn_blocking(move || prepare(&for_task, &policy, &file));
    match prepared.await {
        Ok(Ok(Some(prepared))) => probe(prepared).await.map(Some),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(broken)) => Err(broken),
        Err(_) => Err(Rule::Compiles.unmet("compiling it was interrupted")),
    }
}

/// Takes a file up to the point where something of it would run. None when it is disabled.
fn prepare(
    sandbox: &Arc<Sandbox>,
    policy: &Policy,
    candidate: &Candidate,
) -> Result<Option<Prepared>, Broken> {
    let Some(read) = ReadOnce::of(policy, candidate)? else {
        return Ok(None);
    };
    let terms = match &candidate.bytes {
        Bytes::Embedded(_) => Terms::built_in(),
        Bytes::InFolder(..) => Terms::of_operator(read.signature().map(str::to_owned)),
    };
    let verified = read.unstored().verify(terms, policy)?;
    let Some(permitted) = verified.permit(policy)? else {
        return Ok(None);
    };
    let linked = permitted.examine()?.compile(sandbox)?.link(sandbox)?;
    Ok(Some(linked.0))
}

pub(crate) fn assemble(
    place: &str,
    policy: &Policy,
    policy_bytes: &[u8],
    plugged: impl IntoIterator<Item = Plugged>,
    refused: &[Refusal],
) -> Result<Generation, LoadError> {
    let mut engines: BTreeMap<String, Arc<Engine>> = BTreeMap::new();
    let mut routers: BTreeMap<String, Arc<Router>> = BTreeMap::new();
    let mut finishers: BTreeMap<String, Arc<Finisher>> = BTreeMap::new();
    for one in plugged {
        match one {
            Plugged::Engine(engine) => drop(engines.insert(engine.identity().name.clone(), engine)),
            Plugged::Router(router) => drop(routers.insert(router.identity().name.clone(), router)),
            Plugged::Finisher(finisher) => {
                drop(finishers.insert(finisher.identity().name.clone(), finisher))
            }
        }
    }
    let router = choose_router(policy, &routers, refused).map_err(|why| LoadError::NoRouter {
        place: place.to_owned(),
        why,
    })?;
    let everything = ["*".to_owned()];
    let engines = ordered(
        engines,
        policy.engines.as_deref().unwrap_or(&everything),
        "engine",
    );
    let finishers = ordered(
        finishers,
        policy.finishers.as_deref().unwrap_or(&everything),
        "finisher",
    );
    if finishers.is_empty() {
        tracing::warn!(target: "plugins", "no finisher in {place}: products are delivered as the engines left them");
    }
    let generation = Generation {
        id: id(policy_bytes, &engines, &router, &finishers),
        engines,
        router,
        finishers,
        statistics: Statistics::default(),
    };
    announce(&generation);
    Ok(generation)
}

fn choose_router(
    policy: &Policy,
    routers: &BTreeMap<String, Arc<Router>>,
    refused: &[Refusal],
) -> Result<Arc<Router>, String> {
    let wanted = policy.router.as_deref();
    let refusal_of = |name: &str| {
        refused
            .iter()
            .find(|refusal| refusal.file == format!("{name}.wasm"))
    };
    match (wanted, routers.len()) {
        (Some(name), _) => routers
            .get(name)
            .cloned()
            .ok_or_else(|| match refusal_of(name) {
                Some(refusal) => refusal.to_string(),
                None => format!(
                    "plugins.toml names `{name}`, and {name}.wasm is not there or is no router"
                ),
            }),
        (None, 1) => routers.values().next().cloned().ok_or_else(String::new),
        (None, 0) => Err(match (refusal_of("router"), refused.first()) {
            (Some(refusal), _) => refusal.to_string(),
            (None, Some(first)) => format!(
                "put router.wasm there; {} files were refused, {first}",
                refused.len()
            ),
            (None, None) => "put router.wasm there".to_owned(),
        }),
        (None, _) => {
            let names: Vec<&str> = routers.keys().map(String::as_str).collect();
            Err(format!(
                "there are several, {}; name one by `router = \"…\"` in plugins.toml",
                names.join(" and ")
            ))
        }
    }
}

/// Plugins in the order wished for; `*` stands for those not named. What is wished for and not there is said.
fn ordered<T>(mut all: BTreeMap<String, Arc<T>>, wanted: &[String], what: &str) -> Vec<Arc<T>> {
    let mut before = Vec::new();
    let mut after = Vec::new();
    let mut starred = false;
    for name in wanted {
        if name == "*" {
            starred = true;
            continue;
        }
        match all.remove(name) {
            Some(one) if starred => after.push(one),
            Some(one) => before.push(one),
            None => {
                tracing::warn!(target: "plugins", "plugins.toml names the {what} `{name}`, which is not loaded")
            }
        }
    }
    if starred {
        before.extend(all.into_values());
    } else if !all.is_empty() {
        let left: Vec<String> = all.into_keys().collect();
        tracing::info!(target: "plugins", "not used, as plugins.toml does not name them: {what} {}", left.join(", "));
    }
    before.extend(after);
    before
}

fn id(
    policy: &[u8],
    engines: &[Arc<Engine>],
    router: &Arc<Router>,
    finishers: &[Arc<Finisher>],
) -> String {
    let mut hash = Sha256::new();
    let mut add = |role: &str, identity: &Identity| {
        let Identity { name, digest, .. } = identity;
        // The same bytes signed and not signed are told apart, on every job's record too.
        let signed = match &identity.signature {
            Signature::NotSigned => String::new(),
            Signature::Verified { key, .. } => format!(" {key}"),
        };
        hash.update(format!("{role} {name} {digest}{signed}\n"));
    };
    for engine in engines {
        add("engine", engine.identity());
    }
    add("router", router.identity());
    for finisher in finishers {
        add("finisher", finisher.identity());
    }
    hash.update(policy);
    let hex = hex::encode(hash.finalize());
    hex.chars().take(12).collect()
}

/// One line for each engine: what is served, by which version of what.
fn announce(generation: &Generation) {
    for engine in generation.engines() {
        let identity = engine.identity();
        let kinds: Vec<&str> = engine
            .description()
            .kinds
            .iter()
            .map(|kind| kind.kind.as_str())
            .collect();
        let short: String = identity.digest.chars().take(12).collect();
        tracing::info!(
            target: "plugins",
            "engine {} {} ({short}) serves {}",
            identity.name,
            if identity.version.is_empty() { "without a version" } else { &identity.version },
            kinds.join(", ")
        );
    }
}
