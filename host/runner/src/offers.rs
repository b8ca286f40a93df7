//! Taking or turning away an offer.
//!
//! The router plugin decides. The host refuses by itself only what no policy may do: a job while paused or while
//! stopping, a second job, an engine that is not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use worker_delivery::Delivery;
use worker_egress::Egress;
use worker_files::{ModelCache, ScratchRoot};
use worker_plugins::contract::{Candidate, Rejection, WorkerState};
use worker_plugins::{CallError, Engine, Generation, Serving, lend_thread};
use worker_servers::Servers;
use worker_wire::{Capabilities, Claim, JobId, StudioLink, WorkerFrame, reject};

use crate::capabilities::{MachineFacts, capabilities};
use crate::effects::ProgramRules;
use crate::gpu::{GpuMemory, Live, Threshold};
use crate::job::{JobRun, is_cancelled_for_long};
use crate::journal::JournalStore;
use crate::programs::Programs;
use crate::report::{LogSink, Reporter};
use crate::secrets::PluginSecrets;
use crate::slot::{CurrentJob, Slot, StopReason};
use crate::tally::{Counts, Tally};
use crate::witness::{JobEnd, JobReport, Witness};

/// How long an offer waits for a result that is being handed over. The studio may offer the next job before the
/// answer to an upload has been read; shorter would turn such offers away, longer would hold up the studio.
const HAND_OVER: Duration = Duration::from_millis(500);

/// How often journals are looked through for old ones, besides every some jobs. Shorter only touches the disk more; longer
/// keeps what people wrote longer than the operator said.
const PRUNE_JOURNALS: Duration = Duration::from_secs(6 * 60 * 60);

/// Text of the refusal while the worker stops. It holds the word that older studios take as passing.
const DRAINING_TEXT: &str = "worker is busy stopping";

/// What the runner works with.
pub struct RunnerParts {
    /// The plugins.
    pub serving: Arc<Serving>,
    /// Hears how jobs end.
    pub witness: Arc<dyn Witness>,
    /// The native programs that they declared.
    pub programs: Arc<Programs>,
    /// Where jobs keep their files.
    pub scratch: ScratchRoot,
    /// Downloaded models.
    pub cache: Arc<ModelCache>,
    /// The way out to the network.
    pub egress: Arc<Egress>,
    /// What plugins may have put into their requests.
    pub secrets: PluginSecrets,
    /// Takes results.
    pub delivery: Arc<Delivery>,
    /// Native servers, kept warm.
    pub servers: Servers,
    /// Keeps the journals.
    pub journals: JournalStore,
    /// What the machine is.
    pub facts: MachineFacts,
    /// Its GPU, as far as it is known.
    pub gpu: GpuMemory,
    /// Takes the log lines that the studio is to see.
    pub log: LogSink,
    /// Bounds that the operator sets.
    pub settings: RunnerSettings,
}

/// Bounds of every job.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// What every program is held by.
    pub programs: ProgramRules,
    /// Largest download that names no bound of its own, in bytes.
    pub max_download_bytes: u64,
    /// What one job may hold in its scratch directory.
    pub files: worker_files::Limits,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        Self {
            programs: ProgramRules::default(),
            max_download_bytes: 256 << 30,
            files: worker_files::Limits::default(),
        }
    }
}

/// The answer to an offer.
pub enum OfferAnswer {
    /// Taken. Send `accept`, then call this: the job runs from then on.
    Accepted(Box<dyn FnOnce() + Send>),
    /// Not taken.
    Rejected {
        /// For studios that match codes.
        code: String,
        /// For people, and for studios that match its text.
        reason: String,
    },
}

/// All that a job needs from the worker.
pub(crate) struct Shared {
    pub(crate) serving: Arc<Serving>,
    pub(crate) witness: Arc<dyn Witness>,
    pub(crate) programs: Arc<Programs>,
    pub(crate) scratch: ScratchRoot,
    pub(crate) cache: Arc<ModelCache>,
    pub(crate) egress: Arc<Egress>,
    pub(crate) secrets: PluginSecrets,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) servers: Servers,
    pub(crate) journals: JournalStore,
    pub(crate) facts: MachineFacts,
    pub(crate) gpu: Live,
    pub(crate) reporter: Reporter,
    pub(crate) settings: RunnerSettings,
    pub(crate) slot: Slot,
    pub(crate) tally: Tally,
    /// Jobs that still clear up behind themselves, the one in hand among them.
    jobs: TaskTracker,
    paused: AtomicBool,
    draining: AtomicBool,
}

