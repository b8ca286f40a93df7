//! Pictures in and out: decoders chosen by name, a pattern, encoders, embedded settings.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ColorType, DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};

use crate::release::Release;

/// Reads a picture as the real program does: `.webp` by its own decoder, everything else by one that knows
/// PNG, JPEG and BMP by content. Pictures with fewer than three channels are refused unless `gray` is allowed.
pub(crate) fn load(path: &str, gray: bool) -> Result<(u32, u32), String> {
    let failed = || format!("load image from '{path}' failed");
    let bytes = std::fs::read(path).map_err(|_| failed())?;
    let content = image::guess_format(&bytes).map_err(|_| failed())?;
    let named_webp = extension(path) == "webp";
    if named_webp != (content == ImageFormat::WebP) {
        return Err(failed());
    }
    let picture = image::load_from_memory_with_format(&bytes, content).map_err(|_| failed())?;
    let is_gray = matches!(
        picture.color(),
        ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16
    );
    if is_gray && !gray {
        let channels = picture.color().channel_count();
        return Err(format!(
            "the number of channels for the input image must be >= 3,but got {channels} channels\n{}",
            failed()
        ));
    }
    Ok((picture.width(), picture.height()))
}

pub(crate) fn extension(path: &str) -> String {
    Path::new(path)
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase()
}

/// A picture that two different requests do not share, never of one colour.
pub(crate) fn pattern(request: &str, seed: i64, width: u32, height: u32) -> RgbImage {
    let hash = fnv(request.as_bytes()) ^ seed.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [a, b, c, d, ..] = hash.to_le_bytes();
    RgbImage::from_fn(width, height, |x, y| {
        let diagonal = u8::try_from((x / 3 + y / 5) & 0xff).unwrap_or_default();
        let cross = u8::try_from((x ^ y) & 0xff).unwrap_or_default();
        image::Rgb([
            a.wrapping_add(diagonal),
            b.wrapping_add(cross / 2),
            c.wrapping_add(d ^ diagonal),
        ])
    })
}

/// A picture of one colour.
pub(crate) fn uniform(width: u32, height: u32) -> RgbImage {
    RgbImage::new(width, height)
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where a picture named so really goes: numbers are put in, unknown extensions gain `.png`.
pub(crate) fn destination(asked: &str, release: Release) -> PathBuf {
    let numbered = number(asked);
    let known = match extension(&numbered).as_str() {
        "png" | "jpg" | "jpeg" | "jpe" => true,
        "webp" => release.writes_webp(),
        _ => false,
    };
    PathBuf::from(if known {
        numbered
    } else {
        format!("{numbered}.png")
    })
}

/// Puts 0 for the first `%d` or `%03d`, wherever it stands in the path.
fn number(path: &str) -> String {
    let Some(start) = path.find('%') else {
        return path.to_owned();
    };
    let (before, rest) = path.split_at(start);
    let digits: String = rest
        .chars()
        .skip(1)
        .take_while(char::is_ascii_digit)
        .collect();
    match rest
        .get(1 + digits.len()..)
        .and_then(|rest| rest.strip_prefix('d'))
    {
        Some(after) => format!(
            "{before}{:0>width$}{after}",
            0,
            width = digits.parse().unwrap_or(1)
        ),
        None => path.to_owned(),
    }
}

/// Encodes by the extension of the destination and embeds the settings unless there are none.
pub(crate) fn encode(
    picture: RgbImage,
    destination: &Path,
    settings: Option<&str>,
) -> Result<Vec<u8>, String> {
    let format = match extension(&destination.to_string_lossy()).as_str() {
        "webp" => ImageFormat::WebP,
        "jpg" | "jpeg" | "jpe" => ImageFormat::Jpeg,
        _ => ImageFormat::Png,
    };
    encode_as(picture, format, settings)
}

/// Encodes in a format.
pub(crate) fn encode_as(
    picture: RgbImage,
    format: ImageFormat,
    settings: Option<&str>,
) -> Result<Vec<u8>, String> {
    let (width, height) = picture.dimensions();
    let mut bytes = Vec::new();
    let done = match format {
        ImageFormat::Jpeg => image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90)
            .write_image(&picture, width, height, ExtendedColorType::Rgb8),
        _ => DynamicImage::from(picture).write_to(&mut Cursor::new(&mut bytes), format),
    };
    done.map_err(|error| error.to_string())?;
    Ok(match (settings, format) {
        (None, _) => bytes,
        (Some(text), ImageFormat::Jpeg) => jpeg_with(&bytes, text),
        (Some(text), ImageFormat::WebP) => webp_with(&bytes, text, width, height),
        (Some(text), _) => png_with(&bytes, text),
    })
}

