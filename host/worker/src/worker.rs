//! One running worker: its parts put together, started in order and ended in order.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use worker_config::{Announced, DaemonLock, Discovery, Paths, Settings};
use worker_delivery::Delivery;
use worker_files::ScratchRoot;
use worker_runner::Runner;
use worker_session::{LogShipper, SessionOptions, States, Transport};
use worker_studio::Studio;
use worker_swap::Swapper;

use crate::control::Control;
use crate::metrics::{Sources, Swaps};
use crate::side::Side;
use crate::signals::Stop;
use crate::{VERSION, assemble, local, narrate};

/// How long a cancelled job may take to end its programs and say so. The group is killed well before.
const ABANDON_LIMIT: Duration = Duration::from_secs(20);

/// How long results that were sent are waited for to be acknowledged before the worker goes. They are on disk
/// either way.
const ACK_LIMIT: Duration = Duration::from_secs(2);

/// How long the files of the last job may take to be removed. What is left then goes at the next start.
const CLEAR_LIMIT: Duration = Duration::from_secs(20);

/// How often the GPU is measured again while its memory is not known. Shorter runs its driver's program more often; longer has
/// a studio take the worker for one without a GPU.
const LOOK_AT_GPU: Duration = Duration::from_secs(30);

/// What `run` was asked for.
pub(crate) struct Options {
    pub(crate) paths: Paths,
    pub(crate) settings: Settings,
    pub(crate) plugins: Option<std::path::PathBuf>,
}

/// A worker that is up.
struct Up {
    runner: Runner,
    delivery: Arc<Delivery>,
    states: States,
    session: tokio::task::JoinHandle<Result<(), worker_session::SessionError>>,
    session_stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    server_stop: CancellationToken,
    studio: Option<Arc<Studio>>,
    looking: tokio::task::JoinHandle<()>,
    swapper: Arc<Swapper>,
    watching: tokio::task::JoinHandle<()>,
    updating: tokio::task::JoinHandle<()>,
    watch_stop: CancellationToken,
    shutdown: CancellationToken,
    _lock: DaemonLock,
    _discovery: Announced,
}

/// Runs a worker until it is told to stop, or the studio says something only an operator can mend.
pub(crate) async fn run(options: Options, stop: Stop) -> Result<(), crate::cli::Failure> {
    let lock = match local::lock(&options.paths)? {
        Some(lock) => lock,
        None => return Ok(()),
    };
    let drain_timeout = options.settings.drain_timeout;
    let mut up = start(options, lock).await?;
    let ended = tokio::select! {
        ended = &mut up.session => Some(ended),
        () = stop.finish.cancelled() => None,
        () = up.shutdown.cancelled() => None,
    };
    match ended {
        Some(ended) => {
            // The studio hears no more of this worker, but what the job in hand makes is kept on disk and goes with the next
            // start: its GPU time is not to be lost.
            up.finish_job(&stop, drain_timeout).await;
            up.close().await;
            ended.map_err(|error| {
                crate::cli::Failure::new(format!("the session broke: {error}"))
            })??;
            Ok(())
        }
        None => {
            up.drain(&stop, drain_timeout).await;
            up.close().await;
            Ok(())
        }
    }
}

