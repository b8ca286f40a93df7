//! How a child comes to be where there is no Linux: as the standard library does it, and nothing kills it when the worker dies.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::Pid;

use super::{Input, Pipes, Program, Start};

/// Starts it. Its head of a group, by number, and our ends of its pipes.
pub(super) fn start(
    program: Program,
    start: Start,
    _entrance: Option<&OwnedFd>,
) -> io::Result<(Pid, Pipes)> {
    let mut child = Command::new(&program.path)
        .args(&program.arguments)
        .current_dir(&program.directory)
        .env_clear()
        .envs(start.environment)
        .process_group(0)
        .stdin(match program.input {
            Input::Nothing => Stdio::null(),
            Input::Pipe => Stdio::piped(),
            Input::File(file) => file.into(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let missing = || io::Error::other("a pipe that was asked for is not there");
    let pipes = Pipes {
        stdin: child.stdin.take().map(OwnedFd::from),
        stdout: child.stdout.take().ok_or_else(missing)?.into(),
        stderr: child.stderr.take().ok_or_else(missing)?.into(),
    };
    Ok((Pid::from_child(&child), pipes))
}
