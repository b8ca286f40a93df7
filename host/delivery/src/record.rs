//! One product as one run of bytes: a head that says what follows, the row, the media.

use crate::id::EntryId;

/// Begins every record.
const NAME: [u8; 7] = *b"product";

/// Version of the format, which follows. A record of another one is left alone.
const VERSION: u8 = 1;

/// Length of a head: name and version of the format, a checksum, the product's name, and the lengths of row and media.
pub(crate) const HEAD: usize = 8 + 4 + 20 + 4 + 4;

/// A head, before it is known whether what it speaks of is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    sum: u32,
    pub(crate) id: EntryId,
    pub(crate) row: usize,
    pub(crate) media: usize,
}

impl Head {
    /// The head of a product; none where it is too long for one.
    pub(crate) fn of(id: &EntryId, row: &[u8], media: &[u8]) -> Option<[u8; HEAD]> {
        let lengths = [length(row)?, length(media)?];
        let sum = sum(id, lengths, row, media);
        let mut head = Vec::with_capacity(HEAD);
        head.extend(NAME);
        head.push(VERSION);
        head.extend(sum.to_le_bytes());
        head.extend(id.as_str().as_bytes());
        for length in lengths {
            head.extend(length.to_le_bytes());
        }
        head.try_into().ok()
    }

    /// Reads a head; none where there is none.
    pub(crate) fn read(bytes: &[u8; HEAD]) -> Option<Self> {
        let rest = bytes.strip_prefix(&NAME)?.strip_prefix(&[VERSION])?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let (id, rest) = rest.split_first_chunk::<20>()?;
        let (row, rest) = rest.split_first_chunk::<4>()?;
        let (media, _) = rest.split_first_chunk::<4>()?;
        let length = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
        Some(Self {
            sum: u32::from_le_bytes(*sum),
            id: EntryId::parse(std::str::from_utf8(id).ok()?).ok()?,
            row: length(row)?,
            media: length(media)?,
        })
    }

    /// Whether this is all that the head was written for. A power cut leaves some of it, and some of what was there before.
    pub(crate) fn is_of(&self, row: &[u8], media: &[u8]) -> bool {
        let (Some(rows), Some(medias)) = (length(row), length(media)) else {
            return false;
        };
        (row.len(), media.len()) == (self.row, self.media)
            && sum(&self.id, [rows, medias], row, media) == self.sum
    }
}

/// Whether a head is one of a version that is not known here.
pub(crate) fn is_of_another_version(head: &[u8; HEAD]) -> bool {
    let version = head.strip_prefix(&NAME).and_then(<[u8]>::first);
    version.is_some_and(|version| *version != VERSION)
}

fn length(bytes: &[u8]) -> Option<u32> {
    u32::try_from(bytes.len()).ok()
}

/// Over all but itself.
fn sum(id: &EntryId, lengths: [u32; 2], row: &[u8], media: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(id.as_str().as_bytes());
    for length in lengths {
        sum.update(&length.to_le_bytes());
    }
    sum.update(row);
    sum.update(media);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_knows_its_own_and_nothing_else() {
        let id = EntryId::parse("0190a1b2c3d4deadbeef").unwrap();
        let (row, media) = (br#"{"n":1}"#, b"pixels");
        let head = Head::of(&id, row, media).unwrap();
        let read = Head::read(&head).unwrap();
        assert_eq!((&read.id, read.row, read.media), (&id, 7, 6));
        assert!(read.is_of(row, media));
        assert!(!read.is_of(br#"{"n":2}"#, media));
        assert!(!read.is_of(row, b"pixelz"));
        // The same bytes, divided otherwise.
        assert!(!read.is_of(br#"{"n":1}p"#, b"ixels"));
        for place in 0..HEAD {
            let mut spoiled = head;
            spoiled[place] ^= 1;
            let read = Head::read(&spoiled);
            assert!(read.is_none_or(|head| !head.is_of(row, media)), "{place}");
        }
        assert_eq!(Head::read(&[0; HEAD]), None);
    }
}
