//! JPEG, segment by segment: what decoding needs stays, what tells about it goes.

use studio_plugin::Failure;

use crate::broken;
use crate::provenance::Record;

const ICC: &[u8] = b"ICC_PROFILE\0";
const JFIF: &[u8] = b"JFIF\0";
const ADOBE: &[u8] = b"Adobe";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// The same picture without the program's words, with the record; what follows the end is cut off.
pub(crate) fn rewrite(jpeg: &[u8], record: &Record) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(jpeg.len() + 4096);
    let mut rest = jpeg
        .strip_prefix(&[0xff, 0xd8])
        .ok_or_else(|| broken("jpg", "its start is missing"))?;
    out.extend_from_slice(&[0xff, 0xd8]);
    let mut signed = false;
    loop {
        let (marker, after) = marker(rest)?;
        // JFIF's own segment has to come first where there is one.
        if !signed && marker != 0xe0 {
            write(&mut out, record);
            signed = true;
        }
        match marker {
            0xd9 => {
                out.extend_from_slice(&[0xff, 0xd9]);
                return Ok(out);
            }
            0x01 | 0xd0..=0xd7 => rest = after,
            _ => {
                let (segment, after) = segment(after)?;
                if keeps(marker, segment.get(2..).unwrap_or_default()) {
                    out.extend_from_slice(&[0xff, marker]);
                    out.extend_from_slice(segment);
                }
                rest = if marker == 0xda {
                    copy_scan(after, &mut out)?
                } else {
                    after
                };
            }
        }
    }
}

/// The next marker; fill bytes before it are skipped.
fn marker(rest: &[u8]) -> Result<(u8, &[u8]), Failure> {
    let cut = || broken("jpg", "it ends before its end marker");
    let (first, mut rest) = rest.split_first().ok_or_else(cut)?;
    if *first != 0xff {
        return Err(broken("jpg", "a marker is missing"));
    }
    loop {
        let (marker, after) = rest.split_first().ok_or_else(cut)?;
        match marker {
            0xff => rest = after,
            0x00 | 0xd8 => return Err(broken("jpg", "a marker is wrong")),
            marker => return Ok((*marker, after)),
        }
    }
}

/// A segment with its length, and what follows.
fn segment(rest: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    let cut = || broken("jpg", "it ends inside a segment");
    let (length, _) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length < 2 {
        return Err(broken("jpg", "a segment has no length"));
    }
    rest.split_at_checked(length).ok_or_else(cut)
}

/// Comments and application segments go, except those that colours depend on.
fn keeps(marker: u8, content: &[u8]) -> bool {
    match marker {
        0xe0 => content.starts_with(JFIF),
        0xe2 => content.starts_with(ICC),
        0xee => content.starts_with(ADOBE),
        0xe1..=0xef | 0xfe => false,
        _ => true,
    }
}

/// Copies coded data up to the next marker that is none of its own.
fn copy_scan<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Failure> {
    let own = |pair: &[u8]| matches!(pair, [0xff, marker] if !matches!(marker, 0x00 | 0xd0..=0xd7 | 0xff));
    let length = rest
        .windows(2)
        .position(own)
        .ok_or_else(|| broken("jpg", "it ends inside its coded data"))?;
    let (scan, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
    out.extend_from_slice(scan);
    Ok(rest)
}

fn write(out: &mut Vec<u8>, record: &Record) {
    let xmp = record.xmp();
    // The record is bounded far below what a segment's length can say.
    let Ok(length) = u16::try_from(2 + XMP.len() + xmp.len()) else {
        return;
    };
    out.extend_from_slice(&[0xff, 0xe1]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(XMP);
    out.extend_from_slice(xmp.as_bytes());
}

#[cfg(test)]
mod tests {
    use image::ImageFormat;

    use super::*;
    use crate::testing::{contains, encoded};

    fn with(segments: &[(u8, &[u8])]) -> Vec<u8> {
        let jpeg = encoded(ImageFormat::Jpeg);
        let mut out = jpeg[..2].to_vec();
        for (marker, content) in segments {
            out.extend_from_slice(&[0xff, *marker]);
            out.extend_from_slice(&u16::try_from(content.len() + 2).unwrap().to_be_bytes());
            out.extend_from_slice(content);
        }
        out.extend_from_slice(&jpeg[2..]);
        out
    }

    #[test]
    fn words_go_and_colours_stay() {
        let mut jpeg = with(&[
            (0xe1, b"Exif\0\0secret"),
            (0xfe, b"secret comment"),
            (0xe2, b"ICC_PROFILE\0\x01\x01 not a profile"),
            (0xe2, b"MPF\0secret"),
            (0xee, b"Adobe\0\x64\0\0\0\0\x01"),
            (0xed, b"Photoshop 3.0\0secret"),
        ]);
        jpeg.extend_from_slice(b"secret behind the end");
        let out = rewrite(&jpeg, &Record::default()).unwrap();
        assert!(!contains(&out, "secret"));
        assert!(contains(&out, "ICC_PROFILE\0") && contains(&out, "Adobe"));
        assert_eq!(
            out.windows(XMP.len()).filter(|part| part == &XMP).count(),
            1
        );
        let after = image::load_from_memory_with_format(&out, ImageFormat::Jpeg).unwrap();
        assert!(after == image::load_from_memory(&encoded(ImageFormat::Jpeg)).unwrap());
    }

    #[test]
    fn a_cut_one_is_broken_wherever_it_is_cut() {
        let jpeg = encoded(ImageFormat::Jpeg);
        for length in 2..jpeg.len() {
            let failure = rewrite(&jpeg[..length], &Record::default()).unwrap_err();
            assert!(failure.message.contains("it ends") && failure.retryable);
        }
    }

    #[test]
    fn garbage_between_segments_is_broken() {
        let jpeg = encoded(ImageFormat::Jpeg);
        for bytes in [
            [&jpeg[..2], &[0x00]].concat(),
            [&jpeg[..2], &[0xff, 0x00]].concat(),
            [&jpeg[..2], &[0xff, 0xe1, 0, 1]].concat(),
        ] {
            assert!(rewrite(&bytes, &Record::default()).is_err());
        }
    }
}