impl Shared {
    /// Ends the servers that no generation would use any more. What a job of an older one uses stays until that job has ended.
    pub(crate) fn retire_servers(&self) {
        let mut in_use = self.serving.draining();
        in_use.push(self.serving.current());
        self.servers.retire(|launch| {
            let mut engines = in_use.iter().filter_map(|one| one.engine(&launch.plugin));
            engines.any(|engine| {
                let program = self.programs.get(engine, &launch.backend);
                engine.identity().digest == launch.plugin_digest
                    && program.is_ok_and(|program| program.digest == launch.program_digest)
            })
        });
    }
}

/// Runs jobs, one at a time. Cheap to clone.
#[derive(Clone)]
pub struct Runner(Arc<Shared>);

impl Runner {
    /// A runner with an empty slot.
    pub fn new(parts: RunnerParts) -> Self {
        Self(Arc::new(Shared {
            serving: parts.serving,
            witness: parts.witness,
            programs: parts.programs,
            scratch: parts.scratch,
            cache: parts.cache,
            egress: parts.egress,
            secrets: parts.secrets,
            delivery: parts.delivery,
            servers: parts.servers,
            journals: parts.journals,
            facts: parts.facts,
            gpu: Live::new(parts.gpu),
            reporter: Reporter::new(parts.log),
            settings: parts.settings,
            slot: Slot::default(),
            tally: Tally::default(),
            jobs: TaskTracker::new(),
            paused: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }))
    }

    /// The plugins that serve now.
    pub fn generation(&self) -> Arc<Generation> {
        self.0.serving.current()
    }

    /// Decides about an offer; the session tells the outcome. The plugins are taken once, here, and stay the job's to its end.
    pub async fn offer(&self, claim: Claim, link: StudioLink) -> OfferAnswer {
        let answer = match self.decide(&claim).await {
            Ok((generation, engine)) => self.take(claim, link, generation, engine),
            Err(turned) => turned.answer(),
        };
        let accepted = matches!(answer, OfferAnswer::Accepted(_));
        self.0.tally.offer(accepted);
        answer
    }

    /// Counts of offers and jobs since the start.
    pub fn counts(&self) -> Counts {
        self.0.tally.counts()
    }

    fn take(
        &self,
        claim: Claim,
        link: StudioLink,
        generation: Arc<Generation>,
        engine: Arc<Engine>,
    ) -> OfferAnswer {
        let slot = &self.0.slot;
        let Some(reservation) = slot.reserve(
            claim.job_id.clone(),
            claim.kind.clone(),
            claim.model.clone(),
        ) else {
            return Turned::new(reject::BUSY, reject::BUSY_TEXT).answer();
        };
        // Looked at again now that the slot is held: whoever drains looks at the slot after saying so, and one of the two
        // sees the other.
        if let Err(turned) = self.takes_jobs() {
            return turned.answer();
        }
        let told = (claim.job_id.clone(), link.clone(), self.0.reporter.clone());
        let is_over = is_cancelled_for_long(reservation.cancel.clone());
        let run = JobRun::new(self.0.clone(), generation, engine, claim, link, reservation);
        let handed_over = run.handed_over();
        let jobs = self.0.jobs.clone();
        OfferAnswer::Accepted(Box::new(move || {
            // A thread of its own: what wakes it wakes one thread and no other, it may wait for the disk, and guests may compute
            // on it.
            let runtime = Handle::current();
            let job = move || {
                lend_thread(is_over, || {
                    worker_files::run_on_own_thread(&runtime, run.execute())
                })
            };
            tokio::spawn(watch(jobs.spawn_blocking(job), told, handed_over));
        }))
    }

    fn takes_jobs(&self) -> Result<(), Turned> {
        if self.paused() {
            Err(Turned::new(reject::PAUSED, reject::PAUSED_TEXT))
        } else if self.0.draining.load(Ordering::SeqCst) {
            Err(Turned::new(reject::BUSY, DRAINING_TEXT))
        } else {
            Ok(())
        }
    }

    async fn decide(&self, claim: &Claim) -> Result<(Arc<Generation>, Arc<Engine>), Turned> {
        self.takes_jobs()?;
        self.0.slot.settle(HAND_OVER).await;
        let generation = self.generation();
        match self.route_with_room(&generation, claim).await {
            Ok(routed) => self.routed(generation, routed),
            Err(fault) => match self.router_broke(&generation, &fault).await {
                // The router before it decides; should it break as well, that is the answer.
                Some(before) => {
                    let routed = self.route(&before, claim).await;
                    self.routed(before, routed.map_err(broken)?)
                }
                None => Err(broken(fault)),
            },
        }
    }

