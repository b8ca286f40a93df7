//! Downloads from a real server on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

mod support;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use sha2::{Digest, Sha256};
use support::{Server, Then, ok, redirect, status};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use worker_egress::{DownloadError, Downloaded, Egress, Policy, UrlRefusal, Wanted};

fn policy() -> Policy {
    Policy {
        allow_http_loopback: true,
        backoff: Duration::from_millis(1),
        stall: Duration::from_millis(300),
        ..Policy::default()
    }
}

struct Here {
    dir: tempfile::TempDir,
    into: PathBuf,
}

impl Here {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("file");
        Self { dir, into }
    }

    async fn get(
        &self,
        policy: Policy,
        url: &str,
        wanted: &Wanted,
    ) -> Result<Downloaded, DownloadError> {
        let cancel = CancellationToken::new();
        let done = Egress::new(policy)
            .unwrap()
            .download(url, &self.into, wanted, &|_, _| {}, &cancel)
            .await;
        if let Err(error) = &done {
            self.assert_empty();
            let text = format!("{error} {error:?}");
            assert!(
                !text.contains("planted") && !error.to_string().contains('\n'),
                "{text}"
            );
        }
        done
    }

    fn assert_empty(&self) {
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_file_comes_whole_through_redirects() {
    let server = Server::start(vec![
        ("/a", vec![redirect("/b?token=planted")]),
        ("/b", vec![redirect("c")]),
        ("/c", vec![ok("hello")]),
    ])
    .await;
    let here = Here::new();
    let digest: [u8; 32] = Sha256::digest(b"hello").into();
    let wanted = Wanted {
        sha256: Some(digest),
        max_bytes: Some(5),
        approx_bytes: Some(9),
    };
    let heard = Mutex::new(Vec::new());
    let egress = Egress::new(policy()).unwrap();
    let on_progress = |done, total| heard.lock().unwrap().push((done, total));
    let done = egress
        .download(
            &format!("{}/a", server.base),
            &here.into,
            &wanted,
            &on_progress,
            &CancellationToken::new(),
        )
        .await
        .unwrap();
    assert_eq!(
        done,
        Downloaded {
            bytes: 5,
            sha256: digest,
            media_type_hint: Some("image/png".into()),
            validator: None
        }
    );
    assert_eq!(std::fs::read(&here.into).unwrap(), b"hello");
    assert_eq!(heard.into_inner().unwrap().last(), Some(&(5, Some(5))));
    let requests = server.requests.lock().unwrap();
    let agent = format!("user-agent: studio-worker/{}", env!("CARGO_PKG_VERSION"));
    assert!(
        requests
            .iter()
            .all(|head| head.to_lowercase().contains(&agent))
    );
    assert!(
        requests
            .iter()
            .all(|head| !head.to_lowercase().contains("referer"))
    );
}

#[tokio::test]
async fn what_cannot_pass_is_asked_for_once() {
    for (line, kind) in [
        ("404 Not Found", "NotFound"),
        ("410 Gone", "NotFound"),
        ("401 Unauthorized", "Unauthorized"),
        ("403 Forbidden", "Unauthorized"),
        ("400 Bad Request", "Status"),
        ("206 Partial Content", "Status"),
        ("204 No Content", "Status"),
    ] {
        let server = Server::start(vec![("/m", vec![status(line)])]).await;
        let url = format!("{}/m?token=planted", server.base);
        let error = Here::new()
            .get(policy(), &url, &Wanted::default())
            .await
            .unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{line}: {error:?}");
        assert!(error.to_string().contains("/m"), "{error}");
        assert!(!error.retryable());
        assert_eq!(server.count(), 1, "{line}");
    }
}

#[tokio::test]
async fn what_can_pass_is_tried_again_and_comes() {
    let truncated = (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".to_owned(),
        Then::Close,
    );
    let hung = (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe".to_owned(),
        Then::Hang,
    );
    let retry = (
        "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".to_owned(),
        Then::Close,
    );
    for bad in [
        truncated,
        hung,
        retry,
        status("429 Too Many Requests"),
        status("500 Oops"),
        (String::new(), Then::Close),
    ] {
        let server = Server::start(vec![("/m", vec![bad.clone(), ok("hello")])]).await;
        let here = Here::new();
        let done = here
            .get(policy(), &format!("{}/m", server.base), &Wanted::default())
            .await
            .unwrap();
        assert_eq!((done.bytes, server.count()), (5, 2), "{}", bad.0);
        assert_eq!(std::fs::read(&here.into).unwrap(), b"hello");
    }
}

#[tokio::test]
async fn tries_end() {
    let truncated = (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".to_owned(),
        Then::Close,
    );
    let server = Server::start(vec![
        ("/t", vec![truncated]),
        ("/s", vec![status("502 Bad Gateway")]),
    ])
    .await;
    let error = Here::new()
        .get(policy(), &format!("{}/t", server.base), &Wanted::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::Truncated { promised: 5, .. }) && error.retryable(),
        "{error:?}"
    );
    assert_eq!(server.count(), 3);
    let error = Here::new()
        .get(policy(), &format!("{}/s", server.base), &Wanted::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::Status { status: 502, .. }) && error.retryable(),
        "{error:?}"
    );
    assert_eq!(server.count(), 6);
}

