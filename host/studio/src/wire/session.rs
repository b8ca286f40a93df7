//! One session on its socket: `hello`, `welcome`, then frames until either side ends it.
//!
//! One task reads and writes, so frames go out in the order they were decided. What is queued together is flushed
//! together. A frame that breaks the protocol ends the session with an error; an unknown one is ignored.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use worker_wire::{CloseCode, ErrorCode, Extension, ServerFrame, Welcome, WorkerFrame, timestamp};

use crate::core::{JsonVerdict, Outbox, Outgoing, Rejected, Violation};
use crate::options::Timing;
use crate::studio::Studio;

/// Runs a session to its end.
pub(super) async fn run(studio: Arc<Studio>, worker: String, socket: WebSocket) {
    let timing = studio.core().timing.clone();
    let hello = timing.hello;
    let mut line = Line { socket, timing };
    let capabilities = match greet(&studio, &worker, &mut line, hello).await {
        Ok(capabilities) => capabilities,
        Err(outgoing) => {
            let _ = line.write(outgoing).await;
            line.end().await;
            return;
        }
    };
    let cut = CancellationToken::new();
    let (out, outbox) = Outbox::new(cut.clone());
    // Queued before the session is known: nothing can go out before it.
    out.frame(ServerFrame::Welcome(Welcome {
        worker_id: worker.clone(),
        server_time: timestamp(SystemTime::now()),
        extensions: Extension::ALL
            .iter()
            .map(|extension| extension.as_wire().to_owned())
            .collect(),
    }));
    let no = studio.core().welcome(&worker, capabilities, out);
    tracing::info!(worker, "worker connected");
    let mut session = Running {
        studio,
        worker,
        no,
        line,
        outbox,
        cut,
    };
    session.serve().await;
    session.studio.core().drop_session(no);
    tracing::info!(worker = session.worker, "worker disconnected");
    session.line.end().await;
}

/// Waits for a good `hello`; the error is what to answer anything else with.
async fn greet(
    studio: &Studio,
    worker: &str,
    line: &mut Line,
    limit: Duration,
) -> Result<worker_wire::Capabilities, Outgoing> {
    let violation = |text: &str| Outgoing::Error(ErrorCode::ProtocolViolation, text.to_owned());
    let first = tokio::select! {
        () = studio.stop.cancelled() => return Err(Outgoing::Close("the studio stops")),
        first = timeout(limit, line.text()) => first.map_err(|_| violation("no hello came"))?,
    };
    let Read::Text(text) = first else {
        return Err(violation("the first message must be a hello"));
    };
    match serde_json::from_str(&text) {
        Ok(WorkerFrame::Hello {
            auth_token,
            capabilities,
        }) => match studio.core().authenticate(worker, auth_token.expose()) {
            Some(true) => Ok(capabilities),
            Some(false) => Err(Outgoing::Error(
                ErrorCode::AuthFailed,
                "token not accepted".to_owned(),
            )),
            None => Err(Outgoing::Error(
                ErrorCode::WorkerDeleted,
                "this worker was deleted".to_owned(),
            )),
        },
        Ok(_) => Err(violation("session not authenticated")),
        Err(error) => Err(violation(&format!("not a frame: {error}"))),
    }
}

/// What came from the socket.
enum Read {
    Text(String),
    Binary,
    Ended,
}

/// The socket, every write bounded.
struct Line {
    socket: WebSocket,
    timing: Timing,
}

