//! PNG, chunk by chunk: what shows the picture stays, what tells about it goes.

use studio_plugin::Failure;

use crate::broken;
use crate::provenance::Record;

/// What every PNG begins with.
pub(crate) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Chunks that change how the picture looks. All others may hold anything: prompts, paths, times, private data.
const KEPT: &[&[u8; 4]] = &[
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP",
    b"mDCV", b"cLLI", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"acTL", b"fcTL", b"fdAT",
];

/// One chunk.
struct Chunk<'a> {
    name: &'a [u8],
    /// With length, name and checksum.
    whole: &'a [u8],
}

/// The chunk at the beginning, and what follows.
fn next(rest: &[u8]) -> Result<(Chunk<'_>, &[u8]), Failure> {
    let cut = || broken("png", "it ends inside a chunk");
    let (length, _) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = usize::try_from(u32::from_be_bytes(*length))
        .ok()
        .and_then(|length| length.checked_add(12))
        .ok_or_else(cut)?;
    let (whole, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
    let name = whole.get(4..8).unwrap_or_default();
    Ok((Chunk { name, whole }, rest))
}

/// Whether it moves: the chunk that says so stands before the first data.
pub(crate) fn is_animated(png: &[u8]) -> bool {
    let mut rest = png.get(SIGNATURE.len()..).unwrap_or_default();
    while let Ok((chunk, after)) = next(rest) {
        match chunk.name {
            b"acTL" => return true,
            b"IDAT" | b"IEND" => return false,
            _ => rest = after,
        }
    }
    false
}

/// The same picture without the program's words, with the record; what follows the end is cut off.
pub(crate) fn rewrite(png: &[u8], record: &Record) -> Result<Vec<u8>, Failure> {
    let (signature, mut rest) = png.split_at_checked(SIGNATURE.len()).unwrap_or((png, &[]));
    let mut out = Vec::with_capacity(png.len() + 4096);
    out.extend_from_slice(signature);
    let mut count = 0_usize;
    loop {
        if rest.is_empty() {
            return Err(broken("png", "it has no end"));
        }
        let (chunk, after) = next(rest)?;
        if (count == 0) != (chunk.name == b"IHDR") {
            return Err(broken("png", "its header is not where it belongs"));
        }
        if KEPT.iter().any(|name| chunk.name == name.as_slice()) {
            out.extend_from_slice(chunk.whole);
        }
        if count == 0 {
            write(&mut out, &xmp(record));
        }
        if chunk.name == b"IEND" {
            return Ok(out);
        }
        count += 1;
        rest = after;
    }
}

/// Name and content of the chunk that XMP goes in: a text that is neither compressed nor translated.
fn xmp(record: &Record) -> Vec<u8> {
    let mut chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0".to_vec();
    chunk.extend_from_slice(record.xmp().as_bytes());
    chunk
}

/// Appends a chunk, given its name and content.
fn write(out: &mut Vec<u8>, chunk: &[u8]) {
    let length = u32::try_from(chunk.len().saturating_sub(4)).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(chunk);
    out.extend_from_slice(&crc32(chunk).to_be_bytes());
}

/// The checksum of PNG, bit by bit: it is only ever taken over the few kilobytes written here.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    })
}

#[cfg(test)]
mod tests {
    use image::ImageFormat;

    use super::*;
    use crate::testing::{contains, encoded};

    /// A PNG with chunks put in behind its header.
    fn with(chunks: &[&[u8]]) -> Vec<u8> {
        let png = encoded(ImageFormat::Png);
        let (head, rest) = png.split_at(33);
        let mut out = head.to_vec();
        for chunk in chunks {
            write(&mut out, chunk);
        }
        out.extend_from_slice(rest);
        out
    }

    fn names(png: &[u8]) -> Vec<String> {
        let mut rest = &png[8..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            let (chunk, after) = next(rest).unwrap();
            names.push(String::from_utf8_lossy(chunk.name).into_owned());
            rest = after;
        }
        names
    }

    #[test]
    fn words_go_and_looks_stay() {
        let png = with(&[
            b"tEXtparameters\0/home/me/secret fox",
            b"gAMA\0\0\xb1\x8f",
            b"eXIfMM\0*",
            b"tIME\x07\xea\x0b\x16\0\0\0",
            b"prVtprivate",
            b"pHYs\0\0\x0b\x13\0\0\x0b\x13\x01",
        ]);
        let mut png = png;
        png.extend_from_slice(b"PK\x03\x04 a zip behind the picture");
        let out = rewrite(&png, &Record::default()).unwrap();
        assert!(!contains(&out, "secret") && !contains(&out, "PK\x03\x04"));
        let mut kept = names(&out);
        kept.dedup();
        assert_eq!(kept, ["IHDR", "iTXt", "gAMA", "pHYs", "IDAT", "IEND"]);
        let after = image::load_from_memory_with_format(&out, ImageFormat::Png).unwrap();
        assert!(after == image::load_from_memory(&encoded(ImageFormat::Png)).unwrap());
    }

    #[test]
    fn moving_ones_are_told_by_their_chunk_before_the_data() {
        assert!(is_animated(&with(&[b"acTL\0\0\0\x02\0\0\0\0"])));
        assert!(!is_animated(&with(&[])));
        assert!(!is_animated(b""));
    }

    #[test]
    fn a_cut_one_says_where() {
        let png = encoded(ImageFormat::Png);
        for (length, said) in [
            (20, "inside a chunk"),
            (png.len() - 12, "no end"),
            (png.len() - 1, "inside a chunk"),
        ] {
            let failure = rewrite(&png[..length], &Record::default()).unwrap_err();
            assert!(failure.message.contains(said), "{}", failure.message);
            assert!(failure.retryable);
        }
        let headless = [SIGNATURE, &png[33..]].concat();
        assert!(rewrite(&headless, &Record::default()).is_err());
    }
}
