//! Files under names of their own, for programs.
//!
//! A file of the model cache is called by its digest; a program that chooses its decoder by extension, or its part of a
//! model by name, must see the name that the plugin gave. So it is shown: linked into a directory of the job. A hard link
//! where that is possible, since it needs nothing of the original's path; a symbolic one across file systems.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::entry::{FileError, FileId};
use crate::job::{JobFiles, bare};

impl JobFiles {
    /// The path that a program is given for a file: absolute, ending in the file's own name.
    ///
    /// # Errors
    /// When there is no such file or it cannot be linked.
    pub fn program_path(&self, id: FileId) -> Result<PathBuf, FileError> {
        let entry = self.get(id)?;
        if entry
            .path
            .file_name()
            .is_some_and(|name| name == entry.info.name.as_str())
        {
            return Ok(entry.path);
        }
        let shown = self.place(&self.scratch.shown())?.join(&entry.info.name);
        link(&entry.path, &shown)?;
        Ok(shown)
    }

    /// A new directory that shows just these files, under these bare names.
    ///
    /// # Errors
    /// When a name is not bare or stands twice, there is no such file, or it cannot be linked.
    pub fn show_directory(&self, entries: &[(String, FileId)]) -> Result<PathBuf, FileError> {
        if entries.len() > self.limits.files {
            return Err(FileError::TooMany {
                what: "the directory",
                limit: self.limits.files,
            });
        }
        let wanted = entries.iter().map(|(name, id)| {
            bare(name)?;
            Ok((name, self.get(*id)?))
        });
        let wanted = wanted.collect::<Result<Vec<_>, FileError>>()?;
        let dir = self.place(&self.scratch.shown())?;
        for (name, entry) in wanted {
            link(&entry.path, &dir.join(name))?;
        }
        Ok(dir)
    }
}

fn link(original: &Path, shown: &Path) -> Result<(), FileError> {
    match fs::hard_link(original, shown) {
        Ok(()) => Ok(()),
        // Taken already, by a name that stands twice: a symbolic link would fail the same way.
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Err(FileError::Io {
            path: shown.to_owned(),
            source,
        }),
        // Another file system, or another owner's file where the kernel protects those.
        Err(_) => symlink(original, shown).map_err(FileError::io(shown)),
    }
}
