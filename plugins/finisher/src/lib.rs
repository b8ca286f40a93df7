//! Looks at every product before it leaves: it is what its name says, it is whole, and it shows something.
//!
//! Stills are decoded to the last pixel; sound and animations are parsed whole; other containers are known by their first
//! bytes. What the program that made it wrote into it goes (paths, prompts), and where it came from goes in: model, seed,
//! size, plugins and programs with their digests. A picture in another format than the task asked for is converted,
//! without loss where the format has a way to; pixels that need no conversion are not touched.
//!
//! The sizes here are made for 256 MiB of memory, of which a product may return half.

mod containers;
mod jpeg;
mod pixels;
mod png;
mod provenance;
mod riff;
mod settings;
mod sniff;
mod still;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wav;
mod webp;

use studio_plugin::{Failure, Finisher, Product, Provenance, RawJob};

use provenance::Record;
use sniff::Content;

/// Largest product whose parts are copied while it is finished, in bytes: twice this and the decoded picture have to fit.
const LARGEST_COPIED: u64 = 96 * 1024 * 1024;

/// Largest product that is only looked at, in bytes: what may be returned, less what is returned besides.
const LARGEST_PASSED: u64 = 120 * 1024 * 1024;

/// The finisher.
#[derive(Debug)]
pub struct Finishing;

studio_plugin::finisher!(Finishing);

impl Finisher for Finishing {
    fn accepts() -> Vec<(String, u64)> {
        let copied = ["png", "jpg", "jpeg", "webp", "bmp", "wav"].map(|ext| (ext, LARGEST_COPIED));
        let passed = [
            "gif", "mp4", "m4a", "mov", "webm", "mp3", "ogg", "opus", "flac", "glb",
        ]
        .map(|ext| (ext, LARGEST_PASSED));
        copied
            .into_iter()
            .chain(passed)
            .map(|(ext, largest)| (ext.to_owned(), largest))
            .collect()
    }

    fn finish(job: RawJob, product: Product, provenance: Provenance) -> Result<Product, Failure> {
        match product {
            Product::Json(json) => Ok(Product::Json(json)),
            Product::Media((bytes, ext)) => {
                finish_media(&job, bytes, &ext, provenance).map(Product::Media)
            }
        }
    }
}

fn finish_media(
    job: &RawJob,
    bytes: Vec<u8>,
    ext: &str,
    provenance: Provenance,
) -> Result<(Vec<u8>, String), Failure> {
    let record = || Record::make(job, &provenance);
    match sniff::content(&bytes) {
        Content::Still(format) => still::finish(job, bytes, format, record()),
        Content::AnimatedWebp => Ok((webp::animated(&bytes, &record())?, "webp".to_owned())),
        Content::AnimatedPng => Ok((png::rewrite(&bytes, &record())?, "png".to_owned())),
        Content::Wav => Ok((wav::rewrite(&bytes, &record())?, "wav".to_owned())),
        Content::Container(container) => {
            let name = container.name(ext);
            container.check(&bytes)?;
            Ok((bytes, name))
        }
        Content::Unknown => Err(containers::unknown(&bytes, ext)),
    }
}

/// A product that is not whole. Whoever made it may do better next time.
fn broken(what: &str, detail: impl std::fmt::Display) -> Failure {
    Failure::retryable(format!(
        "the {what} that was made is broken: {detail}; the program that made it may have run out of disk or memory"
    ))
}
