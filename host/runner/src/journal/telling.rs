//! How a journal tells what a job has: without secrets, and what is long by length and digest.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use worker_plugins::contract::{Effect, Job, Outcome};

use super::MAX_BLOB;
use crate::told::{self, digest, digest_of};

/// Longest text kept whole, in bytes; prompts of a megabyte would otherwise fill the folder.
const WHOLE_TEXT: usize = 64 * 1024;

/// Longest run of bytes kept whole.
const WHOLE_BYTES: usize = 4 * 1024;

/// Tells as the operator wants it.
#[derive(Clone, Debug)]
pub struct Teller {
    /// Where bytes are kept by digest.
    pub(super) blobs: PathBuf,
    /// Whether texts are told.
    pub(super) prompts: bool,
}

impl Teller {
    /// A document of the job as the journal keeps it: whole, or, with prompts off, its length and digest.
    pub fn document(&self, raw: &str) -> Value {
        if self.prompts {
            redact(serde_json::from_str(raw).unwrap_or(Value::Null))
        } else {
            digest_of(raw.as_bytes())
        }
    }

    /// The job as its engine sees it, for replaying. What programs print about themselves is kept once, by digest.
    pub fn job(&self, job: &Job) -> Value {
        if !self.prompts {
            return json!({ "leftOut": "`prompts_in_journal` is off" });
        }
        let mut value = serde_json::to_value(job).unwrap_or(Value::Null);
        for (name, document) in [("task", &job.task), ("model_source", &job.model_source)] {
            if let Some(slot) = value.get_mut(name) {
                *slot = redact(serde_json::from_str(document).unwrap_or(Value::Null));
            }
        }
        let backends = value.get_mut("backends").and_then(Value::as_array_mut);
        for backend in backends.into_iter().flatten() {
            let probes = backend.get_mut("probes").and_then(Value::as_array_mut);
            for probe in probes.into_iter().flatten() {
                let text = probe.as_str().unwrap_or_default().to_owned();
                *probe = self.kept(text.as_bytes());
            }
        }
        value
    }

    /// Keeps bytes by digest, where there is room, and names them.
    fn kept(&self, bytes: &[u8]) -> Value {
        if bytes.len() <= MAX_BLOB && self.prompts {
            let path = self.blobs.join(digest(bytes));
            // Without it this journal cannot be replayed; that is counted there.
            let _ = keep(&path, bytes);
        }
        digest_of(bytes)
    }

    /// An effect as the journal keeps it: bytes that it carries by length and digest only.
    pub fn effect(&self, effect: &Effect) -> Value {
        told::effect(effect, |bare| self.value(bare))
    }

    /// An outcome as the journal keeps it. What a replay needs is kept, long bytes by digest.
    pub fn outcome(&self, outcome: &Outcome) -> Value {
        told::outcome(
            outcome,
            self.prompts,
            |bare| self.value(bare),
            |bytes| self.kept(bytes),
        )
    }

    /// Whatever else a plugin said, as the journal keeps it.
    pub fn value<T: serde::Serialize>(&self, value: &T) -> Value {
        let value = redact(serde_json::to_value(value).unwrap_or(Value::Null));
        if self.prompts {
            value
        } else {
            without_texts(value)
        }
    }
}

/// A value with its long parts told by digest, for comparing and showing.
pub(crate) fn short<T: serde::Serialize>(value: &T) -> Value {
    redact(serde_json::to_value(value).unwrap_or(Value::Null))
}

/// Writes a file that is named by its content, whole or not at all. One that is there is left as it is.
pub(super) fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        // As young as the youngest journal that names it.
        return file.set_modified(SystemTime::now());
    }
    let partial = path.with_extension("partial");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&partial)?.write_all(bytes)?;
    fs::rename(partial, path)
}

/// Takes queries and user info out of URLs and shortens what is too long.
fn redact(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(redact_text(text)),
        Value::Array(items) => match bytes_of(&items) {
            Some(bytes) if bytes.len() > WHOLE_BYTES => digest_of(&bytes),
            _ => Value::Array(items.into_iter().map(redact).collect()),
        },
        Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (k, redact(v))).collect()),
        other => other,
    }
}

/// With prompts off, every text becomes its digest. Only what names a program or an option stays: without those nobody
/// could tell what was done.
fn without_texts(value: Value) -> Value {
    match value {
        Value::String(text) => digest_of(text.as_bytes()),
        Value::Array(items) => Value::Array(items.into_iter().map(without_texts).collect()),
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| match value.as_str() {
                    Some(text) if is_name(&key, text) => (key, value),
                    _ => (key, without_texts(value)),
                })
                .collect(),
        ),
        other => other,
    }
}

/// Whether this is the name of a program, or of an option as command lines have them.
fn is_name(key: &str, text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let bare = text.len() <= 64 && text.chars().all(plain);
    match key {
        "backend" => bare,
        "Flag" | "name" => bare && text.starts_with('-'),
        _ => false,
    }
}

fn bytes_of(items: &[Value]) -> Option<Vec<u8>> {
    if items.len() <= WHOLE_BYTES {
        return None;
    }
    items
        .iter()
        .map(|item| item.as_u64().and_then(|n| u8::try_from(n).ok()))
        .collect()
}

fn redact_text(text: String) -> String {
    if let Some(url) = bare_url(&text) {
        return url;
    }
    if text.len() <= WHOLE_TEXT {
        return text;
    }
    let mut end = WHOLE_TEXT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept = text.get(..end).unwrap_or_default();
    format!(
        "{kept}… ({} bytes in all, sha256 {})",
        text.len(),
        digest(text.as_bytes())
    )
}

/// The URL without user info, query and fragment, where the text is one.
pub(crate) fn bare_url(text: &str) -> Option<String> {
    // What a download takes for a URL is one here: in any case, with blanks before it and line ends within.
    let start = text.trim_start_matches(|c: char| c <= ' ').chars();
    let start = start.filter(|c| !matches!(c, '\t' | '\n' | '\r')).take(6);
    let start = start.collect::<String>().to_ascii_lowercase();
    if start.starts_with("data:") {
        return Some(format!("data: ({} bytes)", text.len()));
    }
    if !(start.starts_with("https:") || start.starts_with("http:")) {
        return None;
    }
    let mut url = match url::Url::parse(text) {
        Ok(url) => url,
        // A sentence that begins so is none; a URL that nobody can read may hold a token all the same.
        Err(_) if text.contains(' ') => return None,
        Err(_) => return Some("not a valid URL".to_owned()),
    };
    url.set_query(None);
    url.set_fragment(None);
    // Neither fails for http URLs.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(url.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_and_large_bytes_are_left_out() {
        let value = redact(json!({
            "url": "https://me:pw@host/a?token=SECRET#frag",
            "odd": [" HTTPS://me:pw@host/a?token=SECRET", "http:/me:pw@host/a?token=SECRET", "ht\ntps://host/?SECRET", "https://host:x/?SECRET", "DATA:,SECRET"],
            "bytes": vec![7u8; WHOLE_BYTES + 1],
            "small": [1, 2, 3],
        }));
        assert_eq!(value["url"], "https://host/a");
        assert_eq!(value["odd"][0], "https://host/a");
        assert!(!value.to_string().contains("SECRET"), "{value}");
        assert_eq!(value["bytes"]["bytes"], WHOLE_BYTES + 1);
        assert_eq!(value["small"], json!([1, 2, 3]));
    }
}
