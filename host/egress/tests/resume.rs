//! Resumable downloads from a server on loopback that knows ranges, and misbehaves as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use worker_egress::{DownloadError, Downloaded, Egress, Policy, Wanted};

/// What the server does with each request, by its number from 0.
#[derive(Clone, Copy)]
enum How {
    Well,
    /// Sends this many bytes of the body and closes.
    Cut(usize),
    /// Answers this status.
    Status(u16),
    /// Says another range than it was asked for.
    Lie,
    /// Sends other bytes.
    Other,
    /// Well, with this validator instead of the host's.
    As(&'static str),
}

/// The range of each request, none for a whole file.
type Seen = Arc<Mutex<Vec<Option<(usize, usize)>>>>;

struct Host {
    url: String,
    seen: Seen,
    tag: Arc<Mutex<String>>,
    body: Arc<Vec<u8>>,
    most_at_once: Arc<AtomicUsize>,
}

type Script = Arc<dyn Fn(usize) -> How + Send + Sync>;

impl Host {
    async fn start(
        size: usize,
        tag: &str,
        script: impl Fn(usize) -> How + Send + Sync + 'static,
    ) -> Self {
        let body: Vec<u8> = (0..size).map(|n| (n * 31 + n / 251) as u8).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Self {
            url: format!("http://{}/m?token=planted", listener.local_addr().unwrap()),
            seen: Arc::default(),
            tag: Arc::new(Mutex::new(tag.to_owned())),
            body: Arc::new(body),
            most_at_once: Arc::default(),
        };
        let (seen, tag, body, most) = (
            host.seen.clone(),
            host.tag.clone(),
            host.body.clone(),
            host.most_at_once.clone(),
        );
        let script: Script = Arc::new(script);
        let now = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let tag = tag.lock().unwrap().clone();
                let (seen, body, script) = (seen.clone(), body.clone(), script.clone());
                let (most, now) = (most.clone(), now.clone());
                tokio::spawn(async move {
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    answer(socket, &seen, &tag, &body, &script).await;
                    now.fetch_sub(1, SeqCst);
                });
            }
        });
        host
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(&*self.body).into()
    }

    fn seen(&self) -> Vec<Option<(usize, usize)>> {
        self.seen.lock().unwrap().clone()
    }
}

async fn answer(
    mut socket: TcpStream,
    seen: &Mutex<Vec<Option<(usize, usize)>>>,
    tag: &str,
    body: &[u8],
    script: &Script,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if socket.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()))
    };
    // A weak tag is equal to none here, as HTTP has it.
    let fresh = field("if-range:")
        .is_none_or(|wanted| wanted == tag.to_lowercase() && !wanted.starts_with("w/"));
    let range = field("range:").filter(|_| fresh).map(|text| {
        let (from, to) = text
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let to = to
            .parse::<usize>()
            .map_or(body.len(), |last| (last + 1).min(body.len()));
        (from.parse::<usize>().unwrap(), to)
    });
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(range);
        seen.len() - 1
    };
    let how = script(number);
    if let How::Status(status) = how {
        let text = format!(
            "HTTP/1.1 {status} No\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let _ = socket.write_all(text.as_bytes()).await;
        return;
    }
    let tag = match how {
        How::As(tag) => tag,
        _ => tag,
    };
    let (from, to) = range.unwrap_or((0, body.len()));
    let mut bytes = body[from..to].to_vec();
    if matches!(how, How::Other) {
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
    }
    let shift = usize::from(matches!(how, How::Lie));
    let first = match range {
        Some(_) => format!(
            "206 Partial\r\nContent-Range: bytes {}-{}/{}",
            from + shift,
            to - 1,
            body.len()
        ),
        None => "200 OK".to_owned(),
    };
    let text = format!(
        "HTTP/1.1 {first}\r\n{}: {tag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        // What is no tag is a time.
        if tag.contains('"') {
            "ETag"
        } else {
            "Last-Modified"
        },
        bytes.len()
    );
    let _ = socket.write_all(text.as_bytes()).await;
    if let How::Cut(at) = how {
        bytes.truncate(at);
    }
    let _ = socket.write_all(&bytes).await;
    let _ = socket.shutdown().await;
}

fn policy() -> Policy {
    Policy {
        allow_http_loopback: true,
        backoff: Duration::from_millis(1),
        stall: Duration::from_secs(20),
        attempts: 3,
        outage: Duration::ZERO,
        connections: 4,
        piece_bytes: 64 << 10,
        parallel_from: 1 << 30,
        disk_reserve: 0,
        ..Policy::default()
    }
}

async fn get(
    policy: Policy,
    host: &Host,
    partial: &std::path::Path,
    sha256: Option<[u8; 32]>,
) -> (Result<Downloaded, DownloadError>, Vec<u64>) {
    let wanted = Wanted {
        sha256,
        ..Wanted::default()
    };
    let heard = Mutex::new(Vec::new());
    let on_progress = |done, _| heard.lock().unwrap().push(done);
    let egress = Egress::new(policy).unwrap();
    let cancel = CancellationToken::new();
    let result = egress
        .download_resumable(&host.url, partial, &wanted, &on_progress, &cancel)
        .await;
    if let Err(error) = &result {
        assert!(
            !format!("{error} {error:?}").contains("planted"),
            "{error:?}"
        );
    }
    let heard = heard.into_inner().unwrap();
    assert!(heard.is_sorted(), "progress fell: {heard:?}");
    (result, heard)
}

