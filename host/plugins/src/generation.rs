//! Loaded plugins, and the set of them that serves a job.

use std::sync::Arc;

use crate::call::{Budget, Code, Export};
use crate::check;
use crate::contract::{
    Build, Candidate, Description, Failure, Job, Next, Outcome, Product, Progress, Provenance,
    Rejection, WorkerState,
};
use crate::fault::{CallError, Fault};
use crate::grants::{Asked, Grants, Limits};
use crate::statistics::Statistics;
use crate::terms::Signature;

/// Who a plugin is, from its file and the file's metadata sections.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Identity {
    /// Its name, which is its file's stem.
    pub name: String,
    /// Its version; empty when the file does not say.
    pub version: String,
    /// Its licence, where the file says.
    pub license: Option<String>,
    /// Where its source is, where the file says.
    pub source: Option<String>,
    /// SHA-256 of the file in hexadecimal.
    pub digest: String,
    /// The file's name in its folder.
    pub file: String,
    /// Who signed it.
    pub signature: Signature,
}

/// What engines, routers and finishers have in common.
#[derive(Clone)]
pub(crate) struct Plugin {
    pub(crate) identity: Identity,
    pub(crate) asked: Asked,
    pub(crate) grants: Grants,
    pub(crate) settings: String,
    pub(crate) code: Arc<Code>,
}

macro_rules! common {
    ($type:ident) => {
        impl $type {
            /// Who it is.
            pub fn identity(&self) -> &Identity {
                &self.plugin.identity
            }

            /// What it asks for.
            pub fn asked(&self) -> &Asked {
                &self.plugin.asked
            }

            /// What it is given.
            pub fn grants(&self) -> &Grants {
                &self.plugin.grants
            }

            /// How much it may use.
            pub fn limits(&self) -> &Limits {
                self.plugin.code.limits()
            }

            /// What the operator set for it: a JSON object. Goes into the job it is called with.
            pub fn settings(&self) -> &str {
                &self.plugin.settings
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("identity", &self.plugin.identity)
                    .finish_non_exhaustive()
            }
        }
    };
}

/// A plugin that decides how a job is done.
pub struct Engine {
    pub(crate) plugin: Plugin,
    pub(crate) description: Description,
    pub(crate) exports: EngineExports,
}

#[derive(Clone, Copy)]
pub(crate) struct EngineExports {
    pub(crate) describe: Export,
    pub(crate) builds: Export,
    pub(crate) compose: Export,
    pub(crate) subject: Export,
    pub(crate) step: Export,
    pub(crate) read_progress: Export,
}

common!(Engine);

// Each call answers `Err` when there was no answer, and the plugin's own failure as a value inside `Ok`.
impl Engine {
    /// What it serves and needs, as it said when it was loaded.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Where a release of one of its backends can be downloaded; every address lies under a granted prefix.
    pub async fn builds(
        &self,
        backend: &str,
        release: &str,
    ) -> Result<Result<Vec<Build>, Failure>, CallError> {
        let export = self.exports.builds;
        let grants = self.plugin.grants.clone();
        let (backend, release) = (backend.to_owned(), release.to_owned());
        self.plugin
            .code
            .run(export.name, move |code, abandoned| {
                let budget = Budget::quick(code.limits());
                let (answer,): (Result<Vec<Build>, Failure>,) = code.call(
                    export,
                    budget,
                    0,
                    abandoned,
                    (backend.as_str(), release.as_str()),
                )?;
                match answer {
                    Ok(builds) => {
                        checked(code, export, check::builds(&builds, &grants)).map(|()| Ok(builds))
                    }
                    Err(failure) => Ok(Err(check::failure(failure))),
                }
            })
            .await
    }

