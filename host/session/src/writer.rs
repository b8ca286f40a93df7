//! The writing half of a session.
//!
//! Frames are written as they come: all that are ready go into one flush, and none waits for another. A frame leaves the
//! queue when the socket has taken it, so that a write given up half-way loses nothing that a stop still wants sent.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt, stream::SplitSink};
use tokio::time::{self, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use worker_wire::{Capabilities, LinkOutlet, Secret, WorkerFrame};

use crate::{
    HeartbeatMark,
    connect::Socket,
    context::{Context, now},
    end::End,
    text::{chain, one_line},
};

/// Frames in one flush. More would delay the first of them; fewer would flush more often under load.
const FRAMES_PER_FLUSH: usize = 64;

pub(crate) struct Writer<'a> {
    context: &'a Context,
    sink: SplitSink<Socket, Message>,
    /// Where the outlet puts frames; empty between turns.
    taken: Vec<WorkerFrame>,
    /// Frames that the socket has not taken yet.
    queue: VecDeque<WorkerFrame>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(context: &'a Context, sink: SplitSink<Socket, Message>) -> Self {
        Self {
            context,
            sink,
            taken: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    /// The first frame of a session.
    pub(crate) async fn hello(
        &mut self,
        auth_token: Secret,
        capabilities: Capabilities,
    ) -> Result<(), End> {
        self.queue.push_back(WorkerFrame::Hello {
            auth_token,
            capabilities,
        });
        self.write().await
    }

    /// Writes heartbeats, log lines and the link's frames until the socket fails.
    pub(crate) async fn serve(&mut self, outlet: &mut LinkOutlet) -> End {
        let timing = &self.context.options.timing;
        let mut beat = ticker(timing.heartbeat);
        let mut flush = ticker(timing.log_flush);
        loop {
            let turn = tokio::select! {
                biased;
                _ = beat.tick() => self.heartbeat().await,
                _ = flush.tick() => self.logs().await,
                _ = outlet.recv_many(&mut self.taken, FRAMES_PER_FLUSH) => self.frames().await,
            };
            if let Err(end) = turn {
                return end;
            }
        }
    }

    /// Takes what is still in the link, which takes nothing more.
    pub(crate) fn take_rest(&mut self, outlet: &mut LinkOutlet) {
        outlet.close();
        self.queue.extend(self.taken.drain(..));
        while let Ok(frame) = outlet.try_recv() {
            self.queue.push_back(frame);
        }
    }

    /// Writes every queued frame, then every waiting log line.
    pub(crate) async fn flush_everything(&mut self) -> Result<(), End> {
        self.write().await?;
        self.logs().await
    }

    /// Closes with code 1000.
    pub(crate) async fn close(&mut self, reason: &'static str) -> Result<(), End> {
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: reason.into(),
        };
        self.sink
            .send(Message::Close(Some(close)))
            .await
            .map_err(|e| broken(&e))
    }

    async fn heartbeat(&mut self) -> Result<(), End> {
        let options = &self.context.options;
        self.queue.push_back(WorkerFrame::Heartbeat {
            capabilities: self.context.capabilities(),
            current_job_id: options.worker.current_job(),
        });
        let last_attempt_at = now();
        let written = self.write().await;
        let outcome = match &written {
            Ok(()) => "ok".to_owned(),
            Err(End::Disconnected { cause }) => cause.clone(),
            Err(_) => "the session ended".to_owned(),
        };
        options.states.set_heartbeat(HeartbeatMark {
            outcome,
            last_attempt_at,
        });
        written
    }

    /// Ships what waits now. A batch that the socket does not take goes back to the queue; one given up half-way may
    /// arrive twice, which is better than not at all.
    async fn logs(&mut self) -> Result<(), End> {
        while let Some(batch) = self.context.options.log.batch() {
            let entries = batch.entries();
            self.queue.push_back(WorkerFrame::LogBatch { entries });
            self.write().await?;
            batch.sent();
        }
        Ok(())
    }

    async fn frames(&mut self) -> Result<(), End> {
        self.queue.extend(self.taken.drain(..));
        self.write().await
    }

    /// Writes the queue and flushes once.
    async fn write(&mut self) -> Result<(), End> {
        let limit = self.context.options.timing.write;
        let Self { sink, queue, .. } = self;
        let write = async {
            while let Some(frame) = queue.front() {
                match serde_json::to_string(frame) {
                    Ok(text) => sink.feed(Message::text(text)).await?,
                    Err(error) => tracing::error!(%error, "a frame cannot be written as JSON"),
                }
                queue.pop_front();
            }
            sink.flush().await
        };
        match time::timeout(limit, write).await {
            Ok(written) => written.map_err(|e| broken(&e)),
            Err(_) => Err(End::disconnected(format!(
                "the studio took no data for {limit:?}"
            ))),
        }
    }
}

fn broken(error: &tungstenite::Error) -> End {
    End::disconnected(format!(
        "writing to the studio failed: {}",
        one_line(&chain(error), 300)
    ))
}

fn ticker(period: Duration) -> time::Interval {
    let mut ticker = time::interval(period.max(Duration::from_millis(1)));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticker
}
