//! Why a run gave no sound, in the job's terms.

use studio_plugin::{Exit, Failure};

use crate::TIMEOUT_MS;
use crate::plan::Plan;

/// How much of the program's last words a failure repeats, in characters.
const LAST_WORDS: usize = 200;

/// What to tell the studio.
pub(crate) fn failure(exit: &Exit, plan: &Plan) -> Failure {
    if exit.timed_out {
        return Failure::retryable(format!(
            "espeak-ng had not finished speaking {} characters after {} minutes and was ended; send a shorter text",
            plan.text.chars().count(),
            TIMEOUT_MS / 60_000
        ));
    }
    if exit.out_of_memory {
        return Failure::retryable(
            "espeak-ng was ended for want of memory while it spoke; free some on this machine, or send a shorter text",
        );
    }
    if exit.stderr_tail.contains("voice does not exist") {
        return Failure::permanent(format!(
            "espeak-ng lists the voice {} and cannot load it; install what the voice needs, or ask for another",
            plan.voice
        ));
    }
    let said = last_line(&exit.stderr_tail);
    match (exit.code, exit.signal) {
        (Some(0), _) => Failure::retryable(format!(
            "espeak-ng reported success but wrote no sound{said}; its folder may be full"
        )),
        (Some(code), _) => Failure::retryable(format!(
            "espeak-ng could not speak the text: code {code}{said}; run it by hand on this machine to see more"
        )),
        (None, Some(signal)) => Failure::retryable(format!(
            "espeak-ng was ended by signal {signal} while it spoke{said}; try again"
        )),
        (None, None) => Failure::retryable(format!(
            "espeak-ng ended in a way the system does not tell{said}"
        )),
    }
}

/// The last line that the program complained in, on one line and bounded.
fn last_line(stderr: &str) -> String {
    let line = stderr.lines().rev().find(|line| !line.trim().is_empty());
    line.map_or_else(String::new, |line| {
        let line: String = line.trim().chars().take(LAST_WORDS).collect();
        format!(" ({line})")
    })
}