impl Line {
    /// The next message that is not a ping or a pong.
    async fn text(&mut self) -> Read {
        loop {
            return match self.socket.next().await {
                Some(Ok(Message::Text(text))) => Read::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(_))) => Read::Binary,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => Read::Ended,
            };
        }
    }

    /// Queues one outgoing thing; breaks when the session is to end.
    async fn feed(&mut self, outgoing: Outgoing) -> ControlFlow<()> {
        let (frame, close) = match outgoing {
            Outgoing::Frame(frame) => (Some(frame), None),
            Outgoing::Error(code, message) => {
                let close = (code.close(), code.as_wire().to_owned());
                (Some(ServerFrame::Error { code, message }), Some(close))
            }
            Outgoing::Close(reason) => (None, Some((CloseCode::NORMAL, reason.to_owned()))),
        };
        let messages = frame
            .map(|frame| Message::Text(frame.to_text().into()))
            .into_iter()
            .chain(close.clone().map(|(code, reason)| {
                Message::Close(Some(CloseFrame {
                    code: code.0,
                    reason: reason.into(),
                }))
            }));
        for message in messages {
            match timeout(self.timing.write, self.socket.feed(message)).await {
                Ok(Ok(())) => {}
                _ => return ControlFlow::Break(()),
            }
        }
        if close.is_some() {
            let _ = self.flush().await;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    async fn flush(&mut self) -> ControlFlow<()> {
        match timeout(self.timing.write, self.socket.flush()).await {
            Ok(Ok(())) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    async fn write(&mut self, outgoing: Outgoing) -> ControlFlow<()> {
        self.feed(outgoing).await?;
        self.flush().await
    }

    /// Lets the other side answer the close, so that what was sent before it is read and not reset.
    async fn end(&mut self) {
        let goodbye = self.timing.goodbye;
        let drain = async { while let Read::Text(_) | Read::Binary = self.text().await {} };
        let _ = timeout(goodbye, drain).await;
    }
}

#[derive(Deserialize)]
struct ResultBody<'a> {
    #[serde(borrow)]
    result: &'a RawValue,
}

/// A welcomed session.
struct Running {
    studio: Arc<Studio>,
    worker: String,
    no: u64,
    line: Line,
    outbox: mpsc::Receiver<Outgoing>,
    cut: CancellationToken,
}

impl Running {
    async fn serve(&mut self) {
        let stop = self.studio.stop.clone();
        let cut = self.cut.clone();
        loop {
            let flow = tokio::select! {
                () = cut.cancelled() => return,
                () = stop.cancelled() => {
                    let _ = self.line.write(Outgoing::Close("the studio stops")).await;
                    return;
                }
                Some(outgoing) = self.outbox.recv() => self.send(outgoing).await,
                read = self.line.text() => match read {
                    Read::Text(text) => self.take(&text).await,
                    Read::Binary => self.violate("binary messages are not part of the protocol"),
                    Read::Ended => return,
                },
            };
            if flow.is_break() {
                return;
            }
        }
    }

    /// Writes what is queued, and flushes once.
    async fn send(&mut self, first: Outgoing) -> ControlFlow<()> {
        self.line.feed(first).await?;
        while let Ok(next) = self.outbox.try_recv() {
            self.line.feed(next).await?;
        }
        self.line.flush().await
    }

    fn violate(&self, text: impl Into<String>) -> ControlFlow<()> {
        let text = text.into();
        tracing::warn!(worker = self.worker, reason = text, "protocol violation");
        // The error and its close are queued behind what was sent before; the loop ends when they are written.
        self.studio
            .core()
            .close(self.no, ErrorCode::ProtocolViolation, text);
        ControlFlow::Continue(())
    }

    async fn take(&mut self, text: &str) -> ControlFlow<()> {
        if !self.studio.core().has_session(self.no) {
            // Already closed by the studio: its last words are on their way.
            return ControlFlow::Continue(());
        }
        let frame: WorkerFrame = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => return self.violate(format!("not a frame: {error}")),
        };
        match self.handle(frame, text).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(Violation(reason)) => self.violate(reason),
        }
    }

    async fn handle(&mut self, frame: WorkerFrame, text: &str) -> Result<(), Violation> {
        match frame {
            WorkerFrame::Hello { .. } => return Err(Violation("a second hello".to_owned())),
            WorkerFrame::Heartbeat {
                capabilities,
                current_job_id,
            } => self
                .studio
                .core()
                .heartbeat(self.no, capabilities, current_job_id),
            WorkerFrame::Accept { job_id } => self.studio.core().accept(self.no, &job_id)?,
            WorkerFrame::Reject {
                job_id,
                reason,
                code,
            } => {
                let rejected = Rejected { code, reason };
                let again = self.studio.core().reject(self.no, &job_id, rejected)?;
                if let Some(wait) = again {
                    self.ask_again(wait);
                }
            }
            WorkerFrame::CompleteJson { job_id, prompt, .. } => {
                let body: ResultBody<'_> = serde_json::from_str(text)
                    .map_err(|error| Violation(format!("not a frame: {error}")))?;
                let result = body.result.get().to_owned();
                let verdict = self
                    .studio
                    .core()
                    .json_result(self.no, &job_id, result, prompt)?;
                self.conclude(verdict, &job_id, true).await;
            }
            WorkerFrame::Fail {
                job_id,
                error,
                retryable,
            } => {
                let verdict = self
                    .studio
                    .core()
                    .fail(self.no, &job_id, error, retryable)?;
                self.conclude(verdict, &job_id, false).await;
            }
            WorkerFrame::LogBatch { entries } => self.studio.core().log(&self.worker, entries),
            WorkerFrame::ReadyForMore => self.studio.core().dispatch(),
            WorkerFrame::Progress {
                job_id,
                done,
                total,
                note,
            } => self
                .studio
                .core()
                .progress(self.no, &job_id, done, total, note),
            WorkerFrame::PluginStatus(status) => self.studio.core().plugin_status(self.no, status),
            WorkerFrame::ServedBy { job_id, by } => {
                self.studio.core().served_by(self.no, &job_id, by);
            }
            WorkerFrame::Unknown => tracing::debug!(worker = self.worker, "unknown frame ignored"),
        }
        Ok(())
    }

    /// Acknowledges once the record is committed, then lets the next offer follow.
    async fn conclude(&mut self, verdict: JsonVerdict, job: &str, result: bool) {
        match verdict {
            JsonVerdict::Taken(id, receipt) => {
                let committed = receipt.committed().await;
                let mut core = self.studio.core();
                // It may have come again meanwhile, in another session that waits for the answer.
                let no = core.session_now(self.no, &self.worker);
                if let Err(error) = committed {
                    tracing::error!(worker = self.worker, job, %error, "a result could not be recorded; the worker is asked to come back with it");
                    core.unsettle(&id);
                    // No error frame: of an `internal_error` workers end for good. This one comes back, and sends it again.
                    core.part(no, "the result could not be recorded");
                    return;
                }
                core.acknowledge(no, job, result);
                core.delivered(&self.worker, &id);
            }
            JsonVerdict::Over => self.studio.core().acknowledge(self.no, job, result),
            JsonVerdict::Ignored => {
                tracing::info!(worker = self.worker, job, "a job of somebody else: ignored");
            }
        }
    }

    fn ask_again(&self, wait: Duration) {
        let studio = Arc::downgrade(&self.studio);
        let no = self.no;
        let cut = self.studio.stop.clone();
        self.studio.tasks.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = tokio::time::sleep(wait) => {
                    if let Some(studio) = studio.upgrade() {
                        studio.core().rested(no);
                    }
                }
            }
        });
    }
}
