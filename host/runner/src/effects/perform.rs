//! Doing what was asked for, one batch at a time.
//!
//! The effects of a batch are independent by contract. Downloads and runs of programs take the time they take;
//! everything that touches the job's table of files is quick and goes in the order asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use worker_files::{FileError, FileId, JobFiles};
use worker_plugins::Engine;
use worker_plugins::contract::{Effect, Failure, Outcome, Range};
use worker_wire::{JobId, StudioLink};

use super::{OfferTexts, Refused, Undone, call, command, fetch, http};
use crate::finish::part;
use crate::offers::Shared;
use crate::slot::Reservation;

/// Longest wait that a plugin may ask for, in milliseconds. The slot is held meanwhile.
const MAX_WAIT_MS: u32 = 60 * 60 * 1000;

/// Longest that one job may wait in all, in milliseconds. More would let a plugin hold the only slot for weeks; less ends jobs
/// that wait for somebody else's queue.
const MAX_WAITED_MS: u64 = 24 * 60 * 60 * 1000;

/// How long a job's engine had it wait so far. The waits of one round go side by side, so a round takes as long as its longest.
#[derive(Debug, Default)]
pub(crate) struct Waited(AtomicU64);

impl Waited {
    /// Grants a round its waits, or none of them.
    fn grant(&self, effects: &[Effect]) -> Result<Duration, Failure> {
        let asked = effects.iter().filter_map(|effect| match effect {
            Effect::Wait(milliseconds) if *milliseconds <= MAX_WAIT_MS => Some(*milliseconds),
            _ => None,
        });
        let longest = u64::from(asked.max().unwrap_or(0));
        let all = self.0.load(Ordering::Relaxed).saturating_add(longest);
        if all > MAX_WAITED_MS {
            return Err(too_much(
                "milliseconds to wait in one job",
                all,
                MAX_WAITED_MS,
            ));
        }
        self.0.store(all, Ordering::Relaxed);
        Ok(Duration::from_millis(longest))
    }
}

/// Whether a host, the network or the disk did not give what the last round asked for. What comes of that is held against no plugin.
#[derive(Debug, Default)]
pub(crate) struct Withheld(AtomicBool);

impl Withheld {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Most effects of one batch. A plugin that wants more can ask again.
const MAX_EFFECTS: usize = 64;

/// Longest part of a file that one effect may bring into a plugin, in bytes; the plugin's memory bounds it too.
const MAX_READ: u32 = 64 * 1024 * 1024;

/// What performing needs.
#[derive(Clone, Copy)]
pub(crate) struct Tools<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) job_id: &'a JobId,
    /// The model that the job is for, as an older worker named folders.
    pub(crate) model: &'a str,
    pub(crate) texts: &'a OfferTexts,
    pub(crate) link: &'a StudioLink,
    pub(crate) reservation: &'a Reservation,
    /// What the studio says that the job takes of the GPU's memory, in GiB.
    pub(crate) vram_gb: f32,
    /// What the job has waited so far.
    pub(crate) waited: &'a Waited,
    /// What it did not get in this round.
    pub(crate) withheld: &'a Withheld,
}

/// Performs the batches of one job.
pub(crate) struct Performer<'a> {
    tools: Tools<'a>,
}

impl<'a> Performer<'a> {
    pub(crate) fn new(tools: Tools<'a>) -> Self {
        Self { tools }
    }

