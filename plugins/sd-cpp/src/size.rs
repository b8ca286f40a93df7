//! The size of a picture, read from the first bytes of its file.
//!
//! The program rounds sizes up, each model by its own multiple, so what was asked for is not what was drawn. The
//! picture itself always tells.

/// Bytes at the start of a file that hold its size. A JPEG may have more before it; then the size is not found.
pub(crate) const HEAD: u32 = 64 * 1024;

/// Width and height of a PNG, JPEG or WebP; none for anything else.
pub(crate) fn of(head: &[u8]) -> Option<(u32, u32)> {
    if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some((number(head.get(16..20)?), number(head.get(20..24)?)));
    }
    if head.starts_with(b"RIFF") && head.get(8..12)? == b"WEBP" {
        return webp(head.get(12..16)?, head.get(20..)?);
    }
    if head.starts_with(&[0xff, 0xd8]) {
        return jpeg(head.get(2..)?);
    }
    None
}

/// Bytes of a number, the largest first.
fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

/// The same, the smallest first.
fn little(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

/// The first chunk of a WebP: a frame, a lossless frame, or the header of an extended file.
fn webp(chunk: &[u8], data: &[u8]) -> Option<(u32, u32)> {
    match chunk {
        b"VP8 " => {
            let side = |at: usize| Some(little(data.get(at..at + 2)?) & 0x3fff);
            Some((side(6)?, side(8)?))
        }
        b"VP8L" => {
            let bits = little(data.get(1..5)?);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => Some((little(data.get(4..7)?) + 1, little(data.get(7..10)?) + 1)),
        _ => None,
    }
}

/// Segments of a JPEG up to the one that begins a frame.
fn jpeg(mut rest: &[u8]) -> Option<(u32, u32)> {
    loop {
        let (marker, after) = match rest {
            [0xff, 0xff, ..] => {
                rest = rest.get(1..)?;
                continue;
            }
            [0xff, marker, after @ ..] => (*marker, after),
            _ => return None,
        };
        let length = usize::try_from(number(after.get(..2)?)).ok()?;
        // Tables of codes, extensions and arithmetic conditioning lie in the same range and begin no frame.
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            return Some((number(after.get(5..7)?), number(after.get(3..5)?)));
        }
        rest = after.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn each_kind_of_file() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([0, 0, 0, 104, 0, 0, 1, 0, 8, 2]);
        assert_eq!(of(&png), Some((104, 256)));

        let mut lossy = b"RIFF....WEBPVP8 \x20\0\0\0".to_vec();
        lossy.extend([0x30, 1, 0, 0x9d, 1, 0x2a, 104, 0, 72, 0x40]);
        assert_eq!(of(&lossy), Some((104, 72)));

        let mut lossless = b"RIFF....WEBPVP8L\x20\0\0\0\x2f".to_vec();
        lossless.extend((103_u32 | 71 << 14).to_le_bytes());
        assert_eq!(of(&lossless), Some((104, 72)));

        let mut extended = b"RIFF....WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec();
        extended.extend([103, 0, 0, 71, 0, 0]);
        assert_eq!(of(&extended), Some((104, 72)));

        let jpeg = [
            0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xff, 0xc4, 0, 2, 0xff, 0xc0, 0, 11, 8, 0,
            72, 0, 104, 3,
        ];
        assert_eq!(of(&jpeg), Some((104, 72)));
    }

    #[test]
    fn whatever_else_is_no_picture_and_no_harm() {
        let whole = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x68\0\0\0\x48";
        for end in 0..whole.len() {
            assert_eq!(of(&whole[..end]), None);
        }
        for bytes in [
            &b"RIFF....WEBPXXXX"[..],
            b"RIFF",
            b"\xff\xd8\xff",
            b"\xff\xd8\xff\xe0\xff\xff",
            b"GIF89a",
        ] {
            assert_eq!(of(bytes), None);
        }
    }
}
