//! Readers of media that share no code with what wrote them.

use std::io::Cursor;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, ColorType, DynamicImage, ImageFormat, RgbImage};

/// Decodes a still picture, whole; its content decides what it is.
pub fn still(bytes: &[u8]) -> (ImageFormat, DynamicImage) {
    let format = image::guess_format(bytes).expect("a picture");
    let picture = image::load_from_memory_with_format(bytes, format).expect("a whole picture");
    (format, picture)
}

/// Decodes every frame of an animated WebP.
pub fn frames(bytes: &[u8]) -> Vec<RgbImage> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).expect("a WebP");
    assert!(decoder.has_animation(), "an animated WebP");
    let frames = decoder
        .into_frames()
        .collect_frames()
        .expect("whole frames");
    frames
        .into_iter()
        .map(|frame| DynamicImage::ImageRgba8(frame.into_buffer()).to_rgb8())
        .collect()
}

/// Reads a WAV of 16-bit samples; gives rate, channels and samples.
pub fn wav(bytes: &[u8]) -> (u32, u16, Vec<i16>) {
    let mut reader = hound::WavReader::new(Cursor::new(bytes)).expect("a WAV");
    let spec = reader.spec();
    assert_eq!(spec.bits_per_sample, 16);
    let samples = reader
        .samples()
        .collect::<Result<_, _>>()
        .expect("whole samples");
    (spec.sample_rate, spec.channels, samples)
}

/// A small picture that is not of one colour.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 3) as u8, (y * 5) as u8, 77])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("a PNG");
    bytes.into_inner()
}

/// A PNG of noise, which nothing makes small, as the URL that holds it.
pub fn noise_url(width: u32, height: u32) -> String {
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let noise = (x + 1).wrapping_mul(0x9e37_79b1) ^ (y + 1).wrapping_mul(0x85eb_ca6b);
        let [a, b, c, _] = noise.wrapping_mul(0xc2b2_ae35).to_be_bytes();
        image::Rgb([a, b, c])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("a PNG");
    let text = BASE64_STANDARD.encode(bytes.into_inner());
    format!("data:image/png;base64,{text}")
}

/// A small grey picture of a depth, with an alpha channel or without.
pub fn grey(width: u32, height: u32, kind: ColorType) -> Vec<u8> {
    let picture = image::load_from_memory(&png(width, height)).expect("a picture");
    let picture = match kind {
        ColorType::L8 => DynamicImage::from(picture.to_luma8()),
        ColorType::La8 => DynamicImage::from(picture.to_luma_alpha8()),
        ColorType::L16 => DynamicImage::from(picture.to_luma16()),
        other => panic!("{other:?} is not grey, or none that is asked for"),
    };
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("a PNG");
    bytes.into_inner()
}

/// Whether bytes hold a text.
pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
