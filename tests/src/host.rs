//! A host on loopback that keeps every request as it came, byte for byte, and answers as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These bytes, then the end of the connection.
    Whole(Vec<u8>),
    /// These bytes, again and again.
    Endless(Vec<u8>),
    /// None, ever.
    Silence,
    /// Parts: before each but the first a permit is waited for.
    Parts(Vec<Vec<u8>>, Arc<Semaphore>),
}

impl Answer {
    /// A status with its reason, further header lines, and a body.
    pub fn new(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut all = head(status, headers, Some(body.len())).into_bytes();
        all.extend(body);
        Self::Whole(all)
    }

    /// 200 with a body.
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::new("200 OK", &[], body)
    }

    /// 302 to somewhere.
    pub fn redirect(to: &str) -> Self {
        Self::new("302 Found", &[&format!("Location: {to}")], "")
    }

    /// A file that comes in equal parts, each held back until a permit is there.
    pub fn parts(body: &[u8], count: usize, gate: &Arc<Semaphore>) -> Self {
        let mut parts = vec![head("200 OK", &[], Some(body.len())).into_bytes()];
        parts.extend(body.chunks(body.len().div_ceil(count)).map(<[u8]>::to_vec));
        Self::Parts(parts, gate.clone())
    }
}

/// The head of an answer; without a length its body ends with the connection.
pub fn head(status: &str, headers: &[&str], length: Option<usize>) -> String {
    let mut lines = vec![format!("HTTP/1.1 {status}")];
    lines.extend(headers.iter().map(|line| (*line).to_owned()));
    lines.extend(length.map(|length| format!("Content-Length: {length}")));
    lines.push("Connection: close".to_owned());
    lines.join("\r\n") + "\r\n\r\n"
}

/// The host.
pub struct Host {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Host {
    /// Starts one. `answer` gets the request's target.
    pub async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port");
        let (requests, answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(answer));
        let seen = requests.clone();
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (seen, answer) = (seen.clone(), answer.clone());
                tokio::spawn(async move {
                    // Whoever asked may be gone: that is no matter of the host's.
                    let _ = serve(socket, &seen, &*answer).await;
                });
            }
        });
        Self {
            address,
            requests,
            server,
        }
    }

    /// `127.0.0.1:PORT`, as grants name it.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// The URL of a target.
    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// All requests so far, head and body.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panics here").clone()
    }

    /// The requests for one target.
    pub fn asked(&self, target: &str) -> Vec<String> {
        let mut all = self.requests();
        all.retain(|request| request.split(' ').nth(1) == Some(target));
        all
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    mut socket: TcpStream,
    seen: &Mutex<Vec<String>>,
    answer: &(dyn Fn(&str) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    let request = read(&mut socket).await?;
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().expect("no test panics here").push(request);
    match answer(&target) {
        Answer::Whole(bytes) => socket.write_all(&bytes).await?,
        Answer::Endless(bytes) => loop {
            socket.write_all(&bytes).await?;
        },
        Answer::Silence => std::future::pending().await,
        Answer::Parts(parts, gate) => {
            for (number, part) in parts.iter().enumerate() {
                if number > 0 {
                    gate.acquire().await.expect("an open gate").forget();
                }
                socket.write_all(part).await?;
            }
        }
    }
    socket.shutdown().await
}

async fn read(socket: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut wanted = None;
    loop {
        if wanted.is_some_and(|wanted| bytes.len() >= wanted) {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            wanted = Some(end + 4 + length.unwrap_or(0));
        }
    }
}
