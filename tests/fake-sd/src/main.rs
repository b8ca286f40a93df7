//! Stands in for stable-diffusion.cpp's `sd-cli` in tests, and for its `sd-server` under that name: as strict about its command line, with the same
//! words, streams, exit codes and progress bytes, and a real picture at the end, in milliseconds.
//!
//! What it does not do is draw: the picture is a pattern made from the prompt and the seed. GIF and TIFF
//! inputs, which the real program takes, are refused. `stage` tells how to make it misbehave and write down
//! its arguments.

mod args;
mod flags;
mod generate;
mod help;
mod http;
mod picture;
mod queue;
mod release;
mod say;
mod server;
mod stage;

use std::process::ExitCode;

use args::Refusal;
use flags::Program;
use serde_json::Value;
use stage::{Mode, Stage};

/// Set for the child that a `grandchild` leaves behind.
const SLEEP: &str = "FAKE_SD_SLEEP";

/// Set once SIGTERM is ignored.
const DEAF: &str = "FAKE_SD_DEAF";

fn main() -> ExitCode {
    if std::env::var_os(SLEEP).is_some() {
        std::thread::sleep(std::time::Duration::from_secs(600));
        return ExitCode::SUCCESS;
    }
    let program = std::env::current_exe().unwrap_or_default();
    let stage = match Stage::set(&program) {
        Ok(stage) => stage,
        Err(reason) => {
            say::err(format!("fake-sd: {reason}\n").as_bytes());
            return ExitCode::from(64);
        }
    };
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    if Program::of(&program) == Program::Server && !stage.release.has_server() {
        say::err(b"fake-sd: there was no sd-server yet\n");
        return ExitCode::from(64);
    }
    stage.record(&arguments, "start", Value::Null);
    if stage.mode == Mode::IgnoreTerm && std::env::var_os(DEAF).is_none() {
        go_deaf(&program, &arguments);
    }
    ExitCode::from(answer(&stage, &arguments, Program::of(&program)))
}

fn answer(stage: &Stage, arguments: &[String], program: Program) -> u8 {
    let release = stage.release;
    if stage.release.has_version() && arguments.first().is_some_and(|first| first == "--version") {
        say::out(
            format!(
                "stable-diffusion.cpp version master-{}-fa4e5d0, commit fa4e5d0\n",
                release.0
            )
            .as_bytes(),
        );
        return 0;
    }
    match args::parse(arguments, release, program) {
        Ok(request) if request.help => {
            if release.complains_about_help() {
                say::error("common.cpp", 322, "error: help requested");
            }
            say::out(help::text(program, release).as_bytes());
            0
        }
        Ok(request) if program == Program::Server => server::run(request, stage, arguments),
        Ok(request) => generate::run(&request, stage, arguments),
        Err(Refusal::WithHelp(text)) => {
            say::error("common.cpp", 402, &format!("error: {text}"));
            say::out(help::text(program, release).as_bytes());
            1
        }
        Err(Refusal::Plain(text)) => {
            say::error("main.cpp", 87, &text);
            1
        }
        Err(Refusal::Abort(text)) => {
            say::err(format!("{text}\n").as_bytes());
            std::process::abort();
        }
    }
}

/// Becomes itself again with SIGTERM ignored, which survives an exec.
#[cfg(unix)]
fn go_deaf(program: &std::path::Path, arguments: &[String]) {
    use std::os::unix::process::CommandExt as _;
    let failed = std::process::Command::new("/bin/sh")
        .args(["-c", "trap '' TERM; exec \"$0\" \"$@\""])
        .arg(program)
        .args(arguments)
        .env(DEAF, "1")
        .exec();
    say::err(format!("fake-sd: cannot ignore SIGTERM: {failed}\n").as_bytes());
}

#[cfg(not(unix))]
fn go_deaf(_program: &std::path::Path, _arguments: &[String]) {}
