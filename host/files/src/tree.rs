//! Folders that programs wrote: what they hold, and taking them away.
//!
//! A program may take from its own folders the permission to look into them, and nest them until no path leads to the last.
//! What is bounded by looking would then be bounded no more, and what is removed by path would stay.

use std::ffi::CStr;
use std::fs::{self, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::scratch::random_hex;

/// Folders in folders that a removal goes down into. More takes a descriptor and some stack for each; fewer moves folders
/// of ordinary programs about before they go.
const DEEPEST: u32 = 16;
/// How often a removal begins anew with what it moved up or what came meanwhile. Fewer leaves what a program nested
/// very deep; more lets one that still runs keep a thread busy for longer.
const MOST_ROUNDS: u32 = 1 << 20;
/// How many names are tried for a folder that is moved up. They cannot be foreseen, so the first is free.
const NAMES: u32 = 8;

/// How far a look at everything in a folder came.
#[derive(Debug, PartialEq, Eq)]
pub enum Walk {
    /// All of it was seen.
    Whole,
    /// Whoever looked had seen enough.
    Stopped,
    /// This cannot be looked at: nobody knows what is there.
    Closed(PathBuf),
}

/// Shows everything below `dir`, links not followed, to `seen`. What goes away meanwhile is not there. Blocks.
pub fn walk(dir: &Path, mut seen: impl FnMut(&Metadata) -> ControlFlow<()>) -> Walk {
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if says_nothing(&error) => continue,
            Err(_) => return Walk::Closed(folder),
        };
        for entry in entries {
            let looked = entry.and_then(|entry| Ok((entry.metadata()?, entry)));
            let (metadata, entry) = match looked {
                Ok(looked) => looked,
                Err(error) if says_nothing(&error) => continue,
                Err(_) => return Walk::Closed(folder),
            };
            if seen(&metadata).is_break() {
                return Walk::Stopped;
            }
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Walk::Whole
}

/// Whether an error says nothing of what was looked at: it went away, or the worker itself has too little.
fn says_nothing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::NOENT | Errno::NOTDIR | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR
        )
    )
}

/// Removes a folder with everything in it, whatever modes a program gave to what is there and however deep it is. Links are
/// removed, not followed. What is not there is no error. Blocks.
///
/// # Errors
/// When something cannot be removed; all else is.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if there.is_symlink() {
        return fs::remove_file(dir);
    }
    let root = open(CWD, dir)?;
    Removal {
        root: root.as_fd(),
        prefix: random_hex().unwrap_or_else(|_| "left".to_owned()),
        moved: 0,
        went: false,
        failed: None,
    }
    .empty()?;
    drop(root);
    fs::remove_dir(dir)
}

/// Taking away what is in one folder.
struct Removal<'a> {
    root: BorrowedFd<'a>,
    /// Of the names of folders that are moved up.
    prefix: String,
    moved: u64,
    /// Whether this round removed or moved anything.
    went: bool,
    /// The first thing that went wrong in this round.
    failed: Option<Errno>,
}

impl Removal<'_> {
    fn empty(mut self) -> io::Result<()> {
        for _ in 0..MOST_ROUNDS {
            self.went = false;
            self.failed = None;
            self.empty_folder(self.root, 0);
            match (self.went, self.failed) {
                (false, None) => return Ok(()),
                (false, Some(failed)) => return Err(failed.into()),
                (true, _) => {}
            }
        }
        Err(io::Error::other("it fills while it is emptied"))
    }

    /// One round in one folder. What cannot be removed is left for the next.
    fn empty_folder(&mut self, folder: BorrowedFd<'_>, depth: u32) {
        let entries = match Dir::read_from(folder) {
            Ok(entries) => entries,
            Err(error) => return self.note(Err(error)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.note(Err(error)),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let gone = match entry.file_type() {
                FileType::Directory => self.take_folder(folder, name, depth),
                // Not every file system says.
                FileType::Unknown if is_folder(folder, name) => {
                    self.take_folder(folder, name, depth)
                }
                _ => rustix::fs::unlinkat(folder, name, AtFlags::empty()),
            };
            self.note(gone);
        }
    }

    fn take_folder(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CStr,
        depth: u32,
    ) -> rustix::io::Result<()> {
        if depth >= DEEPEST {
            return self.move_up(folder, name);
        }
        let inner = open(folder, name)?;
        self.empty_folder(inner.as_fd(), depth + 1);
        drop(inner);
        // What kept it from being emptied, if anything, is noted already: the first failure is the one that is told.
        rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
    }

    /// Puts a folder that lies too deep right into the root, so that no depth needs more descriptors or stack than another.
    fn move_up(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        // A folder notes where it lies: one that its owner may not write cannot be moved.
        drop(open(folder, name)?);
        let mut moved = Err(Errno::EXIST);
        for _ in 0..NAMES {
            let to = format!("{}-{}", self.prefix, self.moved);
            self.moved += 1;
            moved = rustix::fs::renameat(folder, name, self.root, to.as_str());
            if !matches!(moved, Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR)) {
                break;
            }
        }
        moved
    }

    fn note(&mut self, done: rustix::io::Result<()>) {
        match done {
            Ok(()) => self.went = true,
            Err(Errno::NOENT) => {}
            Err(error) => self.failed = self.failed.or(Some(error)),
        }
    }
}

fn is_folder(folder: BorrowedFd<'_>, name: &CStr) -> bool {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// Opens a folder, and gives back to its owner what a program took.
fn open<P: rustix::path::Arg + Copy>(folder: impl AsFd, name: P) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = folder.as_fd();
    let opened = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            reopen(folder, name)?;
            rustix::fs::openat(folder, name, flags, Mode::empty())?
        }
        opened => opened?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

/// By a descriptor that needs no permission of the folder's, so that no link is followed.
#[cfg(target_os = "linux")]
fn reopen<P: rustix::path::Arg>(folder: BorrowedFd<'_>, name: P) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::fs::chmod(itself.as_str(), Mode::RWXU)
}

#[cfg(not(target_os = "linux"))]
fn reopen<P: rustix::path::Arg>(folder: BorrowedFd<'_>, name: P) -> rustix::io::Result<()> {
    rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
}
