//! A studio that answers as a test has scripted it, and writes down what it was sent.
//!
//! It knows none of the worker's types: frames are JSON, routes are text. What is not scripted is answered as a studio does
//! that has approved `w-1`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Request, State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Router, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::multipart::{self, Field};
use crate::wait::soon;

/// An answer to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Status(u16, String),
    /// 200 and these bytes.
    Bytes(Vec<u8>),
    /// A redirect to this URL.
    Redirect(String),
    /// 200 and these bytes, once a permit is there.
    After(Arc<tokio::sync::Semaphore>, Vec<u8>),
    /// 429 or 503 with `Retry-After` seconds.
    RetryAfter(u16, u32),
    /// None, ever.
    Silence,
    /// A head, and the connection cut where the body should be.
    Cut,
    /// The upgrade, without the sub-protocol.
    WithoutSubprotocol,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self::Status(status, String::new())
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    /// `register`, `poll`, `connect`, `complete` or `plugin`.
    pub route: &'static str,
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("a text"))
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The body as a form.
    pub fn form(&self) -> Vec<Field> {
        multipart::fields(
            self.header("content-type").expect("a form has a type"),
            &self.body,
        )
    }
}

#[derive(Default)]
struct Script {
    replies: Mutex<VecDeque<(&'static str, Reply)>>,
    calls: Mutex<Vec<Call>>,
    called: Notify,
}

impl Script {
    fn next(&self, route: &str) -> Option<Reply> {
        let mut replies = self.replies.lock().expect("no test panics here");
        let at = replies.iter().position(|(of, _)| *of == route)?;
        replies.remove(at).map(|(_, reply)| reply)
    }
}

#[derive(Clone)]
struct Desk {
    script: Arc<Script>,
    peers: mpsc::UnboundedSender<Peer>,
}

/// The studio.
pub struct ScriptedStudio {
    /// Where it listens.
    pub address: SocketAddr,
    desk: Desk,
    peers: tokio::sync::Mutex<mpsc::UnboundedReceiver<Peer>>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl ScriptedStudio {
    /// Starts one on a port of its own.
    pub async fn start() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let desk = Desk {
            script: Arc::default(),
            peers: sender,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port");
        let server = Mutex::new(Some(listen(listener, desk.clone())));
        Self {
            address,
            desk,
            peers: tokio::sync::Mutex::new(receiver),
            server,
        }
    }

    /// Its `api_base_url`.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// No longer listens; sockets that are open stay so until their `Peer` is dropped.
    pub async fn vanish(&self) {
        let server = self.server.lock().expect("no test panics here").take();
        if let Some(server) = server {
            server.abort();
            let _ = server.await;
        }
    }

    /// Listens again, on the same port.
    pub async fn come_back(&self) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the same port");
        *self.server.lock().expect("no test panics here") =
            Some(listen(listener, self.desk.clone()));
    }

    /// Scripts the next unscripted answer of a route.
    pub fn on(&self, route: &'static str, reply: Reply) -> &Self {
        self.desk
            .script
            .replies
            .lock()
            .expect("no test panics here")
            .push_back((route, reply));
        self
    }

    /// Scripts a JSON answer.
    pub fn on_json(&self, route: &'static str, body: Value) -> &Self {
        self.on(route, Reply::Status(200, body.to_string()))
    }

    /// The requests of a route so far.
    pub fn calls(&self, route: &str) -> Vec<Call> {
        let calls = self.desk.script.calls.lock().expect("no test panics here");
        calls
            .iter()
            .filter(|call| call.route == route)
            .cloned()
            .collect()
    }

    /// How many requests a route has had.
    pub fn count(&self, route: &str) -> usize {
        let calls = self.desk.script.calls.lock().expect("no test panics here");
        calls.iter().filter(|call| call.route == route).count()
    }

    /// Waits until a route has had `count` requests; all of them.
    pub async fn called(&self, route: &str, count: usize) -> Vec<Call> {
        self.counted(route, count).await;
        self.calls(route)
    }

    /// Only waits, and copies no requests: for what is timed.
    pub async fn counted(&self, route: &str, count: usize) {
        soon(&format!("request {count} of {route}"), async {
            loop {
                let next = self.desk.script.called.notified();
                tokio::pin!(next);
                next.as_mut().enable();
                if self.count(route) >= count {
                    return;
                }
                next.await;
            }
        })
        .await;
    }

    /// The next socket, before its first frame.
    pub async fn peer(&self) -> Peer {
        soon("a socket", async { self.peers.lock().await.recv().await })
            .await
            .expect("the studio lives")
    }

    /// The next socket, welcomed.
    pub async fn welcomed(&self) -> Peer {
        self.welcomed_with(&[]).await
    }

    /// The next socket, welcomed by a studio with extensions.
    pub async fn welcomed_with(&self, extensions: &[&str]) -> Peer {
        let mut peer = self.peer().await;
        peer.expect("hello").await;
        peer.welcome(extensions).await;
        peer
    }
}

impl Drop for ScriptedStudio {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().ok().and_then(|mut server| server.take()) {
            server.abort();
        }
    }
}

