//! The journal of a job: what was offered, each effect, each outcome, how long each took, by which plugins.
//!
//! One file per job, JSON lines, private to the worker's user. Written as the job goes, so that what a crash
//! interrupted can still be read. Queries and user info of URLs are left out, and bytes beyond a bound are kept as
//! length and digest only. It is never synced: a journal explains, it is not what a result depends on.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use worker_plugins::contract::{Effect, Job, Outcome};
use worker_wire::{JobId, timestamp};

use crate::told::{self, digest, digest_of};

/// Journals kept. More only takes disk; fewer leaves less to look back at.
const KEPT_FILES: usize = 500;

/// Bytes of journals kept in all.
const KEPT_BYTES: u64 = 256 * 1024 * 1024;

/// Longest text kept whole, in bytes; prompts of a megabyte would otherwise fill the folder.
const WHOLE_TEXT: usize = 64 * 1024;

/// Longest run of bytes kept whole.
const WHOLE_BYTES: usize = 4 * 1024;

/// Largest journal, in bytes; what an engine asks for beyond that is left out, and the journal says so. A larger one could not
/// be replayed.
pub(crate) const MAX_JOURNAL: u64 = 64 << 20;

/// Folder, in that of the journals, of bytes kept by digest.
pub(crate) const BLOBS: &str = "by-digest";

/// Longest run of bytes kept by digest; longer ones make their journal one that cannot be replayed.
pub(crate) const MAX_BLOB: usize = 1 << 20;

/// Bytes kept by digest in all; the oldest go first.
const KEPT_BLOBS: u64 = 64 << 20;

/// Jobs between two prunings.
const PRUNE_EVERY: u32 = 50;

/// The folder of journals.
#[derive(Debug)]
pub struct JournalStore {
    dir: PathBuf,
    prompts: bool,
    /// Older ones are removed.
    age: Duration,
    since_prune: std::sync::atomic::AtomicU32,
}

/// The journal folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the journal folder {}: {source}; check its owner and the free space", path.display())]
pub struct JournalError {
    /// Which folder.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

impl JournalStore {
    /// Opens the folder, making it where it is missing. With `prompts` off, tasks and texts are left out. What is older than
    /// `age` goes.
    pub fn open(dir: &Path, prompts: bool, age: Duration) -> Result<Self, JournalError> {
        let failed = |source| JournalError {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        private_dir(dir).map_err(failed)?;
        fs::create_dir_all(dir.join(BLOBS)).map_err(failed)?;
        private_dir(&dir.join(BLOBS)).map_err(failed)?;
        let store = Self {
            dir: dir.to_owned(),
            prompts,
            age,
            since_prune: 0.into(),
        };
        store.prune();
        Ok(store)
    }

    /// Starts the journal of a job. A journal that cannot be written is said once and costs no job.
    pub fn start(&self, job: &JobId) -> Journal {
        use std::sync::atomic::Ordering;
        if self.since_prune.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            self.prune();
        }
        let stamp = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis());
        let path = self.dir.join(format!(
            "{stamp:013}-{}.jsonl",
            job.as_str().replace(':', "_")
        ));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options
            .open(&path)
            .inspect_err(|error| tracing::warn!(target: "job", job = job.as_str(), %error, "no journal for this job"))
            .ok();
        Journal {
            file,
            started: Instant::now(),
            blobs: self.dir.join(BLOBS),
            prompts: self.prompts,
            broken: false,
            written: 0,
            full: false,
        }
    }

    /// Whether a file was last written longer ago than the operator keeps journals.
    fn is_old(&self, path: &Path) -> bool {
        let written = fs::metadata(path).and_then(|meta| meta.modified());
        let age = written.ok().and_then(|at| at.elapsed().ok());
        age.is_some_and(|age| age > self.age)
    }

