//! Decoding and encoding of stills, within bounds.

use std::io::Cursor;

use image::codecs::bmp::BmpEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::metadata::Orientation;
use image::{
    ColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, ImageResult,
    Limits,
};
use studio_plugin::Failure;

use crate::broken;

/// Longest side, in pixels: WebP's own bound is one less, and more is a mistake of the header's.
const LONGEST_SIDE: u32 = 16_384;

/// Bytes that product, decoded picture and the decoder's own buffers may take together. More does not fit the plugin's memory,
/// and would end it instead of failing the job.
const MOST_BYTES: u64 = 224 * 1024 * 1024;

/// How often the decoded picture is held while decoding: the worst is a progressive JPEG, whose coefficients are kept.
const COPIES: u64 = 3;

/// The same of a lossless WebP that is decoded where it is to lie; with four channels it then takes less than three do else.
const COPIES_IN_PLACE: u64 = 2;

/// Quality of a JPEG that is made here: no difference that anybody sees, at a third of the size that 100 takes.
const JPEG_QUALITY: u8 = 95;

/// Where a WebP that begins with its lossless picture says whether pixels may be transparent, and how.
const ALPHA_AT: usize = 24;
const ALPHA_USED: u8 = 0x10;

/// A decoded still.
pub(crate) struct Still {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Pixels one after another, as the file has them.
    data: Vec<u8>,
    color: ColorType,
    /// The alpha channel is there and means nothing.
    is_opaque: bool,
    icc: Option<Vec<u8>>,
    orientation: Orientation,
}

/// Decodes to the last pixel a still that is only looked at. The bytes are as they were afterwards.
pub(crate) fn decode_to_check(bytes: &mut [u8], format: ImageFormat) -> Result<Still, Failure> {
    let simple = format == ImageFormat::WebP && bytes.get(12..16) == Some(b"VP8L");
    let is_opaque = |flags: &u8| flags & ALPHA_USED == 0;
    if !simple || !bytes.get(ALPHA_AT).is_some_and(is_opaque) {
        return decode(bytes, format);
    }
    // The decoder works with four channels, and would copy three of them where it is not asked for the fourth; the format says
    // that the flag changes nothing else.
    let turn = |bytes: &mut [u8]| {
        if let Some(flags) = bytes.get_mut(ALPHA_AT) {
            *flags ^= ALPHA_USED;
        }
    };
    turn(bytes);
    let decoded = decode_within(bytes, format, COPIES_IN_PLACE);
    turn(bytes);
    decoded.map(|still| Still {
        is_opaque: true,
        ..still
    })
}

/// Decodes to the last pixel.
pub(crate) fn decode(bytes: &[u8], format: ImageFormat) -> Result<Still, Failure> {
    decode_within(bytes, format, COPIES)
}

/// The picture is held so often meanwhile.
fn decode_within(bytes: &[u8], format: ImageFormat, copies: u64) -> Result<Still, Failure> {
    let name = name(format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let failed = |error: ImageError| match error {
        ImageError::Limits(_) => too_large(name),
        error => broken(name, error),
    };
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let needed = u64::try_from(bytes.len())
        .unwrap_or(u64::MAX)
        .saturating_add(decoder.total_bytes().saturating_mul(copies));
    if needed > MOST_BYTES {
        return Err(too_large(name));
    }
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let icc = decoder.icc_profile().ok().flatten();
    let color = decoder.color_type();
    let length = usize::try_from(decoder.total_bytes()).map_err(|_| too_large(name))?;
    let mut data = vec![0; length];
    decoder.read_image(&mut data).map_err(failed)?;
    Ok(Still {
        width,
        height,
        data,
        color,
        is_opaque: false,
        icc,
        orientation,
    })
}

fn too_large(name: &str) -> Failure {
    Failure::permanent(format!(
        "the {name} that was made has more pixels than the finisher can check (16 million, {LONGEST_SIDE} a side); ask for a smaller picture"
    ))
}

/// The extension of a format, and its name in a failure.
pub(crate) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "png",
        ImageFormat::Jpeg => "jpg",
        ImageFormat::WebP => "webp",
        _ => "bmp",
    }
}

