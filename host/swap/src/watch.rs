//! When to look at the plugin folder: at a hint of the system's, and now and then besides.
//!
//! A hint is a reason to look, and says which files came by renaming: those are whole as they are. Hints get lost (network
//! folders, overflowing queues), so the folder is looked at without any as well, and nothing is believed for want of one.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

#[cfg(target_os = "linux")]
use tokio::time::timeout_at;
use tokio::time::{Instant, sleep_until};

/// Between two looks without a hint.
const POLL: Duration = Duration::from_secs(1);
/// How long a file must look the same before it is read, where the system says when somebody works on it.
const SETTLED: Duration = Duration::from_millis(20);
/// The same where it does not. Shorter reads half-written files, which are refused and read again; longer delays each swap.
const SETTLED_BLINDLY: Duration = Duration::from_millis(300);

/// Hints about one folder.
pub(crate) struct Watch {
    #[cfg(target_os = "linux")]
    hints: Option<Hints>,
    /// Files that came by renaming, and that nobody wrote to since.
    renamed: BTreeSet<String>,
}

impl Watch {
    #[cfg(target_os = "linux")]
    pub(crate) fn new(folder: &Path) -> Self {
        let hints = Hints::about(folder).inspect_err(|error| {
            tracing::info!(target: "plugins", %error, "the system does not say when {} changes; it is looked at every second", folder.display());
        });
        Self {
            hints: hints.ok(),
            renamed: BTreeSet::new(),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(_folder: &Path) -> Self {
        Self {
            renamed: BTreeSet::new(),
        }
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
        let until = Instant::now() + limit;
        #[cfg(target_os = "linux")]
        while let Some(hints) = &mut self.hints {
            match timeout_at(until, hints.read(&mut self.renamed)).await {
                // Somebody is at work on a file that is waited for: looking at once would be looking all the time.
                Ok(Ok(())) if unsettled && self.renamed.is_empty() => {}
                Ok(Ok(())) => return,
                Ok(Err(_)) => {
                    self.hints = None;
                    self.renamed.clear();
                }
                // The clock is reason enough.
                Err(_) => return,
            }
        }
        sleep_until(until).await;
    }

    /// The files that came by renaming since this was last asked: whole, so that none need be waited for.
    pub(crate) fn renamed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.renamed)
    }
}

/// What the system says of one folder.
#[cfg(target_os = "linux")]
struct Hints(tokio::fs::File);

#[cfg(target_os = "linux")]
impl Hints {
    fn about(folder: &Path) -> std::io::Result<Self> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let inotify = init(CreateFlags::CLOEXEC)?;
        let wanted = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE;
        add_watch(&inotify, folder, wanted)?;
        let file = std::fs::File::from(inotify);
        Ok(Self(tokio::fs::File::from_std(file)))
    }

    /// Waits for hints. A wait that is given up goes on behind, and answers the next.
    async fn read(&mut self, renamed: &mut BTreeSet<String>) -> std::io::Result<()> {
        use tokio::io::AsyncReadExt;
        let mut buffer = [0_u8; 4096];
        let read = self.0.read(&mut buffer).await?;
        let mut hints = buffer.get(..read).unwrap_or_default();
        if hints.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((flags, name, rest)) = hint(hints) {
            hints = rest;
            if flags.contains(rustix::fs::inotify::ReadFlags::MOVED_TO) {
                renamed.insert(name.to_owned());
            } else {
                renamed.remove(name);
            }
        }
        Ok(())
    }
}

/// The first of several hints, as the kernel lays them out: four numbers (of which the second says what happened and the last
/// how long the name is), and the name, filled up with zeros. One without a name, that the queue overflowed for instance, is
/// about no file.
#[cfg(target_os = "linux")]
fn hint(bytes: &[u8]) -> Option<(rustix::fs::inotify::ReadFlags, &str, &[u8])> {
    let (head, rest) = bytes.split_at_checked(16)?;
    let number = |at: usize| {
        let four = head.get(at..at + 4)?.first_chunk()?;
        Some(u32::from_ne_bytes(*four))
    };
    let flags = rustix::fs::inotify::ReadFlags::from_bits_retain(number(4)?);
    let (name, rest) = rest.split_at_checked(usize::try_from(number(12)?).ok()?)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    // A name that is no text is no plugin's.
    Some((flags, std::str::from_utf8(name).unwrap_or_default(), rest))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_was_renamed_and_not_written_to_since_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut watch = Watch::new(dir.path());
        std::fs::write(path("a.wasm"), "in place").unwrap();
        for name in ["b.wasm", "c.wasm"] {
            std::fs::write(path("part"), "whole").unwrap();
            std::fs::rename(path("part"), path(name)).unwrap();
        }
        std::fs::write(path("c.wasm"), "and again").unwrap();
        watch.next(false).await;
        assert_eq!(watch.renamed(), BTreeSet::from(["b.wasm".to_owned()]));
        assert!(watch.renamed().is_empty(), "said once");
    }
}
