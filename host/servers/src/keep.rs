//! Starting a server's process, and looking after it until it is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use worker_backends::{Exit, Invocation, Network, RunError, Running, SandboxPolicy};
use worker_files::remove_tree;

use crate::error::ServerError;
use crate::exchange;
use crate::instance::{Gone, Instance};
use crate::launch::{HOST, Holds};
use crate::limits::Limits;
use crate::place::Place;
use crate::port::{self, Holder};
use crate::shown::random;
use crate::slot::Slot;

/// How often another port is tried when somebody else came first.
const PORT_TRIES: u32 = 4;

/// First and longest pause between two looks whether it is ready. Smaller costs the machine while it loads; larger is
/// waited for by the first job.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// How long one look may take. A server that loads may accept and not answer.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// How often it is looked whether it listens for other machines. Smaller costs the worker more; larger lets others in for
/// longer.
const OPEN_LOOK: Duration = Duration::from_secs(1);

/// Batches of lines on their way from the process. Those beyond are dropped.
const LINE_BATCHES: usize = 16;

/// Starts a process of the server and waits until it is ready. Dropped or cancelled meanwhile, it leaves none.
pub(crate) async fn start(
    slot: &Arc<Slot>,
    holds: &Holds,
    limits: &Limits,
    folder: &Path,
    cancel: &CancellationToken,
) -> Result<Arc<Instance>, ServerError> {
    for _ in 0..PORT_TRIES {
        let network = match slot.launch.own_network {
            true => Network::or_shared().await,
            false => None,
        };
        let place = Place::free(network).await?;
        let instance = spawn(slot, holds, limits, folder, place).await?;
        let unfinished = Ends(Some(instance.clone()));
        let ready = tokio::select! {
            ready = until_ready(slot, limits, &instance) => ready,
            () = cancel.cancelled() => Err(NotReady::Cancelled),
        };
        if let Ok(()) = ready {
            unfinished.keep();
            return Ok(instance);
        }
        instance.end();
        let gone = instance.gone().await;
        let ready = match ready {
            Err(NotReady::Died) if gone.open => Err(NotReady::Open),
            // There are programs that find their port taken and end as if all were well.
            Err(NotReady::Died) if is_taken(&instance).await => Err(NotReady::Conflict),
            other => other,
        };
        match ready {
            Ok(()) | Err(NotReady::Conflict) => {}
            Err(NotReady::Cancelled) => return Err(ServerError::Cancelled),
            Err(NotReady::Open) => {
                return Err(ServerError::Open {
                    program: slot.launch.program.clone(),
                    host: HOST,
                });
            }
            Err(NotReady::Died) => {
                // Its keeper has counted it.
                return Err(ServerError::DiedStarting {
                    program: slot.launch.program.clone(),
                    how: gone.how,
                    said: gone.said,
                });
            }
            Err(NotReady::Late(limit)) => {
                slot.lock().died(gone.said.clone());
                return Err(ServerError::NotReady {
                    program: slot.launch.program.clone(),
                    limit,
                    said: gone.said,
                });
            }
            Err(NotReady::Absent(status)) => {
                slot.lock().died(gone.said.clone());
                return Err(ServerError::NoReadyPath {
                    program: slot.launch.program.clone(),
                    path: slot.launch.ready.clone(),
                    status: status.as_u16(),
                    said: gone.said,
                });
            }
        }
    }
    Err(ServerError::Port {
        program: slot.launch.program.clone(),
        tries: PORT_TRIES,
    })
}

/// Ends a process that nobody came to use.
struct Ends(Option<Arc<Instance>>);

impl Ends {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(instance) = &self.0 {
            instance.end();
        }
    }
}

enum NotReady {
    Conflict,
    Open,
    Died,
    Late(Duration),
    /// It has no ready path, as it says itself.
    Absent(StatusCode),
    Cancelled,
}

/// Since when a server has answered nothing else than that there is no such path.
#[derive(Default)]
struct Absence(Option<Instant>);

impl Absence {
    /// The status, once it has been of that kind for as long as the limit. Any other status, and none, begins anew: a server
    /// that answers 503, or not yet, still loads.
    fn lasting(&mut self, status: Option<StatusCode>, limit: Duration) -> Option<StatusCode> {
        let absent = status.filter(|it| [StatusCode::NOT_FOUND, StatusCode::GONE].contains(it));
        self.0 = absent.map(|_| self.0.unwrap_or_else(Instant::now));
        absent.filter(|_| self.0.is_some_and(|since| since.elapsed() >= limit))
    }
}