    /// A task and a model source, both JSON, from a person's words and options, a JSON object.
    pub async fn compose(
        &self,
        kind: &str,
        text: &str,
        options: &str,
    ) -> Result<Result<(String, String), Failure>, CallError> {
        let export = self.exports.compose;
        let (kind, text, options) = (kind.to_owned(), text.to_owned(), options.to_owned());
        self.plugin
            .code
            .run(export.name, move |code, abandoned| {
                let budget = Budget::quick(code.limits());
                let (answer,): (Result<(String, String), Failure>,) = code.call(
                    export,
                    budget,
                    0,
                    abandoned,
                    (kind.as_str(), text.as_str(), options.as_str()),
                )?;
                match answer {
                    Ok((task, source)) => {
                        checked(code, export, check::json("the task", &task))?;
                        checked(code, export, check::json("the model source", &source))?;
                        Ok(Ok((task, source)))
                    }
                    Err(failure) => Ok(Err(check::failure(failure))),
                }
            })
            .await
    }

    /// The text that people know the job by, whole.
    pub async fn subject(&self, job: &Arc<Job>) -> Result<String, CallError> {
        let export = self.exports.subject;
        let job = Arc::clone(job);
        self.plugin
            .code
            .run(export.name, move |code, abandoned| {
                let budget = Budget::quick(code.limits());
                let (subject,): (String,) =
                    code.call(export, budget, job.entropy, abandoned, (&*job,))?;
                Ok(subject)
            })
            .await
    }

    /// What to do next. The history is shared with the caller, who gets it back for appending once the call has ended.
    pub async fn step(
        &self,
        job: &Arc<Job>,
        history: &Arc<Vec<Outcome>>,
    ) -> Result<Result<Next, Failure>, CallError> {
        self.step_measured(job, history).await.0
    }

    /// The same with the fuel that the call took: for equal arguments the same figure on every machine.
    pub async fn step_measured(
        &self,
        job: &Arc<Job>,
        history: &Arc<Vec<Outcome>>,
    ) -> (Result<Result<Next, Failure>, CallError>, u64) {
        let export = self.exports.step;
        let (job, history) = (Arc::clone(job), Arc::clone(history));
        let called =
            self.plugin
                .code
                .run_here(export.name, move |code, abandoned| {
                    let budget = Budget::step(code.limits());
                    let mut spent = 0;
                    let answer: Result<(Result<Next, Failure>,), CallError> = code.measured(
                        export,
                        budget,
                        job.entropy,
                        abandoned,
                        (&*job, history.as_slice()),
                        &mut spent,
                    );
                    let answer = answer.and_then(|(answer,)| match answer {
                        Ok(next) => checked(code, export, check::next(&next, code.limits()))
                            .map(|()| Ok(next)),
                        Err(failure) => Ok(Err(check::failure(failure))),
                    });
                    Ok((answer, spent))
                })
                .await;
        called.unwrap_or_else(|refused| (Err(refused), 0))
    }

    /// Reads lines that a native program printed. `state` is what the last call for this run returned, 0 at first.
    pub async fn read_progress(
        &self,
        backend: &str,
        state: u64,
        lines: Vec<String>,
    ) -> Result<(u64, Option<Progress>), CallError> {
        let export = self.exports.read_progress;
        let backend = backend.to_owned();
        self.plugin
            .code
            .run(export.name, move |code, abandoned| {
                let budget = Budget::quick(code.limits());
                let ((state, progress),): ((u64, Option<Progress>),) = code.call(
                    export,
                    budget,
                    0,
                    abandoned,
                    (backend.as_str(), state, lines.as_slice()),
                )?;
                Ok((state, progress.map(check::progress)))
            })
            .await
    }

    /// This engine as the router sees it.
    pub fn candidate(&self) -> Candidate {
        let kinds = self.description.kinds.iter();
        Candidate {
            name: self.plugin.identity.name.clone(),
            engines: self.description.engines.clone(),
            kinds: kinds
                .map(|kind| (kind.kind.clone(), kind.models.clone()))
                .collect(),
        }
    }
}

