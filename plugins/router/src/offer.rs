//! What the policy reads of an offer. Everything else passes it by.

use studio_plugin::json::{Map, Value};
use studio_plugin::{Fields, Rejection};

/// The fields that decide.
#[derive(Debug, PartialEq)]
pub(crate) struct Offer {
    pub(crate) kind: String,
    pub(crate) engine: String,
    pub(crate) model: String,
    /// Device memory in GiB; none where the offer does not say.
    pub(crate) vram_gb: Option<f32>,
    /// Main memory in bytes, for a model whose weights stay there.
    pub(crate) host_bytes: Option<u64>,
}

impl Offer {
    pub(crate) fn read(text: &str) -> Result<Self, Rejection> {
        Self::fields(text).map_err(|failure| Rejection::new("bad_offer", failure.message))
    }

    fn fields(text: &str) -> Result<Self, studio_plugin::Failure> {
        let mut offer = Fields::parse("offer", text)?;
        let task: Map<String, Value> = offer.required("task")?;
        let source: Map<String, Value> = offer.required("modelSource")?;
        let model: Option<String> = offer.given("model")?;
        let vram_gb = offer.given("vramGbEstimate")?;
        let mut source = Fields::new("modelSource", source);
        Ok(Self {
            kind: Fields::new("task", task).required("kind")?,
            engine: source.required("engine")?,
            model: model.unwrap_or_default(),
            vram_gb,
            host_bytes: weights_in_main_memory(&mut source)?,
        })
    }
}

/// The sum of the files' sizes, when they are kept in main memory and not mapped.
fn weights_in_main_memory(source: &mut Fields) -> Result<Option<u64>, studio_plugin::Failure> {
    let defaults: Option<Map<String, Value>> = source.given("cliDefaults")?;
    let mut defaults = Fields::new("modelSource.cliDefaults", defaults.unwrap_or_default());
    let offloaded = defaults.optional("offloadToCpu")? == Some(true);
    let mapped = defaults.optional("mmap")? == Some(true);
    if !offloaded || mapped {
        return Ok(None);
    }
    let files: Option<Vec<Value>> = source.given("files")?;
    let sum = files
        .unwrap_or_default()
        .iter()
        .filter_map(|file| file.get("approxBytes")?.as_u64())
        .fold(0_u64, u64::saturating_add);
    Ok(Some(sum))
}

/// A name from the offer as a refusal may repeat it: some studios take a refusal for a passing one
/// when certain words occur in it, and an offer must not be able to bring them in.
pub(crate) fn quoted(name: &str) -> &str {
    let plain = !name.is_empty()
        && name.len() <= 40
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let lower = name.to_ascii_lowercase();
    let misleading = ["busy", "in-flight", "inflight", "in_flight", "paused"];
    if plain && !misleading.iter().any(|word| lower.contains(word)) {
        name
    } else {
        "named"
    }
}
