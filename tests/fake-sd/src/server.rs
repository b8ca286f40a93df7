//! The server: native asynchronous routes as the real one has them, with its vices, and the two compatible routes that
//! read settings out of a prompt.
//!
//! What is not played: `/v1/images/edits`, the other `sdapi` routes that draw, videos, and a port shared with another server
//! (the real one sets `SO_REUSEPORT`; `stand-in-server` plays that). This one finds the port taken, and then ends with 0 as the
//! real one does where it cannot share.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::args::Request;
use crate::generate::{self, Job};
use crate::http;
use crate::picture;
use crate::queue::{Queue, State};
use crate::say::{error, info};
use crate::stage::{Mode, Stage};

/// Most steps; more are cut without a word.
const MOST_STEPS: i64 = 100;

/// What all connections share.
struct Shared {
    launched: Request,
    stage: Stage,
    arguments: Vec<String>,
    queue: Queue,
}

/// Serves until it is killed; the exit code.
pub(crate) fn run(launched: Request, stage: &Stage, arguments: &[String]) -> u8 {
    if !generate::weights(&launched, stage) {
        return 1;
    }
    let address = launched.get("--listen-ip").unwrap_or("127.0.0.1");
    let port = launched.int("--listen-port", 1234);
    // Said before it is true.
    info(
        "main.cpp",
        1002,
        &format!("listening on: http://{address}:{port}"),
    );
    let port = u16::try_from(port).unwrap_or_default();
    let Ok(listener) = TcpListener::bind((address, port)) else {
        return 0;
    };
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        stage: stage.clone(),
        arguments: arguments.to_vec(),
        queue: Queue::default(),
        launched,
    }));
    stage.record(arguments, "listening", Value::Null);
    std::thread::spawn(move || work(shared));
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(shared, &stream));
    }
    0
}

/// Draws one job after the other; the weights are loaded with the first.
fn work(shared: &Shared) {
    let mut loaded = shared.launched.has("--eager-load");
    loop {
        let (id, job) = shared.queue.next();
        let stage = shared.stage.anew();
        stage.record(&shared.arguments, "generate", job.detail());
        if stage.mode == Mode::ServerAbort {
            crate::say::err(b"ggml.c:2267: GGML_ASSERT(ctx->mem_buffer != NULL) failed\n");
            std::process::abort();
        }
        if let Some(code) = generate::misbehave(stage.mode) {
            std::process::exit(code.into());
        }
        if !std::mem::replace(&mut loaded, true) {
            generate::load(stage.mode);
        }
        let state = match generate::draw(&job, &stage, false) {
            None => State::Failed("generate failed"),
            Some(drawn) => match encoded(&job, drawn, &stage) {
                Ok(picture) => State::Completed(picture),
                Err(_) => State::Failed("encoding failed"),
            },
        };
        shared.queue.end(id, state);
    }
}

