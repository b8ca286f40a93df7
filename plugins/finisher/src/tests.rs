//! Products in, products out, looked at with decoders that are not the code under test.

use image::{DynamicImage, ImageFormat, RgbImage};
use studio_plugin::{Failure, Finisher as _, Product, Provenance};

use crate::Finishing;
use crate::testing::{contains, encoded, job, picture, provenance};

const STILLS: [(ImageFormat, &str); 4] = [
    (ImageFormat::Png, "png"),
    (ImageFormat::Jpeg, "jpg"),
    (ImageFormat::WebP, "webp"),
    (ImageFormat::Bmp, "bmp"),
];

fn finish_for(task: &str, bytes: Vec<u8>, ext: &str) -> Result<(Vec<u8>, String), Failure> {
    match Finishing::finish(
        job(task),
        Product::Media((bytes, ext.to_owned())),
        provenance(),
    )? {
        Product::Media(media) => Ok(media),
        Product::Json(text) => panic!("{text}"),
    }
}

fn finish(bytes: Vec<u8>, ext: &str) -> Result<(Vec<u8>, String), Failure> {
    finish_for(r#""prompt":"a fox""#, bytes, ext)
}

fn decoded(bytes: &[u8], format: ImageFormat) -> DynamicImage {
    assert_eq!(image::guess_format(bytes).unwrap(), format);
    image::load_from_memory_with_format(bytes, format).unwrap()
}

#[test]
fn json_goes_through() {
    let json = Product::Json("{\"a\":1}".to_owned());
    assert_eq!(
        Finishing::finish(job(""), json.clone(), provenance()).unwrap(),
        json
    );
}

#[test]
fn untouched_pixels_with_the_record_inside() {
    for (format, ext) in STILLS {
        let before = encoded(format);
        let (after, name) = finish(before.clone(), ext).unwrap();
        assert_eq!(name, ext);
        assert!(decoded(&after, format) == decoded(&before, format), "{ext}");
        if format == ImageFormat::Bmp {
            continue;
        }
        for part in [
            "<sw:model>z&lt;image&gt;</sw:model>",
            "<sw:engine>sd-cpp</sw:engine>",
            "<sw:seed>42</sw:seed>",
            "<sw:width>40</sw:width>",
            "<sw:height>24</sw:height>",
            "<rdf:li>cfg-scale=1 &amp; 2</rdf:li>",
            "<sw:generation>gen-7</sw:generation>",
            // Of "a fox", by another program.
            "<sw:promptSha256>5ebbe2a2650a5e157c4f8e6720167485236ce883498722718171efe14efab41c</sw:promptSha256>",
            &format!("sd-cpp 0.1.0 sha256:{}", "ab".repeat(32)),
            &format!("sd-cli sha256:{}", "cd".repeat(32)),
        ] {
            assert!(contains(&after, part), "{ext} lacks {part}");
        }
    }
}

#[test]
fn each_format_is_converted_into_each_other() {
    for (from, ext) in STILLS {
        for (to, asked) in STILLS {
            let before = decoded(&encoded(from), from);
            let (after, name) =
                finish_for(&format!(r#""ext":"{asked}""#), encoded(from), ext).unwrap();
            assert_eq!(name, asked, "{ext} to {asked}");
            let after = decoded(&after, to);
            assert_eq!((after.width(), after.height()), (40, 24));
            if to != ImageFormat::Jpeg {
                assert!(after.to_rgba8() == before.to_rgba8(), "{ext} to {asked}");
            }
        }
    }
}

#[test]
fn transparency_becomes_white_in_a_jpeg() {
    let clear = image::RgbaImage::from_fn(32, 32, |x, _| {
        image::Rgba([200, 0, 0, if x < 16 { 255 } else { 0 }])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    clear.write_to(&mut png, ImageFormat::Png).unwrap();
    let (jpeg, _) = finish_for(r#""ext":"jpeg""#, png.into_inner(), "png").unwrap();
    let picture = decoded(&jpeg, ImageFormat::Jpeg).to_rgb8();
    assert!(
        picture
            .get_pixel(30, 5)
            .0
            .iter()
            .all(|channel| *channel > 250)
    );
    assert!(picture.get_pixel(2, 5).0[0] > 180 && picture.get_pixel(2, 5).0[1] < 20);
}

#[test]
fn sixteen_bits_survive_where_they_can() {
    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_fn(9, 9, |x, y| {
        image::Rgb([x as u16 * 7001, y as u16 * 6007, 5])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    deep.write_to(&mut png, ImageFormat::Png).unwrap();
    let png = png.into_inner();
    let (after, _) = finish(png.clone(), "png").unwrap();
    assert_eq!(decoded(&after, ImageFormat::Png), DynamicImage::from(deep));
    let (webp, _) = finish_for(r#""ext":"webp""#, png.clone(), "png").unwrap();
    assert_eq!(
        decoded(&webp, ImageFormat::WebP).to_rgb8(),
        decoded(&png, ImageFormat::Png).to_rgb8()
    );
}

#[test]
fn a_product_is_named_by_what_it_is() {
    for (format, ext) in STILLS {
        let (_, name) = finish(encoded(format), "webp").unwrap();
        assert_eq!(name, ext);
    }
    assert_eq!(
        finish(b"OggS and so on".to_vec(), "opus").unwrap().1,
        "opus"
    );
    assert_eq!(finish(b"OggS and so on".to_vec(), "wav").unwrap().1, "ogg");
}

#[test]
fn one_colour_is_refused_unless_the_operator_allows_it_for_the_model() {
    let write = |picture: DynamicImage, format| {
        let mut out = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut out, format).unwrap();
        out.into_inner()
    };
    let black = RgbImage::new(8, 8);
    for (format, ext) in STILLS {
        let failure = finish(write(DynamicImage::from(black.clone()), format), ext).unwrap_err();
        assert!(
            failure
                .message
                .contains("every pixel of the picture is #000000"),
            "{}",
            failure.message
        );
        assert!(failure.retryable);
    }
    let clear = image::RgbaImage::from_fn(8, 8, |x, _| image::Rgba([x as u8, 0, 0, 0]));
    let failure = finish(write(DynamicImage::from(clear), ImageFormat::Png), "png").unwrap_err();
    assert!(failure.message.contains("transparent"));
    let mut nearly = black.clone();
    nearly.put_pixel(7, 7, image::Rgb([0, 0, 1]));
    assert!(finish(write(DynamicImage::from(nearly), ImageFormat::Png), "png").is_ok());

    let png = write(DynamicImage::from(black), ImageFormat::Png);
    let with = |settings: &str| {
        let mut job = job("");
        job.settings = settings.to_owned();
        Finishing::finish(
            job,
            Product::Media((png.clone(), "png".to_owned())),
            provenance(),
        )
    };
    assert!(with(r#"{"allow-uniform":["z<image>"]}"#).is_ok());
    assert!(
        with(r#"{"allow-uniform":["another"]}"#)
            .unwrap_err()
            .retryable
    );
    for wrong in [
        r#"{"allow-uniform":"z<image>"}"#,
        r#"{"allow-uniform":[1]}"#,
    ] {
        assert!(with(wrong).unwrap_err().message.contains("allow-uniform"));
    }
}

#[test]
fn sizes_beyond_the_bounds_are_refused_before_they_are_decoded() {
    // A PNG header alone: the sides, then 8 bits of RGBA.
    let header = |width: u32, height: u32| {
        let mut png = encoded(ImageFormat::Png);
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let mut hasher = [0_u8; 17];
        hasher.copy_from_slice(&png[12..29]);
        let crc = !hasher.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        });
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        png
    };
    for (width, height) in [(16_385, 1), (1, 16_385), (8000, 8000), (u32::MAX >> 1, 4)] {
        let failure = finish(header(width, height), "png").unwrap_err();
        assert!(
            failure.message.contains("more pixels than"),
            "{}",
            failure.message
        );
        assert!(!failure.retryable);
    }
}

#[test]
fn other_containers_keep_their_bytes_and_strangers_are_refused() {
    for (bytes, ext) in [
        (b"GIF89a...".to_vec(), "gif"),
        (b"\0\0\0\x18ftypmp42....".to_vec(), "mp4"),
        (b"\0\0\0\x18ftypM4A ....".to_vec(), "m4a"),
        (b"\x1a\x45\xdf\xa3....".to_vec(), "webm"),
        (b"ID3\x04....".to_vec(), "mp3"),
        (b"\xff\xfb\x90\x64....".to_vec(), "mp3"),
        (b"OggS....".to_vec(), "ogg"),
        (b"fLaC....".to_vec(), "flac"),
        (b"glTF\x02\0\0\0\x10\0\0\0....".to_vec(), "glb"),
    ] {
        assert_eq!(finish(bytes.clone(), ext).unwrap(), (bytes, ext.to_owned()));
    }
    for (bytes, ext) in [
        (&b"<html>"[..], "mp4"),
        (b"MZ\x90\0", "png"),
        (b"BMW is no picture", "bmp"),
        (b"RIFF\0\0\0\0AVI ", "wav"),
    ] {
        let failure = finish(bytes.to_vec(), ext).unwrap_err();
        assert!(
            failure
                .message
                .contains(&format!("is called {ext} and is none")),
            "{}",
            failure.message
        );
        assert!(!failure.retryable);
    }
    assert!(
        finish(Vec::new(), "png")
            .unwrap_err()
            .message
            .contains("empty")
    );
    assert!(
        finish(b"glTF\x02\0\0\0\x11\0\0\0....".to_vec(), "glb")
            .unwrap_err()
            .message
            .contains("17 bytes")
    );
}

#[test]
fn whatever_an_engine_says_a_record_fits_its_place() {
    let wild = "&\u{0}<\u{10ffff}".repeat(5000);
    let many = |count: usize| {
        (0..count)
            .map(|number| (format!("fact{number}{wild}"), wild.clone()))
            .collect::<Vec<_>>()
    };
    let provenance = Provenance {
        generation: wild.clone(),
        plugins: many(40)
            .into_iter()
            .map(|(name, digest)| (name, wild.clone(), digest))
            .collect(),
        programs: many(40),
        facts: many(40),
    };
    for (format, ext) in STILLS {
        let product = Product::Media((encoded(format), ext.to_owned()));
        let Product::Media((bytes, _)) =
            Finishing::finish(job(""), product, provenance.clone()).unwrap()
        else {
            panic!()
        };
        decoded(&bytes, format);
        assert_eq!(format != ImageFormat::Bmp, contains(&bytes, "</x:xmpmeta>"));
        assert!(!contains(&bytes, "\u{0}<sw"));
    }
}

/// Bytes of every kind damaged in many ways: a failure or a product, never a panic.
#[test]
fn damage_is_a_failure_and_never_a_trap() {
    let products = STILLS
        .iter()
        .map(|(format, _)| encoded(*format))
        .chain([crate::wav::tests::wav(), crate::webp::tests::animation()]);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).unwrap() % below
    };
    let mut failed = 0;
    for product in products {
        for end in 0..product.len().min(400) {
            failed += usize::from(finish(product[..end].to_vec(), "webp").is_err());
        }
        for _ in 0..400 {
            let mut bytes = product.clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                bytes[at] = u8::try_from(next(256)).unwrap();
            }
            bytes.truncate(bytes.len() - next(3));
            failed += usize::from(finish_for(r#""ext":"png""#, bytes, "webp").is_err());
        }
    }
    assert!(failed > 2000, "{failed}");
}

#[test]
fn turned_pictures_are_written_upright() {
    // An EXIF segment with the one entry that says: turn by a quarter.
    let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let jpeg = encoded(ImageFormat::Jpeg);
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    let turned = [&jpeg[..2], &[0xff, 0xe1], &length, exif, &jpeg[2..]].concat();
    let (after, _) = finish(turned, "jpg").unwrap();
    assert!(!contains(&after, "Exif"));
    let picture = decoded(&after, ImageFormat::Jpeg);
    assert_eq!((picture.width(), picture.height()), (24, 40));
}

#[test]
fn what_is_accepted() {
    let accepted = Finishing::accepts();
    for ext in [
        "png", "jpg", "jpeg", "webp", "bmp", "wav", "gif", "mp4", "webm", "mp3", "ogg", "flac",
        "glb",
    ] {
        assert!(accepted.iter().any(|(known, _)| known == ext), "{ext}");
    }
    // Half of what the plugin asks for is what a product may return.
    assert!(
        accepted
            .iter()
            .all(|(_, largest)| *largest < 128 * 1024 * 1024)
    );
    assert_eq!(picture(4, 4).width(), 4);
}

#[test]
fn an_opaque_lossless_webp_is_looked_at_to_the_last_pixel_and_stays_as_it_was() {
    let webp = |picture: &RgbImage| {
        let mut bytes = Vec::new();
        let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        picture.write_with_encoder(encoder).unwrap();
        assert_eq!(&bytes[12..16], b"VP8L");
        bytes
    };
    let picture = DynamicImage::ImageRgba8(picture(40, 24)).to_rgb8();
    let before = webp(&picture);
    let (after, _) = finish(before.clone(), "webp").unwrap();
    let chunk = after.windows(4).position(|name| name == b"VP8L").unwrap();
    assert!(after[chunk..].starts_with(&before[12..]));
    let shown = decoded(&after, ImageFormat::WebP);
    assert!(
        shown == DynamicImage::ImageRgb8(picture),
        "no alpha channel"
    );

    let mut cut = before;
    cut.truncate(cut.len() / 2);
    let size = cut.len() as u32;
    cut[4..8].copy_from_slice(&(size - 8).to_le_bytes());
    cut[16..20].copy_from_slice(&(size - 20).to_le_bytes());
    assert!(finish(cut, "webp").is_err());

    let even = webp(&RgbImage::from_pixel(40, 24, image::Rgb([10, 20, 30])));
    let message = finish(even, "webp").unwrap_err().message;
    assert!(message.contains("is #0a141e,"), "{message}");
    let mut spotted = RgbImage::from_pixel(40, 24, image::Rgb([10, 20, 30]));
    spotted.put_pixel(39, 23, image::Rgb([10, 20, 31]));
    assert!(finish(webp(&spotted), "webp").is_ok());
}
