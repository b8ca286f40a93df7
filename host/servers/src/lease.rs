//! The right to ask a server, for one call of one job.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::call::{Answer, NoAnswer, Request, Spill, perform};
use crate::error::CallError;
use crate::exchange::send;
use crate::instance::Instance;
use crate::slot::Slot;

/// How long after a broken answer the server's death is waited for, so that the failure names the cause.
const DEATH: Duration = Duration::from_secs(1);

/// Counts as a user of a server, from before it waits for its turn.
pub(crate) struct User(pub(crate) Arc<Slot>);

impl User {
    pub(crate) fn of(slot: &Arc<Slot>) -> Self {
        slot.lock().users += 1;
        Self(slot.clone())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        {
            let mut state = self.0.lock();
            state.users = state.users.saturating_sub(1);
            state.last_used = Instant::now();
        }
        self.0.changed.notify_waiters();
    }
}

/// A server that is ready, and a turn to ask it. Dropped, the turn is over and the server stays warm.
pub struct Lease {
    pub(crate) user: User,
    pub(crate) instance: Arc<Instance>,
    pub(crate) _turn: OwnedSemaphorePermit,
    pub(crate) on_cancel_limit: Duration,
    pub(crate) job: String,
}

impl Lease {
    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.instance.pid
    }

    /// What it prints from now on, in batches; those that nobody takes in time are dropped.
    #[must_use]
    pub fn lines(&self) -> mpsc::Receiver<Vec<String>> {
        self.instance.lines()
    }

    /// Makes a call. When it is cancelled or late, `on_cancel` is sent; unless that is answered with 2xx in time, the server
    /// is ended before this returns.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        self,
        request: &Request,
        on_cancel: Option<&Request>,
        spill: Spill<'_>,
        cancel: &CancellationToken,
    ) -> Result<Answer, CallError> {
        // Whoever drops this call, or loses it to a panic, leaves a server of which nobody knows what it does.
        self.user.0.lock().unsettled = Some(self.job.clone());
        let exchange = perform(&self.instance, request, spill);
        tokio::pin!(exchange);
        let answered = tokio::select! {
            biased;
            answered = &mut exchange => answered,
            gone = self.instance.gone() => {
                return Err(CallError::Died { program: self.program(), how: gone.how, said: gone.said });
            }
            () = cancel.cancelled() => {
                self.interrupt(on_cancel).await;
                return Err(CallError::Cancelled);
            }
            () = sleep(request.timeout) => {
                self.interrupt(on_cancel).await;
                return Err(CallError::TimedOut { program: self.program(), limit: request.timeout });
            }
        };
        match answered {
            Ok(answer) => Ok(answer),
            Err(NoAnswer::TooLarge) => Err(CallError::TooLarge {
                program: self.program(),
                limit: request.max_bytes,
            }),
            Err(NoAnswer::Store(error)) => Err(CallError::Store(error)),
            Err(NoAnswer::Broken(failed)) => Err(self.broken(failed.to_string()).await),
        }
    }

    fn program(&self) -> String {
        self.user.0.launch.program.clone()
    }

    /// No answer, or none in HTTP: it died, or it is not to be trusted with another call.
    async fn broken(&self, reason: String) -> CallError {
        if let Ok(gone) = timeout(DEATH, self.instance.gone()).await {
            return CallError::Died {
                program: self.program(),
                how: gone.how,
                said: gone.said,
            };
        }
        self.user.0.lock().died(reason.clone());
        self.instance.end();
        self.instance.gone().await;
        CallError::Garbled {
            program: self.program(),
            reason,
        }
    }

    /// Has it stop what it does for this call, or ends it.
    async fn interrupt(&self, on_cancel: Option<&Request>) {
        if let Some(request) = on_cancel {
            let asked = send(
                &self.instance.place,
                &request.method,
                &request.target,
                &request.headers,
                request.body.clone(),
            );
            let limit = request.timeout.min(self.on_cancel_limit);
            if let Ok(Ok(head)) = timeout(limit, asked).await
                && head.status.is_success()
            {
                self.user.0.lock().unsettled = None;
                return;
            }
        }
        tracing::info!(target: "server", program = self.user.0.launch.program, pid = self.instance.pid, "it does not stop its work: it is ended");
        self.instance.end();
        self.instance.gone().await;
    }
}
