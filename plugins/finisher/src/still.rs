//! Stills: decoded, refused when they show nothing, converted when another format was asked for.

use image::ImageFormat;
use studio_plugin::json::Value;
use studio_plugin::{Failure, RawJob};

use crate::pixels::{Still, decode, decode_to_check, name};
use crate::provenance::Record;
use crate::{jpeg, png, settings, webp};

/// Checks and completes a still; its bytes and the extension of what they are.
pub(crate) fn finish(
    job: &RawJob,
    mut bytes: Vec<u8>,
    format: ImageFormat,
    record: Record,
) -> Result<(Vec<u8>, String), Failure> {
    let asked = asked(job).unwrap_or(format);
    let still = if asked == format {
        decode_to_check(&mut bytes, format)?
    } else {
        decode(&bytes, format)?
    };
    refuse_uniform(job, &still)?;
    let record = record.with_size(still.width, still.height);
    // BMP is written anew even so: it has no chunks that could be told from garbage.
    let bytes = if asked != format || format == ImageFormat::Bmp || still.is_turned() {
        drop(bytes);
        still.encode(asked)?
    } else {
        drop(still);
        bytes
    };
    let bytes = match asked {
        ImageFormat::Png => png::rewrite(&bytes, &record)?,
        ImageFormat::Jpeg => jpeg::rewrite(&bytes, &record)?,
        ImageFormat::WebP => webp::still(&bytes, &record)?,
        _ => bytes,
    };
    Ok((bytes, name(asked).to_owned()))
}

/// The format that the task asks for, where it asks for one that can be made here.
fn asked(job: &RawJob) -> Option<ImageFormat> {
    let task = job.task_value().ok()?;
    match task
        .get("ext")
        .and_then(Value::as_str)?
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        "png" => Some(ImageFormat::Png),
        "jpg" | "jpeg" => Some(ImageFormat::Jpeg),
        "webp" => Some(ImageFormat::WebP),
        "bmp" => Some(ImageFormat::Bmp),
        _ => None,
    }
}

/// A picture of one colour is what a model whose numbers overflow makes. The next seed, or the next try on a driver
/// that is not deterministic, may go well: so it may be tried again.
fn refuse_uniform(job: &RawJob, still: &Still) -> Result<(), Failure> {
    match still.uniform() {
        Some(colour) if !settings::allows_uniform(job)? => Err(Failure::retryable(format!(
            "every pixel of the picture is {colour}, as when a model overflows; try another seed or size; if {:?} is meant to make such pictures, \
             add it to allow-uniform among finisher's settings in plugins.toml",
            job.model
        ))),
        _ => Ok(()),
    }
}
