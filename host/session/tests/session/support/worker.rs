//! A worker that records what it is told, and an identity in memory.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;
use worker_session::{Answer, BoxFuture, Identity, IdentityStore, SaveError, WorkerSide};
use worker_wire::{Capabilities, Claim, JobId, PluginUpdate, Secret, StudioLink, UpdateError};

/// What the worker behind the session was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Welcomed,
    Offer(String),
    Started(String),
    Dropped(String),
    Cancel(String),
    PluginUpdate(Result<PluginUpdate, UpdateError>),
    CompleteAck(String),
    FailAck(String),
    Ended,
}

/// How it answers offers.
#[derive(Clone)]
pub(crate) enum Mood {
    Accept,
    /// Accepts, and the start sends one `fail` right away.
    AcceptAndFail,
    Reject,
    Never,
    /// Accepts once a permit is there.
    After(Arc<tokio::sync::Semaphore>),
}

pub(crate) struct Worker {
    told: mpsc::UnboundedSender<Told>,
    pub(crate) mood: Mutex<Mood>,
    pub(crate) capabilities: Mutex<Capabilities>,
    pub(crate) job: Mutex<Option<String>>,
    pub(crate) links: Mutex<Vec<StudioLink>>,
}

/// Tells of a start, or that it never came.
struct Start {
    job: String,
    told: mpsc::UnboundedSender<Told>,
    started: bool,
}

impl Start {
    /// The job starts, so its place is no longer the offer's.
    fn go(mut self) {
        self.started = true;
        let _ = self.told.send(Told::Started(self.job.clone()));
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        if !self.started {
            let _ = self.told.send(Told::Dropped(self.job.clone()));
        }
    }
}

impl Worker {
    /// A willing worker that reports to `told`.
    pub(crate) fn telling(told: mpsc::UnboundedSender<Told>) -> Self {
        Self {
            told,
            mood: Mutex::new(Mood::Accept),
            capabilities: Mutex::new(Capabilities {
                auto_enabled: true,
                engine: "multi".to_owned(),
                ..Capabilities::default()
            }),
            job: Mutex::default(),
            links: Mutex::default(),
        }
    }

    fn tell(&self, what: Told) {
        let _ = self.told.send(what);
    }
}

impl WorkerSide for Worker {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.lock().unwrap().clone()
    }

    fn current_job(&self) -> Option<String> {
        self.job.lock().unwrap().clone()
    }

    fn welcomed(&self, link: StudioLink) {
        self.links.lock().unwrap().push(link);
        self.tell(Told::Welcomed);
    }

    fn offer(&self, claim: Claim, link: StudioLink) -> BoxFuture<'static, Answer> {
        let job = claim.job_id.as_str().to_owned();
        self.tell(Told::Offer(job.clone()));
        let mood = self.mood.lock().unwrap().clone();
        let start = Start {
            job: job.clone(),
            told: self.told.clone(),
            started: false,
        };
        Box::pin(async move {
            match &mood {
                Mood::Reject => {
                    return Answer::Rejected {
                        code: "busy".to_owned(),
                        reason: "worker already has an in-flight job".to_owned(),
                    };
                }
                Mood::Never => std::future::pending().await,
                Mood::After(permits) => permits.acquire().await.unwrap().forget(),
                Mood::Accept | Mood::AcceptAndFail => {}
            }
            let fails = matches!(mood, Mood::AcceptAndFail);
            Answer::Accepted(Box::new(move || {
                start.go();
                if fails {
                    link.offer(worker_wire::WorkerFrame::Fail {
                        job_id: job.clone(),
                        error: "no".to_owned(),
                        retryable: true,
                    });
                }
            }))
        })
    }

    fn cancel(&self, job: &JobId) {
        self.tell(Told::Cancel(job.as_str().to_owned()));
    }

    fn plugin_update(&self, update: Result<PluginUpdate, UpdateError>) {
        self.tell(Told::PluginUpdate(update));
    }

    fn complete_ack(&self, job: &str) {
        self.tell(Told::CompleteAck(job.to_owned()));
    }

    fn fail_ack(&self, job: &str) {
        self.tell(Told::FailAck(job.to_owned()));
    }

    fn ended(&self) {
        // The link ends before the worker hears of it.
        let ended = self.links.lock().unwrap().last().unwrap().ended();
        assert!(ended, "the link is still open");
        self.tell(Told::Ended);
    }
}

/// An identity in memory, with every state it was ever in.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) saved: Mutex<Vec<Identity>>,
    pub(crate) first: Mutex<Identity>,
    /// How many saves are refused before the first that works.
    pub(crate) broken: AtomicUsize,
}

impl IdentityStore for Store {
    fn load(&self) -> Identity {
        self.first.lock().unwrap().clone()
    }

    fn save(&self, identity: &Identity) -> Result<(), SaveError> {
        let refuse = self
            .broken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if refuse.is_ok() {
            return Err(SaveError("the disk is full".into()));
        }
        self.saved.lock().unwrap().push(identity.clone());
        Ok(())
    }
}

impl Store {
    pub(crate) fn last(&self) -> Identity {
        self.saved.lock().unwrap().last().unwrap().clone()
    }
}

pub(crate) fn approved() -> Identity {
    Identity {
        install_id: Some("install".to_owned()),
        worker_id: Some("w-1".to_owned()),
        auth_token: Some(Secret::new("tok")),
        ..Identity::default()
    }
}
