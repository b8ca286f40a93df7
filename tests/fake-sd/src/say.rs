//! What is printed, byte for byte in the real program's shape.

use std::io::Write as _;

/// A line of the log on standard output, flushed at once as the real program does even into a pipe.
pub(crate) fn info(file: &str, line: u32, text: &str) {
    out(format!("[INFO ] {file}:{line:<4} - {text}\n").as_bytes());
}

/// A warning; also on standard output.
pub(crate) fn warn(file: &str, line: u32, text: &str) {
    out(format!("[WARN ] {file}:{line:<4} - {text}\n").as_bytes());
}

/// An error; on standard error.
pub(crate) fn error(file: &str, line: u32, text: &str) {
    err(format!("[ERROR] {file}:{line:<4} - {text}\n").as_bytes());
}

/// A bar as it stands after `done` of `total`; a new line follows only the last one.
pub(crate) fn bar(tip: (char, char), done: u32, total: u32, speed: &str) {
    const WIDTH: usize = 50;
    let filled = (WIDTH * done as usize) / total.max(1) as usize;
    let mut drawn: String = std::iter::repeat_n(tip.0, filled).collect();
    if filled < WIDTH {
        drawn.push(tip.1);
    }
    let end = if done == total { "\n" } else { "" };
    out(format!("\r  |{drawn:WIDTH$}| {done}/{total} - {speed}\x1b[K{end}").as_bytes());
}

/// Bytes on standard output. A closed pipe ends the program, as SIGPIPE ends the real one.
pub(crate) fn out(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .is_err()
    {
        std::process::exit(141);
    }
}

/// Bytes on standard error.
pub(crate) fn err(bytes: &[u8]) {
    let _ = std::io::stderr().lock().write_all(bytes);
}