/// Length of the signature and the header chunk, which has to stay first.
const PNG_HEAD: usize = 8 + 12 + 13;

fn png_with(png: &[u8], text: &str) -> Vec<u8> {
    let (head, rest) = png.split_at_checked(PNG_HEAD).unwrap_or((png, &[]));
    let mut body = b"tEXtparameters\0".to_vec();
    body.extend_from_slice(text.as_bytes());
    let length = u32::try_from(body.len().saturating_sub(4)).unwrap_or_default();
    [
        head,
        &length.to_be_bytes(),
        &body,
        &crc32(&body).to_be_bytes(),
        rest,
    ]
    .concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn jpeg_with(jpeg: &[u8], text: &str) -> Vec<u8> {
    let (head, rest) = jpeg.split_at_checked(2).unwrap_or((jpeg, &[]));
    let mut body = b"http://ns.adobe.com/xap/1.0/\0".to_vec();
    body.extend_from_slice(xmp(text).as_bytes());
    body.truncate(usize::from(u16::MAX) - 2);
    let length = u16::try_from(body.len() + 2).unwrap_or(2);
    [head, &[0xff, 0xe1], &length.to_be_bytes(), &body, rest].concat()
}

fn webp_with(webp: &[u8], text: &str, width: u32, height: u32) -> Vec<u8> {
    const HAS_XMP: u8 = 0b100;
    let picture = webp.get(12..).unwrap_or_default();
    let mut extended = vec![HAS_XMP, 0, 0, 0];
    extended.extend(width.saturating_sub(1).to_le_bytes().into_iter().take(3));
    extended.extend(height.saturating_sub(1).to_le_bytes().into_iter().take(3));
    let content = [
        b"WEBP".as_slice(),
        &chunk(b"VP8X", &extended),
        picture,
        &chunk(b"XMP ", xmp(text).as_bytes()),
    ]
    .concat();
    chunk(b"RIFF", &content)
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or_default();
    let padding: &[u8] = if body.len() % 2 == 1 { &[0] } else { &[] };
    [name.as_slice(), &length.to_le_bytes(), body, padding].concat()
}

fn xmp(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description xmlns:sd=\"urn:fake-sd\"><sd:parameters>{text}</sd:parameters></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ImageFormat, Release, destination, encode, pattern};

    #[test]
    fn names_decide() {
        let to = |asked: &str, release| {
            destination(asked, Release(release))
                .to_string_lossy()
                .into_owned()
        };
        assert_eq!(to("/a/x.webp", 552), "/a/x.webp");
        assert_eq!(to("/a/x.webp", 551), "/a/x.webp.png");
        assert_eq!(to("/a/x.bmp", 827), "/a/x.bmp.png");
        assert_eq!(to("/%03d/x.JPG", 827), "/000/x.JPG");
        assert_eq!(to("/a%b.png", 827), "/a%b.png");
    }

    #[test]
    fn every_format_decodes_with_its_settings_inside() {
        for (name, format) in [
            ("x.png", ImageFormat::Png),
            ("x.jpg", ImageFormat::Jpeg),
            ("x.webp", ImageFormat::WebP),
        ] {
            let bytes =
                encode(pattern("fox", 7, 40, 24), Path::new(name), Some("a fox <3")).unwrap();
            assert_eq!(image::guess_format(&bytes).unwrap(), format);
            let decoded = image::load_from_memory(&bytes).unwrap().to_rgb8();
            assert_eq!(decoded.dimensions(), (40, 24));
            assert!(bytes.windows(5).any(|part| part == b"a fox"));
            assert_ne!(decoded.get_pixel(0, 0), decoded.get_pixel(39, 23));
        }
        assert_ne!(pattern("fox", 7, 8, 8), pattern("fox", 8, 8, 8));
        assert_ne!(pattern("fox", 7, 8, 8), pattern("cat", 7, 8, 8));
    }
}
