use super::*;
use crate::prompt::Written;
use crate::testing::{NEWEST, file, probe, raw_with};
use crate::{inputs, weights};
use studio_plugin::{ImageTask, Job};

fn exit(code: Option<i32>, signal: Option<i32>, stderr: &str, stdout: &str) -> Exit {
    Exit {
        code,
        signal,
        timed_out: false,
        out_of_memory: false,
        stdout_tail: stdout.to_owned(),
        stderr_tail: stderr.to_owned(),
        wall_ms: 1,
        outputs: vec![Vec::new()],
        extra: Vec::new(),
    }
}

fn said(exit: &Exit) -> Failure {
    said_of(exit, r#""ext":"png""#)
}

fn said_of(exit: &Exit, fields: &str) -> Failure {
    let raw = raw_with(fields, &[("diffusion-model", "z.gguf")], "");
    let job: Job<ImageTask> = Job::read(raw).unwrap();
    let probe = probe(NEWEST);
    let plan = Plan::make(&job, &probe).unwrap();
    let shown = |name: &str, title| inputs::Shown {
        file: file(1, "latest.webp", "image/png"),
        title,
        name: name.to_owned(),
    };
    let held = Held {
        weights: weights::Held::default(),
        inputs: inputs::Held {
            picture: Some(shown("picture.png", "initial picture")),
            mask: Some(shown("mask.png", "mask")),
        },
        texts: Written::default(),
    };
    let failure = failure(exit, &plan, &held, &probe);
    assert!(!failure.message.contains('\n'), "{}", failure.message);
    assert!(!failure.message.contains("/home/"), "{}", failure.message);
    failure
}

/// How it ended (code, signal), standard error, standard output, what has to be said, whether to try again.
type Row = (
    (Option<i32>, Option<i32>),
    &'static str,
    &'static str,
    &'static str,
    bool,
);

/// What the program printed, how it ended, what has to be said, and whether a retry may help.
#[test]
fn each_way_to_fail() {
    let abort = (None, Some(6));
    let one = (Some(1), None);
    let rows: &[Row] = &[
        (
            one,
            "[ERROR] common.cpp:4 - error: unknown argument: --vae-x",
            "usage: sd-cli\n",
            "does not know the option --vae-x",
            false,
        ),
        (
            one,
            "[ERROR] common.cpp:4 - error: unknown argument: --x",
            "",
            crate::RELEASE,
            false,
        ),
        (
            one,
            "[ERROR] common.cpp:4 - error: invalid value for argument: --sampling-method: 'x'",
            "usage",
            "'x'; correct the value",
            false,
        ),
        (
            one,
            "[ERROR] common.cpp:4 - error: can only work with strength in [0.0, 1.0]",
            "",
            "refuses the job's settings",
            false,
        ),
        (
            abort,
            "terminate called after throwing an instance of 'std::invalid_argument'\n  what():  stoi\n",
            "",
            "refuses the job's settings",
            false,
        ),
        (
            one,
            "[ERROR] x.cpp:1 - load image from '/home/me/scratch/mask.png' failed",
            "",
            "the mask cannot be decoded",
            false,
        ),
        (
            one,
            "[ERROR] x.cpp:1 - load image from '/home/me/latest.webp' failed",
            "",
            "the mask cannot be decoded",
            false,
        ),
        (
            one,
            "[ERROR] x.cpp:1 - load image from '/home/me/picture.png' failed",
            "",
            "the initial picture cannot be decoded",
            false,
        ),
        (
            one,
            "[ERROR] x.cpp:1 - load image from '/home/me/7' failed",
            "",
            "a picture of the task cannot be decoded",
            false,
        ),
        (
            one,
            "the number of channels for the input image must be >= 3,but got 1 channels[ERROR] x.cpp:1 - load image from '/home/me/picture.png' failed",
            "",
            "the initial picture is grayscale",
            false,
        ),
        (
            one,
            "[ERROR] get sd version from file failed: ''",
            "[WARN ] model.cpp:1 - file /home/me/z.gguf not found\n[INFO ] new_sd_ctx_t failed\n",
            "could not open the model's file z.gguf",
            true,
        ),
        (
            one,
            "[ERROR] init model loader from file failed: '/home/me/z.gguf'",
            "[WARN ] unknown format /home/me/z.gguf\n",
            "the model's file z.gguf is nothing that sd-cli can load",
            false,
        ),
        (
            one,
            "[ERROR] init model loader from file failed: '/home/me/8f3a'",
            "",
            "a file of the model is nothing",
            false,
        ),
        (
            one,
            "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n[ERROR] g.hpp:1 - z_image alloc compute buffer failed\n[ERROR] m.cpp:1 - generate failed",
            "[INFO ] s.cpp:1 - total params memory size = 6862.40MB (VRAM 6862.40MB)\n",
            "out of memory on Test GPU at 1024x1024 (the weights alone take 6862.40MB (VRAM 6862.40MB)); ask for a smaller width and height",
            false,
        ),
        (
            abort,
            "CUDA error: out of memory\n  current device: 0\n",
            "",
            "out of memory on Test GPU",
            false,
        ),
        (
            one,
            "[ERROR] g.hpp:1 - vae alloc compute buffer failed",
            "",
            "out of memory on Test GPU",
            false,
        ),
        (
            abort,
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "",
            "ran out of main memory at 1024x1024",
            false,
        ),
        (
            abort,
            "ggml.c:1: GGML_ASSERT(ctx->mem_buffer != NULL) failed",
            "",
            "ran out of main memory",
            false,
        ),
        (
            abort,
            "/home/me/ggml.c:2267: GGML_ASSERT(a->ne[0] == b->ne[0]) failed",
            "backtrace",
            "GGML_ASSERT(a->ne[0] == b->ne[0])",
            false,
        ),
        (
            (Some(127), None),
            "sd-cli: error while loading shared libraries: libvulkan.so.1: cannot open",
            "",
            "libvulkan1",
            true,
        ),
        (
            abort,
            "terminate called after throwing an instance of 'vk::DeviceLostError'\n what(): ErrorDeviceLost",
            "",
            "the GPU driver failed",
            true,
        ),
        (
            one,
            "[ERROR] s.cpp:1 - sampling for image 1/1 failed\n[ERROR] m.cpp:1 - generate failed\n",
            "",
            "exited with code 1: generate failed",
            true,
        ),
        (
            one,
            "[ERROR] m.cpp:1 - save result image 0 to '/home/me/o.png' (failure)",
            "",
            "free space",
            true,
        ),
        (
            one,
            "",
            "some stdout\n",
            "exited with code 1 and no word on stderr: out of memory, or the driver crashed; ask for a width and height below 1024x1024",
            true,
        ),
        (one, "  \n", "", "no word on stderr", true),
        (
            one,
            "something else in /home/me/x\n",
            "",
            "exited with code 1: something else in x",
            true,
        ),
        (
            (None, Some(9)),
            "",
            "",
            "signal 9 (SIGKILL): out of memory, or the driver crashed",
            true,
        ),
        (
            (None, Some(11)),
            "half a word\n",
            "",
            "signal 11 (SIGSEGV) after \"half a word\"",
            true,
        ),
        (abort, "", "", "signal 6 (SIGABRT)", true),
        (
            (None, Some(15)),
            "",
            "",
            "ended from outside (signal 15)",
            true,
        ),
        ((None, Some(31)), "", "", "ended by signal 31:", true),
        (
            (Some(0), None),
            "",
            "1/1 images saved\n",
            "reported success but wrote no picture",
            true,
        ),
    ];
    for ((code, signal), stderr, stdout, expected, retryable) in rows {
        let failure = said(&exit(*code, *signal, stderr, stdout));
        assert!(
            failure.message.contains(expected),
            "{stderr}\n  gave: {}",
            failure.message
        );
        assert_eq!(failure.retryable, *retryable, "{}", failure.message);
    }
}

#[test]
fn what_the_host_saw_goes_before_what_the_program_said() {
    let mut run = exit(None, Some(9), "generate failed", "");
    run.out_of_memory = true;
    assert!(said(&run).message.contains("ran out of main memory"));
    run.timed_out = true;
    // The time that was given, not the one that was asked for.
    for (given, said_time, named) in [
        (3_600_000, "after 60 minutes", "timeout-minutes"),
        (1_800_999, "after 30 minutes", "program_timeout_secs"),
        (5_000, "after 5 seconds", "program_timeout_secs"),
    ] {
        run.wall_ms = given;
        let failure = said(&run);
        assert!(
            failure.message.contains(said_time) && failure.message.contains(named),
            "{}",
            failure.message
        );
        assert!(failure.retryable);
    }
}

/// A full disk and a build without WebP say the same, and the first one passes.
#[test]
fn webp_that_was_not_written() {
    let run = exit(
        Some(1),
        None,
        "[ERROR] m.cpp:1 - save result image 0 to 'o.webp' (failure)",
        "",
    );
    let failure = said_of(&run, r#""ext":"webp""#);
    for cause in ["scratch disk", "lacks WebP"] {
        assert!(failure.message.contains(cause), "{}", failure.message);
    }
    assert!(failure.retryable);
}

#[test]
fn a_long_word_is_cut_between_characters() {
    let failure = said(&exit(Some(1), None, &"狐".repeat(1000), ""));
    assert!(failure.message.chars().count() < 400);
}
