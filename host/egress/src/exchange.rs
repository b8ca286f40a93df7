//! One request and its answer, for plugins: to a host that was granted.
//!
//! No redirect is followed: the answer says where it points, and whoever asked may ask there under its own grants. So
//! no header, a secret least of all, ever goes where it was not addressed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::ask::innermost;
use crate::download::Egress;
use crate::error::{shown_parsed, shown_url};
use crate::policy::{UrlRefusal, check_url};
use crate::resolve::refusal;

/// Most headers of one request. More is no client's need.
const MAX_HEADERS: usize = 64;
/// All header names and values of one request together, in bytes: what common servers take.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Longest header value that is handed on from an answer.
const ANSWER_HEADER: usize = 8 * 1024;

/// Headers that decide where a request goes or where it ends. They are the host's to set.
const FORBIDDEN: [&str; 11] = [
    "host",
    "content-length",
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "via",
    "keep-alive",
    "expect",
    "accept-encoding",
];

/// Why an exchange brought no answer. Nothing of a query, a header or a body is ever in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The method is not one that may be sent.
    #[error(
        "method `{method}` is not allowed: GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS are"
    )]
    Method {
        /// Its beginning.
        method: String,
    },
    /// A header that may not be set, or is not one.
    #[error("header `{name}` {why}")]
    Header {
        /// Its name, shortened.
        name: String,
        /// What is wrong with it. Never its value.
        why: &'static str,
    },
    /// Never asked for.
    #[error("{url} is refused: {why}")]
    Refused {
        /// What would have been asked.
        url: String,
        /// The rule that it breaks.
        why: UrlRefusal,
    },
    /// No connection, or a broken one.
    #[error("{url} cannot be reached: {cause}; check the network and the host's name")]
    Transport {
        /// What was asked.
        url: String,
        /// The innermost cause.
        cause: String,
    },
    /// It took too long.
    #[error("{url} did not answer in {} ms", .after.as_millis())]
    TimedOut {
        /// What was asked.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is longer than allowed.
    #[error("the answer of {url} is longer than the {limit} bytes allowed")]
    TooLarge {
        /// What was asked.
        url: String,
        /// In bytes.
        limit: u64,
    },
    /// A long answer could not be written to its file.
    #[error("the answer of {url} cannot be stored: {source}; make room on the disk")]
    Disk {
        /// What was asked.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// The caller did not want it any more.
    #[error("the request to {url} was cancelled")]
    Cancelled {
        /// What was asked.
        url: String,
    },
}

impl ExchangeError {
    /// Whether the same request may succeed later with nothing changed by anybody.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Transport { .. } | Self::TimedOut { .. } | Self::Disk { .. }
        )
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// One of [`method`]'s.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Checked by [`HeaderSet`].
    pub headers: HeaderSet,
    /// The whole body.
    pub body: Bytes,
    /// The whole exchange, the answer's body included.
    pub timeout: Duration,
    /// A longer answer is refused.
    pub max_bytes: u64,
    /// A longer answer goes to a file.
    pub inline_bytes: u64,
}

/// An answer's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// It was short.
    Bytes(Vec<u8>),
    /// It was long, and lies here.
    File(PathBuf),
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Any status: what it means is the asker's to say.
    pub status: u16,
    /// Without `set-cookie`; what is not UTF-8 replaced.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
}

/// Names a new file for a long answer. Called at most once per exchange.
pub type Spill<'a> = &'a (dyn Fn() -> io::Result<PathBuf> + Send + Sync);

/// The method that `text` names.
///
/// # Errors
/// When it is none that may be sent: CONNECT and TRACE are for proxies and spies.
pub fn method(text: &str) -> Result<Method, ExchangeError> {
    match text.to_ascii_uppercase().as_str() {
        "GET" => Ok(Method::GET),
        "HEAD" => Ok(Method::HEAD),
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "PATCH" => Ok(Method::PATCH),
        "DELETE" => Ok(Method::DELETE),
        "OPTIONS" => Ok(Method::OPTIONS),
        _ => Err(ExchangeError::Method {
            method: text
                .chars()
                .filter(|c| c.is_ascii_graphic())
                .take(20)
                .collect(),
        }),
    }
}