impl Still {
    /// The colour of every pixel, when they all have the same one, or are all invisible.
    pub(crate) fn uniform(&self) -> Option<String> {
        let size = usize::from(self.color.bytes_per_pixel());
        let (first, rest) = self.data.split_at_checked(size)?;
        let first = if self.is_opaque {
            first.get(..size - 1)?
        } else {
            first
        };
        // Ends at the first difference.
        if rest
            .chunks_exact(size)
            .all(|pixel| pixel.starts_with(first))
        {
            return Some(format!(
                "#{}",
                first
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            ));
        }
        let alpha = usize::from(self.color.bytes_per_pixel() / self.color.channel_count());
        let invisible = self.color.has_alpha()
            && !self.is_opaque
            && self
                .data
                .chunks_exact(size)
                .all(|pixel| pixel.iter().rev().take(alpha).all(|byte| *byte == 0));
        invisible.then(|| "transparent".to_owned())
    }

    /// Whether viewers turn the picture by a note that is about to go.
    pub(crate) fn is_turned(&self) -> bool {
        self.orientation != Orientation::NoTransforms
    }

    /// The picture in a format, upright.
    pub(crate) fn encode(self, format: ImageFormat) -> Result<Vec<u8>, Failure> {
        if !convertible(self.width, self.height, self.data.len()) {
            return Err(too_large(name(format)));
        }
        let icc = self.icc.clone();
        // Room for the largest result at once: growing by doubling would take twice as much for a moment.
        let mut out = Vec::with_capacity(self.data.len() + self.data.len() / 16 + 4096);
        let still = self.upright();
        let done = match format {
            // The only one that holds more than 8 bits a channel.
            ImageFormat::Png => write(PngEncoder::new(&mut out), icc, &still),
            ImageFormat::Jpeg => {
                let encoder = JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY);
                write(encoder, icc, &still.eight_bits().on_white())
            }
            ImageFormat::WebP => write(
                WebPEncoder::new_lossless(&mut out),
                icc,
                &still.eight_bits(),
            ),
            _ => write(BmpEncoder::new(&mut out), None, &still.eight_bits()),
        };
        done.map_err(|error| {
            Failure::permanent(format!(
                "the picture cannot be written as {}: {error}; ask for png",
                name(format)
            ))
        })?;
        Ok(out)
    }

    /// Turned as its note says.
    fn upright(self) -> Self {
        if !self.is_turned() {
            return self;
        }
        let turn = self.orientation;
        let size = usize::from(self.color.bytes_per_pixel());
        let row = index(self.width) * size;
        let (width, height) = match turn {
            Orientation::NoTransforms
            | Orientation::Rotate180
            | Orientation::FlipHorizontal
            | Orientation::FlipVertical => (self.width, self.height),
            _ => (self.height, self.width),
        };
        let mut data = Vec::with_capacity(self.data.len());
        for y in 0..height {
            for x in 0..width {
                // Where this pixel was before.
                let (flipped_x, flipped_y) = (width - 1 - x, height - 1 - y);
                let (from_x, from_y) = match turn {
                    Orientation::NoTransforms => (x, y),
                    Orientation::FlipHorizontal => (flipped_x, y),
                    Orientation::FlipVertical => (x, flipped_y),
                    Orientation::Rotate180 => (flipped_x, flipped_y),
                    Orientation::Rotate90 => (y, flipped_x),
                    Orientation::Rotate270 => (flipped_y, x),
                    Orientation::Rotate90FlipH => (y, x),
                    Orientation::Rotate270FlipH => (flipped_y, flipped_x),
                };
                let start = index(from_y) * row + index(from_x) * size;
                data.extend_from_slice(self.data.get(start..start + size).unwrap_or_default());
            }
        }
        Self {
            width,
            height,
            data,
            orientation: Orientation::NoTransforms,
            ..self
        }
    }

    /// Eight bits a channel, red, green and blue, with the alpha channel where there is one.
    fn eight_bits(self) -> Self {
        let has_alpha = self.color.has_alpha();
        let color = if has_alpha {
            ColorType::Rgba8
        } else {
            ColorType::Rgb8
        };
        if self.color == color {
            return self;
        }
        let channels = usize::from(self.color.channel_count());
        let bytes = usize::from(self.color.bytes_per_pixel()) / channels.max(1);
        let narrow = |channel: &[u8]| match channel {
            [low, high] => {
                // 65535 is 257 times 255: rounded to the nearest.
                let wide = u32::from(u16::from_ne_bytes([*low, *high]));
                u8::try_from((wide + 128) / 257).unwrap_or(u8::MAX)
            }
            [only, ..] => *only,
            [] => 0,
        };
        let mut data = Vec::with_capacity(index(self.width) * index(self.height) * 4);
        for pixel in self.data.chunks_exact(bytes * channels) {
            let mut channel = pixel.chunks_exact(bytes).map(narrow);
            let first = channel.next().unwrap_or(0);
            if channels < 3 {
                data.extend_from_slice(&[first; 3]);
            } else {
                data.push(first);
            }
            data.extend(channel);
        }
        Self {
            data,
            color,
            ..self
        }
    }

    /// Without an alpha channel: what was transparent becomes white, as on a page.
    fn on_white(self) -> Self {
        if self.color != ColorType::Rgba8 {
            return self;
        }
        let mut data = Vec::with_capacity(self.data.len() / 4 * 3);
        for pixel in self.data.chunks_exact(4) {
            let (colour, alpha) = pixel.split_at(3);
            let alpha = alpha.first().copied().map_or(255, u32::from);
            data.extend(colour.iter().map(|channel| {
                let mixed = (u32::from(*channel) * alpha + 255 * (255 - alpha) + 127) / 255;
                u8::try_from(mixed).unwrap_or(u8::MAX)
            }));
        }
        Self {
            data,
            color: ColorType::Rgb8,
            ..self
        }
    }
}