fn listen(listener: TcpListener, desk: Desk) -> JoinHandle<()> {
    let routes = Router::new()
        .route("/workers/register-request", post(register))
        .route("/workers/register-requests/{id}", get(poll))
        .route("/workers/{id}/connect", get(connect))
        .route("/workers/{id}/jobs/{job}/complete", post(complete))
        .route("/workers/{id}/plugins/{name}", get(plugin))
        .layer(DefaultBodyLimit::disable())
        .with_state(desk);
    let app = Router::new().nest("/graphics/api", routes);
    // As studios do: small answers must not wait for more.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { serve(listener, app).await.expect("serving") })
}

fn record(desk: &Desk, route: &'static str, path: String, headers: HeaderMap, body: Bytes) {
    let call = Call {
        route,
        path,
        headers,
        body,
    };
    desk.script
        .calls
        .lock()
        .expect("no test panics here")
        .push(call);
    desk.script.called.notify_waiters();
}

async fn answer(reply: Reply) -> Response {
    match reply {
        Reply::Status(status, body) => {
            let mut response =
                (StatusCode::from_u16(status).expect("a status"), body).into_response();
            if (300..400).contains(&status) {
                let elsewhere = "http://127.0.0.1:9/elsewhere".parse().expect("a header");
                response.headers_mut().insert("location", elsewhere);
            }
            response
        }
        Reply::RetryAfter(status, seconds) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, [("retry-after", seconds.to_string())]).into_response()
        }
        Reply::Bytes(bytes) => bytes.into_response(),
        Reply::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Reply::After(permits, bytes) => {
            permits
                .acquire()
                .await
                .expect("it is never closed")
                .forget();
            bytes.into_response()
        }
        Reply::Silence => std::future::pending().await,
        Reply::Cut => {
            let cut = futures_util::stream::once(async {
                Err::<Bytes, _>(std::io::Error::other("cut by the script"))
            });
            ([("content-length", "100")], Body::from_stream(cut)).into_response()
        }
        Reply::WithoutSubprotocol => panic!("only an upgrade can go without a sub-protocol"),
    }
}

async fn register(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    record(&desk, "register", String::new(), headers, body);
    let scripted = desk.script.next("register");
    let approved = json!({"requestId": "rr-1", "status": "approved"}).to_string();
    answer(scripted.unwrap_or(Reply::Status(200, approved))).await
}

async fn poll(State(desk): State<Desk>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    record(&desk, "poll", id, headers, Bytes::new());
    let scripted = desk.script.next("poll");
    let approved = json!({"status": "approved", "workerId": "w-1", "authToken": "tok"}).to_string();
    answer(scripted.unwrap_or(Reply::Status(200, approved))).await
}

