//! Why a run gave no picture, in the job's terms.
//!
//! The program has one exit code for everything, so its words decide. The first rule whose phrase it printed says what
//! happened; where none did, the way it ended does. Not to be tried again is what the same task and model would meet on the
//! same machine once more; what another process, a driver or a person caused may go better next time.

use studio_plugin::{Exit, Failure};

use crate::argv::Held;
use crate::plan::Plan;
use crate::probe::Probe;

/// A failed run and everything known about it.
#[derive(Clone, Copy)]
struct Case<'a> {
    exit: &'a Exit,
    plan: &'a Plan,
    held: &'a Held,
    probe: &'a Probe,
}

/// What a phrase in the program's output means.
struct Rule {
    /// Any of these, on either stream.
    phrases: &'static [&'static str],
    say: fn(Case<'_>) -> Failure,
}

/// Ordered: what is printed along with a later phrase comes first.
const RULES: &[Rule] = &[
    Rule {
        phrases: &["unknown argument:"],
        say: unknown_option,
    },
    Rule {
        phrases: &["number of channels"],
        say: gray_input,
    },
    Rule {
        phrases: &["load image from '"],
        say: bad_input,
    },
    Rule {
        // With the dash: the words of drivers have "error:" too.
        phrases: &["- error: ", "std::invalid_argument", "std::out_of_range"],
        say: refused,
    },
    Rule {
        phrases: &[
            "ErrorOutOfDeviceMemory",
            "out of memory",
            "cudaMalloc failed",
            "ErrorOutOfMemory",
            "Device memory allocation of size",
            "alloc compute buffer failed",
        ],
        say: device_memory,
    },
    Rule {
        phrases: &[
            "std::bad_alloc",
            "ctx->mem_buffer != NULL",
            "ErrorOutOfHostMemory",
        ],
        say: host_memory,
    },
    Rule {
        phrases: &[
            "error while loading shared libraries",
            "libvulkan.so.1",
            "vulkan-1.dll",
            "Library not loaded",
        ],
        say: missing_library,
    },
    Rule {
        phrases: &[
            "ErrorDeviceLost",
            "ErrorInitializationFailed",
            "ErrorIncompatibleDriver",
        ],
        say: driver,
    },
    Rule {
        phrases: &["unknown format", "init model loader from file failed"],
        say: bad_weights,
    },
    Rule {
        phrases: &["get sd version from file failed", "new_sd_ctx_t failed"],
        say: no_weights,
    },
    Rule {
        phrases: &["GGML_ASSERT"],
        say: assertion,
    },
    Rule {
        phrases: &["(failure)"],
        say: unsaved,
    },
];

/// What to tell the studio about a run that gave no picture.
pub(crate) fn failure(exit: &Exit, plan: &Plan, held: &Held, probe: &Probe) -> Failure {
    let case = Case {
        exit,
        plan,
        held,
        probe,
    };
    if exit.timed_out {
        return too_long(crate::PROGRAM, exit.wall_ms, plan);
    }
    if exit.out_of_memory {
        return host_memory(case);
    }
    if exit.code == Some(0) {
        return Failure::retryable(format!(
            "sd-cli ({}) reported success but wrote no picture; its scratch folder may be full, or the release may be too old: \
             this plugin was written for {}",
            probe.name(),
            Plan::release()
        ));
    }
    let printed =
        |phrase: &&str| exit.stderr_tail.contains(phrase) || exit.stdout_tail.contains(phrase);
    match RULES.iter().find(|rule| rule.phrases.iter().any(printed)) {
        Some(rule) => (rule.say)(case),
        None => by_ending(case),
    }
}

/// Says the time that was really given: the worker has a limit of its own, and the shorter one counts.
pub(crate) fn too_long(program: &str, given: u64, plan: &Plan) -> Failure {
    let raise = if given < plan.timeout_ms() {
        "program_timeout_secs in config.toml, the worker's own limit"
    } else {
        "timeout-minutes for sd-cpp in plugins.toml"
    };
    Failure::retryable(format!(
        "{program} had not finished after {} and was ended; ask for fewer steps or a smaller picture, or raise {raise}",
        duration(given)
    ))
}

