//! One run of a program, from start to the last of its group.

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::ending::{Exit, RunError};
use crate::invocation::Invocation;
use crate::running::{Ended, start};

/// Runs a program to its end, and its whole group with it. `lines` gets what it prints, in batches, cleaned; those that
/// nobody takes in time are dropped. Every way out leaves no process of the group: ended by `cancel`, by its time, by a
/// limit, or by this future being dropped.
///
/// # Errors
/// When it cannot be started, or its output not be stored. That it fails is no error: see [`Exit`].
pub async fn run(
    invocation: &Invocation,
    lines: mpsc::Sender<Vec<String>>,
    cancel: &CancellationToken,
) -> Result<Exit, RunError> {
    invocation.check()?;
    if cancel.is_cancelled() {
        return Ok(Exit {
            cancelled: true,
            ..Exit::default()
        });
    }
    let mut running = start(invocation, lines).await?;
    tokio::select! {
        () = running.exited() => {}
        () = cancel.cancelled() => running.end(Ended::Cancelled, invocation.limits.grace),
        () = sleep(invocation.timeout) => running.end(Ended::TimedOut, invocation.limits.grace),
    }
    running.finish().await
}
