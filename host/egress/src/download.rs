//! One file from one URL to one path.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Client;
use tokio_util::sync::CancellationToken;

use crate::client::{ClientError, base_builder};
use crate::data_url;
use crate::error::{DownloadError, is_data, shown_url};
use crate::policy::{Policy, check_url};
use crate::resolve::{Lookup, Resolver};
use crate::resume::{self, Sidecar, Task};
use crate::transfer::{Transfer, Unfinished, check_digest, disk};

/// What the caller knows of the file beforehand.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its SHA-256: other bytes are refused.
    pub sha256: Option<[u8; 32]>,
    /// A longer body is refused, before it is read where the host says its length.
    pub max_bytes: Option<u64>,
    /// Its expected size, shown as the total until the host says one.
    pub approx_bytes: Option<u64>,
}

/// A file that came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, always computed.
    pub sha256: [u8; 32],
    /// What the host, or the `data:` URL, claims it to be. A hint, never to be believed.
    pub media_type_hint: Option<String>,
    /// Its strong entity tag, where the host gives one: the same tag later means the same bytes.
    pub validator: Option<String>,
}

/// Hears of a download's progress: bytes so far, and the total where known.
pub type OnProgress<'a> = &'a (dyn Fn(u64, Option<u64>) + Send + Sync);

/// Makes downloads under one policy. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Egress {
    pub(crate) policy: Arc<Policy>,
    pub(crate) client: Client,
    counts: Arc<[AtomicU64; 3]>,
}

/// Downloads so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DownloadCounts {
    /// Files that came whole.
    pub done: u64,
    /// Downloads that failed or were cancelled.
    pub failed: u64,
    /// Bytes of the files that came whole.
    pub bytes: u64,
}