async fn complete(
    State(desk): State<Desk>,
    Path((worker, job)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    record(&desk, "complete", format!("{worker}/{job}"), headers, body);
    answer(
        desk.script
            .next("complete")
            .unwrap_or(Reply::Status(200, "{}".to_owned())),
    )
    .await
}

async fn plugin(
    State(desk): State<Desk>,
    Path((worker, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    record(
        &desk,
        "plugin",
        format!("{worker}/{name}"),
        headers,
        Bytes::new(),
    );
    let scripted = desk.script.next("plugin");
    answer(scripted.unwrap_or(Reply::status(404))).await
}

async fn connect(State(desk): State<Desk>, Path(id): Path<String>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    record(&desk, "connect", id, parts.headers.clone(), Bytes::new());
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .expect("an upgrade");
    let upgrade = match desk.script.next("connect") {
        None => upgrade.protocols(["studio-worker-v1"]),
        Some(Reply::WithoutSubprotocol) => upgrade,
        Some(reply) => return answer(reply).await,
    };
    let upgrade = upgrade.max_message_size(64 << 20).max_frame_size(16 << 20);
    upgrade.on_upgrade(move |socket| async move {
        // A test that is over takes no more sockets.
        let _ = desk.peers.send(Peer { socket });
    })
}

/// The studio's end of one socket. Dropping it drops the connection without a close.
pub struct Peer {
    socket: WebSocket,
}

impl Peer {
    /// Sends a frame.
    pub async fn send(&mut self, frame: Value) {
        self.text(&frame.to_string()).await;
    }

    /// Sends a text, whatever it is.
    pub async fn text(&mut self, text: &str) {
        self.message(Message::text(text)).await;
    }

    /// Sends a text to a worker that may hang up meanwhile.
    pub async fn try_text(&mut self, text: &str) -> Result<(), axum::Error> {
        self.socket.send(Message::text(text)).await
    }

    /// Sends a message.
    pub async fn message(&mut self, message: Message) {
        soon("the worker to read", self.socket.send(message))
            .await
            .expect("an open socket");
    }

    /// Opens the gate.
    pub async fn welcome(&mut self, extensions: &[&str]) {
        let mut frame =
            json!({"type": "welcome", "workerId": "w-1", "serverTime": "2026-01-01T00:00:00Z"});
        if !extensions.is_empty() {
            frame["extensions"] = json!(extensions);
        }
        self.send(frame).await;
    }

    /// Offers a job.
    pub async fn offer(&mut self, claim: &Value) {
        self.send(json!({"type": "offer", "claim": claim})).await;
    }

    /// Offers a job that must be taken.
    pub async fn accepted(&mut self, claim: &Value) {
        self.offer(claim).await;
        let accept = self.expect("accept").await;
        assert_eq!(accept["jobId"], claim["jobId"]);
    }

    /// Offers a job that must be turned away; gives code and reason.
    pub async fn rejected(&mut self, claim: &Value) -> (String, String) {
        self.offer(claim).await;
        let reject = self.expect("reject").await;
        assert_eq!(reject["jobId"], claim["jobId"]);
        let text = |field: &str| {
            reject[field]
                .as_str()
                .unwrap_or_else(|| panic!("no {field}: {reject}"))
                .to_owned()
        };
        (text("code"), text("reason"))
    }

    /// Sends an `error` frame.
    pub async fn error(&mut self, code: &str) {
        self.send(json!({"type": "error", "code": code, "message": "because"}))
            .await;
    }

    /// Closes, with a code or without.
    pub async fn close(&mut self, code: Option<u16>) {
        let frame = code.map(|code| CloseFrame {
            code,
            reason: "because".into(),
        });
        let _ = self.socket.send(Message::Close(frame)).await;
    }

    /// The next frame, whatever it is.
    pub async fn frame(&mut self) -> Value {
        loop {
            match soon("a frame", self.socket.recv()).await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).expect("a frame is JSON");
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was expected, not {other:?}"),
            }
        }
    }

    /// The next frame of one type. Heartbeats, logs and progress before it are passed over, and nothing else.
    pub async fn expect(&mut self, kind: &str) -> Value {
        // Heartbeats come for ever, so that each frame's own bound is none for the one that is waited for.
        soon(&format!("a frame {kind}"), async {
            loop {
                let frame = self.frame().await;
                match frame["type"].as_str().expect("a frame has a type") {
                    found if found == kind => return frame,
                    "heartbeat" | "logBatch" | "progress" => {
                        self.acknowledge_heartbeat(&frame).await;
                    }
                    other => panic!("{kind} was expected, not {other}: {frame}"),
                }
            }
        })
        .await
    }

    /// The next frame that is of none of these types.
    pub async fn next_but(&mut self, passed_over: &[&str]) -> Value {
        loop {
            let frame = self.frame().await;
            if !passed_over.iter().any(|kind| frame["type"] == *kind) {
                return frame;
            }
            self.acknowledge_heartbeat(&frame).await;
        }
    }

    /// Waits for a JSON result, and acknowledges it.
    pub async fn expect_result(&mut self) -> Value {
        let frame = self.expect("completeJson").await;
        self.send(json!({"type": "completeAck", "jobId": frame["jobId"]}))
            .await;
        frame
    }

    /// Waits for a failure, and acknowledges it; gives its text and whether the job may be offered again.
    pub async fn expect_fail(&mut self) -> (String, bool) {
        let frame = self.expect("fail").await;
        self.send(json!({"type": "failAck", "jobId": frame["jobId"]}))
            .await;
        let text = frame["error"].as_str().expect("a text").to_owned();
        (
            text,
            frame["retryable"].as_bool().expect("a word on retrying"),
        )
    }

    /// Reads log batches until a message contains `needle`; gives that entry.
    pub async fn logged(&mut self, needle: &str) -> Value {
        loop {
            let batch = self.expect("logBatch").await;
            let entries = batch["entries"].as_array().expect("entries");
            let found = entries.iter().find(|entry| {
                entry["message"]
                    .as_str()
                    .expect("a message")
                    .contains(needle)
            });
            if let Some(entry) = found {
                return entry.clone();
            }
        }
    }

    /// The rest of the session: its frames, and code and reason of the worker's close.
    pub async fn end(&mut self) -> (Vec<Value>, Option<(u16, String)>) {
        let mut frames = Vec::new();
        loop {
            match soon("the end of the session", self.socket.recv()).await {
                Some(Ok(Message::Text(text))) => {
                    frames.push(serde_json::from_str(&text).expect("a frame is JSON"))
                }
                Some(Ok(Message::Close(close))) => {
                    return (
                        frames,
                        close.map(|close| (close.code, close.reason.to_string())),
                    );
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (frames, None),
            }
        }
    }

    /// Reads to the worker's close, which must carry `reason`.
    pub async fn closed_with(&mut self, reason: &str) {
        let (frames, close) = self.end().await;
        assert_eq!(close, Some((1000, reason.to_owned())), "after {frames:?}");
    }

    /// The studio's side of a heartbeat, which feeds the worker's idle timer.
    async fn acknowledge_heartbeat(&mut self, frame: &Value) {
        if frame["type"] == "heartbeat" {
            self.send(json!({"type": "heartbeatAck"})).await;
        }
    }
}
