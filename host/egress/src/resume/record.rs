//! What is known of an unfinished download, kept beside it.
//!
//! Bytes that were written survive the end of this process at once, and the end of the machine's power only once they
//! were synced. So the record has both lists, and which one counts is told by the system's boot id.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::spans::Spans;

const VERSION: u32 = 1;
/// Largest record that is read, in bytes: thousands of gaps. More is not ours.
const MAX_BYTES: u64 = 256 * 1024;

/// A file at its host, as one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// A strong entity tag: equal only for equal bytes. Where the digest is known beforehand, a weak one or a time will do.
    pub(crate) validator: String,
    pub(crate) total: u64,
}

/// An unfinished download as an earlier call left it.
pub(crate) struct Earlier {
    pub(crate) version: Version,
    pub(crate) spans: Spans,
    /// Those of them that are on the disk, whatever becomes of the machine.
    pub(crate) synced: Spans,
    /// The furthest that was told to anybody.
    pub(crate) shown: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    /// SHA-256 of the URL, which may hold a token itself.
    url: String,
    validator: String,
    total: u64,
    boot: Option<String>,
    written: Spans,
    synced: Spans,
    shown: u64,
}

/// The record of one partial file.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    path: PathBuf,
    url: String,
    boot: Option<String>,
}

impl Sidecar {
    pub(crate) fn new(partial: &Path, url: &str) -> Self {
        let mut path = partial.as_os_str().to_owned();
        path.push(".resume");
        Self {
            path: path.into(),
            url: hex::encode(Sha256::digest(url.as_bytes())),
            boot: boot_id(),
        }
    }

    /// What an earlier call left, if it is for this URL and agrees with a partial file of `length` bytes.
    pub(crate) fn load(&self, length: u64) -> Option<Earlier> {
        let mut text = String::new();
        let file = File::open(&self.path).ok()?;
        file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        let record: Record = serde_json::from_str(&text).ok()?;
        let same_boot = record.boot.is_some() && record.boot == self.boot;
        let synced = record.synced;
        let spans = match same_boot {
            true => record.written,
            false => synced.clone(),
        };
        let fits = record.version == VERSION
            && record.url == self.url
            && !record.validator.is_empty()
            && [&spans, &synced]
                .iter()
                .all(|spans| spans.is_valid(record.total) && spans.end() <= length);
        fits.then_some(Earlier {
            version: Version {
                validator: record.validator,
                total: record.total,
            },
            spans,
            synced,
            shown: record.shown,
        })
    }

    /// Replaces the record. With `durable` it is on disk when this returns.
    pub(crate) fn save(
        &self,
        version: &Version,
        written: &Spans,
        synced: &Spans,
        shown: u64,
        durable: bool,
    ) -> io::Result<()> {
        let record = Record {
            version: VERSION,
            url: self.url.clone(),
            validator: version.validator.clone(),
            total: version.total,
            boot: self.boot.clone(),
            written: written.clone(),
            synced: synced.clone(),
            shown,
        };
        let new = self.new_path();
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&new, &self.path)
    }

    /// Removes the record; none is as good.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for path in [&self.new_path(), &self.path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn new_path(&self) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(".new");
        path.into()
    }
}

/// What changes whenever the system starts. None: what was written but not synced is never trusted.
fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(ranges: &[(u64, u64)]) -> Spans {
        let mut spans = Spans::default();
        for &(start, end) in ranges {
            spans.add(start, end);
        }
        spans
    }

    #[test]
    fn it_is_trusted_only_where_it_fits() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("p");
        let own = Sidecar::new(&partial, "https://h/x?token=planted");
        let version = Version {
            validator: "\"v\"".into(),
            total: 100,
        };
        let (written, synced) = (spans(&[(0, 50)]), spans(&[(0, 20)]));
        own.save(&version, &written, &synced, 50, true).unwrap();
        let text = fs::read_to_string(dir.path().join("p.resume")).unwrap();
        assert!(
            !text.contains("planted") && !text.contains("https"),
            "{text}"
        );
        let earlier = own.load(50).unwrap();
        assert_eq!((&earlier.version, earlier.shown), (&version, 50));
        // A file that is shorter than the record says is another one.
        assert!(own.load(49).is_none());
        assert!(Sidecar::new(&partial, "https://h/y").load(50).is_none());
        // After a restart of the machine only what was synced counts.
        let restarted = Sidecar {
            boot: Some("another".into()),
            ..own.clone()
        };
        assert_eq!(restarted.load(50).unwrap().spans, synced);
        for broken in [
            &text[..text.len() / 2],
            "",
            "{}",
            &text.replace("100", "10"),
        ] {
            fs::write(dir.path().join("p.resume"), broken).unwrap();
            assert!(own.load(50).is_none(), "{broken}");
        }
        own.remove().unwrap();
        own.remove().unwrap();
    }

    #[test]
    fn what_did_not_get_to_the_disk_is_not_written_down() {
        use crate::resume::{NotNoted, write_record};
        let dir = tempfile::tempdir().unwrap();
        let own = Sidecar::new(&dir.path().join("p"), "https://h/x");
        let version = Version {
            validator: "\"v\"".into(),
            total: 100,
        };
        // No disk is behind it: the system refuses to put anything there.
        let file = File::open("/dev/null").unwrap();
        let written = spans(&[(0, 50)]);
        let none = Spans::default();
        let noted = write_record(&own, &file, &version, &written, &written, 50, true);
        assert!(matches!(noted, Err(NotNoted::Lost(_))), "{noted:?}");
        assert!(own.load(50).is_none());
        // What was not asked for cannot have failed.
        write_record(&own, &file, &version, &written, &none, 50, false).unwrap();
        assert!(own.load(50).is_some());
    }
}
