//! WebP, still and animated: parsed chunk by chunk, the picture kept, everything said about it replaced by the record.

use studio_plugin::Failure;

use crate::broken;
use crate::provenance::Record;
use crate::riff::{Chunk, Chunks, Writer};

/// Flags of the extended header.
const HAS_ICC: u8 = 0x20;
const HAS_ALPHA: u8 = 0x10;
const HAS_XMP: u8 = 0x04;
const MOVES: u8 = 0x02;

/// Width and height, in pixels.
type Size = (u32, u32);

/// Whether it moves, as its extended header says.
pub(crate) fn is_animated(webp: &[u8]) -> bool {
    webp.get(12..16) == Some(b"VP8X") && webp.get(20).is_some_and(|flags| flags & MOVES != 0)
}

/// The same still without the program's words, with the record; what follows the end is cut off.
pub(crate) fn still(webp: &[u8], record: &Record) -> Result<Vec<u8>, Failure> {
    let mut icc = None;
    let mut alpha = None;
    let mut picture = None;
    let mut header = None;
    for chunk in Chunks::of_file("webp", webp, b"WEBP")? {
        let chunk = chunk?;
        let place = match &chunk.name {
            b"VP8X" => &mut header,
            b"ICCP" => &mut icc,
            b"ALPH" => &mut alpha,
            b"VP8 " | b"VP8L" => &mut picture,
            _ => continue,
        };
        if place.replace(chunk).is_some() {
            return Err(broken("webp", "it has one chunk twice"));
        }
    }
    let picture = picture.ok_or_else(|| broken("webp", "it has no picture"))?;
    let (size, transparent) = bitstream(picture)?;
    let flags =
        flag(icc.is_some(), HAS_ICC) | flag(transparent || alpha.is_some(), HAS_ALPHA) | HAS_XMP;
    let mut out = Writer::new(b"WEBP", webp.len() + 4096);
    out.chunk(*b"VP8X", &extended(flags, size));
    for Chunk { name, content } in [icc, alpha, Some(picture)].into_iter().flatten() {
        out.chunk(name, content);
    }
    out.chunk(*b"XMP ", record.xmp().as_bytes());
    Ok(out.finish())
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

/// The same animation without the program's words, with the record. Every frame is looked at: it lies on the canvas and its
/// picture is as large as it says.
pub(crate) fn animated(webp: &[u8], record: &Record) -> Result<Vec<u8>, Failure> {
    let mut out = Writer::new(b"WEBP", webp.len() + 4096);
    let mut canvas = None;
    let mut loops = false;
    let mut frames = 0_u32;
    for chunk in Chunks::of_file("webp", webp, b"WEBP")? {
        let Chunk { name, content } = chunk?;
        match (&name, canvas) {
            (b"VP8X", None) => {
                let (flags, size) = header(content)?;
                canvas = Some(size);
                out.chunk(
                    name,
                    &extended(flags & (HAS_ICC | HAS_ALPHA | MOVES) | HAS_XMP, size),
                );
                continue;
            }
            (b"ANIM", Some(_)) if !loops && content.len() >= 6 => loops = true,
            (b"ANMF", Some(canvas)) if loops => {
                frames += 1;
                frame(content, canvas)
                    .map_err(|failure| failure.while_doing(&format!("frame {frames}")))?;
            }
            (b"ICCP", Some(_)) if !loops => {}
            (b"VP8X" | b"ANIM" | b"ANMF" | b"ICCP" | b"VP8 " | b"VP8L", _) => {
                return Err(broken(
                    "webp",
                    format!(
                        "its {} chunk is not where it belongs",
                        String::from_utf8_lossy(&name).trim_end()
                    ),
                ));
            }
            _ => continue,
        }
        out.chunk(name, content);
    }
    if frames == 0 {
        return Err(broken("webp", "it has no frame"));
    }
    out.chunk(*b"XMP ", record.xmp().as_bytes());
    Ok(out.finish())
}

/// Looks at one frame.
fn frame(content: &[u8], canvas: Size) -> Result<(), Failure> {
    let short = || broken("webp", "its header is cut short");
    let (header, picture) = content.split_at_checked(16).ok_or_else(short)?;
    let number = |at: usize| three_bytes(header, at).ok_or_else(short);
    // Places are counted in pairs of pixels.
    let (x, y) = (2 * number(0)?, 2 * number(3)?);
    let size = (1 + number(6)?, 1 + number(9)?);
    if x + size.0 > canvas.0 || y + size.1 > canvas.1 {
        return Err(broken("webp", "it lies outside of the canvas"));
    }
    let mut found = None;
    for chunk in Chunks::of("webp", picture) {
        let chunk = chunk?;
        if matches!(&chunk.name, b"VP8 " | b"VP8L") && found.replace(bitstream(chunk)?.0).is_some()
        {
            return Err(broken("webp", "it has two pictures"));
        }
    }
    match found {
        Some(found) if found == size => Ok(()),
        Some(found) => Err(broken(
            "webp",
            format!(
                "it says {}x{}, and its picture {}x{}",
                size.0, size.1, found.0, found.1
            ),
        )),
        None => Err(broken("webp", "it has no picture")),
    }
}

/// Flags and canvas of an extended header.
fn header(content: &[u8]) -> Result<(u8, Size), Failure> {
    let read = || {
        Some((
            *content.first()?,
            (1 + three_bytes(content, 4)?, 1 + three_bytes(content, 7)?),
        ))
    };
    read().ok_or_else(|| broken("webp", "its header is cut short"))
}

/// An extended header.
fn extended(flags: u8, (width, height): Size) -> Vec<u8> {
    let mut header = vec![flags, 0, 0, 0];
    for side in [width, height] {
        header.extend(side.saturating_sub(1).to_le_bytes().into_iter().take(3));
    }
    header
}

fn three_bytes(bytes: &[u8], at: usize) -> Option<u32> {
    match bytes.get(at..at + 3)? {
        [a, b, c] => Some(u32::from_le_bytes([*a, *b, *c, 0])),
        _ => None,
    }
}

/// Size of a picture's bitstream, and whether it says to be transparent.
fn bitstream(chunk: Chunk<'_>) -> Result<(Size, bool), Failure> {
    let read = match &chunk.name {
        b"VP8L" => lossless(chunk.content),
        _ => lossy(chunk.content).map(|size| (size, false)),
    };
    read.ok_or_else(|| broken("webp", "the header of its picture is not valid"))
}

fn lossless(content: &[u8]) -> Option<(Size, bool)> {
    let bits = content
        .strip_prefix(&[0x2f])?
        .first_chunk::<4>()
        .map(|bytes| u32::from_le_bytes(*bytes))?;
    let version = bits >> 29;
    (version == 0).then_some((
        (1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff)),
        bits >> 28 & 1 == 1,
    ))
}

