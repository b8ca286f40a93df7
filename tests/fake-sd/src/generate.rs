//! One generation, in the real program's order: inputs, weights, text, steps, decoding, saving.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::Request;
use crate::picture;
use crate::release::Release;
use crate::say::{bar, err, error, info, out, warn};
use crate::stage::{Mode, Stage};

const ENGINE: &str = "stable-diffusion.cpp";

/// Sizes are rounded up to this many pixels.
const MULTIPLE: i64 = 8;

/// What the settings of a request amount to, the same whichever program was told them.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) prompt: String,
    pub(crate) negative: String,
    pub(crate) loras: Vec<String>,
    pub(crate) seed: i64,
    pub(crate) size: (u32, u32),
    pub(crate) steps: i64,
    pub(crate) cfg: f64,
    pub(crate) strength: f64,
    pub(crate) sampler: Option<String>,
    pub(crate) flow_shift: Option<f64>,
    pub(crate) init: Option<(u32, u32)>,
    pub(crate) mask: Option<(u32, u32)>,
    pub(crate) references: usize,
    pub(crate) metadata: bool,
    /// As of the picture's file; of a quality where it loses some.
    pub(crate) format: String,
    pub(crate) quality: Option<i64>,
}

impl Job {
    /// For the record of what was understood.
    pub(crate) fn detail(&self) -> Value {
        json!({
            "prompt": self.prompt, "negative": self.negative, "loras": self.loras, "seed": self.seed, "width": self.size.0,
            "height": self.size.1, "steps": self.steps, "cfg": self.cfg, "strength": self.strength, "sampler": self.sampler,
            "flowShift": self.flow_shift, "init": self.init, "mask": self.mask, "references": self.references,
            "metadata": self.metadata, "format": self.format, "quality": self.quality,
        })
    }
}

/// Generates; the exit code.
pub(crate) fn run(request: &Request, stage: &Stage, arguments: &[String]) -> u8 {
    let Some(job) = job(request, stage) else {
        return 1;
    };
    stage.record(arguments, "generate", job.detail());
    if let Some(code) = misbehave(stage.mode) {
        return code;
    }
    load(stage.mode);
    let Some(picture) = draw(&job, stage, request.has("--vae-tiling")) else {
        return 1;
    };
    let settings = job.metadata.then(|| settings(request, &job));
    save(request, stage, picture, settings.as_deref())
}

/// Reads pictures, texts and weights; what is wrong has been said.
fn job(request: &Request, stage: &Stage) -> Option<Job> {
    let release = stage.release;
    let given = inputs(request).ok()?;
    let prompt = text(request, "--prompt", "--prompt-file")?;
    let negative = text(request, "--negative-prompt", "--negative-prompt-file")?;
    if !weights(request, stage) {
        return None;
    }
    let (prompt, loras) = loras(&prompt, request.get("--lora-model-dir").unwrap_or("."));
    // Up to release 239 the mode decides whether a picture is looked at.
    let mode = request.get("--mode").unwrap_or("txt2img");
    let looks = |wanted: &str| !release.has_old_modes() || mode == wanted;
    let output = picture::destination(request.get("--output").unwrap_or("./output.png"), release);
    let format = picture::extension(&output.to_string_lossy()).replace("jpg", "jpeg");
    Some(Job {
        prompt,
        negative,
        loras,
        seed: seed(request.int("--seed", 42)),
        size: dimensions(request, given.first, release),
        steps: request.steps(20),
        cfg: request.float("--cfg-scale", 7.0),
        strength: request.float("--strength", 0.75),
        sampler: request.get("--sampling-method").map(str::to_owned),
        flow_shift: request
            .get("--flow-shift")
            .map(|_| request.float("--flow-shift", 0.0)),
        init: given.init.filter(|_| looks("img2img")),
        mask: given.mask,
        references: if looks("edit") { given.references } else { 0 },
        metadata: !request.has("--disable-image-metadata"),
        quality: (format != "png").then_some(90),
        format,
    })
}

/// A negative one is by chance.
pub(crate) fn seed(given: i64) -> i64 {
    if given < 0 { 1_234_567 } else { given }
}