/// Whether a picture can be turned, widened to four channels of 8 bits, and written anew within the plugin's memory.
fn convertible(width: u32, height: u32, length: usize) -> bool {
    let widened = 4 * u64::from(width) * u64::from(height);
    u64::try_from(length).is_ok_and(|length| length.saturating_add(2 * widened) <= MOST_BYTES)
}

/// A side as an index; no picture within the bounds has one that does not fit.
fn index(side: u32) -> usize {
    usize::try_from(side).unwrap_or(usize::MAX)
}

fn write(mut encoder: impl ImageEncoder, icc: Option<Vec<u8>>, still: &Still) -> ImageResult<()> {
    // The profile has to be one of the channels that are written: it may be of the ink that a JPEG was decoded from.
    let space: &[u8] = if still.color.channel_count() < 3 {
        b"GRAY"
    } else {
        b"RGB "
    };
    if let Some(icc) = icc.filter(|icc| icc.get(16..20) == Some(space)) {
        // A format without a place for it shows the colours as sRGB, which is the nearest there is.
        let _ = encoder.set_icc_profile(icc);
    }
    encoder.write_image(&still.data, still.width, still.height, still.color.into())
}

#[cfg(test)]
mod tests {
    use image::DynamicImage;

    use super::*;
    use crate::testing::picture;

    #[test]
    fn turning_agrees_with_the_image_library() {
        for note in 1..=8 {
            let orientation = Orientation::from_exif(note).unwrap();
            let picture = DynamicImage::ImageRgba8(picture(5, 3));
            let still = Still {
                width: 5,
                height: 3,
                data: picture.as_bytes().to_vec(),
                color: ColorType::Rgba8,
                is_opaque: false,
                icc: None,
                orientation,
            };
            let mut turned = picture;
            turned.apply_orientation(orientation);
            let still = still.upright();
            assert_eq!(
                (still.width, still.height),
                (turned.width(), turned.height()),
                "{note}"
            );
            assert_eq!(still.data, turned.as_bytes(), "{note}");
        }
    }

    #[test]
    fn what_is_converted_fits_the_memory() {
        assert!(convertible(4096, 4096, 4 * 4096 * 4096));
        // Gray, so that it could be decoded: with three channels more it is too much.
        assert!(!convertible(8192, 8192, 8192 * 8192));
    }

    #[test]
    fn a_profile_goes_along_only_where_it_fits_the_channels() {
        let profile = |space: &[u8; 4]| {
            let mut profile = vec![7; 128];
            profile[16..20].copy_from_slice(space);
            profile
        };
        for (space, color, kept) in [
            (b"RGB ", ColorType::Rgb8, true),
            (b"CMYK", ColorType::Rgb8, false),
            (b"GRAY", ColorType::Rgb8, false),
            (b"GRAY", ColorType::L8, true),
        ] {
            let length = 4 * usize::from(color.channel_count());
            let still = Still {
                width: 2,
                height: 2,
                data: (0..length)
                    .map(|byte| u8::try_from(byte).unwrap())
                    .collect(),
                color,
                is_opaque: false,
                icc: Some(profile(space)),
                orientation: Orientation::NoTransforms,
            };
            let png = still.encode(ImageFormat::Png).unwrap();
            assert_eq!(
                png.windows(4).any(|name| name == b"iCCP"),
                kept,
                "{space:?}"
            );
        }
    }
}
