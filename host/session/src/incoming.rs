//! The reading half of a session.
//!
//! What cannot be read or is not known is said once and left alone, because a studio newer than this worker is no reason
//! to drop a job. Two things bound that patience: the idle limit, which only readable frames restart, and a count of
//! messages that make no sense.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream::SplitStream};
use tokio::time::{self, Instant};
use tokio_tungstenite::tungstenite::Message;
use worker_wire::{
    Claim, CloseCode, ErrorCode, FrameError, JobId, LogLevel, PluginUpdate, Secret, ServerFrame,
    Welcome,
};

use crate::{
    connect::Socket,
    context::Context,
    end::End,
    offers::Offers,
    text::{chain, one_line},
};

/// Senseless messages before a session is given up. More lets a broken studio keep a worker from useful ones; fewer
/// drops sessions over a few frames that a later protocol changed.
const SENSELESS: u32 = 100;

/// Kinds of oddity that are told apart; beyond them nothing more is said.
const KINDS: usize = 32;

pub(crate) struct Incoming<'a> {
    context: &'a Context,
    /// What the studio may quote and nobody shall read.
    token: &'a Secret,
    stream: SplitStream<Socket>,
    deadline: Instant,
    senseless: u32,
    said: BTreeSet<String>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn new(
        context: &'a Context,
        token: &'a Secret,
        stream: SplitStream<Socket>,
    ) -> Self {
        Self {
            context,
            token,
            stream,
            deadline: Instant::now() + context.options.timing.read_idle,
            senseless: 0,
            said: BTreeSet::new(),
        }
    }

    /// Waits for `welcome`. Whatever else comes before it is dropped.
    pub(crate) async fn welcome(&mut self) -> Result<Welcome, End> {
        loop {
            let frame = self.frame().await?;
            match frame {
                ServerFrame::Welcome(welcome) => return Ok(welcome),
                ServerFrame::Error { code, message } => self.error(code, &message)?,
                other => {
                    let name = name_of(&other);
                    self.context.warn(format!(
                        "dropping a `{name}` frame that came before welcome"
                    ));
                    self.count()?;
                }
            }
        }
    }

    /// Reads frames and acts on them until the session ends.
    pub(crate) async fn serve(&mut self, offers: &Offers<'_>) -> End {
        loop {
            let handled = match self.frame().await {
                Ok(frame) => self.handle(frame, offers),
                Err(end) => Err(end),
            };
            if let Err(end) = handled {
                return end;
            }
        }
    }

    /// Reads and forgets until the other side is gone.
    pub(crate) async fn drain(&mut self) {
        while let Some(Ok(_)) = self.stream.next().await {}
    }

    /// The next frame that can be read.
    async fn frame(&mut self) -> Result<ServerFrame, End> {
        loop {
            let message = time::timeout_at(self.deadline, self.stream.next()).await;
            let message = message.map_err(|_| {
                let limit = self.context.options.timing.read_idle;
                End::disconnected(format!("no frame from the studio for {limit:?}"))
            })?;
            match message {
                None => return Err(End::disconnected("the studio hung up")),
                Some(Err(error)) => {
                    let cause = one_line(&chain(&error), 300);
                    return Err(End::disconnected(format!("the connection broke: {cause}")));
                }
                Some(Ok(Message::Close(close))) => {
                    let close = close.map(|close| {
                        let reason = self.token.hidden_in(close.reason.as_str());
                        (CloseCode(close.code.into()), reason)
                    });
                    let close = close
                        .as_ref()
                        .map(|(code, reason)| (*code, reason.as_str()));
                    return Err(End::of_close(close));
                }
                Some(Ok(Message::Text(text))) => match ServerFrame::parse(&text) {
                    Ok(frame) => {
                        self.deadline = Instant::now() + self.context.options.timing.read_idle;
                        return Ok(frame);
                    }
                    Err(error) => self.unreadable(&error)?,
                },
                Some(Ok(Message::Binary(_))) => {
                    self.say_once("binary", "ignoring binary messages from the studio");
                    self.count()?;
                }
                // Answered by the library. They show that a proxy lives, not that the studio does.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            }
        }
    }

    fn handle(&mut self, frame: ServerFrame, offers: &Offers<'_>) -> Result<(), End> {
        let worker = &self.context.options.worker;
        match frame {
            ServerFrame::Offer(claim) => self.offer(&claim, offers),
            ServerFrame::JobCancel(job) => self.cancel(&job, offers),
            ServerFrame::PluginUpdate(text) => {
                self.plugin_update(&text);
                Ok(())
            }
            ServerFrame::CompleteAck(job) => {
                worker.complete_ack(&job);
                self.acknowledged("result", &job);
                Ok(())
            }
            ServerFrame::FailAck(job) => {
                worker.fail_ack(&job);
                self.acknowledged("failure", &job);
                Ok(())
            }
            ServerFrame::Error { code, message } => self.error(code, &message),
            ServerFrame::HeartbeatAck => Ok(()),
            ServerFrame::Welcome(_) => {
                self.say_once("welcome", "the studio said welcome twice");
                Ok(())
            }
            ServerFrame::Unknown(name) => {
                let name = one_line(&name, 40);
                self.say_once(
                    &format!("unknown {name}"),
                    &format!("ignoring `{name}` frames, which this worker does not know"),
                );
                Ok(())
            }
        }
    }

    fn offer(&mut self, claim: &str, offers: &Offers<'_>) -> Result<(), End> {
        match Claim::read(claim) {
            Ok(claim) => {
                self.context.say_of(
                    LogLevel::Info,
                    format!(
                        "offer received {} kind={} model={} vram={} game={} asset={}",
                        claim.job_id,
                        one_line(&claim.kind, 40),
                        one_line(&claim.model, 100),
                        claim.vram_gb_estimate,
                        one_line(&claim.game_id, 100),
                        one_line(&claim.asset_name, 200)
                    ),
                    Some(claim.job_id.as_str()),
                );
                offers.put(claim);
                Ok(())
            }
            Err(error) => {
                let reason = one_line(&error.reason, 300);
                if let Some(job) = error.job_id {
                    offers.unreadable(&job, reason);
                    return Ok(());
                }
                self.context
                    .warn(format!("ignoring an offer that cannot be named: {reason}"));
                self.count()
            }
        }
    }

    fn cancel(&mut self, job: &str, offers: &Offers<'_>) -> Result<(), End> {
        match JobId::parse(job) {
            Ok(job) => {
                let text = format!("the studio cancels {job}");
                self.context
                    .say_of(LogLevel::Info, text, Some(job.as_str()));
                offers.cancel(&job);
                Ok(())
            }
            Err(error) => {
                self.say_once("cancel", &format!("ignoring a jobCancel frame: {error}"));
                self.count()
            }
        }
    }

    /// One that makes no sense is answered and never counted: an update that is wrong must not cost the session, and with it a
    /// job.
    fn plugin_update(&mut self, text: &str) {
        let update = PluginUpdate::read(text);
        // A sound one is said when its turn comes, so that a flood of them is not one of the log.
        if let Err(error) = &update {
            self.say_once(
                "malformed pluginUpdate",
                &format!("refusing a pluginUpdate frame: {error}"),
            );
        }
        self.context.options.worker.plugin_update(update);
    }

    fn acknowledged(&self, what: &str, job: &str) {
        let job = one_line(job, 128);
        let text = format!("the studio acknowledged the {what} of {job}");
        self.context.say_of(LogLevel::Info, text, Some(&job));
    }

    fn error(&mut self, code: ErrorCode, message: &str) -> Result<(), End> {
        let word = one_line(&self.token.hidden_in(code.as_wire()), 40);
        let message = &self.token.hidden_in(message);
        match End::of_error(code, message) {
            Some(end) => Err(end),
            None => {
                let message = one_line(message, 300);
                let text = format!("the studio reports {word}: {message}; going on");
                self.say_once(&format!("error {word}"), &text);
                Ok(())
            }
        }
    }

    fn unreadable(&mut self, error: &FrameError) -> Result<(), End> {
        let kind = match error {
            FrameError::Untagged => "garbage".to_owned(),
            FrameError::Malformed { frame, .. } => format!("malformed {}", one_line(frame, 40)),
        };
        let text = one_line(&error.to_string(), 300);
        self.say_once(&kind, &format!("ignoring it: {text}"));
        self.count()
    }

    fn count(&mut self) -> Result<(), End> {
        self.senseless += 1;
        if self.senseless < SENSELESS {
            return Ok(());
        }
        Err(End::disconnected(format!(
            "the studio sent {SENSELESS} messages that make no sense"
        )))
    }

    fn say_once(&mut self, kind: &str, text: &str) {
        if self.said.len() < KINDS && self.said.insert(kind.to_owned()) {
            self.context.warn(text.to_owned());
        }
    }
}

fn name_of(frame: &ServerFrame) -> String {
    match frame {
        ServerFrame::Welcome(_) => "welcome".to_owned(),
        ServerFrame::Offer(_) => "offer".to_owned(),
        ServerFrame::HeartbeatAck => "heartbeatAck".to_owned(),
        ServerFrame::CompleteAck(_) => "completeAck".to_owned(),
        ServerFrame::FailAck(_) => "failAck".to_owned(),
        ServerFrame::Error { .. } => "error".to_owned(),
        ServerFrame::JobCancel(_) => "jobCancel".to_owned(),
        ServerFrame::PluginUpdate(_) => "pluginUpdate".to_owned(),
        ServerFrame::Unknown(name) => one_line(name, 40),
    }
}
