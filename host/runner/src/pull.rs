//! Bringing an offer's models into the cache before anybody asks for the job.
//!
//! Which files those are is the plugin's to say: the offer is planned, and what the plan would download for all jobs is
//! downloaded, under the rules of a job.

use tokio_util::sync::CancellationToken;
use worker_egress::{Egress, OnProgress};
use worker_files::{CachedFile, Limits, ModelCache};
use worker_plugins::Generation;
use worker_plugins::contract::Failure;
use worker_wire::Claim;

use crate::effects::OfferTexts;
use crate::effects::models::{Checked, Told, bring, check};
use crate::offers::RunnerSettings;
use crate::plan::Plan;

/// A model file that an offer needs.
#[derive(Debug, Clone)]
pub struct Model {
    checked: Checked,
    name: String,
    model: String,
}

/// What is told while a model is brought.
pub struct Telling<'a> {
    /// Somebody else is downloading it already.
    pub waiting: &'a (dyn Fn() + Send + Sync),
    /// How far the download is.
    pub progress: OnProgress<'a>,
}

/// The model files that a plan downloads for all jobs, each once.
///
/// # Errors
/// When the plugin asks for one that a job would not get.
pub fn models(plan: &Plan, generation: &Generation, claim: &Claim) -> Result<Vec<Model>, Failure> {
    let texts = OfferTexts::of(&claim.raw);
    let no_hosts = Vec::new();
    let hosts = generation
        .engine(&plan.engine)
        .map_or(&no_hosts, |engine| &engine.grants().hosts);
    let largest = RunnerSettings::default().max_download_bytes;
    let mut models: Vec<Model> = Vec::new();
    for download in &plan.downloads {
        let checked = check(download.clone(), &texts, hosts, largest, &Limits::default())?;
        let Some(name) = checked.cache_as.clone() else {
            continue;
        };
        let known = models.iter().any(|model| {
            model.checked.url == checked.url && model.checked.sha256 == checked.sha256
        });
        if !known {
            models.push(Model {
                checked,
                name,
                model: claim.model.clone(),
            });
        }
    }
    Ok(models)
}

impl Model {
    /// Its bare file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Brings it into the cache; at once where it is there.
    ///
    /// # Errors
    /// As a job would fail.
    pub async fn bring(
        &self,
        cache: &ModelCache,
        egress: &Egress,
        telling: &Telling<'_>,
        cancel: &CancellationToken,
    ) -> Result<CachedFile, Failure> {
        let told = Told {
            waiting: telling.waiting,
            downloading: &|| {},
            progress: telling.progress,
            failed: &|_| {},
        };
        let called = (self.name.as_str(), self.model.as_str());
        let nothing = async { false };
        bring(cache, egress, &self.checked, called, &told, nothing, cancel).await
    }
}