/// In minutes, or in seconds where it is no three of them.
fn duration(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        seconds @ ..180 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}

fn unknown_option(case: Case<'_>) -> Failure {
    let option = after(&case.exit.stderr_tail, "unknown argument:").unwrap_or_default();
    Failure::permanent(format!(
        "the sd-cli here ({}) does not know the option {option}; this plugin was written for {}: install that release, \
         or the plugin made for yours",
        case.probe.name(),
        Plan::release()
    ))
}

fn gray_input(case: Case<'_>) -> Failure {
    Failure::permanent(format!(
        "{} is grayscale, and sd-cli wants colour; convert it to RGB",
        case.input()
    ))
}

fn bad_input(case: Case<'_>) -> Failure {
    Failure::permanent(format!(
        "{} cannot be decoded by sd-cli; replace it by a valid PNG, JPEG or WebP",
        case.input()
    ))
}

fn device_memory(case: Case<'_>) -> Failure {
    let Plan { width, height, .. } = case.plan;
    let gpu = case.plan.gpu.as_deref().unwrap_or("the GPU");
    let weights = after(&case.exit.stdout_tail, "total params memory size =")
        .map(|size| format!(" (the weights alone take {size})"))
        .unwrap_or_default();
    let offload = if case.plan.offload {
        ""
    } else {
        " or offloadToCpu for the model"
    };
    Failure::permanent(format!(
        "out of memory on {gpu} at {width}x{height}{weights}; ask for a smaller width and height, a smaller quantisation{offload}, \
         and close what else uses the GPU"
    ))
}

fn host_memory(case: Case<'_>) -> Failure {
    let Plan { width, height, .. } = case.plan;
    let mmap = if case.plan.mmap {
        ""
    } else {
        ", mmap for the model"
    };
    Failure::permanent(format!(
        "this machine ran out of main memory at {width}x{height}; ask for a smaller width and height, a smaller quantisation{mmap}, or add memory"
    ))
}

fn missing_library(case: Case<'_>) -> Failure {
    Failure::retryable(format!(
        "sd-cli cannot start: {}; install the GPU driver and the Vulkan loader (libvulkan1 on Debian and Ubuntu)",
        case.last_word()
    ))
}

fn driver(case: Case<'_>) -> Failure {
    Failure::retryable(format!(
        "the GPU driver failed: {}; update it, and look into the system's log for a reset",
        case.last_word()
    ))
}

fn bad_weights(case: Case<'_>) -> Failure {
    let name = case.weights_named(&["unknown format ", "init model loader from file failed: "]);
    Failure::permanent(format!(
        "{name} is nothing that sd-cli can load (GGUF, safetensors or checkpoint); mend its URL in the studio's registry, \
         or take the release that knows this kind of model: this plugin was written for {}",
        Plan::release()
    ))
}

fn no_weights(case: Case<'_>) -> Failure {
    let name = case.weights_named(&["- file "]);
    Failure::retryable(format!(
        "sd-cli could not open {name}; the model cache may have been emptied meanwhile: send the job again"
    ))
}

fn refused(case: Case<'_>) -> Failure {
    Failure::permanent(format!(
        "sd-cli ({}) refuses the job's settings: {}; correct the value in the task or in the model's cliDefaults",
        case.probe.name(),
        case.last_word()
    ))
}

fn assertion(case: Case<'_>) -> Failure {
    let line = case.line_with("GGML_ASSERT");
    Failure::permanent(format!(
        "sd-cli stopped at an internal check ({line}), as it does for sizes or inputs that this model does not take; ask for another width and height"
    ))
}

/// It says the same of a full disk as of a format that it was built without.
fn unsaved(case: Case<'_>) -> Failure {
    let message = "sd-cli drew the picture but could not save it";
    let space = "free space on the worker's scratch disk";
    Failure::retryable(if case.plan.ext == "webp" {
        format!(
            "{message} as WebP; {space}, or its build lacks WebP: then ask for png, or install the release {}",
            Plan::release()
        )
    } else {
        format!("{message}; {space}")
    })
}

