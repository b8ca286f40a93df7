//! What stands behind the session: the runner takes offers, delivery hears of acknowledgements, updates of pushed plugins.

use std::sync::Arc;

use worker_delivery::Delivery;
use worker_runner::{CurrentJob, OfferAnswer, RESERVED, Runner};
use worker_session::{Answer, BoxFuture, WorkerSide};
use worker_swap::Swapper;
use worker_updates::Updates;
use worker_wire::{Capabilities, Claim, JobId, PluginUpdate, StudioLink, UpdateError};

/// Joins runner, delivery and updates for the session.
pub(crate) struct Side {
    pub(crate) runner: Runner,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) swapper: Arc<Swapper>,
    pub(crate) updates: Arc<Updates>,
}

impl WorkerSide for Side {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            plugins: self.swapper.states(),
            ..self.runner.capabilities()
        }
    }

    fn current_job(&self) -> Option<String> {
        let started = |job: &CurrentJob| job.stage != RESERVED;
        self.runner
            .current()
            .filter(started)
            .map(|job| job.job_id.to_string())
    }

    fn welcomed(&self, link: StudioLink) {
        self.updates.welcomed(&link);
        self.delivery.welcomed(link);
    }

    fn offer(&self, claim: Claim, link: StudioLink) -> BoxFuture<'static, Answer> {
        let runner = self.runner.clone();
        Box::pin(async move {
            match runner.offer(claim, link).await {
                OfferAnswer::Accepted(start) => Answer::Accepted(start),
                OfferAnswer::Rejected { code, reason } => Answer::Rejected { code, reason },
            }
        })
    }

    fn cancel(&self, job: &JobId) {
        if !self.runner.cancel(job) {
            tracing::info!(target: "job", job = job.as_str(), "asked to cancel a job that is not in hand");
        }
    }

    fn plugin_update(&self, update: Result<PluginUpdate, UpdateError>) {
        self.updates.announced(update);
    }

    fn complete_ack(&self, job: &str) {
        self.delivery.complete_ack(job);
    }

    fn fail_ack(&self, job: &str) {
        self.delivery.fail_ack(job);
    }

    fn ended(&self) {
        self.delivery.session_ended();
    }
}
