//! How far a download is: in `status`, to a studio that shows it, and now and then in the log. Never backwards.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use worker_plugins::contract::Progress;
use worker_wire::{Extension, WorkerFrame};

use super::perform::Tools;

/// Least time between two tellings to the studio. Shorter floods whoever listens; longer looks stuck.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Least time between two lines of the log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A download counts in MiB: bytes of a large model are more than progress can say.
const MIB: u64 = 1 << 20;

struct State {
    done: u64,
    told: Option<Instant>,
    logged: Instant,
}

/// Tells of one download.
pub(super) struct Meter<'a> {
    tools: &'a Tools<'a>,
    name: &'a str,
    state: Mutex<State>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(tools: &'a Tools<'a>, name: &'a str) -> Self {
        let state = State {
            done: 0,
            told: None,
            logged: Instant::now(),
        };
        Self {
            tools,
            name,
            state: Mutex::new(state),
        }
    }

    /// Bytes so far, and all of them where known. Cheap enough for each piece that comes.
    pub(super) fn tell(&self, done: u64, total: Option<u64>) {
        let now = Instant::now();
        let mib = |bytes: u64| u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
        let (done, due, log) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let shown = state.told.map(|_| mib(state.done));
            state.done = state.done.max(done);
            let due = total == Some(state.done)
                || state
                    .told
                    .is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
            // `status` may be looked at when the host has fallen silent: it must not miss the last that came.
            if !due && shown == Some(mib(state.done)) {
                return;
            }
            if due {
                state.told = Some(now);
            }
            let log = due && now.duration_since(state.logged) >= LOG_EVERY;
            if log {
                state.logged = now;
            }
            (state.done, due, log)
        };
        let progress = Progress {
            done: mib(done),
            total: mib(total.unwrap_or(0).max(done)),
            note: Some(format!("MiB of {}", self.name)),
        };
        if log {
            let line = format!(
                "downloaded {} of {} MiB of {}",
                progress.done, progress.total, self.name
            );
            self.tools
                .shared
                .reporter
                .info(Some(self.tools.job_id), line);
        }
        if due && self.tools.link.speaks(Extension::Progress) {
            self.tools.link.offer(WorkerFrame::Progress {
                job_id: self.tools.job_id.to_string(),
                done: progress.done,
                total: progress.total,
                note: progress.note.clone(),
            });
        }
        self.tools.reservation.progress(progress);
    }
}
