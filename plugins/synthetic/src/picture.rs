//! A still picture.

use image::ImageEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use studio_plugin::{Failure, Finished, ImageTask};

use crate::pattern::Pattern;
use crate::vp8l;

/// Width and height, whatever was asked for: pictures of the synthetic engine have always been so.
const SIDE: u32 = 512;

/// Lossless WebP where that is wanted, else PNG.
pub(crate) fn make(task: &ImageTask) -> Result<Finished, Failure> {
    let pattern = Pattern::new(&task.prompt, SIDE, SIDE, 0.0);
    let (bytes, ext) = if task.ext == "webp" {
        (webp(&pattern), "webp")
    } else {
        (png(&pattern)?, "png")
    };
    Ok(Finished::media(bytes, ext)
        .fact("width", SIDE)
        .fact("height", SIDE))
}

fn webp(pattern: &Pattern) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WEBP".to_vec();
    vp8l::append_chunk(&mut bytes, (SIDE, SIDE), &pattern.palette, |y, row| {
        pattern.row(y, row);
    });
    let size = u32::try_from(bytes.len() - 8).unwrap_or(u32::MAX);
    if let Some(slot) = bytes.get_mut(4..8) {
        slot.copy_from_slice(&size.to_le_bytes());
    }
    bytes
}

fn png(pattern: &Pattern) -> Result<Vec<u8>, Failure> {
    let mut pixels = Vec::with_capacity((SIDE * SIDE * 3) as usize);
    let mut row = vec![0; SIDE as usize];
    for y in 0..SIDE as usize {
        pattern.row(y, &mut row);
        for index in &row {
            let colour = pattern.palette.get(usize::from(*index));
            pixels.extend_from_slice(&colour.copied().unwrap_or_default());
        }
    }
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Up)
        .write_image(&pixels, SIDE, SIDE, image::ExtendedColorType::Rgb8)
        .map_err(|error| Failure::permanent(format!("encoding the picture: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use studio_plugin::{Fields, Output, Part, Task};

    fn media(text: &str) -> (Vec<u8>, String) {
        let task = ImageTask::read("image", Fields::parse("task", text).unwrap());
        let finished = make(&task.unwrap().unwrap()).unwrap();
        match finished.output {
            Output::Media(media) => match media.content {
                Part::Bytes(bytes) => (bytes, media.ext),
                _ => panic!("not bytes"),
            },
            Output::Json(_) => panic!("not a file"),
        }
    }

    #[test]
    fn both_formats_hold_the_same_picture_of_fixed_size() {
        let (webp, webp_ext) = media(r#"{"prompt":"a koi pond","width":64,"height":0}"#);
        let (png, png_ext) = media(r#"{"prompt":"a koi pond","ext":"jpg"}"#);
        assert_eq!((webp_ext.as_str(), png_ext.as_str()), ("webp", "png"));
        let webp = image::load_from_memory_with_format(&webp, image::ImageFormat::WebP).unwrap();
        let png = image::load_from_memory_with_format(&png, image::ImageFormat::Png).unwrap();
        assert_eq!(webp.to_rgb8(), png.to_rgb8());
        assert_eq!((webp.width(), webp.height()), (512, 512));
    }

    #[test]
    fn equal_prompts_give_equal_bytes_and_others_other() {
        assert_eq!(
            media(r#"{"prompt":"a"}"#),
            media(r#"{"prompt":"a","seed":7}"#)
        );
        assert_ne!(media(r#"{"prompt":"a"}"#), media(r#"{"prompt":"b"}"#));
    }
}
