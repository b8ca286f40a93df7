//! Getting a program that is not on this machine: which archive a plugin means, and its download for the first job.
//!
//! The operator's own program always comes first. Where there is none, the release that the plugin pins is taken, or the
//! one that the operator names in the plugin's variables; nothing is downloaded before a job needs it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use worker_backends::{Archive, ProvisionError, Releases, is_library_here, library};
use worker_egress::{Egress, OnProgress, shown_url};
use worker_plugins::Engine;
use worker_plugins::contract::{Backend, Build, Failure, Progress};
use worker_wire::{Extension, JobId, StudioLink, WorkerFrame};

use crate::offers::Shared;
use crate::slot::Reservation;

/// How long an archive that cannot be used is left alone: until then its engine is not advertised. Shorter fails jobs that
/// another worker could do; longer keeps an engine away after the publisher has mended it.
const LEFT_ALONE: Duration = Duration::from_secs(10 * 60);
/// Lists of builds that are remembered; a worker meets some dozen plugins and releases.
const REMEMBERED: usize = 256;

/// Plugin's digest, backend and release.
type Asked = (String, String, String);

/// Which archives plugins mean, and those that were found to be of no use.
#[derive(Default)]
pub(crate) struct Archives {
    builds: Mutex<HashMap<Asked, Vec<Build>>>,
    useless: Mutex<HashMap<Archive, (Instant, String)>>,
}

/// A value of the environment that is not empty: a variable set to nothing names no release.
fn variable(name: Option<&String>) -> Option<String> {
    let value = std::env::var(name?).ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// Why an archive is of no use on this system: a shared object that the plugin's builds take from it is not there. What an
/// archive of the operator's own needs, nobody knows beforehand.
pub(crate) fn lacking(engine: &Engine, backend: &Backend, archive: &Archive) -> Option<String> {
    if variable(backend.overrides.url.as_ref()).is_some() {
        return None;
    }
    let mut needed = engine.asked().system_libraries.iter();
    let missing = |name: &&String| is_library_here(name) && library(Path::new("/"), name).is_none();
    let name = needed.find(missing)?;
    Some(format!(
        "{} needs the system's `{name}`, which is not there (once it is, the release is downloaded for the first job)",
        shown(archive)
    ))
}

impl Archives {
    /// The archive that holds a backend's program for this platform, or why there is none, with what to do.
    pub(crate) async fn of(&self, engine: &Engine, backend: &Backend) -> Result<Archive, String> {
        let overrides = &backend.overrides;
        let named = variable(overrides.release.as_ref());
        if let Some(url) = variable(overrides.url.as_ref()) {
            return Ok(Archive {
                url,
                sha256: None,
                release: named,
            });
        }
        let Some(release) = named.or_else(|| backend.release.clone()) else {
            return Err("its plugin names no release to download".to_owned());
        };
        let builds = self.builds(engine, backend, &release).await?;
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        match builds
            .into_iter()
            .find(|build| build.os == os && build.arch == arch)
        {
            Some(build) => Ok(Archive {
                url: build.url,
                sha256: build.sha256.map(|digest| digest.to_ascii_lowercase()),
                release: Some(release),
            }),
            None => Err(format!("release {release} has no build for {os} on {arch}")),
        }
    }

    async fn builds(
        &self,
        engine: &Engine,
        backend: &Backend,
        release: &str,
    ) -> Result<Vec<Build>, String> {
        let identity = engine.identity();
        let asked = (
            identity.digest.clone(),
            backend.name.clone(),
            release.to_owned(),
        );
        let known = lock(&self.builds).get(&asked).cloned();
        if let Some(builds) = known {
            return Ok(builds);
        }
        let builds = match engine.builds(&backend.name, release).await {
            Ok(Ok(builds)) => builds,
            Ok(Err(failure)) => return Err(failure.message),
            Err(fault) => return Err(fault.to_string()),
        };
        let mut remembered = lock(&self.builds);
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(asked, builds.clone());
        Ok(builds)
    }

    /// Why an archive is left alone, when it was found to be of no use lately.
    pub(crate) fn useless(&self, archive: &Archive) -> Option<String> {
        let mut useless = lock(&self.useless);
        useless.retain(|_, (since, _)| since.elapsed() < LEFT_ALONE);
        useless.get(archive).map(|(_, why)| why.clone())
    }

    /// Downloads an archive unless it is there; remembers one that cannot be used.
    pub(crate) async fn provide(
        &self,
        releases: &Releases,
        (archive, programs): (&Archive, &[&str]),
        egress: &Egress,
        on_progress: OnProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), ProvisionError> {
        let mut provided = Ok(());
        for program in programs {
            let tried = releases.provide(archive, program, egress, on_progress, cancel);
            provided = tried.await.map(drop);
            // Unpacked is the archive in any case: another name is looked for in it without a download.
            if !matches!(provided, Err(ProvisionError::Program { .. })) {
                break;
            }
        }
        match provided {
            Ok(()) => Ok(()),
            Err(error) => {
                // A change that the operator accepts is looked for in the record of archives, not here.
                if !error.retryable() && !matches!(error, ProvisionError::Changed { .. }) {
                    let why = error.to_string();
                    lock(&self.useless).insert(archive.clone(), (Instant::now(), why));
                }
                Err(error)
            }
        }
    }
}

/// Downloads what a job's engine lacks and says how far it is, as for any other progress of the job.
pub(crate) async fn provide_for_job(
    shared: &Shared,
    engine: &Engine,
    job_id: &JobId,
    link: &StudioLink,
    reservation: &Reservation,
) -> Result<(), Failure> {
    for (backend, archive) in shared.programs.downloadable(engine) {
        let message = format!("downloading {}: {}", backend.program, shown(&archive));
        shared.reporter.info(Some(job_id), message);
    }
    let told = AtomicU32::new(u32::MAX);
    let on_progress = |done: u64, total: Option<u64>| {
        let mib = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let progress = Progress {
            done: mib(done),
            total: total.map_or(0, mib).max(mib(done)),
            note: Some("downloading its program, in MiB".to_owned()),
        };
        // Said for each further MiB; this is called for every few kilobytes.
        if told.swap(progress.done, Ordering::Relaxed) == progress.done {
            return;
        }
        if link.speaks(Extension::Progress) {
            link.offer(WorkerFrame::Progress {
                job_id: job_id.to_string(),
                done: progress.done,
                total: progress.total,
                note: progress.note.clone(),
            });
        }
        reservation.progress(progress);
    };
    shared
        .programs
        .provide(engine, &shared.egress, &on_progress, &reservation.cancel)
        .await
}

/// An archive as its release and address, for people.
pub(crate) fn shown(archive: &Archive) -> String {
    match &archive.release {
        Some(release) => format!("release {release}"),
        None => format!("the archive {}", shown_url(&archive.url)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
