//! A studio that does what a test tells it to.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use worker_wire::{ApiBase, SUBPROTOCOL};

use super::soon;

/// A status and a body.
pub(crate) type Reply = (u16, String);

pub(crate) enum Upgrade {
    Accept,
    WithoutSubprotocol,
    Refuse(Reply),
}

/// What reached the studio over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) route: &'static str,
    pub(crate) id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

#[derive(Default)]
struct Script {
    register: Mutex<VecDeque<Reply>>,
    poll: Mutex<VecDeque<Reply>>,
    upgrade: Mutex<VecDeque<Upgrade>>,
    calls: Mutex<Vec<Call>>,
}

#[derive(Clone)]
struct Desk {
    script: Arc<Script>,
    peers: mpsc::UnboundedSender<Peer>,
}

/// The scripted studio. What is not scripted is answered as a friendly studio would that never approves.
pub(crate) struct Studio {
    pub(crate) address: SocketAddr,
    script: Arc<Script>,
    peers: tokio::sync::Mutex<mpsc::UnboundedReceiver<Peer>>,
    server: JoinHandle<()>,
}

impl Drop for Studio {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Studio {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        let script = Arc::new(Script::default());
        let desk = Desk {
            script: script.clone(),
            peers: sender,
        };
        let routes = Router::new()
            .route("/workers/register-request", post(register))
            .route("/workers/register-requests/{id}", get(poll))
            .route("/workers/{id}/connect", get(connect))
            .with_state(desk);
        let app = Router::new().nest("/graphics/api", routes);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            script,
            peers: tokio::sync::Mutex::new(receiver),
            server,
        }
    }

    pub(crate) fn base(&self) -> ApiBase {
        ApiBase::parse(&format!("http://{}", self.address)).unwrap()
    }

    pub(crate) fn on_register(&self, status: u16, body: impl ToString) {
        self.script
            .register
            .lock()
            .unwrap()
            .push_back((status, body.to_string()));
    }

    pub(crate) fn on_poll(&self, status: u16, body: impl ToString) {
        self.script
            .poll
            .lock()
            .unwrap()
            .push_back((status, body.to_string()));
    }

    pub(crate) fn on_upgrade(&self, upgrade: Upgrade) {
        self.script.upgrade.lock().unwrap().push_back(upgrade);
    }

    pub(crate) fn refuse(&self, status: u16, body: &str) {
        self.on_upgrade(Upgrade::Refuse((status, body.to_owned())));
    }

    pub(crate) fn calls(&self, route: &str) -> Vec<Call> {
        let calls = self.script.calls.lock().unwrap();
        calls.iter().filter(|c| c.route == route).cloned().collect()
    }

    /// Waits until a route was called `count` times.
    pub(crate) async fn called(&self, route: &str, count: usize) -> Vec<Call> {
        soon(&format!("call {count} of {route}"), async {
            loop {
                let calls = self.calls(route);
                if calls.len() >= count {
                    return calls;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// The next socket, before its first frame.
    pub(crate) async fn peer(&self) -> Peer {
        soon("a connection", async {
            self.peers.lock().await.recv().await.unwrap()
        })
        .await
    }

    /// The next socket, past `hello` and `welcome`.
    pub(crate) async fn welcomed(&self) -> Peer {
        let mut peer = self.peer().await;
        peer.expect("hello").await;
        peer.send(welcome()).await;
        peer
    }
}

pub(crate) fn welcome() -> Value {
    json!({"type": "welcome", "workerId": "w-1", "serverTime": "now"})
}

fn record(desk: &Desk, route: &'static str, id: String, headers: HeaderMap, body: &[u8]) {
    let body = serde_json::from_slice(body).unwrap_or(Value::Null);
    desk.script.calls.lock().unwrap().push(Call {
        route,
        id,
        headers,
        body,
    });
}

fn reply((status, body): Reply) -> Response {
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    if (300..400).contains(&status) {
        let elsewhere = "http://127.0.0.1:9/elsewhere".parse().unwrap();
        response.headers_mut().insert("location", elsewhere);
    }
    response
}

async fn register(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    record(&desk, "register", String::new(), headers, &body);
    let scripted = desk.script.register.lock().unwrap().pop_front();
    let pending = json!({"requestId": "rr-1", "status": "pending"}).to_string();
    reply(scripted.unwrap_or((200, pending)))
}

async fn poll(State(desk): State<Desk>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    record(&desk, "poll", id, headers, b"");
    let scripted = desk.script.poll.lock().unwrap().pop_front();
    reply(scripted.unwrap_or((200, json!({"status": "pending"}).to_string())))
}

async fn connect(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    record(&desk, "connect", id, headers, b"");
    let scripted = desk.script.upgrade.lock().unwrap().pop_front();
    let upgrade = match scripted.unwrap_or(Upgrade::Accept) {
        Upgrade::Refuse(refusal) => return reply(refusal),
        Upgrade::Accept => upgrade.protocols([SUBPROTOCOL]),
        Upgrade::WithoutSubprotocol => upgrade,
    };
    upgrade.on_upgrade(move |socket| async move {
        // A test that is over takes no more sockets.
        let _ = desk.peers.send(Peer { socket });
    })
}

/// The studio's end of one socket.
pub(crate) struct Peer {
    pub(crate) socket: WebSocket,
}

impl Peer {
    pub(crate) async fn send(&mut self, frame: Value) {
        self.text(&frame.to_string()).await;
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn offer(&mut self, job: &str) {
        self.send(json!({"type": "offer", "claim": claim(job)}))
            .await;
    }

    pub(crate) async fn error(&mut self, code: &str) {
        let frame = json!({"type": "error", "code": code, "message": "because"});
        self.send(frame).await;
    }

    pub(crate) async fn close(&mut self, code: u16) {
        let close = CloseFrame {
            code,
            reason: "because".into(),
        };
        let _ = self.socket.send(Message::Close(Some(close))).await;
    }

    /// The next frame, whatever it is.
    pub(crate) async fn frame(&mut self) -> Value {
        loop {
            match self.message().await {
                Some(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Some(Message::Pong(_)) => {}
                other => panic!("a frame was expected, not {other:?}"),
            }
        }
    }

    /// The next frame of one type; heartbeats and logs before it are passed over, and nothing else.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.frame().await;
            match frame["type"].as_str().unwrap() {
                found if found == kind => return frame,
                "heartbeat" | "logBatch" => {}
                other => panic!("{kind} was expected, not {other}: {frame}"),
            }
        }
    }

    /// The worker's close, as code and reason; frames before it are returned too.
    pub(crate) async fn end(&mut self) -> (Vec<Value>, Option<(u16, String)>) {
        let mut frames = Vec::new();
        loop {
            match self.message().await {
                Some(Message::Text(text)) => frames.push(serde_json::from_str(&text).unwrap()),
                Some(Message::Close(close)) => {
                    let close = close.map(|c| (c.code, c.reason.to_string()));
                    return (frames, close);
                }
                Some(_) => {}
                None => return (frames, None),
            }
        }
    }

    pub(crate) async fn closed_with(&mut self, reason: &str) {
        let (_, close) = self.end().await;
        assert_eq!(close, Some((1000, reason.to_owned())));
    }

    async fn message(&mut self) -> Option<Message> {
        let message = soon("a message", self.socket.recv()).await;
        message.and_then(Result::ok)
    }
}

pub(crate) fn claim(job: &str) -> Value {
    json!({"jobId": job, "gameId": "g", "assetName": "g/a", "model": "m", "vramGbEstimate": 1.5,
        "task": {"kind": "mesh", "seed": 18446744073709551615u64}, "modelSource": {"engine": "e"}})
}

/// Log messages of a frame.
pub(crate) fn messages(batch: &Value) -> Vec<String> {
    let entries = batch["entries"].as_array().unwrap();
    entries
        .iter()
        .map(|e| e["message"].as_str().unwrap().to_owned())
        .collect()
}

/// Reads log batches until a message contains `needle`; gives that message.
pub(crate) async fn logged(peer: &mut Peer, needle: &str) -> String {
    loop {
        let batch = peer.expect("logBatch").await;
        if let Some(found) = messages(&batch).into_iter().find(|m| m.contains(needle)) {
            return found;
        }
    }
}