/// Headers that were checked one by one. Its debug output shows no secret.
#[derive(Debug, Clone, Default)]
pub struct HeaderSet {
    map: HeaderMap,
    bytes: usize,
}

impl HeaderSet {
    /// The headers, for a connection that is not egress's. Secrets among them are marked as sensitive.
    #[must_use]
    pub fn map(&self) -> &HeaderMap {
        &self.map
    }

    /// Adds a header whose value the plugin wrote.
    ///
    /// # Errors
    /// When it decides about the connection, holds a line break, or is one too many.
    pub fn text(&mut self, name: &str, value: &str) -> Result<(), ExchangeError> {
        let wanted = self.name(name, value)?;
        if matches!(wanted.as_str(), "cookie") {
            return Err(refused(
                name,
                "may only carry a secret that the operator granted",
            ));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| refused(name, "has a value with a control character"))?;
        self.map.append(wanted, value);
        Ok(())
    }

    /// Adds a header whose value the operator keeps.
    ///
    /// # Errors
    /// As [`HeaderSet::text`]; the value is never shown.
    pub fn secret(&mut self, name: &str, value: &str) -> Result<(), ExchangeError> {
        let wanted = self.name(name, value)?;
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| refused(name, "has a secret with a control character in it"))?;
        value.set_sensitive(true);
        self.map.append(wanted, value);
        Ok(())
    }

    fn name(&mut self, name: &str, value: &str) -> Result<HeaderName, ExchangeError> {
        let wanted = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| refused(name, "is not the name of a header"))?;
        let lower = wanted.as_str();
        if FORBIDDEN.contains(&lower) || lower.starts_with("proxy-") {
            return Err(refused(name, "is the worker's to set"));
        }
        self.bytes = self
            .bytes
            .saturating_add(name.len())
            .saturating_add(value.len());
        if self.map.len() >= MAX_HEADERS || self.bytes > MAX_HEADER_BYTES {
            return Err(refused(
                name,
                "is one too many: 64 headers and 16 KiB are allowed",
            ));
        }
        Ok(wanted)
    }
}

fn refused(name: &str, why: &'static str) -> ExchangeError {
    ExchangeError::Header {
        name: name
            .chars()
            .filter(char::is_ascii_graphic)
            .take(64)
            .collect(),
        why,
    }
}

impl Egress {
    /// Sends a request to a host out there, under the address rules of every download.
    ///
    /// # Errors
    /// When the URL is refused, or no whole answer comes.
    pub async fn exchange(
        &self,
        exchange: &Exchange,
        spill: Spill<'_>,
        cancel: &CancellationToken,
    ) -> Result<Answered, ExchangeError> {
        check_url(exchange.url.as_str(), &self.policy).map_err(|why| ExchangeError::Refused {
            url: shown_parsed(&exchange.url),
            why,
        })?;
        exchange_with(&self.client, exchange, spill, cancel).await
    }

    /// The URL of a request, judged by its text.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self, url: &str) -> Result<Url, ExchangeError> {
        check_url(url, &self.policy).map_err(|why| ExchangeError::Refused {
            url: shown_url(url),
            why,
        })
    }
}

/// One exchange through `client`, whose address rules hold and no others.
async fn exchange_with(
    client: &Client,
    exchange: &Exchange,
    spill: Spill<'_>,
    cancel: &CancellationToken,
) -> Result<Answered, ExchangeError> {
    let shown = shown_parsed(&exchange.url);
    let work = async {
        let response = client
            .request(exchange.method.clone(), exchange.url.clone())
            .headers(exchange.headers.map.clone())
            .header(ACCEPT_ENCODING, "identity")
            .body(exchange.body.clone())
            .send()
            .await
            .map_err(|error| transport(&shown, &error))?;
        receive(response, exchange, &shown, spill).await
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(ExchangeError::Cancelled { url: shown.clone() }),
        done = tokio::time::timeout(exchange.timeout, work) => done.unwrap_or_else(|_| {
            Err(ExchangeError::TimedOut { url: shown.clone(), after: exchange.timeout })
        }),
    }
}

