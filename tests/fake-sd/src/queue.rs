//! Jobs of the server: one is drawn at a time, in the order in which they came.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::generate::Job;

/// Jobs that may wait.
const LONGEST: usize = 64;

/// Where a job is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Queued,
    Generating,
    /// The picture in base64.
    Completed(String),
    Failed(&'static str),
    Cancelled,
}

/// One job.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) job: Job,
    pub(crate) state: State,
}

/// All jobs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    inner: Arc<(Mutex<BTreeMap<u64, Entry>>, Condvar)>,
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job; none when too many wait.
    pub(crate) fn push(&self, job: Job) -> Option<u64> {
        let mut jobs = self.jobs();
        let waiting = jobs
            .values()
            .filter(|entry| entry.state == State::Queued)
            .count();
        if waiting >= LONGEST {
            return None;
        }
        let id = jobs.last_key_value().map_or(1, |(id, _)| id + 1);
        let state = State::Queued;
        jobs.insert(id, Entry { job, state });
        self.inner.1.notify_all();
        Some(id)
    }

    /// Waits for the next job, which is being drawn from then on.
    pub(crate) fn next(&self) -> (u64, Job) {
        let mut jobs = self.jobs();
        loop {
            let queued = jobs
                .iter_mut()
                .find(|(_, entry)| entry.state == State::Queued);
            if let Some((id, entry)) = queued {
                entry.state = State::Generating;
                return (*id, entry.job.clone());
            }
            jobs = self
                .inner
                .1
                .wait(jobs)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn end(&self, id: u64, state: State) {
        if let Some(entry) = self.jobs().get_mut(&id) {
            entry.state = state;
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<Value> {
        self.jobs().get(&id).map(|entry| shown(id, entry))
    }

    /// Cancels what waits; what is being drawn cannot be interrupted, what is over stays as it is.
    pub(crate) fn cancel(&self, id: u64) -> Option<(u16, Value)> {
        let mut jobs = self.jobs();
        let entry = jobs.get_mut(&id)?;
        if entry.state == State::Generating {
            return Some((
                409,
                json!({"error": "job is generating and cannot be interrupted yet"}),
            ));
        }
        if entry.state == State::Queued {
            entry.state = State::Cancelled;
        }
        Some((200, shown(id, entry)))
    }
}

fn shown(id: u64, entry: &Entry) -> Value {
    let (status, result, error) = match &entry.state {
        State::Queued => ("queued", Value::Null, Value::Null),
        State::Generating => ("generating", Value::Null, Value::Null),
        State::Completed(picture) => (
            "completed",
            json!({"output_format": entry.job.format, "images": [{"index": 0, "b64_json": picture}]}),
            Value::Null,
        ),
        State::Failed(why) => (
            "failed",
            Value::Null,
            json!({"code": "generation_failed", "message": why}),
        ),
        State::Cancelled => ("cancelled", Value::Null, Value::Null),
    };
    json!({
        "id": id.to_string(), "kind": "img_gen", "status": status, "created": 1_700_000_000, "started": null, "completed": null,
        "queue_position": 0, "result": result, "error": error,
    })
}
