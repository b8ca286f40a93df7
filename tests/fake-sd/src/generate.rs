//! One generation, in the real program's order: inputs, weights, text, steps, decoding, saving.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::args::Request;
use crate::picture;
use crate::release::Release;
use crate::say::{bar, err, error, info, out, warn};
use crate::stage::{Mode, Stage};

const ENGINE: &str = "stable-diffusion.cpp";

/// Sizes are rounded up to this many pixels.
const MULTIPLE: i64 = 8;

/// Generates; the exit code.
pub(crate) fn run(request: &Request, stage: &Stage, arguments: &[String]) -> u8 {
    let release = stage.release;
    let Ok(size) = inputs(request) else { return 1 };
    let Some(prompt) = text(request, "--prompt", "--prompt-file") else {
        return 1;
    };
    if !weights(request, release) {
        return 1;
    }
    let (prompt, loras) = loras(&prompt, request.get("--lora-model-dir").unwrap_or("."));
    let (width, height) = dimensions(request, size, release);
    let seed = match request.int("--seed", 42) {
        negative if negative < 0 => 1_234_567,
        seed => seed,
    };
    stage.record(
        arguments,
        "generate",
        json!({"prompt": prompt, "loras": loras, "seed": seed, "width": width, "height": height}),
    );
    if let Some(code) = misbehave(stage.mode) {
        return code;
    }
    info(ENGINE, 3412, &format!("generate_image {width}x{height}"));
    info(
        ENGINE,
        3101,
        "get_learned_condition completed, taking 0.03s",
    );
    info(
        ENGINE,
        3230,
        &format!("generating image: 1/1 - seed {seed}"),
    );
    let steps = u32::try_from(request.int("--steps", 20)).unwrap_or(1);
    if !sample(steps, stage, release) {
        return 1;
    }
    decode(stage.mode, request.has("--vae-tiling"));
    let picture = match stage.mode {
        Mode::Black => picture::uniform(width, height),
        _ => picture::pattern(
            &format!("{prompt}{loras:?}{}", request.get("--ref-image").is_some()),
            seed,
            width,
            height,
        ),
    };
    let settings = (!request.has("--disable-image-metadata"))
        .then(|| settings(request, &prompt, seed, width, height));
    save(request, stage, picture, settings.as_deref())
}

/// Reads every picture given; the first one's size. What is wrong has been said.
fn inputs(request: &Request) -> Result<Option<(u32, u32)>, ()> {
    let mut first = None;
    let pictures = [
        ("--init-img", false),
        ("--ref-image", false),
        ("--mask", true),
    ];
    for (option, gray) in pictures {
        for path in request.all(option) {
            match picture::load(path, gray) {
                Ok(size) => first = first.or(Some(size)),
                Err(text) => {
                    error("common.cpp", 1871, &text);
                    return Err(());
                }
            }
        }
    }
    Ok(first)
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
fn weights(request: &Request, release: Release) -> bool {
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
    let (character, unit) = release.loading_bar();
    for _ in &given {
        for done in [397, 794, 1131] {
            bar((character, character), done, 1131, &format!("682.10{unit}"));
        }
    }
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
    let side = |option: &str, unset: u32| {
        let asked = request.int(option, i64::from(unset));
        let rounded = asked.saturating_add(MULTIPLE - 1) / MULTIPLE * MULTIPLE;
        // Larger than any test asks for; keeps a wild size from filling the machine.
        u32::try_from(rounded.clamp(MULTIPLE, 8192)).unwrap_or(512)
    };
    (side("--width", fallback.0), side("--height", fallback.1))
}

/// Ways to end before the first step, or to hold it up.
fn misbehave(mode: Mode) -> Option<u8> {
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
fn sample(steps: u32, stage: &Stage, release: Release) -> bool {
    let (character, unit) = release.loading_bar();
    bar((character, character), 57, 57, &format!("812.55{unit}"));
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
    if tiled || mode == Mode::Ok {
        for tile in 1..=4 {
            bar(('=', '>'), tile, 4, "3.41it/s");
        }
    }
    info(ENGINE, 3355, "decode_first_stage completed, taking 0.40s");
    info(ENGINE, 3471, "generate_image completed in 2.31s");
}

fn settings(request: &Request, prompt: &str, seed: i64, width: u32, height: u32) -> String {
    let model = request
        .get("--diffusion-model")
        .or(request.get("--model"))
        .unwrap_or_default();
    format!(
        "{prompt}\nNegative prompt: {}\nSteps: {}, CFG scale: {}, Seed: {seed}, Size: {width}x{height}, Model: {model}, Version: stable-diffusion.cpp",
        request.get("--negative-prompt").unwrap_or_default(),
        request.get("--steps").unwrap_or("20"),
        request.get("--cfg-scale").unwrap_or("7"),
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
