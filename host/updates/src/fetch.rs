//! One component, from where the studio says to memory.

use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use url::Url;
use worker_egress::{DownloadError, Egress, Policy, Wanted, shown_url, studio_client};
use worker_wire::{PluginUpdate, StudioAccount};

/// How long all tries of one fetch may take. Longer lets a slow host keep later updates waiting; shorter gives up on slow lines.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// The same for a connection that brings nothing.
const STALL: Duration = Duration::from_secs(30);

/// Why a component did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// What was announced, or what came, breaks a rule; the same announcement will always do so.
    #[error("{0}")]
    Refused(String),
    /// It may come another time.
    #[error("{0}")]
    Unfetched(String),
    /// A later update of the same plugin came.
    #[error("a later update of the plugin came")]
    Superseded,
}

/// What a fetch works with.
pub(crate) struct Fetch<'a> {
    pub(crate) update: &'a PluginUpdate,
    pub(crate) account: &'a StudioAccount,
    /// The rules of this worker's downloads.
    pub(crate) policy: &'a Policy,
    /// Bytes that the plugin's file may have.
    pub(crate) limit: u64,
    /// A folder for what is not whole yet.
    pub(crate) folder: &'a Path,
}

impl Fetch<'_> {
    /// Fetches the component. What is returned has the announced size and digest.
    pub(crate) async fn run(&self, cancel: &CancellationToken) -> Result<Vec<u8>, FetchError> {
        if self.update.size > self.limit {
            return Err(FetchError::Refused(format!(
                "it is announced with {} bytes, and this plugin's file may have {}",
                self.update.size, self.limit
            )));
        }
        let fetching = async {
            let (url, at_studio) = self.url()?;
            match at_studio {
                true => match self.ask_studio(&url).await? {
                    Answer::Component(bytes) => Ok(bytes),
                    Answer::Elsewhere(target) => self.ask_elsewhere(&target, cancel).await,
                },
                false => self.ask_elsewhere(&url, cancel).await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(FetchError::Superseded),
            done = tokio::time::timeout(LIMIT, fetching) => {
                done.unwrap_or_else(|_| Err(FetchError::Unfetched("it did not come in time".to_owned())))
            }
        }
    }

    /// Where it is, and whether that is the studio itself: a path is one there.
    fn url(&self) -> Result<(Url, bool), FetchError> {
        let refused = |why: &str| FetchError::Refused(format!("its URL {why}"));
        let text = self.update.url.as_str();
        let home = Url::parse(&self.account.base.http("/"))
            .map_err(|error| refused(&format!("cannot be at this studio: {error}")))?;
        if text.starts_with('/') {
            let joined = home.join(text).ok();
            let joined = joined.filter(|url| url.origin() == home.origin());
            return joined
                .map(|url| (url, true))
                .ok_or_else(|| refused("is a path that leads away from the studio"));
        }
        // No `data:`: a component in a frame would be outside of every bound on downloads.
        let url = Url::parse(text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| {
            refused("is neither https nor a path at the studio that begins with one slash")
        })?;
        let at_studio =
            url.origin() == home.origin() && url.username().is_empty() && url.password().is_none();
        Ok((url, at_studio))
    }

    /// Asks the studio, which the operator named: by its own address, as the session does, with the worker's token. A redirect is
    /// not followed with it.
    async fn ask_studio(&self, url: &Url) -> Result<Answer, FetchError> {
        let shown = shown_url(url.as_str());
        let unfetched = |what: String| FetchError::Unfetched(format!("{shown} {what}"));
        let client = studio_client().map_err(|error| unfetched(error.to_string()))?;
        let asked = client
            .get(url.clone())
            .bearer_auth(self.account.token.expose())
            .header(reqwest::header::ACCEPT_ENCODING, "identity")
            .timeout(LIMIT)
            .send();
        let cannot = |error: reqwest::Error| {
            unfetched(format!("cannot be reached: {}", error.without_url()))
        };
        let stalled = |_| unfetched(format!("sent nothing for {} s", STALL.as_secs()));
        let mut response = tokio::time::timeout(STALL, asked)
            .await
            .map_err(stalled)?
            .map_err(cannot)?;
        let status = response.status();
        if status.is_redirection() {
            let target = response.headers().get(reqwest::header::LOCATION);
            let target = target.and_then(|target| target.to_str().ok());
            let target = target.and_then(|target| url.join(target).ok());
            return target
                .map(Answer::Elsewhere)
                .ok_or_else(|| unfetched("redirects to nowhere".to_owned()));
        }
        if status != reqwest::StatusCode::OK {
            return Err(unfetched(format!("answered HTTP {}", status.as_u16())));
        }
        let mut bytes = Vec::new();
        let mut hasher = Sha256::new();
        loop {
            let chunk = tokio::time::timeout(STALL, response.chunk());
            let Some(chunk) = chunk.await.map_err(stalled)?.map_err(cannot)? else {
                break;
            };
            if length(bytes.len().saturating_add(chunk.len())) > self.update.size {
                return Err(too_large(self.update.size));
            }
            hasher.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        let found = hex::encode(hasher.finalize());
        if found != self.update.digest {
            return Err(other_digest(&self.update.digest));
        }
        self.sized(bytes).map(Answer::Component)
    }

    /// Asks anybody else, by the rules of every download and without the token.
    async fn ask_elsewhere(
        &self,
        url: &Url,
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, FetchError> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&self.update.digest, &mut sha256)
            .map_err(|_| FetchError::Refused("its digest is no SHA-256".to_owned()))?;
        let wanted = Wanted {
            sha256: Some(sha256),
            max_bytes: Some(self.update.size),
            approx_bytes: Some(self.update.size),
        };
        let mut policy = self.policy.clone();
        policy.stall = policy.stall.min(STALL);
        let egress =
            Egress::new(policy).map_err(|error| FetchError::Unfetched(error.to_string()))?;
        let part = tempfile::tempdir_in(self.folder)
            .map_err(|error| FetchError::Unfetched(format!("it cannot be stored: {error}")))?;
        let into = part.path().join("component");
        let fetching = egress.download(url.as_str(), &into, &wanted, &|_, _| {}, cancel);
        fetching.await.map_err(meant)?;
        let bytes = tokio::fs::read(&into)
            .await
            .map_err(|error| FetchError::Unfetched(format!("it cannot be read back: {error}")))?;
        self.sized(bytes)
    }

    fn sized(&self, bytes: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        match length(bytes.len()) == self.update.size {
            true => Ok(bytes),
            false => Err(FetchError::Refused(format!(
                "it has {} bytes, and was announced with {}",
                bytes.len(),
                self.update.size
            ))),
        }
    }
}