fn lossy(content: &[u8]) -> Option<Size> {
    let head = content.first_chunk::<10>()?;
    let key_frame = head.first()? & 1 == 0;
    let start = head.get(3..6) == Some(&[0x9d, 0x01, 0x2a]);
    let side = |at: usize| {
        head.get(at..at + 2)
            .and_then(|bytes| bytes.try_into().ok())
            .map(|bytes| u32::from(u16::from_le_bytes(bytes) & 0x3fff))
    };
    let size = (side(6)?, side(8)?);
    (key_frame && start && size.0 > 0 && size.1 > 0).then_some(size)
}

#[cfg(test)]
pub(crate) mod tests {
    use image::{AnimationDecoder as _, ImageFormat};

    use super::*;
    use crate::riff::write;
    use crate::testing::{contains, encoded, picture};

    /// The bitstream chunk of a still.
    fn lossless_chunk(webp: &[u8]) -> Vec<u8> {
        let chunk = Chunks::of_file("webp", webp, b"WEBP")
            .unwrap()
            .find_map(|chunk| chunk.ok().filter(|chunk| &chunk.name == b"VP8L"));
        chunk.unwrap().content.to_vec()
    }

    fn frame_of(x: u8, size: (u8, u8), picture: &[u8]) -> Vec<u8> {
        // The last byte: drawn over what was there, not blended with it.
        let mut content = [[x, 0, 0], [0; 3], [size.0 - 1, 0, 0], [size.1 - 1, 0, 0]].concat();
        content.extend_from_slice(&[100, 0, 0, 2]);
        write(&mut content, *b"VP8L", picture);
        content
    }

    fn animation_of(chunks: &[([u8; 4], &[u8])]) -> Vec<u8> {
        let mut out = Writer::new(b"WEBP", 0);
        for (name, content) in chunks {
            out.chunk(*name, content);
        }
        out.finish()
    }

    const ANIM: ([u8; 4], &[u8]) = (*b"ANIM", &[0, 0, 0, 0, 0, 0]);