const SIZE: usize = 600_000;

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_also_in_another_call() {
    let host = Host::start(SIZE, "\"v1\"", |n| match n {
        0 => How::Cut(200_000),
        1..=2 => How::Status(500),
        _ => How::Well,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    let (result, _) = get(policy(), &host, &partial, None).await;
    assert!(result.unwrap_err().retryable());
    let record = std::fs::read_to_string(dir.path().join("p.resume")).unwrap();
    assert!(!record.contains("planted"), "{record}");
    let before = host.seen().len();
    let (result, heard) = get(policy(), &host, &partial, None).await;
    let done = result.unwrap();
    assert_eq!((done.bytes, done.sha256), (SIZE as u64, host.digest()));
    assert_eq!(done.validator.as_deref(), Some("\"v1\""));
    assert_eq!(std::fs::read(&partial).unwrap(), *host.body);
    assert!(!dir.path().join("p.resume").exists());
    let asked = host.seen()[before..].to_vec();
    assert_eq!(asked, [Some((200_000, SIZE))], "{asked:?}");
    assert_eq!(heard.first(), Some(&200_000));
}

#[tokio::test]
async fn another_version_starts_anew() {
    let host = Host::start(SIZE, "\"v1\"", |n| match n {
        0 => How::Cut(200_000),
        1..=2 => How::Status(500),
        _ => How::Well,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    assert!(get(policy(), &host, &partial, None).await.0.is_err());
    *host.tag.lock().unwrap() = "\"v2\"".to_owned();
    let done = get(policy(), &host, &partial, None).await.0.unwrap();
    assert_eq!(
        (done.sha256, done.validator.as_deref()),
        (host.digest(), Some("\"v2\""))
    );
    assert_eq!(host.seen().last(), Some(&None));
}

/// Failures that come at once are no reason to give up before the time is over.
#[tokio::test]
async fn a_host_that_is_away_for_a_while_is_waited_for() {
    let patient = Policy {
        outage: Duration::from_secs(3600),
        ..policy()
    };
    let host = Host::start(SIZE, "\"v1\"", |n| match n {
        0 => How::Cut(200_000),
        1..=9 => How::Status(503),
        _ => How::Well,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    get(patient.clone(), &host, &partial, None).await.0.unwrap();
    assert_eq!(host.seen().last(), Some(&Some((200_000, SIZE))));
    // But not for ever.
    let host = Host::start(SIZE, "\"v1\"", |_| How::Status(503)).await;
    let error = get(patient, &host, &dir.path().join("q"), None).await.0;
    assert!(error.unwrap_err().retryable());
    assert_eq!(host.seen().len(), 12);
}

#[tokio::test]
async fn what_cannot_pass_is_asked_for_once() {
    for status in [401, 403, 404, 410] {
        let host = Host::start(SIZE, "\"v1\"", move |_| How::Status(status)).await;
        let dir = tempfile::tempdir().unwrap();
        let (result, _) = get(policy(), &host, &dir.path().join("p"), None).await;
        assert!(!result.unwrap_err().retryable());
        assert_eq!(host.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn several_ranges_make_one_file_and_fewer_when_the_host_has_enough() {
    let several = Policy {
        parallel_from: 128 << 10,
        ..policy()
    };
    for refusing in [false, true] {
        let host = Host::start(SIZE, "\"v1\"", move |n| match n {
            2 if refusing => How::Status(429),
            _ => How::Well,
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("p");
        let sha256 = Some(host.digest());
        get(several.clone(), &host, &partial, sha256)
            .await
            .0
            .unwrap();
        assert_eq!(std::fs::read(&partial).unwrap(), *host.body);
        let asked = host.seen();
        assert!(asked.len() >= SIZE / (64 << 10), "{asked:?}");
        assert!(host.most_at_once.load(SeqCst) <= 5);
    }
}

#[tokio::test]
async fn lies_and_other_bytes_are_thrown_away_once() {
    for bad in [How::Lie, How::Other] {
        let host = Host::start(SIZE, "\"v1\"", move |n| match n {
            0 => How::Cut(200_000),
            1 => bad,
            _ => How::Well,
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("p");
        let done = get(policy(), &host, &partial, Some(host.digest()))
            .await
            .0
            .unwrap();
        assert_eq!(done.sha256, host.digest());
        assert_eq!(std::fs::read(&partial).unwrap(), *host.body);
        // The last answer was the whole file, without a range.
        assert_eq!(host.seen().last(), Some(&None));
    }
    // Wrong from the first byte to the last: once, and nothing is left.
    let host = Host::start(SIZE, "\"v1\"", |_| How::Other).await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    let error = get(policy(), &host, &partial, Some(host.digest()))
        .await
        .0
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::DigestMismatch { .. }),
        "{error:?}"
    );
    assert_eq!(
        (
            host.seen().len(),
            std::fs::read_dir(dir.path()).unwrap().count()
        ),
        (1, 0)
    );
}

#[tokio::test]
async fn without_a_strong_validator_it_starts_anew() {
    let host = Host::start(SIZE, "W/\"v1\"", |n| match n {
        0 => How::Cut(200_000),
        _ => How::Well,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    let done = get(policy(), &host, &partial, None).await.0.unwrap();
    assert_eq!((done.sha256, done.validator), (host.digest(), None));
    assert_eq!(host.seen(), [Some((0, SIZE)), Some((0, SIZE))]);
}

const TIME: &str = "Fri, 27 Nov 2026 02:44:34 GMT";

/// Most mirrors give nothing better, and a line that breaks now and then must get a large file to its end all the same.
#[tokio::test]
async fn where_the_digest_is_known_any_validator_will_do() {
    for tag in ["W/\"v1\"", TIME] {
        let host = Host::start(SIZE, tag, |n| match n {
            0 => How::Cut(200_000),
            1 => How::Cut(100_000),
            2..=3 => How::Status(500),
            _ => How::Well,
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("p");
        let sha256 = Some(host.digest());
        // Within the call and in another one.
        let broken = get(policy(), &host, &partial, sha256).await.0;
        assert!(broken.unwrap_err().retryable());
        assert_eq!(host.seen()[1], Some((200_000, SIZE)), "{tag}");
        let before = host.seen().len();
        let done = get(policy(), &host, &partial, sha256).await.0.unwrap();
        assert_eq!(host.seen()[before..], [Some((300_000, SIZE))], "{tag}");
        assert_eq!(std::fs::read(&partial).unwrap(), *host.body);
        // It promises nothing to whoever keeps the file.
        assert_eq!(done.validator, None);
    }
}

#[tokio::test]
async fn what_a_weak_validator_joined_wrongly_is_fetched_in_one_piece() {
    let host = Host::start(SIZE, "W/\"v1\"", |n| match n {
        0 => How::Cut(200_000),
        1 => How::Other,
        _ => How::Well,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    let sha256 = Some(host.digest());
    get(policy(), &host, &partial, sha256).await.0.unwrap();
    assert_eq!(host.seen(), [Some((0, SIZE)), Some((200_000, SIZE)), None]);
    assert_eq!(std::fs::read(&partial).unwrap(), *host.body);
}

/// The same partial file, asked for without a digest: nothing would tell whether the rest is of the same bytes.
#[tokio::test]
async fn a_weak_validator_counts_only_as_long_as_the_digest_is_known() {
    let host = Host::start(SIZE, TIME, |n| match n {
        0 => How::Cut(200_000),
        1..=2 => How::Status(500),
        _ => How::Well,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    let sha256 = Some(host.digest());
    assert!(get(policy(), &host, &partial, sha256).await.0.is_err());
    let before = host.seen().len();
    get(policy(), &host, &partial, None).await.0.unwrap();
    assert_eq!(host.seen()[before..], [Some((0, SIZE))]);
    // Another time, another file: from the beginning.
    let host = Host::start(SIZE, TIME, |n| match n {
        0 => How::Cut(200_000),
        1..=2 => How::Status(500),
        _ => How::Well,
    })
    .await;
    let partial = dir.path().join("q");
    let sha256 = Some(host.digest());
    assert!(get(policy(), &host, &partial, sha256).await.0.is_err());
    *host.tag.lock().unwrap() = TIME.replace("Fri", "Sat");
    let before = host.seen().len();
    get(policy(), &host, &partial, sha256).await.0.unwrap();
    let asked = host.seen()[before..].to_vec();
    assert_eq!(asked, [Some((200_000, SIZE)), None]);
}

/// One file behind several nodes that each put it there at another time. Each start anew with ranges would end the same way.
#[tokio::test]
async fn nodes_that_disagree_about_the_time_of_a_file_are_asked_for_it_in_one_piece() {
    const LATER: &str = "Fri, 27 Nov 2026 02:44:35 GMT";
    let several = Policy {
        parallel_from: 128 << 10,
        ..policy()
    };
    let host = Host::start(SIZE, TIME, |n| match n % 2 {
        0 => How::Well,
        _ => How::As(LATER),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("p");
    let sha256 = Some(host.digest());
    get(several, &host, &partial, sha256).await.0.unwrap();
    assert_eq!(std::fs::read(&partial).unwrap(), *host.body);
    let whole = host.seen().iter().filter(|range| range.is_none()).count();
    assert_eq!(whole, 1, "{:?}", host.seen());
}

#[tokio::test]
async fn a_disk_without_room_is_said_before_anything_is_written() {
    let host = Host::start(SIZE, "\"v1\"", |_| How::Well).await;
    let dir = tempfile::tempdir().unwrap();
    let full = Policy {
        disk_reserve: u64::MAX / 2,
        ..policy()
    };
    let error = get(full, &host, &dir.path().join("p"), None)
        .await
        .0
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::Disk { full: true, .. }),
        "{error:?}"
    );
    assert_eq!(host.seen().len(), 1);
}