/// The plugin that decides which engine takes an offer.
pub struct Router {
    pub(crate) plugin: Plugin,
    pub(crate) route: Export,
}

common!(Router);

impl Router {
    /// The engine that takes the offer, one of the candidates, or why none does. `offer` is the studio's claim, verbatim.
    pub async fn route(
        &self,
        offer: &str,
        candidates: Vec<Candidate>,
        worker: WorkerState,
    ) -> Result<Result<String, Rejection>, CallError> {
        let export = self.route;
        let offer = offer.to_owned();
        self.plugin
            .code
            .run(export.name, move |code, abandoned| {
                let budget = Budget::quick(code.limits());
                let (answer,): (Result<String, Rejection>,) = code.call(
                    export,
                    budget,
                    0,
                    abandoned,
                    (offer.as_str(), candidates.as_slice(), &worker),
                )?;
                let checked_answer = match answer {
                    Ok(name) if candidates.iter().any(|candidate| candidate.name == name) => {
                        Ok(Ok(name))
                    }
                    Ok(_) => Err(Fault::BadValue(
                        "it chose an engine that is no candidate".to_owned(),
                    )),
                    Err(rejection) => check::rejection(rejection).map(Err),
                };
                checked_answer.map_err(|fault| code.error(export.name, fault, None))
            })
            .await
    }
}

/// A plugin that checks and completes products.
pub struct Finisher {
    pub(crate) plugin: Plugin,
    pub(crate) accepts: Vec<(String, u64)>,
    pub(crate) finish: Export,
}

common!(Finisher);

impl Finisher {
    /// The extensions it works on and the largest product of each, in bytes.
    pub fn accepts(&self) -> &[(String, u64)] {
        &self.accepts
    }

    /// The largest product of this extension that it takes, in bytes; none when it does not work on it at all.
    pub fn limit_for(&self, extension: &str) -> Option<u64> {
        let found = self
            .accepts
            .iter()
            .find(|(accepted, _)| accepted == extension);
        found.map(|(_, most)| *most)
    }

    /// Checks and completes one product.
    pub async fn finish(
        &self,
        job: &Arc<Job>,
        product: Arc<Product>,
        provenance: Provenance,
    ) -> Result<Result<Product, Failure>, CallError> {
        let export = self.finish;
        let job = Arc::clone(job);
        self.plugin
            .code
            .run_here(export.name, move |code, abandoned| {
                let budget = Budget::finish(code.limits());
                let (answer,): (Result<Product, Failure>,) = code.call(
                    export,
                    budget,
                    job.entropy,
                    abandoned,
                    (&*job, &*product, &provenance),
                )?;
                match answer {
                    Ok(product) => checked(code, export, check::product(&product, code.limits()))
                        .map(|()| Ok(product)),
                    Err(failure) => Ok(Err(check::failure(failure))),
                }
            })
            .await
    }
}

fn checked(code: &Code, export: Export, found: Result<(), Fault>) -> Result<(), CallError> {
    found.map_err(|fault| code.error(export.name, fault, None))
}

/// One immutable set of plugins, holding all that a job needs from its offer to its end.
#[derive(Debug)]
pub struct Generation {
    pub(crate) id: String,
    pub(crate) engines: Vec<Arc<Engine>>,
    pub(crate) router: Arc<Router>,
    pub(crate) finishers: Vec<Arc<Finisher>>,
    pub(crate) statistics: Statistics,
}

impl Generation {
    /// A short name for exactly these plugins under exactly this policy.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The engines, in candidate order.
    pub fn engines(&self) -> &[Arc<Engine>] {
        &self.engines
    }

    /// The engine of this name.
    pub fn engine(&self, name: &str) -> Option<&Arc<Engine>> {
        self.engines
            .iter()
            .find(|engine| engine.identity().name == name)
    }

    /// How its jobs ended.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The router.
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// The finishers, in the order in which they work.
    pub fn finishers(&self) -> &[Arc<Finisher>] {
        &self.finishers
    }
}