    /// Two frames of 40x24 pixels, with words of a program.
    pub(crate) fn animation() -> Vec<u8> {
        let frame = frame_of(0, (40, 24), &lossless_chunk(&encoded(ImageFormat::WebP)));
        let header = extended(MOVES | HAS_ALPHA | 0x08, (40, 24));
        animation_of(&[
            (*b"VP8X", &header),
            ANIM,
            (*b"ANMF", &frame),
            (*b"ANMF", &frame),
            (*b"EXIF", b"secret"),
            (*b"prVt", b"secret"),
        ])
    }

    #[test]
    fn animations_keep_their_frames_and_lose_their_words() {
        let mut before = animation();
        before.extend_from_slice(b"secret");
        let after = animated(&before, &Record::default()).unwrap();
        assert!(!contains(&after, "secret") && contains(&after, "xmpmeta"));
        let decoder = image::codecs::webp::WebPDecoder::new(std::io::Cursor::new(&after)).unwrap();
        let frames = decoder.into_frames().collect_frames().unwrap();
        assert_eq!(frames.len(), 2);
        assert!(frames.first().unwrap().buffer() == &picture(40, 24));
    }

    #[test]
    fn what_is_not_whole_says_where() {
        let header = extended(MOVES, (40, 24));
        let header = (*b"VP8X", header.as_slice());
        let bits = lossless_chunk(&encoded(ImageFormat::WebP));
        let good = frame_of(0, (40, 24), &bits);
        let outside = frame_of(1, (40, 24), &bits);
        let other = frame_of(0, (40, 23), &bits);
        let empty = &good[..16];
        let cut = &good[..good.len() - 2];
        let anmf = |content| (*b"ANMF", content);
        for (chunks, said) in [
            (vec![header, ANIM], "no frame"),
            (
                vec![header, anmf(good.as_slice())],
                "ANMF chunk is not where",
            ),
            (vec![ANIM, header], "ANIM chunk is not where"),
            (vec![header, ANIM, ANIM], "ANIM chunk is not where"),
            (
                vec![header, ANIM, anmf(&good), header],
                "VP8X chunk is not where",
            ),
            (
                vec![header, ANIM, anmf(&good), anmf(&outside)],
                "frame 2: the webp that was made is broken: it lies outside",
            ),
            (
                vec![header, ANIM, anmf(&other)],
                "it says 40x23, and its picture 40x24",
            ),
            (vec![header, ANIM, anmf(empty)], "no picture"),
            (vec![header, ANIM, anmf(cut)], "ends inside a chunk"),
            (vec![header, ANIM, anmf(b"short")], "cut short"),
        ] {
            let failure = animated(&animation_of(&chunks), &Record::default()).unwrap_err();
            assert!(
                failure.message.contains(said),
                "{said}: {}",
                failure.message
            );
            assert!(failure.retryable);
        }
        let whole = animation();
        for length in 12..whole.len() {
            assert!(animated(&whole[..length], &Record::default()).is_err());
        }
    }

    #[test]
    fn stills_are_rebuilt_from_their_picture() {
        let simple = encoded(ImageFormat::WebP);
        let bits = lossless_chunk(&simple);
        let lying = extended(0x08, (99, 99));
        let mut before = animation_of(&[
            (*b"VP8X", &lying),
            (*b"VP8L", &bits),
            (*b"EXIF", b"secret"),
            (*b"XMP ", b"secret"),
        ]);
        before.extend_from_slice(b"secret");
        let after = still(&before, &Record::default()).unwrap();
        assert!(!contains(&after, "secret"));
        assert_eq!(after, still(&simple, &Record::default()).unwrap());
        assert_eq!(after[20], HAS_ALPHA | HAS_XMP);
        assert_eq!(
            image::load_from_memory(&after).unwrap().to_rgba8(),
            picture(40, 24)
        );
    }

    #[test]
    fn stills_that_are_not_whole() {
        let simple = encoded(ImageFormat::WebP);
        let bits = lossless_chunk(&simple);
        for (bytes, said) in [
            (animation_of(&[]), "no picture"),
            (
                animation_of(&[(*b"VP8L", &bits), (*b"VP8L", &bits)]),
                "twice",
            ),
            (animation_of(&[(*b"VP8L", b"\x2e....")]), "not valid"),
            (
                animation_of(&[(*b"VP8 ", b"\x01\0\0\x9d\x01\x2a\x01\0\x01\0")]),
                "not valid",
            ),
            (simple[..simple.len() - 1].to_vec(), "ends inside"),
        ] {
            let failure = still(&bytes, &Record::default()).unwrap_err();
            assert!(
                failure.message.contains(said),
                "{said}: {}",
                failure.message
            );
        }
    }
}
