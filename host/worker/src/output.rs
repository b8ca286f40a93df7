//! Small helps around what commands write.

use crate::cli::{Failure, Output};

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    Output::standard().line(text)
}

/// Gives a result file the permissions that any new file of the user would have.
#[cfg(unix)]
pub(crate) fn readable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// Gives a result file the permissions that any new file of the user would have.
#[cfg(not(unix))]
pub(crate) fn readable(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}
