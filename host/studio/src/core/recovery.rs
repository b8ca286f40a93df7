//! The state at start: what the last run left, with every claim back in the queue.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use worker_wire::JobId;

use super::{Core, Job, JobState, Rollout};
use crate::options::{Approval, Limits, Timing};
use crate::store::{JobRow, Recovered, Store};

/// Name of an upload that is still being written; no job id begins with a dot.
pub(crate) const PART_PREFIX: &str = ".upload-";

impl Core {
    /// Builds the state from what was recovered.
    pub(crate) fn recover(
        limits: Limits,
        timing: Timing,
        approve: Approval,
        results: PathBuf,
        store: Store,
        recovered: Recovered,
    ) -> Self {
        let mut core = Self {
            limits,
            timing,
            approve,
            own_install: None,
            results,
            store,
            jobs: HashMap::new(),
            queue: BTreeMap::new(),
            finished: VecDeque::new(),
            finished_prompts: 0,
            next_seq: 1,
            sessions: BTreeMap::new(),
            next_session: 0,
            workers: HashMap::new(),
            requests: HashMap::new(),
            rollouts: HashMap::new(),
            callers: HashMap::new(),
            logs: VecDeque::new(),
            next_log: 0,
        };
        core.workers = keyed(recovered.workers, |row| row.id.clone());
        core.requests = keyed(recovered.requests, |row| row.id.clone());
        core.rollouts = keyed(
            { recovered.rollouts }
                .into_iter()
                .map(Rollout::new)
                .collect(),
            |one| one.row.id.clone(),
        );
        let mut finished = Vec::new();
        for (row, claim) in recovered.jobs {
            core.recover_job(row, claim, &mut finished);
        }
        finished.sort();
        for (_, id) in finished {
            if let Some(job) = core.jobs.get(&id) {
                core.finished_prompts += job.row.prompt.len();
                core.finished.push_back(id);
            }
        }
        core.trim_history();
        core
    }

    fn recover_job(&mut self, row: JobRow, claim: String, finished: &mut Vec<(i64, JobId)>) {
        let Ok(id) = JobId::parse(&row.id) else {
            return;
        };
        self.next_seq = self.next_seq.max(row.seq.saturating_add(1));
        let seq = row.seq;
        let was_running = row.state == "running";
        let state = match row.state.as_str() {
            "done" => JobState::Done,
            "failed" => JobState::Failed,
            "cancelled" => JobState::Cancelled,
            // Its worker may be at it still, or hold the result.
            "running" if row.resumable => JobState::Queued {
                reserved: Some(Instant::now() + self.timing.grace),
            },
            _ => JobState::Queued { reserved: None },
        };
        let resumable = row.resumable;
        let finished_at = row.finished_at.unwrap_or_default();
        let claim = (!claim.is_empty()).then(|| Arc::from(claim));
        let job = Job::new(id.clone(), row, state, claim);
        let ended = job.is_finished();
        self.jobs.insert(id.clone(), job);
        if ended {
            finished.push((finished_at, id));
            return;
        }
        self.queue.insert(seq, id.clone());
        if was_running && !resumable {
            self.queue.remove(&seq);
            self.release(&id, "the studio stopped while a worker had the job");
        }
    }

    /// Removes half-written uploads and results that no job knows.
    pub(crate) fn sweep_results(&self) -> std::io::Result<()> {
        let known: HashSet<PathBuf> = self
            .jobs
            .values()
            .filter_map(|job| job.file(&self.results))
            .collect();
        for entry in std::fs::read_dir(&self.results)? {
            let path = entry?.path();
            if !known.contains(&path) && is_ours(&path) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Whether a file in the results folder can only have been made by the studio.
fn is_ours(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let result = name
        .rsplit_once('.')
        .is_some_and(|(id, ext)| JobId::parse(id).is_ok() && !ext.is_empty());
    path.is_file() && (name.starts_with(PART_PREFIX) || result)
}

fn keyed<T>(rows: Vec<T>, key: impl Fn(&T) -> String) -> HashMap<String, T> {
    rows.into_iter().map(|row| (key(&row), row)).collect()
}
