//! A model host on loopback, and a long line to it.
//!
//! The host sends one block of random bytes again and again, so that serving costs a copy and nothing else. It knows ranges
//! and a strong tag, as model hosts do.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// What the file consists of, again and again.
const BLOCK: usize = 1 << 20;

/// Serves files until the program ends: `/17` is one of 17 bytes.
pub(crate) fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("a port");
    let block: &'static [u8] = block().leak();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up is no matter.
            std::thread::spawn(move || answer(&stream, block));
        }
    });
    address
}

/// The digest of the file of that size.
pub(crate) fn digest(size: u64) -> String {
    let block = block();
    let mut hasher = Sha256::new();
    let mut left = size;
    while left > 0 {
        let part = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        hasher.update(&block[..part]);
        left -= part as u64;
    }
    hex::encode(hasher.finalize())
}

/// Bytes that look random.
fn block() -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

fn answer(stream: &TcpStream, block: &[u8]) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let mut out = stream;
    stream.set_nodelay(true).ok()?;
    loop {
        let first = lines.next()?.ok()?;
        let size: u64 = first
            .split(' ')
            .nth(1)?
            .trim_start_matches('/')
            .parse()
            .ok()?;
        let mut range = None;
        loop {
            let line = lines.next()?.ok()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("range") {
                range = value.trim().strip_prefix("bytes=").map(str::to_owned);
            }
        }
        let (start, end) = match &range {
            Some(range) => {
                let (first, last) = range.split_once('-')?;
                (
                    first.parse().ok()?,
                    last.parse::<u64>().map_or(size, |last| last + 1),
                )
            }
            None => (0, size),
        };
        let status = if range.is_some() {
            format!(
                "206 Partial Content\r\ncontent-range: bytes {start}-{}/{size}",
                end - 1
            )
        } else {
            "200 OK".to_owned()
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"{size}\"\r\naccept-ranges: bytes\r\n\r\n",
            end - start
        );
        out.write_all(head.as_bytes()).ok()?;
        let mut at: u64 = start;
        while at < end {
            let from = usize::try_from(at % BLOCK as u64).ok()?;
            let part =
                usize::try_from(end - at).map_or(BLOCK - from, |left| left.min(BLOCK - from));
            out.write_all(&block[from..from + part]).ok()?;
            at += part as u64;
        }
    }
}

/// A line to `to`: every round trip takes `round_trip` longer, and no connection brings more than `rate` bytes a second.
pub(crate) async fn far_away(to: SocketAddr, round_trip: Duration, rate: u64) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("a port");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                // What shaking hands takes.
                sleep(round_trip).await;
                let Ok(far) = tokio::net::TcpStream::connect(to).await else {
                    return;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::join!(
                    carry(near_in, far_out, round_trip / 2, rate),
                    carry(far_in, near_out, round_trip / 2, rate)
                );
            });
        }
    });
    address
}

/// Carries bytes in one direction: each is there after `delay`, and not before those ahead of it let it through.
async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    delay: Duration,
    rate: u64,
) {
    let (sender, mut line) = mpsc::channel::<(Instant, Vec<u8>)>(32);
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let piece = (Instant::now() + delay, buffer[..read].to_vec());
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        let mut free = Instant::now();
        while let Some((due, bytes)) = line.recv().await {
            sleep_until(due.max(free)).await;
            let takes = Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
            free = free.max(due) + takes;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The other side may have gone already.
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
