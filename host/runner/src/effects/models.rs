//! Model files: what may be downloaded, and bringing it into the cache. Used by jobs and by `models pull` alike.

use tokio_util::sync::CancellationToken;
use worker_egress::{DownloadError, Egress, OnProgress, Wanted};
use worker_files::{
    CacheError, CachedFile, Limits, ModelCache, ObtainError, Partial, Received, WantedFile,
};
use worker_plugins::contract::{Download, Failure};

use super::{OfferTexts, Refused};

/// A download that keeps to the rules.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) url: String,
    pub(crate) cache_as: Option<String>,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) approx_bytes: Option<u64>,
    pub(crate) max_bytes: u64,
}

/// Checks a download against the offer and the hosts that the plugin was granted. `largest` bounds what goes into the
/// cache; what is for one job only lies in its scratch directory, where no file may be larger than `limits` say.
pub(crate) fn check(
    download: Download,
    texts: &OfferTexts,
    hosts: &[String],
    largest: u64,
    limits: &Limits,
) -> Result<Checked, Refused> {
    texts.check(&download.url, hosts)?;
    if let Some(name) = &download.cache_as {
        worker_files::check_bare_name(name).map_err(|_| Refused::file_name(name))?;
    }
    let ceiling = match download.cache_as {
        Some(_) => largest,
        None => limits.file_bytes,
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

impl Checked {
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            sha256: self.sha256,
            approx_bytes: self.approx_bytes,
            max_bytes: Some(self.max_bytes),
        }
    }
}

/// What is told while a file is brought.
pub(crate) struct Told<'a> {
    /// Somebody else is downloading it already.
    pub(crate) waiting: &'a (dyn Fn() + Send + Sync),
    /// It is not here: a download begins.
    pub(crate) downloading: &'a (dyn Fn() + Send + Sync),
    /// How far the download is.
    pub(crate) progress: OnProgress<'a>,
    /// The download failed.
    pub(crate) failed: &'a (dyn Fn(&DownloadError) + Send + Sync),
}

/// A model file, from the cache or by a download into it. Where files in use take up the budget, or the disk of a cache that
/// has one, `release` is asked to let go of what it can; it answers whether it did.
pub(crate) async fn bring(
    cache: &ModelCache,
    egress: &Egress,
    checked: &Checked,
    (name, model): (&str, &str),
    told: &Told<'_>,
    release: impl Future<Output = bool> + Send,
    cancel: &CancellationToken,
) -> Result<CachedFile, Failure> {
    let wanted = WantedFile {
        url: checked.url.clone(),
        sha256: checked.sha256,
        name: name.to_owned(),
        model: model.to_owned(),
        // A size that is past what may come would only keep other models from having room.
        approx_bytes: checked
            .approx_bytes
            .map(|approx| approx.min(checked.max_bytes)),
    };
    let obtain = || {
        let download = |partial: Partial| async move {
            (told.downloading)();
            download(egress, checked, &partial, told.progress, cancel).await
        };
        cache.obtain(&wanted, cancel, || (told.waiting)(), download)
    };
    let mut brought = obtain().await;
    let again = match &brought {
        Err(ObtainError::Cache(error)) => may_find_room(cache, error),
        _ => false,
    };
    let released = async {
        tokio::select! {
            released = release => released,
            () = cancel.cancelled() => false,
        }
    };
    if again && released.await {
        brought = obtain().await;
    }
    brought.map_err(|error| match error {
        ObtainError::Cache(error) | ObtainError::Download(Broken::Cache(error)) => in_cache(&error),
        ObtainError::Download(Broken::Download(error)) => {
            (told.failed)(&error);
            not_downloaded(&error)
        }
    })
}

/// Whether there may be room once files in use are let go.
fn may_find_room(cache: &ModelCache, error: &CacheError) -> bool {
    match error {
        // What is larger than the whole budget has no room whoever lets go.
        CacheError::Budget { needed, budget, .. } => needed <= budget,
        // Without a budget nothing is removed for the disk's sake, and all that is held may be too little.
        CacheError::Space {
            needed, free, held, ..
        } => cache.budget().is_some() && needed.saturating_sub(*free) <= *held,
        _ => false,
    }
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Download(#[from] DownloadError),
}

/// Downloads into the cache's partial file, going on from what an earlier try left there.
async fn download(
    egress: &Egress,
    checked: &Checked,
    partial: &Partial,
    progress: OnProgress<'_>,
    cancel: &CancellationToken,
) -> Result<Received, Broken> {
    let (url, wanted) = (&checked.url, checked.wanted());
    let downloaded = egress
        .download_resumable(url, partial.path(), &wanted, progress, cancel)
        .await?;
    Ok(Received {
        sha256: downloaded.sha256,
        bytes: downloaded.bytes,
        validator: downloaded.validator,
    })
}

/// A failure of the model cache, as the plugin hears it.
pub(crate) fn in_cache(error: &CacheError) -> Failure {
    Failure {
        message: error.to_string(),
        retryable: error.retryable(),
    }
}

/// A failure of a download, as the plugin hears it. A full disk here says nothing of the next worker's.
pub(crate) fn not_downloaded(error: &DownloadError) -> Failure {
    Failure {
        message: error.to_string(),
        retryable: error.retryable() || matches!(error, DownloadError::Disk { .. }),
    }
}
