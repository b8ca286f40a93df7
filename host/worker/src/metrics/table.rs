//! Every metric there is. The reference page is written from this table.

/// What a number does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows while the worker runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by classes.
    Histogram,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

const fn metric(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        labels,
        help,
    }
}

use Kind::{Counter, Gauge, Histogram};

pub(crate) const BUILD: Metric = metric(
    Gauge,
    "studio_worker_build_info",
    &["version"],
    "1; the label says which worker this is",
);
pub(crate) const STARTED: Metric = metric(
    Gauge,
    "studio_worker_start_time_seconds",
    &[],
    "when the worker was started, in seconds since 1970",
);
pub(crate) const PAUSED: Metric = metric(
    Gauge,
    "studio_worker_paused",
    &[],
    "1 while the operator has paused it",
);
pub(crate) const BUSY: Metric =
    metric(Gauge, "studio_worker_busy", &[], "1 while a job is in hand");
pub(crate) const OFFERS: Metric = metric(
    Counter,
    "studio_worker_offers_total",
    &["answer"],
    "offers by their answer: accepted or rejected",
);
pub(crate) const JOBS: Metric = metric(
    Counter,
    "studio_worker_jobs_total",
    &["outcome"],
    "jobs by how they ended: done, failed (a plugin said so), broke (a plugin's fault), cancelled, interrupted (the worker had to go, or its disk failed)",
);
pub(crate) const JOB_SECONDS: Metric = metric(
    Histogram,
    "studio_worker_job_duration_seconds",
    &[],
    "how long jobs took from their acceptance until their result was handed over, whatever their end",
);
pub(crate) const GENERATION: Metric = metric(
    Gauge,
    "studio_worker_generation_info",
    &["generation"],
    "1; the label names the plugins and the policy that serve now",
);
pub(crate) const DRAINING: Metric = metric(
    Gauge,
    "studio_worker_generations_draining",
    &[],
    "earlier generations that a job still has",
);
pub(crate) const PLUGINS: Metric = metric(
    Gauge,
    "studio_worker_plugin_info",
    &["plugin", "version", "digest", "state"],
    "1 for each plugin that is known: active, probation, removed or not-allowed",
);
pub(crate) const CANDIDATES: Metric = metric(
    Gauge,
    "studio_worker_plugin_candidate_info",
    &["plugin", "version", "digest", "state", "reason"],
    "1 for each version that wants to serve and does not, with why; the reason is cut at 200 characters",
);
pub(crate) const QUARANTINED: Metric = metric(
    Gauge,
    "studio_worker_plugins_quarantined",
    &[],
    "digests that are not taken again",
);
pub(crate) const SWAPS: Metric = metric(
    Counter,
    "studio_worker_plugin_states_total",
    &["state"],
    "states that versions came to: probation is a swap, active a probation that was passed, rolled-back and refused its failures",
);
pub(crate) const COMPILED: Metric = metric(
    Counter,
    "studio_worker_plugins_compiled_total",
    &[],
    "plugins that were compiled; those whose compiled form was found do not count",
);
pub(crate) const CONNECTED: Metric = metric(
    Gauge,
    "studio_worker_connected",
    &[],
    "1 while the studio has welcomed this session",
);
pub(crate) const SESSIONS: Metric = metric(
    Counter,
    "studio_worker_sessions_total",
    &[],
    "sessions that were welcomed; all but the first are reconnects",
);
pub(crate) const RETRIES: Metric = metric(
    Counter,
    "studio_worker_session_retries_total",
    &[],
    "times that a session ended or could not be had, and another try was waited for",
);
pub(crate) const SPOOL: Metric = metric(
    Gauge,
    "studio_worker_spool_results",
    &[],
    "results that the studio does not have yet",
);
pub(crate) const DOWNLOADS: Metric = metric(
    Counter,
    "studio_worker_downloads_total",
    &["result"],
    "downloads of models, inputs and programs by their end: done or failed",
);
pub(crate) const DOWNLOADED: Metric = metric(
    Counter,
    "studio_worker_downloaded_bytes_total",
    &[],
    "bytes of the downloads that came whole",
);
pub(crate) const SERVERS: Metric = metric(
    Gauge,
    "studio_worker_servers",
    &["plugin", "program"],
    "native servers that are warm",
);
pub(crate) const STORED: Metric = metric(
    Gauge,
    "studio_worker_stored_bytes",
    &["place"],
    "bytes on disk: spool, aside, models, compiled, journal",
);

/// All, in the order of the page.
pub(crate) const ALL: &[Metric] = &[
    BUILD,
    STARTED,
    PAUSED,
    BUSY,
    OFFERS,
    JOBS,
    JOB_SECONDS,
    GENERATION,
    DRAINING,
    PLUGINS,
    CANDIDATES,
    QUARANTINED,
    SWAPS,
    COMPILED,
    CONNECTED,
    SESSIONS,
    RETRIES,
    SPOOL,
    DOWNLOADS,
    DOWNLOADED,
    SERVERS,
    STORED,
];
