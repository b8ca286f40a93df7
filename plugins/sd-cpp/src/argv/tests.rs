use super::*;
use crate::testing::{NEWEST, OLD, QWEN2VL, file, probe, raw_with};
use studio_plugin::{ImageTask, Job};

const Z_IMAGE: &[(&str, &str)] = &[
    ("diffusion-model", "z.gguf"),
    ("text-encoder", "qwen.gguf"),
    ("vae", "ae.safetensors"),
];

/// The command line of a job as words: `<1>` is a file, numbered from 1 in the order of fetching, `<out>` the output.
fn line(
    fields: &str,
    files: &[(&str, &str)],
    defaults: &str,
    help: &str,
) -> Result<Vec<String>, Failure> {
    let job: Job<ImageTask> = Job::read(raw_with(fields, files, defaults)).unwrap();
    let probe = probe(help);
    let plan = Plan::make(&job, &probe)?;
    let options = options(&plan, &probe)?;
    let held = held(&plan);
    let command = command(&plan, &options, &held);
    assert_eq!(command.outputs, [OutputKind::File(plan.ext.to_owned())]);
    assert_eq!(command.timeout_ms, Some(3_600_000));
    Ok(command.arguments.iter().flat_map(words).collect())
}

fn held(plan: &Plan) -> Held {
    let mut next = 0;
    let mut give = |name: &str| {
        next += 1;
        file(next, name, "image/png")
    };
    let shown = |file, title| inputs::Shown {
        file,
        title,
        name: "picture.png".to_owned(),
    };
    Held {
        weights: weights::Held {
            parts: plan
                .weights
                .parts
                .iter()
                .map(|part| give(&part.filename))
                .collect(),
            loras: plan
                .weights
                .loras
                .iter()
                .map(|lora| give(&lora.entry))
                .collect(),
        },
        inputs: inputs::Held {
            picture: Some(shown(give("init.png"), "initial picture")),
            mask: Some(shown(give("mask.png"), "mask")),
        },
        texts: Written {
            text: Some(give("prompt.txt")),
            negative: Some(give("negative.txt")),
        },
    }
}

fn words(argument: &Argument) -> Vec<String> {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::File(id) => format!("<{id}>"),
        Piece::Output(_) => "<out>".to_owned(),
        Piece::Directory(entries) => {
            let names: Vec<_> = entries
                .iter()
                .map(|entry| format!("{}={}", entry.name, entry.file))
                .collect();
            format!("<folder {}>", names.join(" "))
        }
    };
    match argument {
        Argument::Flag(name) => vec![name.clone()],
        Argument::Setting(setting) => vec![
            setting.name.clone(),
            setting.value.iter().map(piece).collect(),
        ],
        Argument::Positional(value) => vec![value.iter().map(piece).collect()],
    }
}

fn golden(line: Result<Vec<String>, Failure>, expected: &[&str]) {
    assert_eq!(line.unwrap(), expected);
}

#[test]
fn words_only_on_the_newest_release() {
    golden(
        line(
            r#""seed":7"#,
            Z_IMAGE,
            r#""cfgScale":1.0,"steps":8,"width":768,"height":1024,"samplingMethod":"euler""#,
            NEWEST,
        ),
        &[
            "--diffusion-model",
            "<1>",
            "--vae",
            "<2>",
            "--llm",
            "<3>",
            "--lora-model-dir",
            "",
            "--prompt-file",
            "<6>",
            "--cfg-scale",
            "1",
            "--steps",
            "8",
            "-W",
            "768",
            "-H",
            "1024",
            "-o",
            "<out>",
            "--seed",
            "7",
            "--sampling-method",
            "euler",
            "--disable-image-metadata",
            "--diffusion-fa",
        ],
    );
}

#[test]
fn every_option_in_its_place() {
    golden(
        line(
            r#""prompt":"-fox","negativePrompt":"blur","initImageUrl":"https://a/i.png","maskUrl":"https://a/m.png","denoise":0.5,
               "cfgScale":7.5,"samplingMethod":"lcm","width":640,"height":480,"steps":20,"seed":9,"ext":"PNG""#,
            &[
                ("diffusion-model", "d.gguf"),
                ("vae", "v"),
                ("text-encoder", "e"),
                ("text-encoder-vision", "t"),
                ("lora", "ink.safetensors"),
                ("lora", "wash.gguf"),
            ],
            r#""flowShift":3.0,"zeroCondT":true,"offloadToCpu":true,"mmap":true,"maxVramGib":5.5,"loraWeight":0.8"#,
            NEWEST,
        ),
        &[
            "--diffusion-model",
            "<1>",
            "--vae",
            "<2>",
            "--llm",
            "<3>",
            "--llm_vision",
            "<4>",
            "--lora-model-dir",
            "<folder ink.safetensors=5 wash.gguf=6>",
            "--prompt-file",
            "<9>",
            "--negative-prompt-file",
            "<10>",
            "--init-img",
            "<7>",
            "--strength",
            "0.5",
            "--mask",
            "<8>",
            "--cfg-scale",
            "7.5",
            "--steps",
            "20",
            "-W",
            "640",
            "-H",
            "480",
            "-o",
            "<out>",
            "--seed",
            "9",
            "--sampling-method",
            "lcm",
            "--flow-shift",
            "3",
            "--model-args",
            "qwen_image_zero_cond_t=true",
            "--offload-to-cpu",
            "--mmap",
            "--max-vram",
            "5.5",
            "--disable-image-metadata",
            "--diffusion-fa",
        ],
    );
}

