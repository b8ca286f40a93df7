//! A studio that answers as it is told, and a worker's delivery against it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use worker_delivery::{
    AsideEntry, Delivered, Delivery, Event, Kept, MediaContent, Payload, Product, Spool, Timing,
};
use worker_wire::{
    ApiBase, Extensions, JobId, LinkOutlet, Secret, StudioAccount, StudioLink, WorkerFrame,
};

/// What one request is answered with.
#[derive(Clone)]
pub enum Reply {
    Status(u16, &'static str),
    /// With one more header line.
    Header(u16, &'static str),
    /// The connection ends.
    Nothing,
    /// No answer, ever.
    Silence,
    /// An answer once somebody says so.
    Told(Arc<Notify>, u16),
}

#[derive(Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

/// The studio's upload route. Without a reply left it answers 200.
pub struct Uploads {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    arrived: Arc<Notify>,
}

impl Uploads {
    pub async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, arrived) = (Arc::default(), Arc::new(Notify::new()));
        let replies = Arc::new(Mutex::new(VecDeque::from(replies)));
        let shared = (Arc::clone(&requests), Arc::clone(&arrived));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (requests, arrived) = shared.clone();
                let replies = Arc::clone(&replies);
                tokio::spawn(serve(socket, requests, arrived, replies));
            }
        });
        Self {
            address,
            requests,
            arrived,
        }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub async fn wait_for(&self, count: usize) {
        let all = async {
            while self.requests().len() < count {
                self.arrived.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .expect("requests");
    }
}

async fn serve(
    mut socket: TcpStream,
    requests: Arc<Mutex<Vec<Request>>>,
    arrived: Arc<Notify>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
) {
    while let Some(request) = read(&mut socket).await {
        requests.lock().unwrap().push(request);
        let reply = replies.lock().unwrap().pop_front();
        arrived.notify_one();
        let (status, header, body) = match reply.unwrap_or(Reply::Status(200, "")) {
            Reply::Status(status, body) => (status, "x-none: 1", body),
            Reply::Header(status, header) => (status, header, ""),
            Reply::Nothing => return,
            Reply::Silence => std::future::pending().await,
            Reply::Told(told, status) => {
                told.notified().await;
                (status, "x-none: 1", "because of this")
            }
        };
        let answer = format!(
            "HTTP/1.1 {status} Whatever\r\n{header}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(socket: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let length = header(&text, "content-length")?.parse::<usize>().unwrap();
    while bytes.len() < head + length {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = bytes[head..head + length].to_vec();
    Some(Request { head: text, body })
}

/// A header of a request.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Short waits, so that tests are quick; the order of things is the same.
pub fn quick() -> Timing {
    Timing {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        longest_retry_after: Duration::from_millis(5),
        slot: Duration::from_secs(60),
        stall: Duration::from_secs(20),
        refusal_text: Duration::from_secs(5),
        last_words: Duration::from_millis(200),
    }
}

/// One worker process: its delivery, and what it said.
pub struct Worker {
    pub delivery: Arc<Delivery>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Worker {
    pub fn start(state: &Path, timing: Timing) -> Self {
        // A second installation is as good as the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let spool = Spool::open(&state.join("spool"), &state.join("aside")).unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let (said, events) = mpsc::unbounded_channel();
        let events_of = Arc::new(move |event| drop(said.send(event)));
        let delivery = Delivery::with_timing(spool, http, events_of, timing);
        Self { delivery, events }
    }

    pub async fn keep(&self, link: &StudioLink, job: &str, payload: Payload) -> Kept {
        let account = link.account();
        let product = Product {
            job_id: JobId::parse(job).unwrap(),
            kind: "k".into(),
            model: "m".into(),
            prompt: prompt(),
            studio: account.base.to_string(),
            worker_id: account.worker_id.clone(),
            session: link.session(),
            finished_at: SystemTime::now(),
            payload,
        };
        self.delivery.spool().keep(product).await.unwrap()
    }

    /// Keeps and delivers, in the session of the link.
    pub async fn deliver(&self, link: &StudioLink, job: &str, payload: Payload) -> Delivered {
        let kept = self.keep(link, job, payload).await;
        self.delivery
            .deliver(kept, link, &CancellationToken::new())
            .await
    }

    /// The next event that is as wanted; others are passed over.
    pub async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let next = async {
            loop {
                let event = self.events.recv().await.expect("an event");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next)
            .await
            .expect("event")
    }

    pub fn waiting(&self) -> usize {
        self.delivery.spool().waiting().unwrap()
    }

    pub fn aside(&self) -> Vec<AsideEntry> {
        self.delivery.spool().aside().list().unwrap()
    }

    /// Waits until the spool is empty: acknowledged products leave in the background.
    pub async fn emptied(&self) {
        for _ in 0..2000 {
            if self.waiting() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} products still wait", self.waiting());
    }
}

/// Over 200 characters, of many bytes each.
pub fn prompt() -> String {
    "狐 fox\r\n".repeat(60)
}

pub const PIXELS: &[u8] = b"RIFF\r\n--not a boundary\r\n\0\xff";

pub fn media() -> Payload {
    Payload::Media {
        content: MediaContent::Bytes(Bytes::from_static(PIXELS)),
        ext: "webp".into(),
        media_type: None,
    }
}

pub fn json() -> Payload {
    Payload::Json(r#"{"b":1,"a":[18446744073709551615]}"#.into())
}

pub fn failure() -> Payload {
    Payload::Failure {
        message: "no room".into(),
        retryable: true,
    }
}

/// A session's link with a studio.
pub fn session(
    address: SocketAddr,
    worker: &str,
    extensions: &[&str],
    number: u64,
) -> (StudioLink, LinkOutlet) {
    let account = StudioAccount {
        base: ApiBase::parse(&format!("http://{address}")).unwrap(),
        worker_id: worker.into(),
        token: Secret::new("tok-1"),
    };
    let names: Vec<String> = extensions.iter().map(|&name| name.to_owned()).collect();
    StudioLink::open(Arc::new(account), Extensions::from_wire(&names), number)
}

/// The frames that a session has got so far, as JSON.
pub fn frames(outlet: &mut LinkOutlet) -> Vec<serde_json::Value> {
    let mut frames = Vec::new();
    while let Ok(frame) = outlet.try_recv() {
        frames.push(as_json(&frame));
    }
    frames
}

pub fn as_json(frame: &WorkerFrame) -> serde_json::Value {
    serde_json::to_value(frame).unwrap()
}

/// The next frame of a session.
pub async fn frame(outlet: &mut LinkOutlet) -> serde_json::Value {
    let next = tokio::time::timeout(Duration::from_secs(20), outlet.recv());
    as_json(&next.await.expect("frame").expect("session"))
}
