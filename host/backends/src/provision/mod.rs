//! Releases of native programs that were downloaded: each in a folder of its own, named after its archive's digest.
//!
//! Releases lie side by side, so that a plugin and its program change together and roll back together. An archive goes
//! through a download, a check, an unpacking beside its place, and one rename; what is interrupted leaves only what the
//! next start sweeps away. An archive is trusted because the plugin pins its digest, or because it is the one that the
//! same address gave the first time; see [`known`].
//!
//! ```text
//! <dir>/archives.json            which digest each address gave
//! <dir>/releases/<sha256>/…      one unpacked archive
//! <dir>/partial/<address>        an archive that comes, or was interrupted: its download goes on there
//! <dir>/staging/…                what is under way otherwise
//! ```

mod archive;
mod error;
mod known;
mod names;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_egress::{DownloadError, Egress, OnProgress, shown_url};
use worker_files::remove_tree;

pub use archive::{ArchiveError, ArchiveLimits};
pub use error::ProvisionError;
pub use known::{KnownArchive, KnownError};

use crate::unused::{note_use, remove_unused};
use known::Known;

/// Longest archive that is downloaded. Larger lets a wrong address fill the disk; smaller refuses releases that carry a
/// GPU vendor's libraries.
const ARCHIVE_BYTES: u64 = 4 << 30;
/// Age from which an unfinished archive is taken for given up. Shorter loses what would have been gone on with; longer keeps
/// dead weight.
const PARTIAL_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Folders that are searched for a program in a release, and their entries; releases have a dozen.
const SEARCHED: usize = 10_000;

/// An archive that holds a program for this platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Archive {
    /// Where it is downloaded from.
    pub url: String,
    /// SHA-256 in hexadecimal, where the plugin pins it.
    pub sha256: Option<String>,
    /// The release that it is, where that is known.
    pub release: Option<String>,
}

/// The releases of one worker. Shared by all of its jobs: two that want one release share one download.
#[derive(Debug)]
pub struct Releases {
    dir: PathBuf,
    known: Known,
    limits: ArchiveLimits,
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Releases {
    /// The releases under `dir`, which is made when the first one comes.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self::with_limits(dir, ArchiveLimits::default())
    }

    /// The same with other bounds on archives.
    #[must_use]
    pub fn with_limits(dir: PathBuf, limits: ArchiveLimits) -> Self {
        Self {
            known: Known::new(&dir),
            dir,
            limits,
            flights: Mutex::default(),
        }
    }