#[tokio::test]
async fn progress_never_falls_across_tries() {
    let truncated = (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell".to_owned(),
        Then::Close,
    );
    let short = (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nh".to_owned(),
        Then::Close,
    );
    let server = Server::start(vec![("/m", vec![truncated, short, ok("hello")])]).await;
    let here = Here::new();
    let heard = Mutex::new(Vec::new());
    let on_progress = |done, _| heard.lock().unwrap().push(done);
    let (wanted, cancel) = (Wanted::default(), CancellationToken::new());
    let url = format!("{}/m", server.base);
    Egress::new(policy())
        .unwrap()
        .download(&url, &here.into, &wanted, &on_progress, &cancel)
        .await
        .unwrap();
    let heard = heard.into_inner().unwrap();
    assert!(
        heard.is_sorted() && heard.last() == Some(&5) && heard.len() >= 3,
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_host_that_sends_next_to_nothing_is_given_up() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
    let server = Server::start(vec![
        ("/drip", vec![(head.to_owned(), Then::Drip)]),
        ("/hang", vec![(head.to_owned(), Then::Hang)]),
        ("/mute", vec![(String::new(), Then::Hang)]),
    ])
    .await;
    for path in ["/drip", "/hang", "/mute"] {
        let policy = Policy {
            attempts: 1,
            connect: Duration::from_millis(200),
            ..policy()
        };
        let error = Here::new()
            .get(
                policy,
                &format!("{}{path}", server.base),
                &Wanted::default(),
            )
            .await
            .unwrap_err();
        assert!(
            matches!(error, DownloadError::Stalled { .. }) && error.retryable(),
            "{path}: {error:?}"
        );
    }
}

#[tokio::test]
async fn sizes_and_digests_are_enforced() {
    let endless = (
        "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &"x".repeat(3000),
        Then::Drip,
    );
    let zipped = (
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        Then::Close,
    );
    let server = Server::start(vec![
        ("/m", vec![ok("hello")]),
        ("/endless", vec![endless]),
        ("/zip", vec![zipped]),
    ])
    .await;
    let at = |path: &str| format!("{}{path}", server.base);
    let small = Wanted {
        max_bytes: Some(4),
        ..Wanted::default()
    };
    let error = Here::new()
        .get(policy(), &at("/m"), &small)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::TooLarge { limit: 4, .. }),
        "{error:?}"
    );
    let some = Wanted {
        max_bytes: Some(2000),
        ..Wanted::default()
    };
    let error = Here::new()
        .get(policy(), &at("/endless"), &some)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::TooLarge { limit: 2000, .. }),
        "{error:?}"
    );
    let other = Wanted {
        sha256: Some([7; 32]),
        ..Wanted::default()
    };
    let error = Here::new()
        .get(policy(), &at("/m"), &other)
        .await
        .unwrap_err();
    let DownloadError::DigestMismatch { wanted, found, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (wanted, found),
        ("07".repeat(32), hex::encode(Sha256::digest(b"hello")))
    );
    let error = Here::new()
        .get(policy(), &at("/zip"), &Wanted::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, DownloadError::Encoded { encoding, .. } if encoding == "gzip"),
        "{error:?}"
    );
    // None of these can pass: one request each.
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn redirects_are_bounded_and_judged() {
    let server = Server::start(vec![
        ("/loop", vec![redirect("/loop")]),
        (
            "/nowhere",
            vec![(
                "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
                Then::Close,
            )],
        ),
        (
            "/meta",
            vec![redirect("https://169.254.169.254/latest?token=planted")],
        ),
        ("/plain", vec![redirect("http://models.example/")]),
        (
            "/user",
            vec![redirect("https://good.example@models.example/")],
        ),
        ("/file", vec![redirect("file:///etc/passwd")]),
    ])
    .await;
    let get = async |path: &str| {
        Here::new()
            .get(
                policy(),
                &format!("{}{path}", server.base),
                &Wanted::default(),
            )
            .await
            .unwrap_err()
    };
    assert!(matches!(get("/loop").await, DownloadError::Redirect { .. }));
    assert_eq!(server.count(), 6);
    assert!(matches!(
        get("/nowhere").await,
        DownloadError::Redirect { .. }
    ));
    assert!(matches!(
        get("/meta").await,
        DownloadError::Refused {
            why: UrlRefusal::Address(_),
            ..
        }
    ));
    assert!(matches!(
        get("/plain").await,
        DownloadError::Refused {
            why: UrlRefusal::Scheme { .. },
            ..
        }
    ));
    assert!(matches!(
        get("/user").await,
        DownloadError::Refused {
            why: UrlRefusal::UserInfo,
            ..
        }
    ));
    assert!(matches!(
        get("/file").await,
        DownloadError::Refused {
            why: UrlRefusal::Scheme { .. },
            ..
        }
    ));
}

