//! When to look at the plugin folder: at a hint of the system's, and now and then besides.
//!
//! A hint is only a reason to look. Hints get lost (network folders, overflowing queues), so the folder is looked at without any as well.

use std::path::Path;
use std::time::Duration;

/// Between two looks without a hint.
const POLL: Duration = Duration::from_secs(1);
/// How long a file must look the same before it is read, where the system says when somebody works on it.
const SETTLED: Duration = Duration::from_millis(20);
/// The same where it does not. Shorter reads half-written files, which are refused and read again; longer delays each swap.
const SETTLED_BLINDLY: Duration = Duration::from_millis(300);

/// Hints about one folder.
pub(crate) struct Watch {
    #[cfg(target_os = "linux")]
    hints: Option<tokio::fs::File>,
}

impl Watch {
    #[cfg(target_os = "linux")]
    pub(crate) fn new(folder: &Path) -> Self {
        let hints = hints(folder).inspect_err(|error| {
            tracing::info!(target: "plugins", %error, "the system does not say when {} changes; it is looked at every second", folder.display());
        });
        Self { hints: hints.ok() }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(_folder: &Path) -> Self {
        Self {}
    }

    /// How long a file must look the same before it is read.
    pub(crate) fn settled(&self) -> Duration {
        #[cfg(target_os = "linux")]
        if self.hints.is_some() {
            return SETTLED;
        }
        SETTLED_BLINDLY
    }

    /// Waits for a reason to look. `unsettled`: something was seen that has to be looked at again soon.
    pub(crate) async fn next(&mut self, unsettled: bool) {
        let limit = if unsettled { self.settled() } else { POLL };
        #[cfg(target_os = "linux")]
        if let Some(hints) = self.hints.as_mut().filter(|_| !unsettled) {
            use tokio::io::AsyncReadExt;
            let mut buffer = [0_u8; 4096];
            // What the hints say is not used. A read that is given up goes on behind, and answers the next.
            match tokio::time::timeout(limit, hints.read(&mut buffer)).await {
                Ok(Ok(read)) if read > 0 => {}
                Ok(_) => self.hints = None,
                // The clock is reason enough.
                Err(_) => {}
            }
            return;
        }
        tokio::time::sleep(limit).await;
    }
}

#[cfg(target_os = "linux")]
fn hints(folder: &Path) -> std::io::Result<tokio::fs::File> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let inotify = init(CreateFlags::CLOEXEC)?;
    let wanted = WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE;
    add_watch(&inotify, folder, wanted)?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(inotify)))
}