    /// What the router says; where it lacks memory that idle servers hold, they go, and it is measured again.
    async fn route_with_room(
        &self,
        generation: &Generation,
        claim: &Claim,
    ) -> Result<Result<String, Rejection>, CallError> {
        let routed = self.route(generation, claim).await;
        let lacks_memory =
            matches!(&routed, Ok(Err(rejection)) if rejection.code == reject::INSUFFICIENT_MEMORY);
        if !lacks_memory || !self.fits_when_empty(claim) || self.0.servers.list().is_empty() {
            return routed;
        }
        self.0
            .servers
            .release_memory(None, || async { false })
            .await;
        self.route(generation, claim).await
    }

    async fn route(
        &self,
        generation: &Generation,
        claim: &Claim,
    ) -> Result<Result<String, Rejection>, CallError> {
        let candidates = self.candidates(generation);
        let state = self.worker_state(generation).await;
        let router = generation.router();
        router.route(&claim.raw, candidates, state).await
    }

    async fn router_broke(
        &self,
        generation: &Arc<Generation>,
        fault: &CallError,
    ) -> Option<Arc<Generation>> {
        let report = JobReport {
            generation: generation.clone(),
            engine: None,
            programs: Vec::new(),
            end: JobEnd::Fault(fault.clone()),
            untouched: true,
        };
        self.0.witness.ended(report).await
    }

    fn routed(
        &self,
        generation: Arc<Generation>,
        routed: Result<String, Rejection>,
    ) -> Result<(Arc<Generation>, Arc<Engine>), Turned> {
        let name = match routed {
            Ok(name) => name,
            Err(rejection) => {
                return Err(Turned {
                    code: rejection.code,
                    reason: rejection.reason,
                });
            }
        };
        let engine = generation.engine(&name).cloned();
        let engine = engine
            .filter(|engine| self.0.programs.can_serve(engine))
            .ok_or_else(|| Turned {
                code: reject::UNSUPPORTED_ENGINE.to_owned(),
                reason: format!(
                    "the router chose plugin `{name}`, which cannot serve on this worker"
                ),
            })?;
        Ok((generation, engine))
    }

    /// Whether the operator takes jobs of this size at all.
    fn fits_when_empty(&self, claim: &Claim) -> bool {
        claim.vram_gb_estimate <= self.0.gpu.now().threshold_gb()
    }

    /// Engine plugin and model of the servers that are warm.
    fn warm(&self) -> Vec<(String, String)> {
        let servers = self.0.servers.list().into_iter();
        servers
            .map(|server| (server.plugin, server.model))
            .collect()
    }

    /// The native servers.
    pub fn servers(&self) -> &Servers {
        &self.0.servers
    }

    /// Ends the servers that neither the serving generation nor one that still has a job would use.
    pub fn retire_servers(&self) {
        self.0.retire_servers();
    }

    /// Does the same at each swap. Comes back when nothing will be swapped any more.
    pub async fn keep_retiring_servers(&self) {
        let mut swaps = self.0.serving.follow();
        while swaps.changed().await.is_ok() {
            self.0.retire_servers();
        }
    }

    fn candidates(&self, generation: &Generation) -> Vec<Candidate> {
        let engines = generation.engines().iter();
        engines
            .filter(|engine| self.0.programs.can_serve(engine))
            .map(|engine| engine.candidate())
            .collect()
    }

    async fn worker_state(&self, generation: &Generation) -> WorkerState {
        let machine = self.0.programs.machine().await;
        let gib = |bytes: u64| worker_backends::gib(bytes) as f32;
        let gpu = self.0.gpu.now();
        WorkerState {
            paused: self.paused(),
            draining: self.0.draining.load(Ordering::SeqCst),
            current_job: self.0.slot.current().map(|job| job.job_id.to_string()),
            vram_total_gb: gpu.total_gb,
            vram_threshold_gb: gpu.threshold_gb(),
            device_free_gb: machine.gpu.and_then(|gpu| gpu.free).map(gib),
            host_available_gb: machine.host_available.map(gib),
            warm: self.warm(),
            settings: generation.router().settings().to_owned(),
        }
    }

    /// What the worker can say of itself now.
    pub fn capabilities(&self) -> Capabilities {
        let takes_offers = !self.paused() && !self.0.draining.load(Ordering::SeqCst);
        capabilities(
            &self.0.facts,
            &self.0.gpu.now(),
            &self.generation(),
            &self.0.programs,
            takes_offers,
        )
    }

