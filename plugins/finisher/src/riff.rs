//! RIFF, the frame of WebP and WAV: chunks of a name, a length and a content padded to even.

use studio_plugin::Failure;

use crate::broken;

/// One chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) name: [u8; 4],
    pub(crate) content: &'a [u8],
}

/// Chunks of a list, in order.
#[derive(Clone, Debug)]
pub(crate) struct Chunks<'a> {
    format: &'static str,
    rest: &'a [u8],
}

impl<'a> Chunks<'a> {
    /// Chunks of a file; `form` is the word behind its length. What the file has beyond its length is not looked at.
    pub(crate) fn of_file(
        format: &'static str,
        bytes: &'a [u8],
        form: &[u8; 4],
    ) -> Result<Self, Failure> {
        let Chunk { content, .. } = Chunks {
            format,
            rest: bytes,
        }
        .next()
        .ok_or_else(|| broken(format, "it is empty"))??;
        match content.strip_prefix(form) {
            Some(rest) => Ok(Self { format, rest }),
            None => Err(broken(format, "its header is wrong")),
        }
    }

    /// Chunks of a part of a file.
    pub(crate) fn of(format: &'static str, rest: &'a [u8]) -> Self {
        Self { format, rest }
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let cut = || broken(self.format, "it ends inside a chunk");
        let read = || {
            let (name, rest) = self.rest.split_first_chunk::<4>()?;
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (content, rest) = rest.split_at_checked(length)?;
            // The last padding byte is often left out.
            let rest = if length % 2 == 1 {
                rest.get(1..).unwrap_or_default()
            } else {
                rest
            };
            Some((
                Chunk {
                    name: *name,
                    content,
                },
                rest,
            ))
        };
        match read() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Some(Ok(chunk))
            }
            None => {
                self.rest = &[];
                Some(Err(cut()))
            }
        }
    }
}

/// A file being written.
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(form: &[u8; 4], capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(b"RIFF\0\0\0\0");
        out.extend_from_slice(form);
        Self { out }
    }

    pub(crate) fn chunk(&mut self, name: [u8; 4], content: &[u8]) {
        write(&mut self.out, name, content);
    }

    /// The file, its length put in.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.out.len().saturating_sub(8)).unwrap_or(u32::MAX);
        if let Some(place) = self.out.get_mut(4..8) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self.out
    }
}

/// Appends a chunk.
pub(crate) fn write(out: &mut Vec<u8>, name: [u8; 4], content: &[u8]) {
    out.extend_from_slice(&name);
    out.extend_from_slice(
        &u32::try_from(content.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(content);
    if content.len() % 2 == 1 {
        out.push(0);
    }
}
