//! The program as a worker meets it: arguments in, streams, exit code and files out.

#![allow(
    clippy::unwrap_used,
    reason = "a test's helper that fails is a failed test"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A folder holding the program, a model, and a word on how to behave.
    fn new(mode: &str) -> Self {
        // A link, not a copy: a file just written may still be open in another test's child, and is then
        // "busy" when it is run.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::hard_link(
            env!("CARGO_BIN_EXE_fake-sd"),
            folder.path().join(program_name()),
        )
        .unwrap();
        std::fs::write(folder.path().join("fake-sd.mode"), mode).unwrap();
        std::fs::write(folder.path().join("fake-sd.record"), "").unwrap();
        std::fs::write(folder.path().join("m.gguf"), b"GGUF and so on").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(self.path(program_name()))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .output()
            .unwrap()
    }

    fn records(&self) -> String {
        std::fs::read_to_string(self.path("fake-sd.argv")).unwrap_or_default()
    }
}

fn program_name() -> &'static str {
    if cfg!(windows) {
        "sd-cli.exe"
    } else {
        "sd-cli"
    }
}

const FOX: &[&str] = &[
    "--diffusion-model",
    "m.gguf",
    "-p",
    "a fox",
    "--steps",
    "3",
    "-W",
    "100",
    "-H",
    "70",
    "--seed",
    "5",
    "-o",
    "out.webp",
];

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn size(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).unwrap()
}

#[test]
fn a_picture_of_the_rounded_size_with_the_settings_inside() {
    let here = Place::new("ok");
    let output = here.run(FOX);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(size(&here.path("out.webp")), (104, 72));
    let said = stdout(&output);
    assert!(said.contains("generate_image 104x72\n"));
    let third = format!(
        "\r  |{}>{}| 1/3 - 2.10s/it\x1b[K",
        "=".repeat(16),
        " ".repeat(33)
    );
    assert!(said.contains(&third));
    assert!(said.contains("| 3/3 - 2.10s/it\x1b[K\n"));
    assert!(said.contains("MB/s"));
    assert!(output.stderr.is_empty());
    let bytes = std::fs::read(here.path("out.webp")).unwrap();
    assert!(bytes.windows(6).any(|part| part == b"m.gguf"));
    assert!(
        here.records()
            .contains("\"argv\":[\"--diffusion-model\",\"m.gguf\"")
    );
}

#[test]
fn releases_differ() {
    let here = Place::new("ok");
    std::fs::write(here.path("fake-sd.release"), "master-444-a0adcfb").unwrap();
    let output = here.run(FOX);
    assert_eq!(output.status.code(), Some(0));
    assert!(!here.path("out.webp").exists());
    assert_eq!(size(&here.path("out.webp.png")), (104, 72));
    let help = stdout(&here.run(&["--help"]));
    assert!(help.contains("  --qwen-image-zero-cond-t "));
    assert!(!help.contains("--disable-image-metadata"));
}

#[test]
fn help_and_unknown_arguments() {
    let here = Place::new("ok");
    let help = here.run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(help.stderr.is_empty());
    assert!(stdout(&help).contains("\n  -r, --ref-image <string>"));
    let unknown = here.run(&["--qwen-image-zero-cond-t"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).ends_with("error: unknown argument: --qwen-image-zero-cond-t\n"));
    assert_eq!(unknown.stdout, help.stdout);
}

#[test]
fn inputs_are_checked_before_the_model() {
    let here = Place::new("ok");
    image::GrayImage::new(8, 8)
        .save(here.path("gray.png"))
        .unwrap();
    let colour = image::RgbImage::new(8, 8);
    colour.save(here.path("colour.png")).unwrap();
    std::fs::copy(here.path("colour.png"), here.path("lie.webp")).unwrap();
    let with = |option: &str, path: &str| {
        let output = here.run(&["-m", "none.gguf", option, path, "-o", "x.png"]);
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    assert!(with("-i", "missing.png").contains("load image from 'missing.png' failed"));
    assert!(with("-i", "lie.webp").contains("load image from 'lie.webp' failed"));
    assert!(with("-r", "gray.png").contains("must be >= 3"));
    // These are fine, so the model is looked at.
    assert!(with("--mask", "gray.png").contains("get sd version from file failed: ''"));
    assert!(with("-i", "colour.png").contains("get sd version from file failed: ''"));
}

#[test]
fn weights_have_to_look_like_weights() {
    let here = Place::new("ok");
    std::fs::write(here.path("junk.gguf"), b"<html>404</html>").unwrap();
    let output = here.run(&["-m", "junk.gguf", "-p", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("init model loader from file failed: 'junk.gguf'"));
    assert!(stdout(&output).contains("unknown format"));
}

#[test]
fn prompts_open_only_what_the_folder_allows() {
    let here = Place::new("ok");
    std::fs::create_dir(here.path("loras")).unwrap();
    std::fs::write(here.path("loras/ink.safetensors"), b"x").unwrap();
    let prompt = format!(
        "fox <lora:ink:0.5> <lora:{}:1>",
        here.path("m.gguf").display()
    );
    let opened = |folder: &str| {
        let before = here.records().len();
        here.run(&[
            "-m",
            "m.gguf",
            "-p",
            &prompt,
            "--lora-model-dir",
            folder,
            "-o",
            "x.png",
        ]);
        here.records().split_off(before).matches("loading").count()
            + here
                .records()
                .split_off(before)
                .matches(".safetensors\"")
                .count()
    };
    assert_eq!(opened("loras"), 1);
    assert_eq!(opened(""), 0);
    // An absolute path is opened whatever the folder: the trap that the worker has to close.
    assert!(here.records().contains("m.gguf\"]"));
}

#[test]
fn misbehaviour() {
    let code = |mode: &str| Place::new(mode).run(FOX);
    assert_eq!(code("no-output").status.code(), Some(0));
    assert!(stderr(&code("oom-gpu")).contains("alloc compute buffer failed"));
    assert!(stderr(&code("fail-generate")).ends_with("generate failed\n"));
    assert_eq!(code("exit 7").status.code(), Some(7));
    assert_eq!(code("flood 1").stderr.len(), 512 * 1024);
    assert!(stderr(&code("misspelt")).contains("no such mode"));
    let here = Place::new("black");
    here.run(FOX);
    let picture = image::open(here.path("out.webp")).unwrap().to_rgb8();
    assert!(picture.pixels().all(|pixel| pixel.0 == [0, 0, 0]));
    let here = Place::new("truncated");
    here.run(FOX);
    assert!(image::open(here.path("out.webp")).is_err());
}

#[cfg(unix)]
#[test]
fn signals() {
    use std::os::unix::process::ExitStatusExt as _;
    let aborted = Place::new("abort").run(FOX);
    assert_eq!(aborted.status.signal(), Some(6));
    assert!(stderr(&aborted).contains("std::bad_alloc"));
    assert_eq!(Place::new("killed").run(FOX).status.signal(), Some(9));
    let deaf = Place::new("ignore-term");
    let mut child = Command::new(deaf.path(program_name()))
        .args(FOX)
        .current_dir(deaf.folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The second record is written after the signal is ignored.
    while deaf.records().lines().count() < 3 {
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}
