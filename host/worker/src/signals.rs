//! Signals: the first one asks the worker to finish and go, a second one to go now.

use tokio_util::sync::CancellationToken;

/// What signals have asked for so far.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    /// Take no new job and finish the one in hand.
    pub(crate) finish: CancellationToken,
    /// Cancel the job in hand.
    pub(crate) now: CancellationToken,
}

impl Stop {
    /// Listens for SIGINT and SIGTERM from now on.
    pub(crate) fn on_signals() -> std::io::Result<Self> {
        let stop = Self::default();
        let mut signals = Signals::new()?;
        let told = stop.clone();
        tokio::spawn(async move {
            signals.next().await;
            tracing::info!(target: "worker", "asked to stop: finishing the job in hand; a second signal cancels it");
            told.finish.cancel();
            signals.next().await;
            tracing::warn!(target: "worker", "asked again to stop: cancelling the job in hand");
            told.now.cancel();
        });
        Ok(stop)
    }
}

/// Exit code of a command that a second Ctrl-C ended, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Cancelled by the first SIGINT or SIGTERM, for a command that has something to undo. A second one ends the command at
/// once, whatever it waits for.
pub(crate) fn first() -> std::io::Result<CancellationToken> {
    let first = CancellationToken::new();
    let mut signals = Signals::new()?;
    let told = first.clone();
    tokio::spawn(async move {
        signals.next().await;
        told.cancel();
        signals.next().await;
        std::process::exit(INTERRUPTED);
    });
    Ok(first)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Where it cannot be listened for, the system's default ends the worker; nothing is left to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