    /// The largest job to take from now on; the next heartbeat tells the studio. Gives it in GiB, as far as the GPU has it.
    pub fn set_threshold(&self, threshold: Threshold) -> f32 {
        let before = self.0.gpu.now();
        let now = self.0.gpu.change(|gpu| gpu.threshold = threshold);
        let gigabytes = now.threshold_gb();
        if now != before {
            let told = format!("the largest job to take is {gigabytes:.1} GiB from now on");
            self.0.reporter.info(None, told);
        }
        gigabytes
    }

    /// Measures the GPU while its memory is not known: its driver may come up after the worker. Whether it is known now.
    pub async fn look_at_gpu(&self) -> bool {
        if self.0.gpu.now().total_gb > 0.0 {
            return true;
        }
        let Some(found) = self.0.programs.machine().await.gpu else {
            return false;
        };
        let now = self.0.gpu.change(|gpu| {
            gpu.total_gb = worker_backends::gib(found.total) as f32;
            gpu.name = Some(found.name);
        });
        let told = format!(
            "{}: {:.1} GiB of GPU memory",
            now.name.unwrap_or_default(),
            now.total_gb
        );
        self.0.reporter.info(None, told);
        true
    }

    /// The job in hand.
    pub fn current(&self) -> Option<CurrentJob> {
        self.0.slot.current()
    }

    /// Stops a job that is in hand. Whether it was.
    pub fn cancel(&self, job_id: &JobId) -> bool {
        let known = self.0.slot.stop(Some(job_id), StopReason::Cancelled);
        if known {
            self.0.reporter.info(
                Some(job_id),
                format!("cancelling {job_id}: the studio wants it no more"),
            );
        }
        known
    }

    /// Stops whatever job is in hand because the worker has to go.
    pub fn abandon(&self) {
        self.0.slot.stop(None, StopReason::Shutdown);
    }

    /// Takes no new job from now on, for good.
    pub fn drain(&self) {
        if !self.0.draining.swap(true, Ordering::SeqCst) {
            self.0
                .reporter
                .info(None, "draining: no new job is taken".to_owned());
        }
    }

    /// Waits until no job is in hand.
    pub async fn idle(&self) {
        self.0.slot.idle().await;
    }

    /// Waits until the files of every job are gone: a job leaves the slot before it has cleared up. Only once no job is
    /// taken any more.
    pub async fn cleared_up(&self) {
        self.0.jobs.close();
        self.0.jobs.wait().await;
    }

    /// Keeps the journals within their bounds, their age among them; runs until it is dropped.
    pub async fn keep_journals_bounded(&self) {
        loop {
            tokio::time::sleep(PRUNE_JOURNALS).await;
            let shared = self.0.clone();
            // Only a panic there could fail it.
            let _ = tokio::task::spawn_blocking(move || shared.journals.prune()).await;
        }
    }

    /// Whether the operator paused the worker.
    pub fn paused(&self) -> bool {
        self.0.paused.load(Ordering::SeqCst)
    }

    /// Pauses or resumes. The job in hand goes on; the next heartbeat says so.
    pub fn set_paused(&self, paused: bool) {
        if self.0.paused.swap(paused, Ordering::SeqCst) != paused {
            let message = if paused {
                "worker paused by operator"
            } else {
                "worker resumed by operator"
            };
            self.0.reporter.info(None, message.to_owned());
        }
    }
}

/// A defect of the host's own must not leave the studio waiting: a job whose task broke is failed, and may be tried again.
async fn watch(
    job: tokio::task::JoinHandle<()>,
    (job_id, link, reporter): (JobId, StudioLink, Reporter),
    handed_over: Arc<AtomicBool>,
) {
    if let Err(broken) = job.await
        && broken.is_panic()
    {
        if handed_over.load(Ordering::SeqCst) {
            // Two answers to one job end the session.
            let told = format!(
                "{job_id}: the worker broke after it had handed the result over; its log says where"
            );
            return reporter.error(Some(&job_id), told);
        }
        let error = "the worker broke while it ran the job; its log says where".to_owned();
        reporter.error(Some(&job_id), format!("{job_id}: {error}"));
        let frame = WorkerFrame::Fail {
            job_id: job_id.to_string(),
            error,
            retryable: true,
        };
        // Where the session is over, the studio has taken the job back already.
        let _ = link.send(frame).await;
    }
}

fn broken(fault: CallError) -> Turned {
    Turned {
        code: reject::PLUGIN_FAULT.to_owned(),
        reason: fault.to_string(),
    }
}

struct Turned {
    code: String,
    reason: String,
}

impl Turned {
    fn new(code: &str, reason: &str) -> Self {
        Self {
            code: code.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn answer(self) -> OfferAnswer {
        OfferAnswer::Rejected {
            code: self.code,
            reason: self.reason,
        }
    }
}