#[tokio::test]
async fn this_machine_is_out_of_bounds_by_default() {
    let server = Server::start(vec![("/m", vec![ok("hello")])]).await;
    let port = server.base.rsplit(':').next().unwrap().to_owned();
    for url in [
        format!("http://127.0.0.1:{port}/m"),
        format!("https://127.0.0.1:{port}/m"),
        format!("https://localhost:{port}/m"),
        format!("https://[::ffff:127.0.0.1]:{port}/m"),
    ] {
        let error = Here::new()
            .get(Policy::default(), &url, &Wanted::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, DownloadError::Refused { .. }),
            "{url}: {error:?}"
        );
    }
    assert_eq!(server.count(), 0);
    // `localhost` is resolved, and then allowed.
    let url = format!("http://localhost:{port}/m");
    assert_eq!(
        Here::new()
            .get(policy(), &url, &Wanted::default())
            .await
            .unwrap()
            .bytes,
        5
    );
}

#[tokio::test]
async fn cancelling_ends_it_and_leaves_nothing() {
    let hung = (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe".to_owned(),
        Then::Hang,
    );
    let server = Server::start(vec![("/m", vec![hung])]).await;
    let here = Here::new();
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    // Cancelled once bytes have come.
    let on_progress = move |_, _| stop.cancel();
    let url = format!("{}/m", server.base);
    let policy = Policy {
        stall: Duration::from_secs(600),
        ..policy()
    };
    let egress = Egress::new(policy).unwrap();
    let error = egress
        .download(&url, &here.into, &Wanted::default(), &on_progress, &cancel)
        .await
        .unwrap_err();
    assert!(matches!(error, DownloadError::Cancelled { .. }));
    here.assert_empty();
    // And nothing is begun afterwards.
    let before = server.count();
    let again = egress
        .download(&url, &here.into, &Wanted::default(), &on_progress, &cancel)
        .await
        .unwrap_err();
    assert!(matches!(again, DownloadError::Cancelled { .. }));
    assert_eq!(server.count(), before);
}

#[tokio::test]
async fn data_urls_are_decoded_under_the_same_limits() {
    let here = Here::new();
    let done = here
        .get(
            Policy::default(),
            "data:image/png;base64,aGVsbG8=",
            &Wanted::default(),
        )
        .await
        .unwrap();
    assert_eq!(
        (done.bytes, done.media_type_hint.as_deref()),
        (5, Some("image/png"))
    );
    assert_eq!(std::fs::read(&here.into).unwrap(), b"hello");
    let small = Wanted {
        max_bytes: Some(4),
        ..Wanted::default()
    };
    let error = Here::new()
        .get(Policy::default(), "data:;base64,aGVsbG8=", &small)
        .await
        .unwrap_err();
    assert!(matches!(error, DownloadError::TooLarge { .. }));
    let other = Wanted {
        sha256: Some([7; 32]),
        ..Wanted::default()
    };
    let error = Here::new()
        .get(Policy::default(), "data:,planted", &other)
        .await
        .unwrap_err();
    assert!(matches!(error, DownloadError::DigestMismatch { .. }));
    let long = format!("data:,{}", "x".repeat(100));
    let short = Policy {
        max_data_url: 50,
        ..Policy::default()
    };
    let error = Here::new()
        .get(short, &long, &Wanted::default())
        .await
        .unwrap_err();
    assert!(matches!(error, DownloadError::TooLarge { limit: 50, .. }));
    let error = Here::new()
        .get(
            Policy::default(),
            "data:;base64,!planted!",
            &Wanted::default(),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, DownloadError::DataUrl { .. }));
}

#[tokio::test]
async fn a_disk_that_does_not_take_it_is_said_and_nothing_is_overwritten() {
    let server = Server::start(vec![("/m", vec![ok("hello")])]).await;
    let url = format!("{}/m", server.base);
    let (wanted, cancel) = (Wanted::default(), CancellationToken::new());
    let egress = Egress::new(policy()).unwrap();
    let here = Here::new();
    std::fs::write(&here.into, "mine").unwrap();
    let error = egress
        .download(&url, &here.into, &wanted, &|_, _| {}, &cancel)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::Disk { full: false, .. }) && !error.retryable(),
        "{error:?}"
    );
    assert_eq!(std::fs::read(&here.into).unwrap(), b"mine");
    let missing = here.dir.path().join("no/such/folder");
    let error = egress
        .download(&url, &missing, &wanted, &|_, _| {}, &cancel)
        .await
        .unwrap_err();
    assert!(matches!(error, DownloadError::Disk { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_transport() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/m?token=planted", listener.local_addr().unwrap());
    drop(listener);
    let error = Here::new()
        .get(policy(), &url, &Wanted::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::Transport { .. }) && error.retryable(),
        "{error:?}"
    );
}
