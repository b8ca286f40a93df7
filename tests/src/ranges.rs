//! A server of one file in ranges, which can be held up in the middle and tells what it was asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};

/// Bytes between two looks at the gate.
const PIECE: usize = 64 * 1024;

struct Shared {
    content: Vec<u8>,
    /// Bytes that may be sent over all connections together.
    gate: AtomicU64,
    sent: AtomicU64,
    /// First byte asked for, of each request.
    asked: Mutex<Vec<u64>>,
}

/// The server.
pub struct RangeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl RangeServer {
    /// Serves `content` under any name, and stops after `gate` bytes.
    pub async fn start(content: Vec<u8>, gate: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port");
        let shared = Arc::new(Shared {
            content,
            gate: AtomicU64::new(gate),
            sent: AtomicU64::new(0),
            asked: Mutex::default(),
        });
        let serving = shared.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        Self {
            address,
            shared,
            server,
        }
    }

    /// A URL of the file.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Bytes of content sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Where each request so far began.
    pub fn asked(&self) -> Vec<u64> {
        self.shared
            .asked
            .lock()
            .expect("no test panics here")
            .clone()
    }

    /// Sends without bound from now on, and counts anew.
    pub fn open(&self) {
        self.shared.sent.store(0, Ordering::SeqCst);
        self.shared
            .asked
            .lock()
            .expect("no test panics here")
            .clear();
        self.shared.gate.store(u64::MAX, Ordering::SeqCst);
    }
}

impl Drop for RangeServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let whole = shared.content.len();
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.trim().split_once('-'));
    let number = |text: &str| text.parse::<usize>().ok();
    let (from, to) = match range {
        Some((from, to)) => (
            number(from).unwrap_or(0),
            number(to).map_or(whole, |last| (last + 1).min(whole)),
        ),
        None => (0, whole),
    };
    shared
        .asked
        .lock()
        .expect("no test panics here")
        .push(from as u64);
    let status = match range {
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{whole}",
            to - 1
        ),
        None => "200 OK".to_owned(),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nETag: \"one\"\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        to - from
    );
    if stream.write_all(answer.as_bytes()).await.is_err() {
        return;
    }
    for piece in shared.content[from..to].chunks(PIECE) {
        while shared.sent.load(Ordering::SeqCst) >= shared.gate.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        if stream.write_all(piece).await.is_err() {
            return;
        }
        shared.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
}