async fn receive(
    response: Response,
    exchange: &Exchange,
    shown: &str,
    spill: Spill<'_>,
) -> Result<Answered, ExchangeError> {
    let too_large = || ExchangeError::TooLarge {
        url: shown.to_owned(),
        limit: exchange.max_bytes,
    };
    let status = response.status().as_u16();
    let headers = shown_headers(response.headers());
    // Of a HEAD the length is another answer's.
    let announced = response
        .content_length()
        .filter(|_| exchange.method != Method::HEAD);
    if announced.is_some_and(|length| length > exchange.max_bytes) {
        return Err(too_large());
    }
    let (mut short, mut file) = (Vec::new(), None);
    let mut got: u64 = 0;
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| transport(shown, &error))?;
        got = got.saturating_add(piece.len() as u64);
        if got > exchange.max_bytes {
            return Err(too_large());
        }
        if file.is_none() && got > exchange.inline_bytes {
            let mut opened = LongAnswer::create(spill).await.map_err(stored(shown))?;
            opened.write(&short).await.map_err(stored(shown))?;
            short = Vec::new();
            file = Some(opened);
        }
        match &mut file {
            Some(file) => file.write(&piece).await.map_err(stored(shown))?,
            None => short.extend_from_slice(&piece),
        }
    }
    let body = match file {
        Some(file) => Body::File(file.keep().await.map_err(stored(shown))?),
        None => Body::Bytes(short),
    };
    Ok(Answered {
        status,
        headers,
        body,
    })
}

/// A long answer on its way to disk; removed again unless it is kept.
struct LongAnswer {
    path: PathBuf,
    file: tokio::fs::File,
    kept: bool,
}

impl LongAnswer {
    async fn create(spill: Spill<'_>) -> io::Result<Self> {
        let path = spill()?;
        let mut options = tokio::fs::OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .await?;
        Ok(Self {
            path,
            file,
            kept: false,
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await
    }

    async fn keep(mut self) -> io::Result<PathBuf> {
        self.file.flush().await?;
        self.kept = true;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for LongAnswer {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished answer cannot be removed; it goes with the job's files");
        }
    }
}

fn shown_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .filter(|(name, value)| *name != "set-cookie" && value.len() <= ANSWER_HEADER)
        // Its body is whole: how it travelled says nothing more.
        .filter(|(name, _)| *name != "transfer-encoding" && *name != CONTENT_LENGTH)
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

fn stored(url: &str) -> impl Fn(io::Error) -> ExchangeError + '_ {
    move |source| ExchangeError::Disk {
        url: url.to_owned(),
        source,
    }
}

fn transport(url: &str, error: &reqwest::Error) -> ExchangeError {
    let url = url.to_owned();
    match refusal(error) {
        Some(address) => ExchangeError::Refused {
            url,
            why: address.into(),
        },
        None => ExchangeError::Transport {
            url,
            cause: innermost(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_connection_and_injection_are_refused() {
        let mut set = HeaderSet::default();
        for name in FORBIDDEN
            .into_iter()
            .chain(["Proxy-Authorization", "HOST", "cookie"])
        {
            assert!(set.text(name, "x").is_err(), "{name}");
        }
        for (name, value) in [
            ("a b", "x"),
            ("", "x"),
            ("x:y", "z"),
            ("x\r\ny", "z"),
            ("x", "a\r\nhost: evil"),
            ("x", "a\nb"),
            ("x", "a\0b"),
        ] {
            assert!(set.text(name, value).is_err(), "{name:?}: {value:?}");
            assert!(set.secret(name, value).is_err(), "{name:?}: {value:?}");
        }
        assert!(set.map.is_empty());
        set.text("x-fine", "yes").unwrap();
        set.secret("cookie", "planted").unwrap();
        assert!(!format!("{set:?}").contains("planted"));
        let error = set.secret("x", "planted\r\n").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("planted"));
        for n in 0..MAX_HEADERS - 2 {
            set.text(&format!("x-{n}"), "v").unwrap();
        }
        assert!(set.text("x-more", "v").is_err());
    }

    #[test]
    fn methods_for_proxies_are_refused() {
        assert_eq!(method("post").unwrap(), Method::POST);
        for text in [
            "CONNECT",
            "TRACE",
            "",
            "GET /x HTTP/1.1\r\nhost: evil",
            "BREW",
        ] {
            assert!(method(text).is_err(), "{text}");
        }
    }
}
