//! What a command wrote.
//!
//! The program may be anybody's, so nothing that it leaves is believed: only regular files with one name count, links are
//! left out, and number and size are bounded before anything is taken into the table.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::entry::{FileError, FileInfo};
use crate::job::{JobFiles, bare, limit, open_regular};
use crate::name::{check_bare_name, check_extension};
use crate::own_thread::file_work;
use crate::sniff::sniff_file;
use crate::tree::{Walk, walk};

/// Most files and folders that a job's directory may hold, those that nobody takes included. More would keep the worker
/// busy counting.
const MAX_SEEN: usize = 100_000;

/// What a command was told to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// One file, of this extension.
    File(String),
    /// Whatever files it leaves in a directory.
    Folder,
    /// What it prints on standard output, kept under this extension.
    Stdout(String),
}

/// The directory of one command and where its outputs go. The directory is the command's working directory too.
#[derive(Debug, Clone)]
pub struct CommandFiles {
    dir: PathBuf,
    outputs: Vec<(OutputKind, PathBuf)>,
}

impl CommandFiles {
    /// The command's own directory, absolute.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of the n-th output, for the command line; none for a number that was not declared, and for what comes by
    /// standard output.
    #[must_use]
    pub fn output(&self, n: usize) -> Option<&Path> {
        match self.outputs.get(n)? {
            (OutputKind::Stdout(_), _) => None,
            (_, path) => Some(path),
        }
    }

    /// The file that standard output is to be kept in, if an output asks for it.
    #[must_use]
    pub fn stdout(&self) -> Option<&Path> {
        let stdout = self
            .outputs
            .iter()
            .find(|(kind, _)| matches!(kind, OutputKind::Stdout(_)));
        stdout.map(|(_, path)| path.as_path())
    }
}

/// What was taken from a command's directory. Files are sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Per declared output; empty where nothing was written.
    pub outputs: Vec<Vec<FileInfo>>,
    /// Files beside the outputs that nobody declared.
    pub extra: Vec<FileInfo>,
    /// What was left out: links, directories, devices, and names that cannot be shown.
    pub skipped: usize,
}

struct Found {
    path: PathBuf,
    name: String,
    size: u64,
    media_type: Option<&'static str>,
}

#[derive(Default)]
struct Listing {
    outputs: Vec<Vec<Found>>,
    extra: Vec<Found>,
    skipped: usize,
}

impl JobFiles {
    /// Makes the directory of a command with these outputs.
    ///
    /// # Errors
    /// When an extension is none, two outputs ask for standard output, or the directory cannot be made.
    pub fn prepare_outputs(&self, kinds: &[OutputKind]) -> Result<CommandFiles, FileError> {
        if kinds.len() > self.limits.collected {
            return Err(FileError::TooMany {
                what: "the command",
                limit: self.limits.collected,
            });
        }
        for kind in kinds {
            if let OutputKind::File(extension) | OutputKind::Stdout(extension) = kind {
                check_extension(extension).map_err(|why| FileError::Name {
                    name: extension.chars().take(40).collect(),
                    why,
                })?;
            }
        }
        if kinds
            .iter()
            .filter(|kind| matches!(kind, OutputKind::Stdout(_)))
            .count()
            > 1
        {
            return Err(FileError::SecondStdout);
        }
        let dir = self.place("output")?;
        let place = |(n, kind): (usize, &OutputKind)| {
            let path = match kind {
                OutputKind::File(extension) | OutputKind::Stdout(extension) => {
                    dir.join(format!("output-{n}.{extension}"))
                }
                OutputKind::Folder => dir.join(format!("output-{n}")),
            };
            if *kind == OutputKind::Folder {
                fs::create_dir(&path).map_err(FileError::io(&path))?;
            }
            Ok((kind.clone(), path))
        };
        let outputs = kinds
            .iter()
            .enumerate()
            .map(place)
            .collect::<Result<Vec<_>, FileError>>()?;
        Ok(CommandFiles { dir, outputs })
    }