fn encoded(job: &Job, drawn: image::RgbImage, stage: &Stage) -> Result<String, String> {
    let settings = job.metadata.then_some("parameters of the server");
    let name = PathBuf::from(format!("x.{}", job.format));
    let mut bytes = picture::encode(drawn, &name, settings)?;
    if stage.mode == Mode::Truncated {
        bytes.truncate(bytes.len() / 2);
    }
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn serve(shared: &Shared, stream: &TcpStream) {
    let Some(request) = http::read(stream) else {
        return;
    };
    let detail =
        json!({"method": request.method, "path": request.path, "bytes": request.body.len()});
    shared.stage.record(&shared.arguments, "request", detail);
    let (status, body) = route(shared, &request);
    http::answer(stream, status, body.as_ref());
}

fn route(shared: &Shared, request: &http::Request) -> (u16, Option<Value>) {
    let path = request.path.split('?').next().unwrap_or_default();
    let ok = |value: Value| (200, Some(value));
    let has_native_routes =
        shared.stage.release.has_native_routes() && shared.stage.mode != Mode::ServerBare;
    if path.starts_with("/sdcpp/") && !has_native_routes {
        return (404, None);
    }
    match (request.method.as_str(), path) {
        ("GET", "/") => ok(json!("Stable Diffusion Server is running")),
        ("GET", "/v1/models") => {
            ok(json!({"data": [{"id": "sd-cpp-local", "object": "model", "owned_by": "local"}]}))
        }
        ("GET", "/sdcpp/v1/capabilities") => ok(json!({
            "model": shared.launched.get("--diffusion-model").or(shared.launched.get("--model")),
            "loras": weights_below(Path::new(shared.launched.get("--lora-model-dir").unwrap_or("."))),
        })),
        (
            "GET",
            "/sdapi/v1/loras"
            | "/sdapi/v1/upscalers"
            | "/sdapi/v1/samplers"
            | "/sdapi/v1/schedulers"
            | "/sdapi/v1/sd-models"
            | "/sdapi/v1/latent-upscale-modes",
        ) => ok(json!([])),
        ("GET", "/sdapi/v1/options") => ok(json!({})),
        ("POST", "/sdcpp/v1/img_gen") => submit(shared, &request.body),
        ("POST", "/v1/images/generations") => compatible(shared, &request.body),
        _ => job_route(shared, &request.method, path),
    }
}

fn job_route(shared: &Shared, method: &str, path: &str) -> (u16, Option<Value>) {
    const NOT_FOUND: (u16, Option<Value>) = (404, None);
    let Some(rest) = path.strip_prefix("/sdcpp/v1/jobs/") else {
        return NOT_FOUND;
    };
    let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
    let Ok(id) = id.parse() else { return NOT_FOUND };
    let found = match (method, action) {
        ("GET", "") if shared.stage.anew().mode == Mode::Forget => {
            Some((410, json!({"error": "job expired"})))
        }
        ("GET", "") => shared.queue.get(id).map(|job| (200, job)),
        ("POST", "cancel") => shared.queue.cancel(id),
        _ => None,
    };
    found.map_or(NOT_FOUND, |(status, body)| (status, Some(body)))
}

fn submit(shared: &Shared, body: &[u8]) -> (u16, Option<Value>) {
    // Each submission walks the folder of LoRAs, however large.
    let _ = weights_below(Path::new(
        shared.launched.get("--lora-model-dir").unwrap_or("."),
    ));
    let wrong = |text: &str| (400, Some(json!({"error": text})));
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return wrong("invalid json");
    };
    match understood(&shared.launched, &fields) {
        Err(text) => wrong(&text),
        Ok(_) if shared.stage.anew().mode == Mode::ServerFull => {
            (429, Some(json!({"error": "job queue is full"})))
        }
        Ok(job) => match shared.queue.push(job) {
            None => (429, Some(json!({"error": "job queue is full"}))),
            Some(id) => {
                let poll = format!("/sdcpp/v1/jobs/{id}");
                (
                    202,
                    Some(
                        json!({"id": id.to_string(), "kind": "img_gen", "status": "queued", "created": 1_700_000_000, "poll_url": poll}),
                    ),
                )
            }
        },
    }
}

/// The route of another program's shape: everything but the prompt and the size is ignored, unless it stands in the prompt.
fn compatible(shared: &Shared, body: &[u8]) -> (u16, Option<Value>) {
    let Ok(Value::Object(outer)) = serde_json::from_slice(body) else {
        return (500, None);
    };
    let prompt = outer
        .get("prompt")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let inner = prompt
        .split_once("<sd_cpp_extra_args>")
        .and_then(|(_, rest)| rest.split_once("</sd_cpp_extra_args>"))
        .and_then(|(text, _)| serde_json::from_str::<Map<String, Value>>(text).ok());
    let mut fields = inner.unwrap_or_default();
    fields.entry("prompt").or_insert_with(|| prompt.into());
    fields
        .entry("seed")
        .or_insert_with(|| shared.launched.int("--seed", 42).into());
    match understood(&shared.launched, &fields) {
        Err(text) => {
            error("main.cpp", 900, &text);
            (500, None)
        }
        Ok(job) => match generate::draw(&job, &shared.stage, false)
            .map(|drawn| encoded(&job, drawn, &shared.stage))
        {
            Some(Ok(picture)) => (
                200,
                Some(
                    json!({"created": 1_700_000_000, "output_format": job.format, "data": [{"b64_json": picture}]}),
                ),
            ),
            _ => (500, None),
        },
    }
}