#[test]
fn a_reference_wins_over_an_initial_picture_and_takes_no_strength() {
    golden(
        line(
            r#""initImageUrl":"https://a/i.png","refImageUrl":"https://a/r.png","maskUrl":"https://a/m.png","denoise":0.5,"seed":1"#,
            &[("model", "m.gguf")],
            "",
            NEWEST,
        ),
        &[
            "--model",
            "<1>",
            "--lora-model-dir",
            "",
            "--prompt-file",
            "<4>",
            "-r",
            "<2>",
            "--mask",
            "<3>",
            "--cfg-scale",
            "1",
            "--steps",
            "8",
            "-W",
            "1024",
            "-H",
            "1024",
            "-o",
            "<out>",
            "--seed",
            "1",
            "--disable-image-metadata",
            "--diffusion-fa",
        ],
    );
}

#[test]
fn an_older_release_gets_its_own_words() {
    golden(
        line(
            r#""prompt":"-p fox","negativePrompt":"--help","seed":1"#,
            &[("diffusion-model", "d"), ("lora", "ink.safetensors")],
            r#""zeroCondT":true,"mmap":true"#,
            OLD,
        ),
        &[
            "--diffusion-model",
            "<1>",
            "--lora-model-dir",
            "<folder ink.safetensors=2>",
            "-p",
            "-p fox <lora:ink:1>",
            "--negative-prompt",
            "--help",
            "--cfg-scale",
            "1",
            "--steps",
            "8",
            "-W",
            "1024",
            "-H",
            "1024",
            "-o",
            "<out>",
            "--seed",
            "1",
            "--qwen-image-zero-cond-t",
            "--diffusion-fa",
        ],
    );
    golden(
        line(
            r#""seed":1"#,
            &[
                ("diffusion-model", "d"),
                ("text-encoder", "e"),
                ("text-encoder-vision", "v"),
            ],
            "",
            QWEN2VL,
        ),
        &[
            "--diffusion-model",
            "<1>",
            "--qwen2vl",
            "<2>",
            "--qwen2vl_vision",
            "<3>",
            "-p",
            "a fox",
            "--cfg-scale",
            "1",
            "--steps",
            "8",
            "-W",
            "1024",
            "-H",
            "1024",
            "-o",
            "<out>",
            "--seed",
            "1",
        ],
    );
}

#[test]
fn an_option_that_is_not_there_is_refused_before_anything_is_fetched() {
    for (fields, files, defaults, option) in [
        (
            "",
            &[("model", "m")][..],
            r#""flowShift":3"#,
            "--flow-shift",
        ),
        ("", &[("model", "m")], r#""zeroCondT":true"#, "--model-args"),
        (
            "",
            &[("model", "m")],
            r#""offloadToCpu":true"#,
            "--offload-to-cpu",
        ),
        ("", &[("model", "m")], r#""maxVramGib":4"#, "--max-vram"),
        (
            "",
            &[("model", "m")],
            r#""samplingMethod":"euler""#,
            "--sampling-method",
        ),
        (
            "",
            &[("model", "m"), ("lora", "l.gguf")],
            "",
            "--lora-model-dir",
        ),
        (
            r#""refImageUrl":"https://a/r.png""#,
            &[("model", "m")],
            "",
            "-r",
        ),
        (
            r#""initImageUrl":"https://a/r.png""#,
            &[("model", "m")],
            "",
            "--init-img",
        ),
        (
            r#""negativePrompt":"x""#,
            &[("model", "m")],
            "",
            "--negative-prompt",
        ),
        (
            "",
            &[("model", "m"), ("text-encoder", "clip_l.gguf")],
            "",
            "--clip_l",
        ),
    ] {
        let failure = line(fields, files, defaults, QWEN2VL).unwrap_err();
        assert!(
            failure.message.contains(&format!("no option {option},")),
            "{}",
            failure.message
        );
        assert!(!failure.retryable);
    }
}

#[test]
fn optional_numbers_are_printed_short() {
    for (value, printed) in [("1.0", "1"), ("7.5", "7.5"), ("0.75", "0.75"), ("3", "3")] {
        let line = line(
            "",
            &[("model", "m")],
            &format!(r#""flowShift":{value}"#),
            NEWEST,
        )
        .unwrap();
        let at = line.iter().position(|word| word == "--flow-shift").unwrap();
        assert_eq!(line[at + 1], printed);
    }
}

#[test]
fn without_a_seed_the_jobs_own_randomness_is_used() {
    let line = line("", &[("model", "m")], "", NEWEST).unwrap();
    let at = line.iter().position(|word| word == "--seed").unwrap();
    // The tests' job has an entropy of 86.
    assert_eq!(line[at + 1], "43");
}

/// Before release 552 a WebP that was asked for is a PNG of another name, and the program says all is well.
#[test]
fn a_picture_under_another_name_is_found() {
    let job: Job<ImageTask> = Job::read(raw_with("", &[("model", "m")], "")).unwrap();
    let plan = Plan::make(&job, &probe(NEWEST)).unwrap();
    let exit = |outputs: Vec<File>, extra: Vec<File>| Exit {
        code: Some(0),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        stdout_tail: String::new(),
        stderr_tail: String::new(),
        wall_ms: 1,
        outputs: vec![outputs],
        extra,
    };
    let names = ["output-0.webp", "output-0.webp.png", "leftover.png"];
    let [webp, png, other] = names.map(|name| file(1, name, ""));
    let empty = File {
        size: 0,
        ..webp.clone()
    };
    for (outputs, extra, found) in [
        (
            vec![webp.clone()],
            vec![png.clone()],
            Some((names[0], "webp")),
        ),
        (vec![], vec![other.clone(), png], Some((names[1], "png"))),
        (vec![], vec![other], None),
        (vec![empty], vec![], None),
    ] {
        let exit = exit(outputs, extra);
        let picture = picture(&exit, &plan).map(|(file, ext)| (file.name.as_str(), ext));
        assert_eq!(picture, found);
    }
}
