//! One welcomed session, and its two ends: what it may be sent, what it said.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use worker_wire::{
    Capabilities, ErrorCode, Extension, Extensions, JobId, PluginState, PluginStatus, ServerFrame,
    UserPresence, plugin_state,
};

use super::{Core, JobState};
use crate::store::Change;

/// Frames that may wait for a socket. A worker that takes no more than this is not taking any.
const OUTBOX: usize = 256;

/// Jobs per session whose late frames are forgiven. Fewer could end a session over a frame that crossed a cancel.
const REMEMBERED: usize = 32;

/// Plugins of one worker whose last status is kept: as many as a worker may have.
const PLUGINS: usize = 128;

/// What a session's task writes to its socket.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A frame.
    Frame(ServerFrame),
    /// An error frame, and the close that goes with it.
    Error(ErrorCode, String),
    /// A close without an error, for this reason.
    Close(&'static str),
}

/// The sending end of a session's queue.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    cut: CancellationToken,
}

impl Outbox {
    /// A queue; `cut` ends the session when the socket does not keep up.
    pub(crate) fn new(cut: CancellationToken) -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, outlet) = mpsc::channel(OUTBOX);
        (Self { queue, cut }, outlet)
    }

    /// Queues what is to be sent.
    pub(crate) fn send(&self, outgoing: Outgoing) {
        if self.queue.try_send(outgoing).is_err() {
            self.cut.cancel();
        }
    }

    /// Queues a frame.
    pub(crate) fn frame(&self, frame: ServerFrame) {
        self.send(Outgoing::Frame(frame));
    }
}

/// Whether a session may be asked again after a passing reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It may.
    No,
    /// Not before its next heartbeat.
    UntilBeat,
}

/// A welcomed session.
pub(crate) struct Session {
    pub(crate) worker: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) extensions: Extensions,
    pub(crate) out: Outbox,
    pub(crate) welcomed: Instant,
    /// None until the first heartbeat: before it nobody knows whether the worker is free.
    pub(crate) beat: Option<Instant>,
    pub(crate) beat_at: Option<i64>,
    /// The job that its last heartbeat named.
    pub(crate) reported: Option<String>,
    pub(crate) offer: Option<JobId>,
    pub(crate) job: Option<JobId>,
    pub(crate) rest: Rest,
    /// Jobs that did not fit into its memory, until its next heartbeat.
    pub(crate) too_large: HashSet<JobId>,
    /// When it last finished a job: a reject right after it is the race that the protocol page describes.
    pub(crate) freed: Option<Instant>,
    /// How often that race was lost in a row.
    pub(crate) races: u32,
    /// Jobs that it accepted.
    accepted: VecDeque<JobId>,
    /// Jobs that were taken from it, or that it ended.
    over: VecDeque<JobId>,
    /// The last that it said of each plugin, by name.
    pub(crate) plugins_told: BTreeMap<String, PluginStatus>,
}

impl Session {
    /// Whether the other side listed an extension.
    pub(crate) fn speaks(&self, extension: Extension) -> bool {
        self.extensions.has(extension)
    }

    /// Whether it can be sent a plugin, and say what came of it.
    pub(crate) fn takes_updates(&self) -> bool {
        self.speaks(Extension::PluginUpdate) && self.speaks(Extension::PluginStatus)
    }

    /// The plugin of this digest, where it serves there.
    pub(crate) fn serves(&self, digest: &str) -> Option<&PluginState> {
        let serving = [plugin_state::PROBATION, plugin_state::ACTIVE];
        let mut plugins = self.capabilities.plugins.iter();
        plugins.find(|one| one.digest == digest && serving.contains(&one.state.as_str()))
    }

    /// Whether it said, in this session, that the plugin of this digest serves there.
    pub(crate) fn says_it_serves(&self, digest: &str) -> bool {
        let serving = [plugin_state::PROBATION, plugin_state::ACTIVE];
        let mut told = self.plugins_told.values();
        self.serves(digest).is_some()
            || told.any(|one| one.digest == digest && serving.contains(&one.state.as_str()))
    }

    /// Keeps what it said of a plugin.
    pub(crate) fn told(&mut self, status: PluginStatus) {
        if self.plugins_told.len() < PLUGINS || self.plugins_told.contains_key(&status.name) {
            self.plugins_told.insert(status.name.clone(), status);
        }
    }

    /// Notes a job that this session accepted.
    pub(crate) fn accept(&mut self, job: &JobId) {
        remember(&mut self.accepted, job);
        self.over.retain(|over| over != job);
    }

    /// Whether it accepted that job in this session.
    pub(crate) fn has_accepted(&self, job: &JobId) -> bool {
        self.accepted.contains(job)
    }

    /// Notes a job that is over for this session.
    pub(crate) fn end(&mut self, job: &JobId) {
        if self.job.as_ref() == Some(job) {
            self.job = None;
        }
        if self.offer.as_ref() == Some(job) {
            self.offer = None;
        }
        if self.reported.as_deref() == Some(job.as_str()) {
            self.reported = None;
        }
        remember(&mut self.over, job);
    }

    /// Whether that job is over for this session, so that a late frame about it is no violation.
    pub(crate) fn is_over(&self, job: &str) -> bool {
        self.over.iter().any(|over| over.as_str() == job)
    }