/// Weights that take their time.
pub(crate) fn load(mode: Mode) {
    if let Mode::Load(milliseconds) = mode {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
}

/// From the first line about the picture to the last; none when that failed.
pub(crate) fn draw(job: &Job, stage: &Stage, tiled: bool) -> Option<image::RgbImage> {
    let (width, height) = job.size;
    info(ENGINE, 3412, &format!("generate_image {width}x{height}"));
    info(
        ENGINE,
        3101,
        "get_learned_condition completed, taking 0.03s",
    );
    info(
        ENGINE,
        3230,
        &format!("generating image: 1/1 - seed {}", job.seed),
    );
    if !sample(u32::try_from(job.steps).unwrap_or(1), stage) {
        return None;
    }
    decode(stage.mode, tiled);
    Some(match stage.mode {
        Mode::Black => picture::uniform(width, height),
        _ => picture::pattern(
            &format!(
                "{}{:?}{:?}{}",
                job.prompt, job.loras, job.init, job.references
            ),
            job.seed,
            width,
            height,
        ),
    })
}

/// Sizes of the pictures given.
#[derive(Default)]
struct Given {
    first: Option<(u32, u32)>,
    init: Option<(u32, u32)>,
    mask: Option<(u32, u32)>,
    references: usize,
}

/// Reads every picture given. What is wrong has been said.
fn inputs(request: &Request) -> Result<Given, ()> {
    let mut given = Given::default();
    let pictures = [
        ("--init-img", false),
        ("--ref-image", false),
        ("--mask", true),
    ];
    for (option, gray) in pictures {
        for path in request.all(option) {
            match picture::load(path, gray) {
                Ok(size) => {
                    given.first = given.first.or(Some(size));
                    match option {
                        "--init-img" => given.init = Some(size),
                        "--mask" => given.mask = Some(size),
                        _ => given.references += 1,
                    }
                }
                Err(text) => {
                    error("common.cpp", 1871, &text);
                    return Err(());
                }
            }
        }
    }
    Ok(given)
}

/// A text given on the command line or in a file.
fn text(request: &Request, option: &str, file_option: &str) -> Option<String> {
    let Some(path) = request.get(file_option) else {
        return Some(request.get(option).unwrap_or_default().to_owned());
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(_) => {
            error(
                "common.cpp",
                1204,
                &format!("error: failed to read prompt file '{path}'"),
            );
            None
        }
    }
}

/// Options that name files with weights.
const WEIGHTS: &[&str] = &[
    "--model",
    "--diffusion-model",
    "--clip_l",
    "--clip_g",
    "--t5xxl",
    "--llm",
    "--llm_vision",
    "--qwen2vl",
    "--qwen2vl_vision",
    "--vae",
];

/// Looks at every file of weights: it is there and begins like one.
pub(crate) fn weights(request: &Request, stage: &Stage) -> bool {
    let given: Vec<_> = WEIGHTS
        .iter()
        .filter_map(|option| request.get(option))
        .collect();
    for path in &given {
        info(ENGINE, 258, &format!("loading weights from '{path}'"));
        match container(Path::new(path)) {
            None => {
                warn("model.cpp", 376, &format!("file {path} not found"));
                error("main.cpp", 640, "get sd version from file failed: ''");
                info("main.cpp", 655, "new_sd_ctx_t failed");
                return false;
            }
            Some(false) => {
                warn("model.cpp", 381, &format!("unknown format {path}"));
                error(
                    ENGINE,
                    270,
                    &format!("init model loader from file failed: '{path}'"),
                );
                info("main.cpp", 655, "new_sd_ctx_t failed");
                return false;
            }
            Some(true) => {}
        }
    }
    info(ENGINE, 301, "Version: Z-Image ");
    let (character, unit) = stage.release.loading_bar();
    for _ in &given {
        for done in [397, 794, 1131] {
            bar((character, character), done, 1131, &format!("682.10{unit}"));
        }
    }
    let_be_read(stage.mode);
    info(
        ENGINE,
        770,
        "total params memory size = 6862.40MB (VRAM 6862.40MB, RAM 0.00MB)",
    );
    true
}

/// Whether a file begins as GGUF, safetensors or a zipped checkpoint does; none when it cannot be read.
fn container(path: &Path) -> Option<bool> {
    let mut head = [0_u8; 9];
    let mut file = File::open(path)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))?;
    let count = file.read(&mut head).ok()?;
    let head = head.get(..count)?;
    Some(head.starts_with(b"GGUF") || head.starts_with(b"PK\x03\x04") || head.get(8) == Some(&b'{'))
}