    /// Removes the oldest bytes kept by digest beyond their bound.
    fn prune_blobs(&self) {
        let entries = fs::read_dir(self.dir.join(BLOBS)).into_iter().flatten();
        let mut files: Vec<(SystemTime, PathBuf, u64)> = entries
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, entry.path(), meta.len()))
            })
            .collect();
        files.sort();
        let mut bytes = 0u64;
        for (_, path, size) in files.iter().rev() {
            bytes = bytes.saturating_add(*size);
            if bytes > KEPT_BLOBS || self.is_old(path) {
                // It only takes space, and is tried again at the next pruning.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes the oldest journals beyond the bounds. Blocks.
    pub(crate) fn prune(&self) {
        self.prune_blobs();
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let mut files: Vec<(PathBuf, u64)> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|ext| ext == "jsonl"))
            .filter_map(|entry| entry.metadata().ok().map(|meta| (entry.path(), meta.len())))
            .collect();
        // Names begin with the time, so the newest come last.
        files.sort();
        let (mut count, mut bytes) = (0usize, 0u64);
        for (path, size) in files.iter().rev() {
            count += 1;
            bytes = bytes.saturating_add(*size);
            let beyond = count > KEPT_FILES || bytes > KEPT_BYTES || self.is_old(path);
            if beyond && fs::remove_file(path).is_err() {
                tracing::warn!(target: "job", path = %path.display(), "an old journal cannot be removed");
            }
        }
    }
}

#[cfg(unix)]
fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn private_dir(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The journal of one job.
#[derive(Debug)]
pub struct Journal {
    file: Option<File>,
    started: Instant,
    blobs: PathBuf,
    prompts: bool,
    broken: bool,
    /// Bytes written so far.
    written: u64,
    full: bool,
}

impl Journal {
    /// A journal that keeps nothing.
    pub fn none() -> Self {
        Self {
            file: None,
            started: Instant::now(),
            blobs: PathBuf::new(),
            prompts: false,
            broken: false,
            written: 0,
            full: false,
        }
    }

    /// Appends one line: the event, the milliseconds since the job began, and what belongs to it.
    pub fn write(&mut self, event: &str, body: Value) {
        let Some(file) = self.file.as_mut() else {
            return;
        };
        let asked = matches!(event, "effect" | "outcome");
        if asked && self.full {
            return;
        }
        let mut line = json!({
            "event": event,
            "at": timestamp(SystemTime::now()),
            "ms": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "body": body,
        })
        .to_string();
        line.push('\n');
        self.written = self.written.saturating_add(line.len() as u64);
        if asked && self.written > MAX_JOURNAL {
            self.full = true;
            line = json!({ "event": "full", "body": { "bytes": MAX_JOURNAL } }).to_string();
            line.push('\n');
        }
        if let Err(error) = file.write_all(line.as_bytes())
            && !self.broken
        {
            self.broken = true;
            tracing::warn!(target: "job", %error, "the journal of this job is incomplete");
        }
    }

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
fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
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

    const AGE: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn what_is_older_than_the_operator_keeps_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(BLOBS)).unwrap();
        let at = |name: &str, age: Duration| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            path
        };
        let old = AGE + Duration::from_secs(60);
        let blob = format!("{BLOBS}/aa");
        let gone = [at("0000000000001-j.jsonl", old), at(&blob, old)];
        let kept = at("0000000000002-j.jsonl", AGE / 2);
        let again = at(&format!("{BLOBS}/{}", digest(b"help")), old);
        keep(&again, b"help").unwrap();
        JournalStore::open(dir.path(), true, AGE).unwrap();
        assert!(gone.iter().all(|path| !path.exists()), "{gone:?}");
        assert!(kept.exists());
        assert!(again.exists(), "a young journal names it");
    }

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

    #[test]
    fn with_prompts_off_no_text_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = JournalStore::open(dir.path(), false, AGE).unwrap();
        let mut journal = store.start(&JobId::parse("j").unwrap());
        journal.write("offered", journal.document(r#"{"prompt":"a secret koi"}"#));
        journal.write("effect", journal.value(&json!({"text": "a secret koi"})));
        let run = json!({"Run": {"backend": "draw", "arguments": [
            {"Flag": "--fast"}, {"Flag": "koi"}, {"Positional": [{"Text": "koi"}]},
            {"Setting": {"name": "--words", "value": [{"Text": "koi"}]}},
        ]}});
        journal.write("effect", journal.value(&run));
        let file = fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.is_file())
            .unwrap();
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains("koi"), "{text}");
        for kept in ["\"draw\"", "--fast", "--words"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn the_folder_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..KEPT_FILES + 20 {
            fs::write(dir.path().join(format!("{n:013}-j.jsonl")), "{}").unwrap();
        }
        JournalStore::open(dir.path(), true, AGE).unwrap();
        assert_eq!(
            fs::read_dir(dir.path())
                .unwrap()
                .flatten()
                .filter(|entry| entry.path().is_file())
                .count(),
            KEPT_FILES
        );
        assert!(
            !dir.path().join("0000000000000-j.jsonl").exists(),
            "the oldest go first"
        );
    }
}
