//! Downloads: into the model cache where they are named, else for this job only.

use worker_egress::DownloadError;
use worker_files::JobFiles;
use worker_plugins::contract::{Download, Failure, File};

use super::Refused;
use super::meter::Meter;
use super::models::{self, Checked, Told};
use super::perform::{Tools, file, on_disk, too_much};
use crate::journal::bare_url;

/// Most downloads of one effect, as the plugin host bounds every list; said here again because this is what costs.
const MAX_DOWNLOADS: usize = 64;

pub(super) async fn fetch(
    tools: &Tools<'_>,
    downloads: Vec<Download>,
    files: &JobFiles,
) -> Result<Vec<File>, Failure> {
    if downloads.len() > MAX_DOWNLOADS {
        return Err(too_much(
            "downloads at once",
            downloads.len() as u64,
            MAX_DOWNLOADS as u64,
        ));
    }
    // All are checked before the first byte is asked for.
    let (hosts, settings) = (&tools.engine.grants().hosts, &tools.shared.settings);
    let largest = settings.max_download_bytes;
    let checked: Vec<Checked> = downloads
        .into_iter()
        .map(|download| models::check(download, tools.texts, hosts, largest, files.limits()))
        .collect::<Result<_, Refused>>()?;
    let mut fetched = Vec::with_capacity(checked.len());
    for download in checked {
        fetched.push(one(tools, download, files).await?);
    }
    Ok(fetched)
}

async fn one(tools: &Tools<'_>, wanted: Checked, files: &JobFiles) -> Result<File, Failure> {
    let shown = bare_url(&wanted.url).unwrap_or_default();
    let say = |words: &str| {
        tools
            .shared
            .reporter
            .info(Some(tools.job_id), format!("{words} {shown}"));
    };
    let meter = Meter::new(tools, wanted.cache_as.as_deref().unwrap_or("an input"));
    let progress = |done, total| meter.tell(done, total);
    let cancel = &tools.reservation.cancel;
    let Some(name) = &wanted.cache_as else {
        let path = files.input_path().map_err(on_disk)?;
        // By now: what the job holds already counts.
        let room = wanted.max_bytes.min(files.room_left());
        let asked = worker_egress::Wanted {
            max_bytes: Some(room),
            ..wanted.wanted()
        };
        say("downloading");
        tools
            .shared
            .egress
            .download(&wanted.url, &path, &asked, &progress, cancel)
            .await
            .map_err(|error| {
                note(tools, &wanted.url, &error);
                models::not_downloaded(&error)
            })?;
        return files.adopt(path, "input").await.map(file).map_err(on_disk);
    };
    let told = Told {
        waiting: &|| say("waiting for somebody else's download of"),
        downloading: &|| say("downloading"),
        progress: &progress,
        failed: &|error| note(tools, &wanted.url, error),
    };
    let (cache, egress) = (&tools.shared.cache, &tools.shared.egress);
    let called = (name.as_str(), tools.model);
    // A server that nobody uses holds its files; a job that needs their room counts more.
    let release = async {
        let servers = &tools.shared.servers;
        let before = servers.list().len();
        servers.release_memory(None, || async { false }).await;
        servers.list().len() < before
    };
    let cached = models::bring(cache, egress, &wanted, called, &told, release, cancel).await?;
    files
        .adopt_cached(&cached, name)
        .await
        .map(file)
        .map_err(on_disk)
}

/// Notes what is no doing of the plugin's: what may pass, and what the offer names and its host does not give.
fn note(tools: &Tools<'_>, url: &str, error: &DownloadError) {
    let by_host = match error {
        DownloadError::NotFound { .. }
        | DownloadError::Unauthorized { .. }
        | DownloadError::Status { .. }
        | DownloadError::Redirect { .. }
        | DownloadError::Encoded { .. }
        | DownloadError::DigestMismatch { .. } => tools.texts.hold(url),
        DownloadError::Disk { .. } => true,
        _ => false,
    };
    if by_host || error.retryable() {
        tools.withheld.note();
    }
}