impl Egress {
    /// Downloads go straight to their host: through a proxy, whom they reach could not be judged.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(policy: Policy) -> Result<Self, ClientError> {
        Self::with_lookup(policy, Resolver::system())
    }

    pub(crate) fn with_lookup(policy: Policy, lookup: Lookup) -> Result<Self, ClientError> {
        let client = base_builder()?
            .no_proxy()
            .connect_timeout(policy.connect)
            .user_agent(concat!("studio-worker/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Resolver::new(lookup, policy.allow_http_loopback))
            .build()?;
        Ok(Self {
            policy: Arc::new(policy),
            client,
            counts: Arc::default(),
        })
    }

    /// Downloads so far, of all clones together.
    #[must_use]
    pub fn counts(&self) -> DownloadCounts {
        let [done, failed, bytes] = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DownloadCounts {
            done: read(done),
            failed: read(failed),
            bytes: read(bytes),
        }
    }

    fn counted(
        &self,
        ended: Result<Downloaded, DownloadError>,
    ) -> Result<Downloaded, DownloadError> {
        let [done, failed, bytes] = &*self.counts;
        match &ended {
            Ok(downloaded) => {
                done.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(downloaded.bytes, Ordering::Relaxed);
            }
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        ended
    }

    /// Downloads `url` to the new file `into`, which must not exist. When it fails, nothing is left there.
    ///
    /// `on_progress` gets the bytes so far and the total where known; the first number never falls, not across tries
    /// either. It is called often and must return at once.
    ///
    /// # Errors
    /// After as many tries as the policy allows, or at once where another try cannot help.
    pub async fn download(
        &self,
        url: &str,
        into: &Path,
        wanted: &Wanted,
        on_progress: OnProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Downloaded, DownloadError> {
        let limit = wanted
            .max_bytes
            .unwrap_or(self.policy.max_bytes)
            .min(self.policy.max_bytes);
        let work = async {
            if is_data(url) {
                return self.decode(url, into, wanted, limit).await;
            }
            let start = check_url(url, &self.policy).map_err(|why| DownloadError::Refused {
                url: shown_url(url),
                why,
            })?;
            Transfer::new(self, url, into, wanted, limit, on_progress)
                .tries(&start)
                .await
        };
        // Not begun when cancelled already.
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(DownloadError::Cancelled { url: shown_url(url) }),
            done = work => done,
        };
        self.counted(ended)
    }

    /// Downloads `url` to `partial`, going on from what an earlier call left there, whatever ended it.
    ///
    /// Beside it lies `<partial>.resume` until the file is whole. When this fails, is cancelled or is killed, both stay,
    /// unless the bytes turned out to be wrong. Where the host allows and the file is large, several connections fetch
    /// it at once. Only one caller at a time works on one `partial`, in whatever process.
    ///
    /// `on_progress` is as for [`Egress::download`]; the first number does not fall across calls either.
    ///
    /// # Errors
    /// When as many tries as the policy allows brought nothing new, or at once where another try cannot help.
    pub async fn download_resumable(
        &self,
        url: &str,
        partial: &Path,
        wanted: &Wanted,
        on_progress: OnProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Downloaded, DownloadError> {
        let shown = shown_url(url);
        if cancel.is_cancelled() {
            return Err(DownloadError::Cancelled { url: shown });
        }
        let limit = wanted
            .max_bytes
            .unwrap_or(self.policy.max_bytes)
            .min(self.policy.max_bytes);
        if is_data(url) {
            // It is all here: nothing to go on from.
            let sidecar = Sidecar::new(partial, url);
            sidecar.remove().map_err(disk(&shown))?;
            match std::fs::remove_file(partial) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(disk(&shown)(error));
                }
                _ => return self.decode(url, partial, wanted, limit).await,
            }
        }
        let start = check_url(url, &self.policy).map_err(|why| DownloadError::Refused {
            url: shown.clone(),
            why,
        })?;
        let task = Task {
            egress: self,
            start,
            shown,
            partial,
            wanted,
            limit,
            on_progress,
        };
        self.counted(resume::run(&task, cancel).await)
    }

    async fn decode(
        &self,
        url: &str,
        into: &Path,
        wanted: &Wanted,
        limit: u64,
    ) -> Result<Downloaded, DownloadError> {
        let shown = shown_url(url);
        if url.len() > self.policy.max_data_url {
            return Err(DownloadError::TooLarge {
                url: shown,
                limit: self.policy.max_data_url as u64,
            });
        }
        let (bytes, media_type_hint) =
            data_url::decode(url).map_err(|why| DownloadError::DataUrl { why })?;
        let length = bytes.len() as u64;
        if length > limit {
            return Err(DownloadError::TooLarge { url: shown, limit });
        }
        let mut unfinished = Unfinished::new(into);
        let sink = unfinished.create().map_err(disk(&shown))?;
        sink.push(bytes.into()).await;
        let sha256 = sink.finish().await.map_err(disk(&shown))?;
        check_digest(&shown, wanted, sha256)?;
        unfinished.keep();
        Ok(Downloaded {
            bytes: length,
            sha256,
            media_type_hint,
            validator: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::UrlRefusal;

    #[tokio::test]
    async fn a_name_that_means_a_private_address_is_refused_when_it_is_resolved() {
        let dir = tempfile::tempdir().unwrap();
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "::ffff:192.168.0.1",
        ] {
            // The first address is public: one bad one spoils the name.
            let answer = ["93.184.215.14", address]
                .map(|ip| std::net::SocketAddr::new(ip.parse().unwrap(), 0));
            let lookup: Lookup = Arc::new(move |_| Box::pin(async move { Ok(answer.to_vec()) }));
            let policy = Policy {
                allow_http_loopback: true,
                ..Policy::default()
            };
            let egress = Egress::with_lookup(policy, lookup).unwrap();
            let into = dir.path().join("file");
            let (wanted, cancel) = (Wanted::default(), CancellationToken::new());
            let url = "https://models.example/m?token=planted";
            let error = egress
                .download(url, &into, &wanted, &|_, _| {}, &cancel)
                .await
                .unwrap_err();
            let DownloadError::Refused {
                why: UrlRefusal::Address(refusal),
                ..
            } = &error
            else {
                panic!("{error:?}");
            };
            assert_eq!(
                refusal.address,
                address.parse::<std::net::IpAddr>().unwrap()
            );
            assert!(!error.retryable() && !format!("{error} {error:?}").contains("planted"));
            assert!(!into.exists());
        }
    }

    /// The address that was judged is the one that is connected to: a name is asked for once per connection, and what it
    /// means the next time is judged again.
    #[tokio::test]
    async fn a_name_that_means_something_else_the_second_time_is_refused_then() {
        use std::net::SocketAddr;
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut connections = 0;
            while let Ok((mut socket, _)) = listener.accept().await {
                connections += 1;
                let mut head = [0; 2048];
                let _ = socket.read(&mut head).await.unwrap();
                let again = format!(
                    "HTTP/1.1 302 Found\r\nLocation: http://rebinds.localhost:{port}/again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                socket.write_all(again.as_bytes()).await.unwrap();
                socket.shutdown().await.unwrap();
                assert_eq!(connections, 1, "nobody comes twice");
            }
        });
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = lookups.clone();
        let lookup: Lookup = Arc::new(move |_| {
            // The first answer is where this test listens, the second where only this machine's neighbours are.
            let text = match counted.fetch_add(1, SeqCst) {
                0 => "127.0.0.1:0",
                _ => "192.168.0.1:0",
            };
            let found: Vec<SocketAddr> = vec![text.parse().unwrap()];
            Box::pin(async move { Ok(found) })
        });
        let policy = Policy {
            allow_http_loopback: true,
            ..Policy::default()
        };
        let egress = Egress::with_lookup(policy, lookup).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("file");
        let url = format!("http://rebinds.localhost:{port}/first");
        let (wanted, cancel) = (Wanted::default(), CancellationToken::new());
        let error = egress
            .download(&url, &into, &wanted, &|_, _| {}, &cancel)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, DownloadError::Refused { why: UrlRefusal::Address(refusal), .. }
                if refusal.address.to_string() == "192.168.0.1"),
            "{error:?}"
        );
        assert_eq!(lookups.load(SeqCst), 2, "once for each connection");
        assert!(!into.exists());
        server.abort();
    }
}