    /// Whether it may get an offer now.
    pub(crate) fn is_idle(&self, fresh: Duration) -> bool {
        let present = self.capabilities.only_when_idle
            && self.capabilities.user_presence != Some(UserPresence::Idle);
        self.capabilities.auto_enabled
            && !present
            && self.job.is_none()
            && self.offer.is_none()
            && self.reported.is_none()
            && self.rest == Rest::No
            && self.beat.is_some_and(|beat| beat.elapsed() <= fresh)
    }
}

fn remember(list: &mut VecDeque<JobId>, job: &JobId) {
    list.retain(|known| known != job);
    if list.len() >= REMEMBERED {
        list.pop_front();
    }
    list.push_back(job.clone());
}

impl Core {
    /// Opens a session that has said `hello` with a good token. An older one of the same worker is closed.
    pub(crate) fn welcome(&mut self, worker: &str, capabilities: Capabilities, out: Outbox) -> u64 {
        if let Some(older) = self.session_of(worker) {
            self.close(
                older,
                ErrorCode::DuplicateWorker,
                "the same worker connected again; stop the other process".to_owned(),
            );
        }
        self.next_session += 1;
        let no = self.next_session;
        let extensions = Extensions::from_wire(&capabilities.extensions);
        self.remember_capabilities(worker, &capabilities);
        self.sessions.insert(
            no,
            Session {
                worker: worker.to_owned(),
                capabilities,
                extensions,
                out,
                welcomed: Instant::now(),
                beat: None,
                beat_at: None,
                reported: None,
                offer: None,
                job: None,
                rest: Rest::No,
                too_large: HashSet::new(),
                freed: None,
                races: 0,
                accepted: VecDeque::new(),
                over: VecDeque::new(),
                plugins_told: BTreeMap::new(),
            },
        );
        no
    }

    fn remember_capabilities(&mut self, worker: &str, capabilities: &Capabilities) {
        if let Some(row) = self.workers.get_mut(worker)
            && row.capabilities != *capabilities
        {
            row.capabilities = capabilities.clone();
            self.store.record(Change::Worker(Box::new(row.clone())));
        }
    }

    /// Sends an error with its close, and takes the session out.
    pub(crate) fn close(&mut self, no: u64, code: ErrorCode, message: String) {
        if let Some(session) = self.sessions.get(&no) {
            session.out.send(Outgoing::Error(code, message));
        }
        self.drop_session(no);
    }

    /// Ends a session without an error, for this reason.
    pub(crate) fn part(&mut self, no: u64, reason: &'static str) {
        if let Some(session) = self.sessions.get(&no) {
            session.out.send(Outgoing::Close(reason));
        }
        self.drop_session(no);
    }

    /// Takes a session out: its offer goes back into the queue, its claim too unless the worker may come back for it.
    pub(crate) fn drop_session(&mut self, no: u64) {
        let Some(session) = self.sessions.remove(&no) else {
            return;
        };
        if let Some(offered) = session.offer {
            self.requeue(&offered);
        }
        if let Some(claimed) = session.job {
            self.leave(no, &claimed, session.extensions.has(Extension::Resume));
        }
        for id in self.queue.values() {
            if let Some(job) = self.jobs.get_mut(id) {
                job.refused_by.remove(&no);
            }
        }
        self.dispatch();
    }

    /// A claim whose worker is away: kept for a while, or released at once.
    fn leave(&mut self, no: u64, id: &JobId, resumes: bool) {
        let grace = self.timing.grace;
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        // It may have failed there a moment ago, and be somebody else's by now.
        if !matches!(job.state, JobState::Running { session: Some(holder), .. } if holder == no) {
            return;
        }
        // An upload that is under way outlives the socket.
        if resumes || job.uploads > 0 {
            job.state = JobState::Running {
                session: None,
                until: Some(Instant::now() + if resumes { grace } else { Duration::ZERO }),
            };
            job.bump();
        } else {
            self.release(id, "the worker's connection ended while it had the job");
        }
    }

    /// Takes in a heartbeat.
    pub(crate) fn heartbeat(
        &mut self,
        no: u64,
        capabilities: Capabilities,
        current: Option<String>,
    ) {
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        session.beat = Some(Instant::now());
        session.beat_at = Some(super::now_ms());
        session.rest = Rest::No;
        session.too_large.clear();
        // A heartbeat that crossed the end of its job says nothing about the worker being busy.
        session.reported = current.clone().filter(|job| !session.is_over(job));
        session.out.frame(ServerFrame::HeartbeatAck);
        let swapped = session.capabilities.task_kinds != capabilities.task_kinds
            || session.capabilities.model_engines != capabilities.model_engines
            || session.capabilities.plugins != capabilities.plugins;
        session.capabilities = capabilities;
        if swapped {
            // Another plugin may take what the last one would not.
            for id in self.queue.values() {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.refused_by.remove(&no);
                }
            }
        }
        self.reattach(no, current.as_deref());
        self.dispatch();
        self.plugins_seen(no);
        self.advance();
    }

    /// Sends a frame to a session, if it is there.
    pub(crate) fn send(&self, no: u64, frame: ServerFrame) {
        if let Some(session) = self.sessions.get(&no) {
            session.out.frame(frame);
        }
    }

    /// A session while it lasts, then the one that its worker has now, if any.
    pub(crate) fn session_now(&self, no: u64, worker: &str) -> u64 {
        let next = (!self.has_session(no)).then(|| self.session_of(worker));
        next.flatten().unwrap_or(no)
    }

    /// Whether a session is still welcome.
    pub(crate) fn has_session(&self, no: u64) -> bool {
        self.sessions.contains_key(&no)
    }
}
