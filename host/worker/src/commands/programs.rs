//! `programs`: the releases of native programs that were downloaded, and a word for one that changed.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use worker_backends::{KnownArchive, Releases};
use worker_config::Paths;
use worker_wire::timestamp;

use crate::cli::{Failure, Output, one_line};

/// Lists the archives, or trusts one. The running worker sees it at its next look, within half a minute.
pub(crate) fn run<W: Write>(
    paths: &Paths,
    accept: Option<&str>,
    as_json: bool,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let releases = Releases::new(paths.programs.clone());
    let mut archives = match accept {
        Some(sha256) => releases.accept(sha256)?,
        None => releases.known()?,
    };
    archives.sort_by(|a, b| (a.first_used, &a.url).cmp(&(b.first_used, &b.url)));
    if as_json {
        let listed: Vec<Value> = archives.iter().map(|it| entry(it, &releases)).collect();
        return output.json(&json!({ "archives": listed }));
    }
    if archives.is_empty() {
        return output.line("no program was downloaded");
    }
    for archive in &archives {
        let unpacked = if releases.has(&archive.sha256) {
            "unpacked"
        } else {
            "downloaded when it is next needed"
        };
        let release = archive.release.as_deref().unwrap_or("release unknown");
        output.line(format_args!(
            "{}  {}  {unpacked}  {}",
            archive.sha256,
            one_line(release),
            one_line(&archive.url)
        ))?;
        if let Some(refused) = &archive.refused {
            output.line(format_args!(
                "  changed: its address now gives {refused}; to trust that, run `studio-worker programs accept {refused}`"
            ))?;
        }
    }
    Ok(())
}

fn entry(archive: &KnownArchive, releases: &Releases) -> Value {
    json!({
        "url": archive.url,
        "release": archive.release,
        "sha256": archive.sha256,
        "refused": archive.refused,
        "firstUsed": timestamp(UNIX_EPOCH + Duration::from_secs(archive.first_used)),
        "unpacked": releases.has(&archive.sha256),
    })
}
