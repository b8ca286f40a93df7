//! What the tests share: jobs, and help texts of releases.

use studio_plugin::json::{self, Value};
use studio_plugin::{
    BackendStatus, CliDefaults, File, ImageTask, Job, ModelSource, Platform, RawJob,
};

use crate::probe::Probe;

/// Options of release 827 that the plugin may use.
pub(crate) const NEWEST: &str = "  -o, --output\n  -m, --model\n  --clip_l\n  --clip_g\n  --t5xxl\n  --clip_vision\n  --llm\n  --llm_vision\n  --qwen2vl\n  \
     --qwen2vl_vision\n  --diffusion-model\n  --vae\n  --lora-model-dir\n  --model-args\n  --backend\n  --offload-to-cpu\n  --mmap\n  --max-vram\n  --diffusion-fa\n  -p, --prompt\n  \
     --prompt-file\n  -n, --negative-prompt\n  --negative-prompt-file\n  -i, --init-img\n  --mask\n  -r, --ref-image\n  -H, --height\n  -W, --width\n  --steps\n  \
     --cfg-scale\n  --strength\n  --flow-shift\n  --disable-image-metadata\n  -s, --seed\n  --sampling-method\n  --scheduler\n  --sigmas\n  --hires\n";

/// Options of release 444, of December 2025.
pub(crate) const OLD: &str = "  -o, --output\n  -m, --model\n  --llm\n  --llm_vision\n  --diffusion-model\n  --vae\n  --lora-model-dir\n  --qwen-image-zero-cond-t\n  \
     --offload-to-cpu\n  --diffusion-fa\n  -p, --prompt\n  -n, --negative-prompt\n  -i, --init-img\n  --mask\n  -r, --ref-image\n  -H, --height\n  -W, --width\n  --steps\n  \
     --cfg-scale\n  --strength\n  --flow-shift\n  -s, --seed\n  --sampling-method\n  --scheduler\n  --sigmas\n";

/// Options of release 323, of October 2025.
pub(crate) const QWEN2VL: &str = "  -o, --output\n  -m, --model\n  --qwen2vl\n  --qwen2vl_vision\n  --diffusion-model\n  --vae\n  -p, --prompt\n  -H, --height\n  \
     -W, --width\n  --steps\n  --cfg-scale\n  -s, --seed\n  --scheduler\n";

pub(crate) fn probe(help: &str) -> Probe {
    Probe::read(&backend(help))
}

pub(crate) fn backend(help: &str) -> BackendStatus {
    BackendStatus {
        name: "sd-cli".to_owned(),
        release: None,
        digest: "d".repeat(64),
        probes: vec![help.to_owned()],
    }
}

fn merged(base: Value, fields: &str) -> Value {
    let mut base = base;
    let fields: Value = json::from_str(&format!("{{{fields}}}")).unwrap();
    if let (Value::Object(base), Value::Object(fields)) = (&mut base, fields) {
        base.extend(fields);
    }
    base
}

fn model_source(files: &[(&str, &str)], defaults: &str) -> String {
    let files: Vec<Value> = files
        .iter()
        .map(|(role, name)| json::json!({"role": role, "url": format!("https://models.test/{name}"), "filename": name}))
        .collect();
    let defaults = merged(
        json::json!({"cfgScale": 0, "steps": 0, "width": 0, "height": 0}),
        defaults,
    );
    json::json!({"engine": "sd-cpp", "files": files, "cliDefaults": defaults}).to_string()
}

/// A job on a machine with the newest release; `fields` go into the task.
pub(crate) fn raw(fields: &str, files: &[(&str, &str)]) -> RawJob {
    raw_with(fields, files, "")
}

/// The same, with fields of `cliDefaults`.
pub(crate) fn raw_with(fields: &str, files: &[(&str, &str)], defaults: &str) -> RawJob {
    RawJob {
        id: "job-1".to_owned(),
        kind: "image".to_owned(),
        model: "z-image".to_owned(),
        task: merged(json::json!({"kind": "image", "prompt": "a fox"}), fields).to_string(),
        model_source: model_source(files, defaults),
        vram_gb_estimate: 6.5,
        entropy: 86,
        settings: "{}".to_owned(),
        backends: vec![backend(NEWEST)],
        platform: Platform {
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            gpu: Some("Test GPU".to_owned()),
        },
    }
}

pub(crate) fn task(fields: &str) -> ImageTask {
    Job::read(raw(fields, &[])).unwrap().task
}

pub(crate) fn defaults(fields: &str) -> CliDefaults {
    source(&[], fields).cli_defaults
}

pub(crate) fn source(files: &[(&str, &str)], defaults: &str) -> ModelSource {
    ModelSource::parse(&model_source(files, defaults)).unwrap()
}

pub(crate) fn file(id: u32, name: &str, media_type: &str) -> File {
    File {
        id,
        name: name.to_owned(),
        size: 1,
        media_type: (!media_type.is_empty()).then(|| media_type.to_owned()),
    }
}
