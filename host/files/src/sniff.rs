//! What a file is, from its first bytes.
//!
//! Names and headers are claims; decoders are chosen and results labelled by what is there. Only signatures that cannot
//! be mistaken are listed, so text formats are not: `None` means unknown, never broken.

use std::fs::File;
use std::io::{self, Read};

/// As many bytes as [`sniff`] ever looks at.
const HEAD_BYTES: u64 = 64;

/// The media type that the first bytes of a file tell, if any; 64 bytes are enough.
#[must_use]
pub fn sniff(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, signature: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(signature))
    };
    let prefixes: [(&[u8], &'static str); 16] = [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"II*\0", "image/tiff"),
        (b"MM\0*", "image/tiff"),
        (b"OggS", "audio/ogg"),
        (b"fLaC", "audio/flac"),
        (b"ID3", "audio/mpeg"),
        (b"\x1a\x45\xdf\xa3", "video/webm"),
        (b"glTF", "model/gltf-binary"),
        (b"PK\x03\x04", "application/zip"),
        (b"PK\x05\x06", "application/zip"),
        (b"GGUF", "application/x-gguf"),
        (b"%PDF-", "application/pdf"),
        (b"\x1f\x8b\x08", "application/gzip"),
    ];
    if let Some((_, kind)) = prefixes.iter().find(|(signature, _)| at(0, signature)) {
        return Some(kind);
    }
    if at(0, b"RIFF") {
        return if at(8, b"WEBP") {
            Some("image/webp")
        } else if at(8, b"WAVE") {
            Some("audio/wav")
        } else {
            None
        };
    }
    if at(4, b"ftyp") {
        let avif = at(8, b"avif") || at(8, b"avis");
        return Some(if avif { "image/avif" } else { "video/mp4" });
    }
    if is_bmp(head) {
        return Some("image/bmp");
    }
    is_mpeg_audio(head).then_some("audio/mpeg")
}

/// Two letters are too few: the header's own length must be one that exists.
fn is_bmp(head: &[u8]) -> bool {
    head.starts_with(b"BM")
        && matches!(
            head.get(14..18),
            Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])
        )
}

/// A frame header of layer I to III with a bit rate and a sample rate that exist.
fn is_mpeg_audio(head: &[u8]) -> bool {
    matches!(head, [0xff, b, c, ..]
        if b & 0xe0 == 0xe0 && b & 0x18 != 0x08 && b & 0x06 != 0 && !matches!(c >> 4, 0 | 15) && c & 0x0c != 0x0c)
}

/// [`sniff`] on an open file, from where it stands, which should be its beginning.
///
/// # Errors
/// When it cannot be read.
pub fn sniff_file(file: &File) -> io::Result<Option<&'static str>> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(sniff(&head))
}

/// The extension, without dot, by which programs know a media type that [`sniff`] tells.
#[must_use]
pub fn extension_of(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/tiff" => "tif",
        "image/webp" => "webp",
        "image/bmp" => "bmp",
        "image/avif" => "avif",
        "audio/ogg" => "ogg",
        "audio/flac" => "flac",
        "audio/mpeg" => "mp3",
        "audio/wav" => "wav",
        "video/webm" => "webm",
        "video/mp4" => "mp4",
        "model/gltf-binary" => "glb",
        "application/zip" => "zip",
        "application/x-gguf" => "gguf",
        "application/pdf" => "pdf",
        "application/gzip" => "gz",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        let cases: [(&[u8], Option<&str>); 20] = [
            (b"\x89PNG\r\n\x1a\n\0\0", Some("image/png")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"GIF89a", Some("image/gif")),
            (b"II*\0", Some("image/tiff")),
            (b"RIFF\0\0\0\0WEBPVP8L", Some("image/webp")),
            (b"RIFF\0\0\0\0WAVEfmt ", Some("audio/wav")),
            (b"RIFF\0\0\0\0AVI LIST", None),
            (b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", Some("image/bmp")),
            (b"BMW is a maker of cars", None),
            (b"OggS\0", Some("audio/ogg")),
            (b"fLaC", Some("audio/flac")),
            (b"ID3\x04", Some("audio/mpeg")),
            (b"\xff\xfb\x90\x64", Some("audio/mpeg")),
            (b"\xff\xff\xff\xff", None),
            (b"\0\0\0\x20ftypisom", Some("video/mp4")),
            (b"\x1a\x45\xdf\xa3", Some("video/webm")),
            (b"glTF\x02\0\0\0", Some("model/gltf-binary")),
            (b"PK\x03\x04", Some("application/zip")),
            (b"{\"a\":1}", None),
            (b"", None),
        ];
        for (head, kind) in cases {
            assert_eq!(sniff(head), kind, "{head:?}");
        }
    }

    #[test]
    fn truncated_signatures_are_unknown_and_do_not_panic() {
        let full = b"RIFF\0\0\0\0WEBP";
        for end in 0..full.len() {
            assert_eq!(sniff(&full[..end]), None, "{end} bytes");
        }
    }

    #[test]
    fn every_type_has_an_extension() {
        for head in [
            b"\x89PNG\r\n\x1a\n".as_slice(),
            b"GGUF",
            b"PK\x05\x06",
            b"%PDF-1",
            b"\x1f\x8b\x08",
        ] {
            let kind = sniff(head).unwrap();
            assert!(extension_of(kind).is_some(), "{kind}");
        }
    }
}