/// What the server makes of the fields of a request. What is of another type than it wants, and what it does not know,
/// is as if it were not there.
fn understood(launched: &Request, fields: &Map<String, Value>) -> Result<Job, String> {
    let inner = |of: &'_ Map<String, Value>, name: &str| {
        of.get(name)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let sample = inner(fields, "sample_params");
    let guidance = inner(&sample, "guidance");
    let int = |of: &Map<String, Value>, name: &str| of.get(name).and_then(Value::as_i64);
    let float = |of: &Map<String, Value>, name: &str| of.get(name).and_then(Value::as_f64);
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let strength = float(fields, "strength").unwrap_or(launched.float("--strength", 0.75));
    if !(0.0..=1.0).contains(&strength) {
        return Err("strength must be in [0.0, 1.0]".to_owned());
    }
    let side = |name: &str, option: &str| {
        let asked = int(fields, name).unwrap_or(launched.int(option, 512));
        generate::rounded(if asked <= 0 { 512 } else { asked })
    };
    let format = text("output_format")
        .filter(|format| ["png", "jpeg", "webp"].contains(format))
        .unwrap_or("png");
    let references = fields.get("ref_images").and_then(Value::as_array);
    let sampler = sample.get("sample_method").and_then(Value::as_str);
    Ok(Job {
        prompt: text("prompt").unwrap_or_default().to_owned(),
        negative: text("negative_prompt").unwrap_or_default().to_owned(),
        loras: Vec::new(),
        seed: generate::seed(int(fields, "seed").unwrap_or(launched.int("--seed", 42))),
        size: (side("width", "--width"), side("height", "--height")),
        steps: int(&sample, "sample_steps")
            .unwrap_or(launched.steps(20))
            .min(MOST_STEPS),
        cfg: float(&guidance, "txt_cfg").unwrap_or(launched.float("--cfg-scale", 7.0)),
        strength,
        sampler: sampler
            .filter(|name| crate::flags::is_sampler(name))
            .map(str::to_owned),
        flow_shift: float(&sample, "flow_shift").or_else(|| {
            launched
                .get("--flow-shift")
                .map(|_| launched.float("--flow-shift", 0.0))
        }),
        init: image_of(text("init_image"))?,
        mask: image_of(text("mask_image"))?,
        references: references.map_or(0, Vec::len),
        metadata: fields
            .get("embed_image_metadata")
            .and_then(Value::as_bool)
            .unwrap_or(true),
        quality: (format != "png").then(|| int(fields, "output_compression").unwrap_or(100)),
        format: format.to_owned(),
    })
}

/// A picture in base64 or in a data URL, told by its content.
fn image_of(text: Option<&str>) -> Result<Option<(u32, u32)>, String> {
    let Some(text) = text else { return Ok(None) };
    let text = text.split_once("base64,").map_or(text, |(_, text)| text);
    let wrong = |_| "failed to decode image".to_owned();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| "invalid base64".to_owned())?;
    let picture = image::load_from_memory(&bytes).map_err(wrong)?;
    Ok(Some((picture.width(), picture.height())))
}

/// Names of everything below a folder that looks like weights.
fn weights_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(weights_below(&path));
        } else if ["gguf", "safetensors", "pt", "pth"]
            .contains(&picture::extension(&path.to_string_lossy()).as_str())
        {
            names.push(path.to_string_lossy().into_owned());
        }
    }
    names
}