/// Takes `<lora:NAME:WEIGHT>` out of the prompt and opens what it names, an absolute path included. An empty
/// folder switches that off; a name that is not found is a warning only.
fn loras(prompt: &str, folder: &str) -> (String, Vec<String>) {
    let mut opened = Vec::new();
    if folder.is_empty() {
        return (prompt.to_owned(), opened);
    }
    let mut rest = prompt;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once("<lora:") {
        let Some((tag, behind)) = after.split_once('>') else {
            break;
        };
        kept.push_str(before);
        rest = behind;
        let (name, _weight) = tag.rsplit_once(':').unwrap_or((tag, "1"));
        let found = ["", ".safetensors", ".ckpt", ".gguf"]
            .iter()
            .map(|suffix| Path::new(folder).join(format!("{name}{suffix}")))
            .find(|path| path.is_file());
        match found {
            Some(path) => {
                info(
                    "lora.hpp",
                    41,
                    &format!("loading LoRA from '{}'", path.display()),
                );
                opened.push(path.to_string_lossy().into_owned());
            }
            None => warn("common.cpp", 2011, &format!("can not find lora {name}")),
        }
    }
    kept.push_str(rest);
    (kept.trim_end().to_owned(), opened)
}

fn dimensions(request: &Request, input: Option<(u32, u32)>, release: Release) -> (u32, u32) {
    let fallback = input
        .filter(|_| release.sizes_from_input())
        .unwrap_or((512, 512));
    let side = |option: &str, unset: u32| rounded(request.int(option, i64::from(unset)));
    (side("--width", fallback.0), side("--height", fallback.1))
}

/// Rounded up to the model's multiple.
pub(crate) fn rounded(asked: i64) -> u32 {
    let rounded = asked.saturating_add(MULTIPLE - 1) / MULTIPLE * MULTIPLE;
    // Larger than any test asks for; keeps a wild size from filling the machine.
    u32::try_from(rounded.clamp(MULTIPLE, 8192)).unwrap_or(512)
}