async fn start(options: Options, lock: DaemonLock) -> Result<Up, crate::cli::Failure> {
    let Options {
        paths,
        settings,
        plugins,
    } = options;
    let shutdown = CancellationToken::new();
    let sandbox = assemble::sandbox(&paths)?;
    let programs = assemble::programs(&paths, &settings)?;
    let egress = assemble::egress(&paths, &settings)?;
    let mut swap =
        assemble::swap_options(&paths, &sandbox, plugins.as_deref(), Some(programs.clone()))?;
    swap.egress = Some(egress.clone());
    let loading = Swapper::start(swap);
    let listening = local::listen(&settings);
    let (loaded, listener) = tokio::join!(loading, listening);
    let (swapper, listener) = (loaded?, listener?);
    let serving = swapper.serving().clone();
    assemble::mark_programs(&paths, &settings)?;
    programs.sweep();
    programs.discover(&serving.current()).await;
    let log = LogShipper::new();
    let url = local::url_of(&listener)?;
    let token = worker_config::local_api_token(&paths, &settings)?;
    let (base, studio, identity) =
        assemble::studio(&paths, &settings, &url, &token, &serving).await?;
    let transport = Transport::new(&base)?;
    // Locked, and so before the results that wait: another worker on the same state may be writing there.
    let scratch = ScratchRoot::open(&paths.scratch)?;
    let delivery = assemble::delivery(&paths, &log)?;
    let swaps = Swaps::default();
    let counting = swaps.clone().count(&swapper);
    let runner = assemble::runner(
        &paths,
        &settings,
        egress.clone(),
        (scratch, delivery.clone()),
        &swapper,
        programs.clone(),
        &log,
    )
    .await?;

    let updates = assemble::updates(&paths, &settings, &swapper).await?;
    let states = States::new();
    let control = Arc::new(Control {
        runner: runner.clone(),
        programs: programs.clone(),
        swapper: swapper.clone(),
        states: states.clone(),
        metrics: Sources {
            delivery: delivery.clone(),
            egress,
            sandbox,
            swaps: swaps.clone(),
            folders: assemble::measured(&paths, &settings),
        },
        config_path: paths.config.clone(),
        models_root: settings.models_root.clone(),
        studio: base.to_string(),
        embedded: studio.is_some(),
        server_network: worker_backends::server_network(settings.programs.sandbox),
        url: url.clone(),
        started: SystemTime::now(),
        shutdown: shutdown.clone(),
    });
    let server_stop = CancellationToken::new();
    let router = local::router(studio.as_ref(), &token, control);
    let server = tokio::spawn(worker_studio::serve(listener, router, server_stop.clone()));
    let discovery = Discovery {
        url: url.clone(),
        token: token.clone(),
    }
    .announce(&paths.discovery)?;
    narrate::started(&base, studio.is_some(), &url, &paths, &runner)?;

    let session_stop = CancellationToken::new();
    let session = tokio::spawn(worker_session::run(
        SessionOptions {
            base,
            identity,
            worker: Arc::new(Side {
                runner: runner.clone(),
                delivery: delivery.clone(),
                swapper: swapper.clone(),
                updates: updates.clone(),
            }),
            log,
            states: states.clone(),
            transport,
            reconnect_attempts: settings.reconnect_attempts,
            timing: worker_session::Timing::default(),
            agent_version: VERSION.to_owned(),
        },
        session_stop.clone(),
    ));
    let looking = tokio::spawn({
        let runner = runner.clone();
        async move {
            let generation = || {
                runner.retire_servers();
                runner.generation()
            };
            let gpu = async {
                while !runner.look_at_gpu().await {
                    tokio::time::sleep(LOOK_AT_GPU).await;
                }
            };
            tokio::join!(
                programs.keep_looking(generation),
                gpu,
                runner.keep_retiring_servers(),
                counting,
                runner.keep_journals_bounded()
            );
        }
    });
    let watch_stop = CancellationToken::new();
    let watching = tokio::spawn(swapper.clone().watch(watch_stop.clone()));
    let updating = tokio::spawn(updates.run(watch_stop.clone()));
    Ok(Up {
        swapper,
        watching,
        updating,
        watch_stop,
        runner,
        delivery,
        states,
        session,
        session_stop,
        server,
        server_stop,
        studio,
        looking,
        shutdown,
        _lock: lock,
        _discovery: discovery,
    })
}

impl Up {
    /// Finishes the job in hand, and waits a moment for the studio to acknowledge its result.
    async fn drain(&mut self, stop: &Stop, limit: Duration) {
        self.finish_job(stop, limit).await;
        // A result that was sent is on disk until it is acknowledged; most are within milliseconds.
        let _ = tokio::time::timeout(ACK_LIMIT, self.acknowledged()).await;
    }

    /// Takes no job any more and finishes the one in hand; at the limit, or at a second signal, cancels it.
    async fn finish_job(&mut self, stop: &Stop, limit: Duration) {
        self.runner.drain();
        let in_time = tokio::select! {
            () = self.runner.idle() => true,
            () = stop.now.cancelled() => false,
            () = tokio::time::sleep(limit) => {
                tracing::warn!(target: "worker", seconds = limit.as_secs(), "the job in hand did not finish in time");
                false
            }
        };
        if !in_time {
            self.runner.abandon();
            if tokio::time::timeout(ABANDON_LIMIT, self.runner.idle())
                .await
                .is_err()
            {
                tracing::error!(target: "worker", "the job in hand does not end; going all the same");
            }
        }
    }

    async fn acknowledged(&self) {
        while self.delivery.spool().waiting().is_none_or(|left| left > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends everything in the order in which it depends on each other.
    async fn close(self) {
        self.looking.abort();
        // A file that is being taken in is left; what serves was decided before.
        self.watch_stop.cancel();
        self.watching.abort();
        // It writes down where updates stand, which is a matter of milliseconds.
        let _ = self.updating.await;
        self.session_stop.cancel();
        if !self.session.is_finished() {
            // The session bounds its own end; what it says was logged by it.
            let _ = self.session.await;
        }
        self.runner.servers().stop().await;
        if tokio::time::timeout(CLEAR_LIMIT, self.runner.cleared_up())
            .await
            .is_err()
        {
            tracing::warn!(target: "worker", "a job's files are not all removed; the next start removes them");
        }
        self.delivery.stop().await;
        self.server_stop.cancel();
        let _ = self.server.await;
        if let Some(studio) = &self.studio {
            studio.close().await;
        }
        self.swapper.stop().await;
        tracing::info!(target: "worker", session = ?*self.states.session().borrow(), "stopped");
    }
}
