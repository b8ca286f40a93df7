//! Offers as a studio sends them.

use serde_json::{Value, json};

/// A claim with everything that the protocol requires.
pub fn claim(job: &str, model: &str, task: Value, source: Value) -> Value {
    json!({
        "jobId": job, "gameId": "g1", "assetName": "g1/sprites/fox", "model": model, "vramGbEstimate": 6.5,
        "task": task, "modelSource": source,
    })
}

/// A source without files.
pub fn source(engine: &str) -> Value {
    json!({
        "engine": engine, "files": [],
        "cliDefaults": {"cfgScale": 1.0, "steps": 8, "width": 1024, "height": 1024},
    })
}

fn synthetic(job: &str, model: &str, task: Value) -> Value {
    claim(job, model, task, source("synthetic"))
}

/// An image job.
pub fn image(job: &str, prompt: &str) -> Value {
    synthetic(
        job,
        "synthetic-image",
        json!({"kind": "image", "prompt": prompt, "width": 512, "height": 512, "steps": 20, "ext": "webp"}),
    )
}

/// A chat job.
pub fn chat(job: &str, words: &str) -> Value {
    let messages =
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": words}]);
    synthetic(
        job,
        "synthetic-llm",
        json!({"kind": "llm", "messages": messages, "maxTokens": 64}),
    )
}

/// A transcription job.
pub fn transcript(job: &str, url: &str) -> Value {
    synthetic(
        job,
        "synthetic-stt",
        json!({"kind": "audio_stt", "inputUrl": url}),
    )
}

/// A speech job.
pub fn speech(job: &str, text: &str) -> Value {
    synthetic(
        job,
        "synthetic-tts",
        json!({"kind": "audio_tts", "text": text}),
    )
}

/// A video job.
pub fn video(job: &str, prompt: &str, width: u32, height: u32, seconds: f32, fps: u32) -> Value {
    let task = json!({"kind": "video", "prompt": prompt, "width": width, "height": height, "seconds": seconds, "fps": fps, "ext": "webp"});
    synthetic(job, "synthetic-video", task)
}

/// One model file of an offer.
pub fn model_file(role: &str, url: &str, name: &str) -> Value {
    json!({"role": role, "url": url, "filename": name})
}

/// An image job for `sd-cli`; `task` is laid over a small ordinary one.
pub fn sd_image(job: &str, files: Vec<Value>, task: &Value) -> Value {
    let mut whole = json!({"kind": "image", "prompt": "a fox", "width": 64, "height": 64, "steps": 2, "seed": 7, "ext": "png"});
    for (name, value) in task.as_object().expect("an object") {
        whole[name] = value.clone();
    }
    let source = json!({
        "engine": "sd-cpp", "files": files,
        "cliDefaults": {"cfgScale": 1.0, "steps": 8, "width": 1024, "height": 1024, "samplingMethod": "euler"},
    });
    claim(job, "z-image-turbo-q4_k_m.gguf", whole, source)
}

/// 300 characters of one to four bytes.
pub fn long_prompt() -> String {
    "aé漢🦊 \"quoted\" \\ ".chars().cycle().take(300).collect()
}