    /// Takes what the command wrote into the table. To be called once, when the command and all its children are gone.
    ///
    /// # Errors
    /// When it wrote more files or bytes than the job may hold.
    pub async fn collect(&self, command: &CommandFiles) -> Result<Collected, FileError> {
        let (command, max) = (command.clone(), self.limits.collected);
        let scratch = self.scratch.path().to_owned();
        let (listing, taken) = file_work(false, move || {
            Ok((list(&command, max)?, taken_by(&scratch)?))
        })
        .await?;
        // Folders within folders, files with odd names, what lies in its home: nobody takes them, but they are there.
        limit(
            "everything in the job's directory".to_owned(),
            taken,
            self.limits.scratch_bytes,
        )?;
        let all = || listing.outputs.iter().flatten().chain(&listing.extra);
        for found in all() {
            limit(
                format!("the command's file {:?}", found.name),
                found.size,
                self.limits.file_bytes,
            )?;
        }
        // Checked as a whole, so that a command is taken whole or not at all.
        drop(self.claim(
            all().map(|found| found.size).sum(),
            "the job's files together",
        )?);
        let outputs = listing
            .outputs
            .into_iter()
            .map(|found| self.enter(found))
            .collect::<Result<_, _>>()?;
        Ok(Collected {
            outputs,
            extra: self.enter(listing.extra)?,
            skipped: listing.skipped,
        })
    }

    fn enter(&self, found: Vec<Found>) -> Result<Vec<FileInfo>, FileError> {
        let enter = |found: Found| {
            let room = self.claim(found.size, "the job's files together")?;
            self.insert(
                found.path,
                found.name,
                found.size,
                found.media_type,
                Some(room),
            )
        };
        found.into_iter().map(enter).collect()
    }
}

fn list(command: &CommandFiles, max: usize) -> Result<Listing, FileError> {
    let mut listing = Listing::default();
    let mut left = max;
    for (kind, path) in &command.outputs {
        let found = match kind {
            OutputKind::Folder => files_in(path, &[], &mut left, &mut listing.skipped)?,
            OutputKind::File(_) => look(path, &mut listing.skipped)?.into_iter().collect(),
            OutputKind::Stdout(_) => look(path, &mut listing.skipped)?
                .into_iter()
                .filter(|found| found.size > 0)
                .collect(),
        };
        listing.outputs.push(found);
    }
    let declared: Vec<&Path> = command
        .outputs
        .iter()
        .map(|(_, path)| path.as_path())
        .collect();
    listing.extra = files_in(&command.dir, &declared, &mut left, &mut listing.skipped)?;
    Ok(listing)
}

/// Bytes that a directory takes on the disk with everything in it. Links are not followed; what a program removes meanwhile
/// does not count, and what it shut against us is an error.
fn taken_by(dir: &Path) -> Result<u64, FileError> {
    let (mut bytes, mut seen) = (0u64, 0usize);
    let walked = walk(dir, |found| {
        seen += 1;
        if seen > MAX_SEEN {
            return ControlFlow::Break(());
        }
        if !found.is_dir() {
            // A file with holes takes less than its length.
            let taken = found.len().min(found.blocks().saturating_mul(512));
            bytes = bytes.saturating_add(taken);
        }
        ControlFlow::Continue(())
    });
    match walked {
        Walk::Whole => Ok(bytes),
        Walk::Stopped => Err(FileError::TooMany {
            what: "everything in the job's directory",
            limit: MAX_SEEN,
        }),
        Walk::Closed(_) => Err(FileError::Closed {
            path: dir.to_owned(),
        }),
    }
}

/// The files right in `dir`, but those named in `except`.
fn files_in(
    dir: &Path,
    except: &[&Path],
    left: &mut usize,
    skipped: &mut usize,
) -> Result<Vec<Found>, FileError> {
    let kind = fs::symlink_metadata(dir).map_err(FileError::io(dir))?;
    if !kind.is_dir() {
        *skipped += 1;
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(FileError::io(dir))? {
        let path = entry.map_err(FileError::io(dir))?.path();
        if except.contains(&path.as_path()) {
            continue;
        }
        *left = left.checked_sub(1).ok_or(FileError::TooMany {
            what: "what the command wrote",
            limit: files.len(),
        })?;
        files.extend(look(&path, skipped)?);
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A file as it may be taken; none where there is none or where it is something else, which is counted.
fn look(path: &Path, skipped: &mut usize) -> Result<Option<Found>, FileError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| check_bare_name(name).is_ok());
    let Some(name) = name else {
        *skipped += 1;
        return Ok(None);
    };
    bare(name)?;
    let (file, size) = match open_regular(path) {
        Ok(opened) => opened,
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(FileError::NotRegular { .. }) => {
            *skipped += 1;
            return Ok(None);
        }
        Err(other) => return Err(other),
    };
    // A second name means that it is somebody else's file, too.
    if file.metadata().map_err(FileError::io(path))?.nlink() != 1 {
        *skipped += 1;
        return Ok(None);
    }
    let media_type = sniff_file(&file).map_err(FileError::io(path))?;
    Ok(Some(Found {
        path: path.to_owned(),
        name: name.to_owned(),
        size,
        media_type,
    }))
}