/// By signal, or by code and the last line.
fn by_ending(case: Case<'_>) -> Failure {
    let Plan { width, height, .. } = case.plan;
    let gpu = case.plan.gpu.as_deref().unwrap_or("GPU");
    let advice = format!(
        "ask for a width and height below {width}x{height}, and see what else uses the memory of {gpu} and of the machine"
    );
    let silent = case.exit.stderr_tail.trim().is_empty();
    match (case.exit.signal, case.exit.code) {
        (Some(signal @ (1 | 2 | 15)), _) => Failure::retryable(format!(
            "sd-cli was ended from outside (signal {signal}); the job can be sent again"
        )),
        (Some(signal), _) => Failure::retryable(format!(
            "sd-cli was ended by {}{}: out of memory, or the driver crashed; {advice}",
            signal_name(signal),
            if silent {
                String::new()
            } else {
                format!(" after {:?}", case.last_word())
            },
        )),
        (None, code) if silent => Failure::retryable(format!(
            "sd-cli exited with {} and no word on stderr: out of memory, or the driver crashed; {advice}",
            code.map_or_else(|| "no code".to_owned(), |code| format!("code {code}"))
        )),
        (None, code) => Failure::retryable(format!(
            "sd-cli exited with code {}: {}; see the worker's log for the rest",
            code.unwrap_or_default(),
            case.last_word()
        )),
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

impl Case<'_> {
    /// The last line on standard error, without the place in the source and without folders.
    fn last_word(&self) -> String {
        let last = self
            .exit
            .stderr_tail
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        tidy(last.unwrap_or("(nothing on stderr)"))
    }

    fn line_with(&self, phrase: &str) -> String {
        let mut lines = self
            .exit
            .stderr_tail
            .lines()
            .chain(self.exit.stdout_tail.lines());
        tidy(lines.rfind(|line| line.contains(phrase)).unwrap_or(phrase))
    }

    /// The input picture that the program could not read.
    fn input(&self) -> String {
        let named = after(&self.exit.stderr_tail, "load image from '").unwrap_or_default();
        let inputs = &self.held.inputs;
        let shown = [&inputs.mask, &inputs.picture].into_iter().flatten();
        let mut fitting = shown.filter(|shown| {
            base(named).starts_with(&shown.name) || base(named).starts_with(&shown.file.name)
        });
        fitting.next().map_or_else(
            || "a picture of the task".to_owned(),
            |shown| format!("the {}", shown.title),
        )
    }

    /// The file of the model that the program named behind one of these phrases.
    fn weights_named(&self, phrases: &[&str]) -> String {
        let text = format!("{}\n{}", self.exit.stderr_tail, self.exit.stdout_tail);
        let path = phrases
            .iter()
            .find_map(|phrase| after(&text, phrase))
            .unwrap_or_default();
        let name = base(path.trim_end_matches(" not found").trim_matches('\''));
        if self
            .plan
            .weights
            .parts
            .iter()
            .any(|part| part.filename == name)
        {
            format!("the model's file {name}")
        } else {
            "a file of the model".to_owned()
        }
    }
}

/// The rest of the first line behind a phrase.
fn after<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(phrase)?;
    rest.lines().next().map(str::trim)
}

fn base(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// A line fit for a studio: no place in the source, no folder of this machine, not long.
fn tidy(line: &str) -> String {
    /// Longer ones are cut: the studio shows one line, and the log has the whole.
    const LONGEST: usize = 240;
    let line = line
        .split_once(" - ")
        .filter(|(head, _)| head.starts_with('['))
        .map_or(line, |(_, rest)| rest);
    let words: Vec<_> = line
        .split(' ')
        .map(|word| {
            if word.contains(['/', '\\']) {
                base(word)
            } else {
                word
            }
        })
        .collect();
    let mut tidy = words.join(" ");
    if let Some((cut, _)) = tidy.char_indices().nth(LONGEST) {
        tidy.truncate(cut);
        tidy.push('…');
    }
    tidy
}

#[cfg(test)]
mod tests;
