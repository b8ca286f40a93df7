//! A worker that does what the test says.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{PATIENCE, capabilities};

/// One end of a session, which does what the test says.
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) capabilities: Value,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Worker {
    pub(crate) fn new(
        id: &str,
        token: &str,
        socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            token: token.to_owned(),
            capabilities: capabilities(),
            socket,
        }
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        self.text(frame.to_string()).await;
    }

    pub(crate) async fn text(&mut self, text: String) {
        self.message(Message::Text(text.into())).await;
    }

    pub(crate) async fn message(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// The next frame, whatever it is.
    pub(crate) async fn frame(&mut self) -> Value {
        self.maybe_frame().await.expect("the session was closed")
    }

    async fn maybe_frame(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("no frame came");
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).unwrap());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return None,
            }
        }
    }

    /// Sends a heartbeat and takes its acknowledgement.
    pub(crate) async fn beat(&mut self) {
        self.beat_with(None).await;
    }

    pub(crate) async fn beat_with(&mut self, job: Option<&str>) {
        self.send_beat(job).await;
        assert_eq!(self.frame().await["type"], "heartbeatAck");
    }

    pub(crate) async fn send_beat(&mut self, job: Option<&str>) {
        let mut frame = json!({"type": "heartbeat", "capabilities": self.capabilities});
        if let Some(job) = job {
            frame["currentJobId"] = job.into();
        }
        self.send(frame).await;
    }

    /// The next frame must be an offer; its claim.
    pub(crate) async fn offer(&mut self) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["type"], "offer", "{frame}");
        frame["claim"].clone()
    }

    /// Takes the next offer; its job.
    pub(crate) async fn accept(&mut self) -> String {
        let id = self.offer().await["jobId"].as_str().unwrap().to_owned();
        self.send(json!({"type": "accept", "jobId": id})).await;
        id
    }

    pub(crate) async fn reject(&mut self, job: &str, reason: &str, code: Option<&str>) {
        let mut frame = json!({"type": "reject", "jobId": job, "reason": reason});
        if let Some(code) = code {
            frame["code"] = code.into();
        }
        self.send(frame).await;
    }

    pub(crate) async fn complete(&mut self, job: &str, result: Value) {
        self.send(json!({"type": "completeJson", "jobId": job, "result": result, "prompt": "p"}))
            .await;
    }

    pub(crate) async fn fail(&mut self, job: &str, error: &str, retryable: bool) {
        self.send(json!({"type": "fail", "jobId": job, "error": error, "retryable": retryable}))
            .await;
    }

    /// Proves that nothing was sent: a heartbeat's acknowledgement is the next frame.
    pub(crate) async fn expect_nothing(&mut self, job: Option<&str>) {
        self.beat_with(job).await;
    }

    /// The error frame, if one came, and the close code that ended the session.
    pub(crate) async fn ended(&mut self) -> (Option<String>, u16) {
        let mut error = None;
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("the session was not closed");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == "error" {
                        error = Some(frame["code"].as_str().unwrap().to_owned());
                    }
                }
                Some(Ok(Message::Close(Some(close)))) => return (error, close.code.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no close frame, but {other:?}"),
            }
        }
    }

    /// Drops the connection without a word.
    pub(crate) fn vanish(self) -> (String, String) {
        (self.id, self.token)
    }

    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.id, &self.token)
    }
}