/// A slow program stops after a bar that is none of steps for longer than its reader gathers lines: whoever takes it for one is
/// seen to.
fn let_be_read(mode: Mode) {
    if let Mode::Slow(_) = mode {
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Ways to end before the first step, or to hold it up.
pub(crate) fn misbehave(mode: Mode) -> Option<u8> {
    match mode {
        Mode::Abort => {
            err(b"terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n");
            std::process::abort();
        }
        Mode::Hang | Mode::IgnoreTerm => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        Mode::Flood(mib) => {
            let line = [b'~'; 1023]
                .iter()
                .chain(b"\n")
                .copied()
                .collect::<Vec<u8>>();
            for _ in 0..mib.saturating_mul(512) {
                out(&line);
                err(&line);
            }
            None
        }
        Mode::Grandchild => {
            let program = std::env::current_exe().unwrap_or_default();
            let child = std::process::Command::new(program)
                .env(crate::SLEEP, "1")
                .spawn();
            info(
                "fake-sd",
                1,
                &format!("left behind: {:?}", child.map(|child| child.id())),
            );
            None
        }
        Mode::Exit(code) => Some(u8::try_from(code & 0xff).unwrap_or(1)),
        _ => None,
    }
}

/// The steps with their bar; the diffusion weights are loaded lazily in the first one. Whether it went well.
fn sample(steps: u32, stage: &Stage) -> bool {
    let (character, unit) = stage.release.loading_bar();
    bar((character, character), 57, 57, &format!("812.55{unit}"));
    let_be_read(stage.mode);
    let pause = match stage.mode {
        Mode::Slow(total) => Duration::from_millis(total / u64::from(steps)),
        _ => Duration::ZERO,
    };
    for step in 1..=steps {
        std::thread::sleep(pause);
        if step > steps / 2 && stage.mode == Mode::OomGpu {
            err(
                b"ggml_vulkan: Device memory allocation of size 1073741824 failed.\n\
                  ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n",
            );
            error(
                "ggml_extend.hpp",
                1762,
                "z_image alloc compute buffer failed",
            );
            return failed_generation();
        }
        if step > steps / 2 && stage.mode == Mode::FailGenerate {
            return failed_generation();
        }
        if step > steps / 2 && stage.mode == Mode::Killed {
            let _ = std::process::Command::new("kill")
                .args(["-9", &std::process::id().to_string()])
                .status();
        }
        // Both units, as the speed of a step decides.
        let speed = if step % 2 == 0 {
            "1.87it/s"
        } else {
            "2.10s/it"
        };
        bar(('=', '>'), step, steps, speed);
    }
    info(ENGINE, 3290, "sampling completed, taking 1.52s");
    true
}

fn failed_generation() -> bool {
    error(ENGINE, 3301, "sampling for image 1/1 failed");
    error("main.cpp", 702, "generate failed");
    false
}

fn decode(mode: Mode, tiled: bool) {
    info(ENGINE, 3340, "decoding 1 latents");
    // Tiles share the shape of steps: a reader that counts any bar is wrong here.
    if tiled || matches!(mode, Mode::Ok | Mode::Slow(_)) {
        for tile in 1..=4 {
            bar(('=', '>'), tile, 4, "3.41it/s");
        }
        let_be_read(mode);
    }
    info(ENGINE, 3355, "decode_first_stage completed, taking 0.40s");
    info(ENGINE, 3471, "generate_image completed in 2.31s");
}

fn settings(request: &Request, job: &Job) -> String {
    let model = request
        .get("--diffusion-model")
        .or(request.get("--model"))
        .unwrap_or_default();
    let (width, height) = job.size;
    format!(
        "{}\nNegative prompt: {}\nSteps: {}, CFG scale: {}, Seed: {}, Size: {width}x{height}, Model: {model}, Version: stable-diffusion.cpp",
        job.prompt, job.negative, job.steps, job.cfg, job.seed
    )
}

fn save(request: &Request, stage: &Stage, picture: image::RgbImage, settings: Option<&str>) -> u8 {
    let destination = picture::destination(
        request.get("--output").unwrap_or("./output.png"),
        stage.release,
    );
    if stage.mode == Mode::NoOutput {
        return 0;
    }
    if stage.mode == Mode::Extra {
        let _ = std::fs::write("leftover.txt", b"unasked\n");
    }
    match write(&destination, stage, picture, settings) {
        Ok(()) => {
            info(
                "main.cpp",
                512,
                &format!(
                    "save result image 0 to '{}' (success)",
                    destination.display()
                ),
            );
            info("main.cpp", 530, "1/1 images saved");
            0
        }
        Err(reason) => {
            error(
                "main.cpp",
                514,
                &format!(
                    "save result image 0 to '{}' (failure): {reason}",
                    destination.display()
                ),
            );
            u8::from(stage.release.fails_when_unsaved())
        }
    }
}

fn write(
    destination: &PathBuf,
    stage: &Stage,
    picture: image::RgbImage,
    settings: Option<&str>,
) -> Result<(), String> {
    if let Some(folder) = destination
        .parent()
        .filter(|_| stage.release.makes_output_folder())
    {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    }
    let mut bytes = match stage.mode {
        Mode::Mislabelled => picture::encode_as(picture, image::ImageFormat::Png, settings)?,
        _ => picture::encode(picture, destination, settings)?,
    };
    if stage.mode == Mode::Truncated {
        bytes.truncate(bytes.len() / 2);
    }
    std::fs::write(destination, bytes).map_err(|error| error.to_string())
}