    /// Does a batch; one outcome for each effect, in order. Every effect is done, whatever became of the others.
    pub(crate) async fn perform(&self, effects: Vec<Effect>, files: &JobFiles) -> Vec<Outcome> {
        self.tools.withheld.forget();
        if effects.len() > MAX_EFFECTS {
            let refused = too_much("effects at once", effects.len() as u64, MAX_EFFECTS as u64);
            return effects
                .iter()
                .map(|_| Outcome::Failed(refused.clone()))
                .collect();
        }
        let limit = self.tools.engine.limits().memory_bytes / 2;
        let read: u64 = effects.iter().map(read_bytes).sum();
        if read > limit {
            let refused = too_much("bytes to read at once", read, limit);
            return effects
                .iter()
                .map(|_| Outcome::Failed(refused.clone()))
                .collect();
        }
        let waits = self.tools.waited.grant(&effects);
        let until = Instant::now() + waits.as_ref().map_or(Duration::ZERO, |wait| *wait);
        let mut outcomes = Vec::with_capacity(effects.len());
        for effect in effects {
            let outcome = if self.tools.reservation.cancel.is_cancelled() {
                Err(http::cancelled().into())
            } else {
                self.one(effect, files, &waits).await
            };
            outcomes.push(outcome.unwrap_or_else(Outcome::from));
        }
        // A timer that is over already still costs its tick of a millisecond.
        if until > Instant::now() {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.tools.reservation.cancel.cancelled() => {}
            }
        }
        outcomes
    }

    async fn one(
        &self,
        effect: Effect,
        files: &JobFiles,
        waits: &Result<Duration, Failure>,
    ) -> Result<Outcome, Undone> {
        match effect {
            Effect::Fetch(downloads) => {
                let files = fetch::fetch(&self.tools, downloads, files).await?;
                Ok(Outcome::Files(files))
            }
            Effect::Run(command) => {
                let exit = command::run(&self.tools, command, files).await?;
                Ok(Outcome::Exited(exit))
            }
            Effect::Read(range) => Ok(self.read(range, files).await?),
            Effect::Write((name, parts)) => {
                worker_files::check_bare_name(&name).map_err(|_| Refused::file_name(&name))?;
                let parts: Vec<_> = parts.into_iter().map(part).collect();
                let info = files.write(&name, &parts).await.map_err(on_disk)?;
                Ok(Outcome::Files(vec![file(info)]))
            }
            Effect::Wait(milliseconds) => {
                if milliseconds > MAX_WAIT_MS {
                    return Err(too_much(
                        "milliseconds to wait",
                        milliseconds.into(),
                        MAX_WAIT_MS.into(),
                    )
                    .into());
                }
                // All of a round are waited for together, at its end.
                waits.clone()?;
                Ok(Outcome::Waited)
            }
            Effect::Call(asked) => call::call(&self.tools, asked, files)
                .await
                .map(Outcome::Responded),
            Effect::Http(request) => {
                let answer = http::http(&self.tools, request, files).await;
                let withheld = match &answer {
                    Ok(response) => worker_egress::is_transient(response.status),
                    Err(undone) => undone.failure().retryable,
                };
                if withheld {
                    self.tools.withheld.note();
                }
                answer.map(Outcome::Responded)
            }
            Effect::Other((name, _)) => Err(Refused::NotAvailable {
                name: name.chars().take(64).collect(),
            }
            .into()),
        }
    }

    async fn read(&self, range: Range, files: &JobFiles) -> Result<Outcome, Failure> {
        let limit = u32::try_from(self.tools.engine.limits().memory_bytes / 4)
            .map_or(MAX_READ, |own| own.min(MAX_READ));
        if range.length > limit {
            return Err(too_much("bytes to read", range.length.into(), limit.into()));
        }
        let bytes = files
            .read(FileId(range.file), range.offset, range.length)
            .await
            .map_err(on_disk)?;
        Ok(Outcome::Bytes(bytes.to_vec()))
    }
}

/// What an effect brings into memory for the plugin.
fn read_bytes(effect: &Effect) -> u64 {
    match effect {
        Effect::Read(range) => range.length.into(),
        _ => 0,
    }
}

pub(super) fn too_much(what: &'static str, asked: u64, limit: u64) -> Failure {
    Refused::TooMuch { what, asked, limit }.into()
}

/// A file as plugins see it: never with its path.
pub(super) fn file(info: worker_files::FileInfo) -> worker_plugins::contract::File {
    worker_plugins::contract::File {
        id: info.id.0,
        name: info.name,
        size: info.size,
        media_type: info.media_type.map(str::to_owned),
    }
}

/// A failure of the job's files, as the plugin hears it. Only what the disk did can pass.
pub(super) fn on_disk(error: FileError) -> Failure {
    let retryable = match &error {
        FileError::Io { .. } | FileError::Stopping => true,
        // The next try looks at the model anew, and fetches it where it was changed.
        FileError::Model(_) => true,
        _ => false,
    };
    Failure {
        message: error.to_string(),
        retryable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_go_side_by_side_and_a_job_has_only_so_many() {
        let waited = Waited::default();
        let round = vec![Effect::Wait(MAX_WAIT_MS); MAX_EFFECTS];
        let hour = Duration::from_millis(MAX_WAIT_MS.into());
        for _ in 0..24 {
            assert_eq!(
                waited.grant(&round),
                Ok(hour),
                "64 waits take as long as one"
            );
        }
        let failure = waited.grant(&round).unwrap_err();
        assert!(
            failure.message.contains("to wait in one job"),
            "{failure:?}"
        );
        assert!(waited.grant(&[Effect::Wait(1)]).is_err());
        assert_eq!(
            waited.grant(&[]),
            Ok(Duration::ZERO),
            "the rest of the job goes on"
        );
    }
}