/// What the studio answers.
enum Answer {
    Component(Vec<u8>),
    Elsewhere(Url),
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn too_large(announced: u64) -> FetchError {
    FetchError::Refused(format!(
        "what its URL gives is larger than the {announced} bytes that it was announced with"
    ))
}

/// What was found is not said: elsewhere it may be a file that this worker's logins open, and the studio reads this.
fn other_digest(announced: &str) -> FetchError {
    FetchError::Refused(format!(
        "what its URL gives has another SHA-256 than {announced}, with which it was announced"
    ))
}

/// What a failed download means for the update.
fn meant(error: DownloadError) -> FetchError {
    match error {
        DownloadError::Cancelled { .. } => FetchError::Superseded,
        DownloadError::DigestMismatch { wanted, .. } => other_digest(&wanted),
        DownloadError::TooLarge { limit, .. } => too_large(limit),
        DownloadError::Refused { .. } | DownloadError::Encoded { .. } => {
            FetchError::Refused(error.to_string())
        }
        other => FetchError::Unfetched(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use worker_wire::{ApiBase, Secret};

    use super::*;

    fn resolved(url: &str) -> Result<String, FetchError> {
        let update = PluginUpdate {
            update_id: "u".to_owned(),
            name: "x".to_owned(),
            version: String::new(),
            digest: "ab".repeat(32),
            size: 1,
            url: url.to_owned(),
            signature: String::new(),
        };
        let account = StudioAccount {
            base: ApiBase::parse("https://studio.example/below").unwrap(),
            worker_id: "w".to_owned(),
            token: Secret::new("tok"),
        };
        let policy = Policy::default();
        let fetch = Fetch {
            update: &update,
            account: &account,
            policy: &policy,
            limit: 10,
            folder: Path::new("/nowhere"),
        };
        fetch
            .url()
            .map(|(url, at_studio)| format!("{at_studio} {url}"))
    }

    #[test]
    fn a_path_stays_at_the_studio() {
        for (url, expected) in [
            ("/a/b", "true https://studio.example/a/b"),
            ("https://studio.example/x", "true https://studio.example/x"),
            ("https://cdn.example/x", "false https://cdn.example/x"),
            ("http://studio.example/x", "false http://studio.example/x"),
            (
                "https://me@studio.example/x",
                "false https://me@studio.example/x",
            ),
            (
                "https://studio.example:8443/x",
                "false https://studio.example:8443/x",
            ),
        ] {
            assert_eq!(resolved(url).unwrap(), expected);
        }
        for wild in [
            "//evil.example/x",
            "/\\evil.example/x",
            "x.wasm",
            "",
            "file:///etc/passwd",
            "data:application/wasm;base64,AA==",
            "ftp://studio.example/x",
        ] {
            let error = resolved(wild).unwrap_err();
            assert!(matches!(error, FetchError::Refused(_)), "{wild}: {error}");
        }
    }
}
