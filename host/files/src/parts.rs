//! Bodies put together from bytes and files.

use std::io::{self, Read, Write};
use std::path::Path;

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use bytes::Bytes;

use crate::entry::{Entry, FileError, FileId};
use crate::job::open_regular;

/// Part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Bytes of the plugin's.
    Bytes(Bytes),
    /// A file as it is.
    File(FileId),
    /// A file in base64, padded, without line breaks.
    Base64(FileId),
}

/// A part whose file has been looked up.
pub(crate) enum Source {
    Bytes(Bytes),
    File(Entry),
    Base64(Entry),
}

/// How many bytes the sources give, joined.
pub(crate) fn total(sources: &[Source]) -> u64 {
    let length = |source: &Source| match source {
        Source::Bytes(bytes) => bytes.len() as u64,
        Source::File(entry) => entry.info.size,
        Source::Base64(entry) => entry.info.size.div_ceil(3).saturating_mul(4),
    };
    sources.iter().map(length).fold(0, u64::saturating_add)
}

/// Writes one source to `into`, exactly as many bytes as [`total`] counted.
pub(crate) fn append(source: &Source, into: &mut impl Write) -> Result<(), FileError> {
    match source {
        Source::Bytes(bytes) => into
            .write_all(bytes)
            .map_err(FileError::io(Path::new("the job's file"))),
        Source::File(entry) => copy(entry, into),
        Source::Base64(entry) => {
            let mut encoder = EncoderWriter::new(into, &STANDARD);
            copy(entry, &mut encoder)?;
            encoder
                .finish()
                .map(drop)
                .map_err(FileError::io(&entry.path))
        }
    }
}

/// Copies a file whole. One that changed its size since it was entered would break the sums that were checked before.
fn copy(entry: &Entry, into: &mut impl Write) -> Result<(), FileError> {
    entry.check()?;
    let (file, _) = open_regular(&entry.path)?;
    let copied =
        io::copy(&mut file.take(entry.info.size), into).map_err(FileError::io(&entry.path))?;
    if copied != entry.info.size {
        let source = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file became shorter while the job ran",
        );
        return Err(FileError::Io {
            path: entry.path.clone(),
            source,
        });
    }
    Ok(())
}
