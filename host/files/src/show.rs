//! Files under names of their own, for programs.
//!
//! A file of the model cache is called by its digest; a program that chooses its decoder by extension, or its part of a
//! model by name, must see the name that the plugin gave. So it is shown: a symbolic link in a directory of the job.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::entry::{Entry, FileError, FileId};
use crate::job::{JobFiles, bare};

impl JobFiles {
    /// The path that a program is given for a file: absolute, ending in the file's own name.
    ///
    /// # Errors
    /// When there is no such file or it cannot be linked.
    pub fn program_path(&self, id: FileId) -> Result<PathBuf, FileError> {
        let entry = self.get(id)?;
        entry.check()?;
        if entry
            .path
            .file_name()
            .is_some_and(|name| name == entry.info.name.as_str())
        {
            return Ok(entry.path);
        }
        let shown = self.place("shown")?.join(&entry.info.name);
        link(&entry, &shown)?;
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
        let dir = self.place("shown")?;
        for (name, entry) in wanted {
            link(&entry, &dir.join(name))?;
        }
        Ok(dir)
    }
}

/// A link by name, never a second name of the same file: through that a program could write into the model cache.
fn link(entry: &Entry, shown: &Path) -> Result<(), FileError> {
    entry.check()?;
    symlink(&entry.path, shown).map_err(FileError::io(shown))
}
