//! What the tests share: jobs, products, and a second opinion on files.

use image::{ImageFormat, RgbaImage};
use studio_plugin::{Platform, Provenance, RawJob};

/// A job whose task has these fields.
pub(crate) fn job(task: &str) -> RawJob {
    RawJob {
        id: "job-1".to_owned(),
        kind: "image".to_owned(),
        model: "z<image>".to_owned(),
        task: format!("{{{task}}}"),
        model_source: r#"{"engine":"sd-cpp","files":[],"cliDefaults":{}}"#.to_owned(),
        vram_gb_estimate: 1.0,
        entropy: 1,
        settings: "{}".to_owned(),
        backends: Vec::new(),
        platform: Platform {
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            gpu: None,
        },
    }
}

pub(crate) fn provenance() -> Provenance {
    Provenance {
        generation: "gen-7".to_owned(),
        plugins: vec![("sd-cpp".to_owned(), "0.1.0".to_owned(), "ab".repeat(32))],
        programs: vec![("sd-cli".to_owned(), "cd".repeat(32))],
        facts: vec![
            ("seed".to_owned(), "42".to_owned()),
            ("width".to_owned(), "1".to_owned()),
            ("cfg-scale".to_owned(), "1 & 2".to_owned()),
        ],
    }
}

/// A picture of many colours, half of it translucent.
pub(crate) fn picture(width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        let [a, b, ..] = (x * 7 + y * 31).to_le_bytes();
        image::Rgba([a, b ^ 0x55, a ^ b, if x * 2 < width { 255 } else { a | 1 }])
    })
}

pub(crate) fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    let picture = image::DynamicImage::from(picture(40, 24));
    let picture = if format == ImageFormat::Jpeg {
        image::DynamicImage::from(picture.to_rgb8())
    } else {
        picture
    };
    picture.write_to(&mut out, format).unwrap();
    out.into_inner()
}

pub(crate) fn contains(bytes: &[u8], part: &str) -> bool {
    bytes
        .windows(part.len())
        .any(|window| window == part.as_bytes())
}