    /// Removes what an interrupted unpacking left, and downloads that nobody went on with. Only for the worker that owns the
    /// folder, at its start.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn sweep(&self) -> Result<(), ProvisionError> {
        for entry in fs::read_dir(self.partials())
            .into_iter()
            .flatten()
            .flatten()
        {
            let modified = entry.metadata().and_then(|it| it.modified());
            let age = modified.ok().and_then(|then| then.elapsed().ok());
            if age.is_some_and(|age| age > PARTIAL_AGE) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let staging = self.staging();
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&staging)(error)),
            _ => Ok(()),
        }
    }

    /// Removes releases that nobody looked for in months: they come again when they are wanted, as the same archive.
    pub fn sweep_unused(&self) {
        remove_unused(&self.dir.join("releases"));
    }

    /// Where `program` of an archive is, when that archive was unpacked before and is still the trusted one.
    ///
    /// # Errors
    /// When the record cannot be read, or the archive has no such program.
    pub fn installed(
        &self,
        archive: &Archive,
        program: &str,
    ) -> Result<Option<PathBuf>, ProvisionError> {
        match self.folder_of(archive)? {
            Some(folder) => {
                note_use(&folder);
                find_in(&folder, program, &archive.url).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The archives that addresses gave.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn known(&self) -> Result<Vec<KnownArchive>, ProvisionError> {
        Ok(self.known.all()?)
    }

    /// Whether an archive of this digest is unpacked.
    #[must_use]
    pub fn has(&self, sha256: &str) -> bool {
        is_digest(sha256) && self.release(sha256).is_dir()
    }

    /// Trusts a digest that was refused because its address had given another one before, or the earlier one after all.
    ///
    /// # Errors
    /// When no address gave it, or the record cannot be written.
    pub fn accept(&self, sha256: &str) -> Result<Vec<KnownArchive>, ProvisionError> {
        Ok(self.known.accept(&sha256.trim().to_ascii_lowercase())?)
    }

    /// Downloads, checks and unpacks an archive unless that was done before; gives where `program` is. Two calls for one
    /// archive share one download: the second waits for the first.
    ///
    /// # Errors
    /// When it cannot be had or must not be used; nothing half-done is left.
    pub async fn provide(
        &self,
        archive: &Archive,
        program: &str,
        egress: &Egress,
        on_progress: OnProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<PathBuf, ProvisionError> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
            flights.entry(known::key(&archive.url)).or_default().clone()
        };
        let _alone = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ProvisionError::Cancelled),
            alone = flight.lock() => alone,
        };
        if let Some(path) = self.installed(archive, program)? {
            return Ok(path);
        }
        let staging = Staging::new(&self.staging())?;
        let brought = self
            .bring(archive, &staging, egress, on_progress, cancel)
            .await;
        staging.remove().await;
        let found = brought?;
        let path = find_in(&self.release(&found), program, &archive.url)?;
        tracing::info!(target: "job", url = shown_url(&archive.url), sha256 = found, "release unpacked");
        Ok(path)
    }

    /// Downloads, judges and unpacks an archive; its digest.
    async fn bring(
        &self,
        archive: &Archive,
        staging: &Staging,
        egress: &Egress,
        on_progress: OnProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<String, ProvisionError> {
        let file = staging.0.join("archive");
        let found = self
            .download(archive, &file, egress, on_progress, cancel)
            .await?;
        self.check(archive, &found).await?;
        self.unpack(archive, &found, staging, cancel).await?;
        Ok(found)
    }

    async fn download(
        &self,
        archive: &Archive,
        into: &Path,
        egress: &Egress,
        on_progress: OnProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<String, ProvisionError> {
        let wanted = worker_egress::Wanted {
            sha256: pin(archive)?,
            max_bytes: Some(ARCHIVE_BYTES),
            approx_bytes: None,
        };
        let partials = self.partials();
        private_folder(&partials).map_err(at(&partials))?;
        let partial = partials.join(known::key(&archive.url));
        let came = egress
            .download_resumable(&archive.url, &partial, &wanted, on_progress, cancel)
            .await;
        match came {
            Ok(downloaded) => {
                fs::rename(&partial, into).map_err(at(&partial))?;
                Ok(hex::encode(downloaded.sha256))
            }
            Err(DownloadError::Cancelled { .. }) => Err(ProvisionError::Cancelled),
            Err(error) => Err(ProvisionError::Download(error)),
        }
    }

    /// Trust on first use; a pinned archive has been judged by its pin.
    async fn check(&self, archive: &Archive, found: &str) -> Result<(), ProvisionError> {
        if archive.sha256.is_some() {
            return Ok(());
        }
        match self.known.get(&archive.url)? {
            Some(known) if known.sha256 != found => {
                let (url, other) = (archive.url.clone(), found.to_owned());
                self.note(move |known| known.refuse(&url, &other)).await?;
                Err(ProvisionError::Changed {
                    url: shown_url(&archive.url),
                    known: known.sha256,
                    found: found.to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    async fn unpack(
        &self,
        archive: &Archive,
        found: &str,
        staging: &Staging,
        cancel: &CancellationToken,
    ) -> Result<(), ProvisionError> {
        let place = self.release(found);
        if !place.is_dir() {
            let (file, into) = (staging.0.join("archive"), staging.0.join("release"));
            let (limits, cancel, from) = (self.limits.clone(), cancel.clone(), into.clone());
            let unpacked = tokio::task::spawn_blocking(move || {
                archive::unpack(&file, &into, &limits, &cancel)
            })
            .await
            .map_err(|_| ProvisionError::Cancelled)?;
            match unpacked {
                Ok(()) => {}
                Err(ArchiveError::Cancelled) => return Err(ProvisionError::Cancelled),
                Err(why) => {
                    let url = shown_url(&archive.url);
                    return Err(ProvisionError::Archive { url, why });
                }
            }
            let releases = self.dir.join("releases");
            private_folder(&releases).map_err(at(&releases))?;
            fs::rename(&from, &place).map_err(at(&place))?;
            fs::File::open(&releases)
                .and_then(|dir| dir.sync_all())
                .map_err(at(&releases))?;
        }
        // Only an archive that could be used is trusted, and only once it is there.
        let (archive, found) = (archive.clone(), found.to_owned());
        self.note(move |known| known.trust(&archive.url, archive.release.as_deref(), &found))
            .await
    }

    /// Changes the record of archives on a thread that may wait for a command which holds it, and for the disk.
    async fn note(
        &self,
        change: impl FnOnce(&Known) -> Result<(), KnownError> + Send + 'static,
    ) -> Result<(), ProvisionError> {
        let known = self.known.clone();
        let changed = tokio::task::spawn_blocking(move || change(&known)).await;
        Ok(changed.map_err(|_| ProvisionError::Cancelled)??)
    }

    fn folder_of(&self, archive: &Archive) -> Result<Option<PathBuf>, ProvisionError> {
        let (sha256, refused) = match pin(archive)? {
            Some(pinned) => (hex::encode(pinned), None),
            None => match self.known.get(&archive.url)? {
                Some(known) => (known.sha256, known.refused),
                None => return Ok(None),
            },
        };
        if !is_digest(&sha256) {
            return Ok(None);
        }
        let folder = self.release(&sha256);
        match refused {
            _ if folder.is_dir() => Ok(Some(folder)),
            // Until the operator has looked at it, not even downloaded again.
            Some(found) => Err(ProvisionError::Changed {
                url: shown_url(&archive.url),
                known: sha256,
                found,
            }),
            None => Ok(None),
        }
    }

    fn release(&self, sha256: &str) -> PathBuf {
        self.dir.join("releases").join(sha256)
    }

    fn partials(&self) -> PathBuf {
        self.dir.join("partial")
    }

    fn staging(&self) -> PathBuf {
        self.dir.join("staging")
    }
}

/// A folder for one download, removed with this.
struct Staging(PathBuf);

impl Staging {
    fn new(dir: &Path) -> Result<Self, ProvisionError> {
        private_folder(dir).map_err(at(dir))?;
        let made = tempfile::Builder::new().prefix("release-").tempdir_in(dir);
        Ok(Self(made.map_err(at(dir))?.keep()))
    }

    /// Removes it on a thread for blocking work: an archive that was refused may have left gigabytes.
    async fn remove(mut self) {
        let path = std::mem::take(&mut self.0);
        let _ = tokio::task::spawn_blocking(move || remove_tree(&path)).await;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        if path.as_os_str().is_empty() {
            return;
        }
        // What cannot be removed now is swept at the next start.
        let remove = move || {
            let _ = remove_tree(&path);
        };
        // Whoever waited for the download was called away, on a thread of the runtime's.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn pin(archive: &Archive) -> Result<Option<[u8; 32]>, ProvisionError> {
    let Some(text) = &archive.sha256 else {
        return Ok(None);
    };
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).map_err(|_| ProvisionError::Pin {
        url: shown_url(&archive.url),
        text: text.chars().take(80).collect(),
    })?;
    Ok(Some(digest))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The one file of that name in a release. Archives have it at the top or in a folder such as `build/bin`.
fn find_in(folder: &Path, program: &str, url: &str) -> Result<PathBuf, ProvisionError> {
    let name = format!("{program}{}", std::env::consts::EXE_SUFFIX);
    let (mut left, mut found, mut searched) = (vec![folder.to_owned()], Vec::new(), 0);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(at(&dir))?.flatten() {
            searched += 1;
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && searched < SEARCHED {
                left.push(entry.path());
            } else if kind.is_file() && entry.file_name() == name.as_str() {
                found.push(entry.path());
            }
        }
    }
    match (found.pop(), found.len()) {
        (Some(path), 0) => Ok(path),
        (path, others) => Err(ProvisionError::Program {
            url: shown_url(url),
            program: name,
            count: others + usize::from(path.is_some()),
        }),
    }
}

/// Bytes that this user can still write where `path` is; none where the file system does not say.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Makes a folder that only this user can look into.
fn private_folder(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

fn at(path: &Path) -> impl Fn(io::Error) -> ProvisionError + '_ {
    move |source| ProvisionError::Io {
        path: path.to_owned(),
        source,
    }
}