/// Whether somebody else listens on its port.
async fn is_taken(instance: &Instance) -> bool {
    matches!(holder(instance).await, Holder::Other)
}

/// Who listens on its port.
async fn holder(instance: &Instance) -> Holder {
    let (place, group) = (instance.place.clone(), instance.pid);
    let look = move || port::holder(place.tables(), place.port(), group);
    let looked = tokio::task::spawn_blocking(look).await;
    looked.unwrap_or(Holder::Unknown)
}

async fn until_ready(slot: &Slot, limits: &Limits, instance: &Instance) -> Result<(), NotReady> {
    let limit = slot.launch.start.min(limits.longest_start);
    let ready = async {
        let (mut pause, mut absence) = (FIRST_LOOK, Absence::default());
        loop {
            let status = match holder(instance).await {
                Holder::Other => return Err(NotReady::Conflict),
                Holder::GroupOpen => return Err(NotReady::Open),
                Holder::Group | Holder::Unknown => {
                    let asked = exchange::ready_status(&instance.place, &slot.launch.ready);
                    timeout(LOOK_LIMIT, asked).await.unwrap_or_default()
                }
                Holder::Nobody => None,
            };
            if status.is_some_and(|status| status.is_success()) {
                return Ok(());
            }
            if let Some(status) = absence.lasting(status, limits.absent) {
                return Err(NotReady::Absent(status));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    };
    tokio::select! {
        ready = ready => ready,
        _ = instance.gone() => Err(NotReady::Died),
        () = sleep(limit) => Err(NotReady::Late(limit)),
    }
}

async fn spawn(
    slot: &Arc<Slot>,
    holds: &Holds,
    limits: &Limits,
    folder: &Path,
    place: Place,
) -> Result<Arc<Instance>, ServerError> {
    let dir = Folder::make(folder)?;
    let launch = &slot.launch;
    let mut invocation = Invocation::new(
        launch.path.clone(),
        launch.words(place.port()),
        dir.0.clone(),
        Duration::MAX,
    );
    invocation.env.clone_from(&launch.env);
    invocation.library_dir.clone_from(&launch.library_dir);
    invocation.limits = worker_backends::Limits {
        grace: limits.grace,
        silence: None,
        first_progress: None,
        next_progress: None,
        ..launch.limits.clone()
    };
    invocation.written = vec![dir.0.clone()];
    invocation.sandbox = launch.sandbox.clone().map(|policy| SandboxPolicy {
        scratch: dir.0.clone(),
        listen: Some(place.port()),
        ..policy
    });
    invocation.network = place.network().cloned();
    let cache = invocation
        .sandbox
        .as_ref()
        .and_then(|policy| policy.cache_dir.clone());
    invocation.written.extend(cache);
    let (lines, inbox) = mpsc::channel(LINE_BATCHES);
    let running = worker_backends::start(&invocation, lines).await?;
    let (tell, gone) = watch::channel(None);
    let instance = Arc::new(Instance::new(place, running.id(), gone));
    {
        let mut state = slot.lock();
        state.instance = Some(instance.clone());
        state.starts += 1;
    }
    tracing::info!(
        target: "server", plugin = launch.plugin, program = launch.program, pid = instance.pid,
        port = instance.place.port(), own_network = instance.place.network().is_some(), "started"
    );
    let keeper = Keeper {
        slot: slot.clone(),
        instance: instance.clone(),
        idle: limits.idle,
        grace: limits.grace,
        dir,
        holds: holds.clone(),
    };
    tokio::spawn(async move {
        let gone = keeper.keep(running, inbox).await;
        keeper.let_go().await;
        tell.send_replace(Some(gone));
    });
    Ok(instance)
}

/// A server's own folder; it goes with its process.
struct Folder(PathBuf);

impl Folder {
    fn make(under: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = under.join(format!("{:016x}", random()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Folder {
    /// Removes it on a thread for blocking work: it may hold gigabytes.
    async fn remove(self) {
        // Where the runtime goes down it is removed by being dropped, or swept at the next start.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(target: "server", folder = %self.0.display(), %error, "a server's folder cannot be removed");
        }
    }
}

/// Looks after one process to its end.
struct Keeper {
    slot: Arc<Slot>,
    instance: Arc<Instance>,
    idle: Duration,
    grace: Duration,
    dir: Folder,
    holds: Holds,
}

impl Keeper {
    async fn keep(&self, mut running: Running, mut inbox: mpsc::Receiver<Vec<String>>) -> Gone {
        let started = Instant::now();
        let Self {
            slot,
            instance,
            idle,
            grace,
            ..
        } = self;
        let is_idle = slot.idle(*idle, instance);
        tokio::pin!(is_idle);
        let is_open = is_open(instance);
        tokio::pin!(is_open);
        let mut open = false;
        let ended = loop {
            tokio::select! {
                () = running.exited() => break running.finish().await,
                () = instance.to_end() => break running.stop(*grace).await,
                Some(lines) = inbox.recv() => instance.printed(&lines),
                () = &mut is_open => {
                    tracing::warn!(target: "server", program = slot.launch.program, pid = instance.pid, "it listens for other machines: it is ended");
                    open = true;
                    break running.stop(*grace).await;
                }
                () = &mut is_idle => {
                    tracing::info!(target: "server", program = slot.launch.program, pid = instance.pid, "idle: it is ended");
                    break running.stop(*grace).await;
                }
            }
        };
        let mut gone = told(&ended);
        if open {
            gone.open = true;
            "it listened beyond this machine".clone_into(&mut gone.how);
        }
        let mut state = slot.lock();
        let current = state
            .instance
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, instance));
        if current {
            state.instance = None;
        }
        let wanted = instance.is_ending();
        if !wanted {
            state.died(gone.said.clone());
        }
        drop(state);
        let program = slot.launch.program.as_str();
        let (pid, seconds) = (instance.pid, started.elapsed().as_secs());
        if wanted && ended.is_ok() {
            tracing::info!(target: "server", program, pid, seconds, "stopped");
        } else {
            tracing::warn!(target: "server", program, pid, seconds, how = gone.how, "it died");
        }
        gone
    }

    /// Lets go of what the process had: the files that it was started with, and its folder. The files first: a job may be
    /// waiting for their room, and removing a folder of gigabytes takes its time.
    async fn let_go(self) {
        let Self { holds, dir, .. } = self;
        drop(holds);
        dir.remove().await;
    }
}

/// Comes back when a process of the group listens for other machines. No rule of the kernel keeps it from that: a socket that
/// listens without an address gets all of them.
///
/// In a network of its own there are no other machines. It is ended all the same: whether a release does what it is told must
/// not depend on the rights of the worker that tries it first.
async fn is_open(instance: &Instance) {
    loop {
        sleep(OPEN_LOOK).await;
        let (place, group) = (instance.place.clone(), instance.pid);
        let look = move || port::is_open(place.tables(), group);
        let looked = tokio::task::spawn_blocking(look).await;
        if let Ok(Some(true)) = looked {
            return;
        }
    }
}

fn told(ended: &Result<Exit, RunError>) -> Gone {
    match ended {
        Err(error) => Gone {
            how: error.to_string(),
            said: String::new(),
            open: false,
        },
        Ok(exit) => Gone {
            how: how(exit),
            said: last_words(exit),
            open: false,
        },
    }
}

fn how(exit: &Exit) -> String {
    match (exit.out_of_memory, exit.code, exit.signal) {
        (true, ..) => "out of memory".to_owned(),
        (_, Some(code), _) => format!("exit code {code}"),
        (_, None, Some(signal)) => format!("signal {signal}"),
        (_, None, None) => "no status".to_owned(),
    }
}

/// The last lines as one, bounded.
fn last_words(exit: &Exit) -> String {
    // A failure's text is one line at the studio.
    const LINES: usize = 4;
    const CHARACTERS: usize = 600;
    let text = if exit.stderr_tail.trim().is_empty() {
        &exit.stdout_tail
    } else {
        &exit.stderr_tail
    };
    let mut lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let lines = lines.split_off(lines.len().saturating_sub(LINES));
    let joined = lines.join(" | ");
    if joined.is_empty() {
        return "nothing".to_owned();
    }
    joined.chars().take(CHARACTERS).collect()
}
