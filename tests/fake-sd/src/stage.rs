//! How the program behaves this time, and what it writes down about how it was called.
//!
//! A worker gives its programs an empty environment, so everything can also be said by a file beside the
//! program: `fake-sd.mode` (a server reads it anew for each job), `fake-sd.release`, and `fake-sd.record`, which asks for a line of JSON per run
//! in `fake-sd.argv`, or in the file whose path `fake-sd.record` holds.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::release::Release;

/// What it does instead of, or besides, generating a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Generates.
    Ok,
    /// Host memory ends: the C++ library's words, then SIGABRT.
    Abort,
    /// A server ends as by a failed check in the middle of a job; the command works.
    ServerAbort,
    /// A server is up but takes no further job; the command works.
    ServerFull,
    /// A server is up but has none of its native routes, as a build of somebody's own may; the command works.
    ServerBare,
    /// Says nothing and never ends.
    Hang,
    /// The same, and SIGTERM does nothing.
    IgnoreTerm,
    /// This many MiB of lines on both streams first.
    Flood(u64),
    /// Exit 0, nothing written.
    NoOutput,
    /// A picture of one colour.
    Black,
    /// The device refuses an allocation.
    OomGpu,
    /// The generation fails without a reason.
    FailGenerate,
    /// Leaves a sleeping child behind that holds its output open.
    Grandchild,
    /// Takes this many milliseconds longer, spread over the steps.
    Slow(u64),
    /// Takes this many milliseconds to load the weights: at each run, or with a server's first job.
    Load(u64),
    /// A server has forgotten every job when it is asked for it.
    Forget,
    /// Ends with this code and no word.
    Exit(i32),
    /// Ended by SIGKILL half-way, as the kernel does when memory is short.
    Killed,
    /// Half a picture, exit 0.
    Truncated,
    /// A PNG whatever the name says, exit 0.
    Mislabelled,
    /// A second file that nobody asked for.
    Extra,
}

impl Mode {
    /// Reads a word and, for some, a number.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let word = words.next().unwrap_or("ok");
        let number = words.next().and_then(|number| number.parse::<u64>().ok());
        Some(match word {
            "ok" => Self::Ok,
            "abort" => Self::Abort,
            "server-abort" => Self::ServerAbort,
            "server-full" => Self::ServerFull,
            "server-bare" => Self::ServerBare,
            "hang" => Self::Hang,
            "ignore-term" => Self::IgnoreTerm,
            "flood" => Self::Flood(number.unwrap_or(64)),
            "no-output" => Self::NoOutput,
            "black" => Self::Black,
            "oom-gpu" => Self::OomGpu,
            "fail-generate" => Self::FailGenerate,
            "grandchild" => Self::Grandchild,
            "slow" => Self::Slow(number.unwrap_or(2_000)),
            "load" => Self::Load(number.unwrap_or(1_000)),
            "forget" => Self::Forget,
            "exit" => Self::Exit(
                number
                    .and_then(|code| i32::try_from(code).ok())
                    .unwrap_or(1),
            ),
            "killed" => Self::Killed,
            "truncated" => Self::Truncated,
            "mislabelled" => Self::Mislabelled,
            "extra" => Self::Extra,
            _ => return None,
        })
    }
}

/// The stage of one run.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) mode: Mode,
    pub(crate) release: Release,
    folder: PathBuf,
}

impl Stage {
    /// Looks at the environment, then beside the program. `Err` holds a word that is no mode: a test with a
    /// misspelt one must not pass for a test of `ok`.
    pub(crate) fn set(program: &Path) -> Result<Self, String> {
        let folder = program.parent().map(Path::to_path_buf).unwrap_or_default();
        let said = |variable: &str, file: &str| {
            std::env::var(variable)
                .ok()
                .or_else(|| std::fs::read_to_string(folder.join(file)).ok())
        };
        let mode = said("FAKE_SD_MODE", "fake-sd.mode").unwrap_or_default();
        let release = said("FAKE_SD_RELEASE", "fake-sd.release");
        Ok(Self {
            mode: Mode::parse(&mode).ok_or_else(|| format!("no such mode: {mode:?}"))?,
            release: match release {
                Some(text) => {
                    Release::parse(&text).ok_or_else(|| format!("no such release: {text:?}"))?
                }
                None => Release::default(),
            },
            folder,
        })
    }

    /// The same, as it is set now: a server outlives many words on how to behave.
    pub(crate) fn anew(&self) -> Self {
        let program = self.folder.join("sd-server");
        Self::set(&program).unwrap_or_else(|_| self.clone())
    }

    /// Writes one line about this run where that was asked for.
    pub(crate) fn record(&self, arguments: &[String], event: &str, detail: Value) {
        let Ok(wanted) = std::fs::read_to_string(self.folder.join("fake-sd.record")) else {
            return;
        };
        let path = match wanted.trim() {
            "" => self.folder.join("fake-sd.argv"),
            path => PathBuf::from(path),
        };
        let mut names: Vec<_> = std::env::vars_os()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        let cwd = std::env::current_dir().unwrap_or_default();
        let line = json!({
            "event": event,
            "pid": std::process::id(),
            "argv": arguments,
            "environment": names,
            "cwd": cwd.to_string_lossy(),
            "detail": detail,
        });
        // One write, so that lines of simultaneous runs do not mix.
        if let Ok(mut file) = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
        {
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mode;

    #[test]
    fn modes_and_their_numbers() {
        assert_eq!(Mode::parse(""), Some(Mode::Ok));
        assert_eq!(Mode::parse("slow 50\n"), Some(Mode::Slow(50)));
        assert_eq!(Mode::parse("exit 9"), Some(Mode::Exit(9)));
        assert_eq!(Mode::parse("blakc"), None);
    }
}
