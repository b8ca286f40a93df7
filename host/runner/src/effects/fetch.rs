//! Downloads: into the model cache where they are named, else for this job only.

use std::path::PathBuf;

use worker_egress::{DownloadError, Wanted};
use worker_files::{CacheError, JobFiles, Limits, ModelCache, Received};
use worker_plugins::contract::{Download, Failure, File};

use super::Refused;
use super::perform::{Tools, file, on_disk, too_much};
use crate::journal::bare_url;

/// Most downloads of one effect, as the plugin host bounds every list; said here again because this is what costs.
const MAX_DOWNLOADS: usize = 64;

struct Checked {
    url: String,
    cache_as: Option<String>,
    sha256: Option<[u8; 32]>,
    approx_bytes: Option<u64>,
    max_bytes: u64,
}

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
    let checked: Vec<Checked> = downloads
        .into_iter()
        .map(|download| check(tools, download))
        .collect::<Result<_, Refused>>()?;
    let mut fetched = Vec::with_capacity(checked.len());
    for download in checked {
        fetched.push(one(tools, download, files).await?);
    }
    Ok(fetched)
}

fn check(tools: &Tools<'_>, download: Download) -> Result<Checked, Refused> {
    tools
        .texts
        .check(&download.url, &tools.engine.grants().hosts)?;
    if let Some(name) = &download.cache_as {
        worker_files::check_bare_name(name)
            .map_err(|_| Refused::FileName { name: name.clone() })?;
    }
    // What is for this job only lies in its scratch directory, where no file may be larger.
    let ceiling = match download.cache_as {
        Some(_) => tools.shared.settings.max_download_bytes,
        None => Limits::default().file_bytes,
    };
    Ok(Checked {
        sha256: download.sha256.as_deref().map(digest).transpose()?,
        approx_bytes: download.approx_bytes,
        max_bytes: download
            .max_bytes
            .map_or(ceiling, |asked| asked.min(ceiling)),
        cache_as: download.cache_as,
        url: download.url,
    })
}

/// Reads a digest as studios write them: hex of either case, perhaps with blanks around it.
fn digest(text: &str) -> Result<[u8; 32], Refused> {
    let mut bytes = [0; 32];
    match hex::decode_to_slice(text.trim(), &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Refused::Digest {
            text: text.chars().take(80).collect(),
        }),
    }
}

async fn one(tools: &Tools<'_>, wanted: Checked, files: &JobFiles) -> Result<File, Failure> {
    let Some(name) = &wanted.cache_as else {
        let path = files.input_path().map_err(on_disk)?;
        download(tools, &wanted, path.clone()).await?;
        return files.adopt(path, "input").await.map(file).map_err(on_disk);
    };
    let cache = &tools.shared.cache;
    let key = ModelCache::key_for(wanted.sha256, &wanted.url);
    let cached = match cache.lookup(&key).map_err(in_cache)? {
        Some(cached) => cached,
        None => {
            let pending = cache.begin(&key).map_err(in_cache)?;
            let received = download(tools, &wanted, pending.path().to_owned()).await?;
            cache.commit(pending, received).await.map_err(in_cache)?
        }
    };
    files
        .adopt_cached(&cached, name)
        .await
        .map(file)
        .map_err(on_disk)
}

/// A failure of the model cache: the disk's may pass, and a file that was changed may come whole the next time.
fn in_cache(error: CacheError) -> Failure {
    let retryable = !matches!(error, CacheError::NotRegular { .. });
    Failure {
        message: error.to_string(),
        retryable,
    }
}

async fn download(tools: &Tools<'_>, wanted: &Checked, into: PathBuf) -> Result<Received, Failure> {
    let shown = bare_url(&wanted.url).unwrap_or_default();
    tools
        .shared
        .reporter
        .info(Some(tools.job_id), format!("downloading {shown}"));
    let asked = Wanted {
        sha256: wanted.sha256,
        approx_bytes: wanted.approx_bytes,
        max_bytes: Some(wanted.max_bytes),
    };
    let cancel = &tools.reservation.cancel;
    let result = tools
        .shared
        .egress
        .download(&wanted.url, &into, &asked, &|_, _| {}, cancel)
        .await;
    match result {
        Ok(downloaded) => Ok(Received {
            sha256: downloaded.sha256,
            bytes: downloaded.bytes,
        }),
        // A full disk here says nothing of the next worker's.
        Err(error @ DownloadError::Disk { .. }) => Err(Failure {
            message: error.to_string(),
            retryable: true,
        }),
        Err(error) => Err(Failure {
            message: error.to_string(),
            retryable: error.retryable(),
        }),
    }
}
