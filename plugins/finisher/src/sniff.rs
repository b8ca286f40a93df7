//! What a product is, by its first bytes.

use image::ImageFormat;

use crate::containers::Container;
use crate::{png, webp};

/// What a product is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Still(ImageFormat),
    AnimatedPng,
    AnimatedWebp,
    Wav,
    Container(Container),
    Unknown,
}

/// Looks at the first bytes, and at whether a picture moves.
pub(crate) fn content(bytes: &[u8]) -> Content {
    let at = |offset: usize, magic: &[u8]| {
        bytes
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    if at(0, png::SIGNATURE) {
        return if png::is_animated(bytes) {
            Content::AnimatedPng
        } else {
            Content::Still(ImageFormat::Png)
        };
    }
    if at(0, &[0xff, 0xd8, 0xff]) {
        return Content::Still(ImageFormat::Jpeg);
    }
    if at(0, b"RIFF") && at(8, b"WEBP") {
        return if webp::is_animated(bytes) {
            Content::AnimatedWebp
        } else {
            Content::Still(ImageFormat::WebP)
        };
    }
    if at(0, b"RIFF") && at(8, b"WAVE") {
        return Content::Wav;
    }
    if at(0, b"BM") && bytes.get(6..10) == Some(&[0; 4]) {
        return Content::Still(ImageFormat::Bmp);
    }
    Container::of(bytes).map_or(Content::Unknown, Content::Container)
}
