//! A job's journal, stepped through a version of its engine: nothing is performed, every outcome comes from the journal.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use worker_plugins::Engine;
use worker_plugins::contract::{
    Answer, Argument, Command, Effect, Job, Next, Outcome, Piece, Response,
};

use crate::journal::{BLOBS, MAX_BLOB, MAX_JOURNAL, short};
use crate::told;

/// Longest line of a journal that is read, in bytes.
const MAX_LINE: u64 = 16 << 20;
/// The most steps that any job may have.
const MAX_STEPS: usize = 1023;
/// Longest value shown in a difference.
const SHOWN: usize = 120;
/// Lines of one comparison.
const MAX_LINES: usize = 40;

/// A journal that can be replayed.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The job as the engine saw it, but for what a journal leaves out of it.
    pub job: Job,
    /// The engine's name.
    pub engine: String,
    rounds: Vec<Round>,
}

#[derive(Clone, Debug, Default)]
struct Round {
    kinds: Vec<String>,
    outcomes: Vec<Outcome>,
}

/// Why a journal cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is none.
    #[error("there is no journal of job {0}; only those of the last jobs are kept")]
    Missing(String),
    /// It cannot be read.
    #[error("the journal {} cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Something that the engine saw was left out of it.
    #[error("the journal cannot be replayed: {0}")]
    LeftOut(String),
}

/// How a replay ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// With this product.
    Finished(Value),
    /// The engine said that it cannot be done.
    Failed(String),
    /// A call gave no answer.
    Broke(String),
    /// It asked for a program that it never declared.
    UnknownBackend(String),
    /// At this step it asked for another kind of thing than the journal has answers for, or the journal ends there.
    Diverged(u32),
}

/// What a version did on a journal.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What it asked for, by step.
    pub steps: Vec<Vec<Effect>>,
    /// How it ended.
    pub end: Ended,
    /// What it computed, in units of fuel: the same on every machine.
    pub fuel: u64,
}

/// The last journals of an engine that can be replayed, the latest first, and how many of them cannot. Blocks.
pub fn recent(dir: &Path, engine: &str, most: usize) -> (Vec<Recorded>, usize) {
    let (mut found, mut unusable) = (Vec::new(), 0);
    for path in files(dir) {
        if found.len() + unusable >= most {
            break;
        }
        match read(&path, dir, Some(engine)) {
            Ok(Some(recorded)) => found.push(recorded),
            Ok(None) => {}
            Err(_) => unusable += 1,
        }
    }
    (found, unusable)
}

/// The latest journal of a job. Blocks.
pub fn of_job(dir: &Path, job: &str) -> Result<Recorded, ReplayError> {
    let end = format!("-{}.jsonl", job.replace(':', "_"));
    let path = files(dir).into_iter().find(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.ends_with(&end))
    });
    let path = path.ok_or_else(|| ReplayError::Missing(job.to_owned()))?;
    read(&path, dir, None)?.ok_or_else(|| ReplayError::Missing(job.to_owned()))
}

/// The latest first: names begin with the time.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "jsonl"))
        .collect();
    files.sort();
    files.reverse();
    files
}

fn read(path: &Path, dir: &Path, wanted: Option<&str>) -> Result<Option<Recorded>, ReplayError> {
    let failed = |source| ReplayError::Io {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let mut lines = BufReader::new(file.take(MAX_JOURNAL));
    let (mut engine, mut job, mut rounds) = (String::new(), None, Vec::<Round>::new());
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(failed)?;
        if read == 0 {
            break;
        }
        // A line that a crash cut off ends the journal.
        let Ok(mut event) = serde_json::from_slice::<Value>(&line) else {
            break;
        };
        let body = event.get_mut("body").map(Value::take).unwrap_or_default();
        match event.get("event").and_then(Value::as_str) {
            Some("offered" | "again") => {
                let name = body.get("engine").and_then(Value::as_str);
                engine = name.unwrap_or_default().to_owned();
                (job, rounds) = (None, Vec::new());
                if wanted.is_some_and(|wanted| wanted != engine) {
                    return Ok(None);
                }
            }
            Some("job") => job = Some(read_job(body, dir)?),
            Some("effect") => {
                with_round(&mut rounds, &body, |round| round.kinds.push(kind(&body)));
            }
            Some("outcome") => {
                let outcome = read_outcome(&body, dir)?;
                with_round(&mut rounds, &body, |round| round.outcomes.push(outcome));
            }
            _ => {}
        }
    }
    // The last batch may have been cut off by a crash.
    if rounds
        .last()
        .is_some_and(|last| last.outcomes.len() != last.kinds.len())
    {
        rounds.pop();
    }
    let left_out = || ReplayError::LeftOut("the job is not in it".to_owned());
    Ok(Some(Recorded {
        job: job.ok_or_else(left_out)?,
        engine,
        rounds,
    }))
}

/// Puts something of one step in its place.
fn with_round(rounds: &mut Vec<Round>, body: &Value, put: impl FnOnce(&mut Round)) {
    let step = body.get("step").and_then(Value::as_u64).unwrap_or(0);
    // A journal has as many steps as a job may have; one that says otherwise is not ours.
    let step = usize::try_from(step).unwrap_or(0).min(MAX_STEPS);
    if rounds.len() <= step {
        rounds.resize(step + 1, Round::default());
    }
    if let Some(round) = rounds.get_mut(step) {
        put(round);
    }
}

fn kind(body: &Value) -> String {
    let effect = body.get("effect").and_then(Value::as_object);
    let name = effect.and_then(|effect| effect.keys().next());
    name.cloned().unwrap_or_default()
}

fn read_job(mut body: Value, dir: &Path) -> Result<Job, ReplayError> {
    let left_out = |why: &str| ReplayError::LeftOut(why.to_owned());
    if let Some(why) = body.get("leftOut").and_then(Value::as_str) {
        return Err(left_out(why));
    }
    for name in ["task", "model_source"] {
        if let Some(document) = body.get_mut(name) {
            *document = Value::String(document.to_string());
        }
    }
    let backends = body.get_mut("backends").and_then(Value::as_array_mut);
    for backend in backends.into_iter().flatten() {
        let probes = backend.get_mut("probes").and_then(Value::as_array_mut);
        for probe in probes.into_iter().flatten() {
            let bytes = blob(probe, dir)
                .ok_or_else(|| left_out("what a program printed about itself is no longer kept"))?;
            *probe = Value::String(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    serde_json::from_value(body).map_err(|error| ReplayError::LeftOut(error.to_string()))
}

fn read_outcome(body: &Value, dir: &Path) -> Result<Outcome, ReplayError> {
    let mut outcome = body.get("outcome").cloned().unwrap_or_default();
    let place = ["/Bytes", "/Responded/body/Bytes"];
    let named = place.iter().find_map(|place| {
        let bytes = outcome.pointer_mut(place)?;
        bytes.is_object().then(|| bytes.take())
    });
    // In its place, so that the rest can be read.
    for place in place {
        if let Some(taken) = outcome.pointer_mut(place).filter(|taken| taken.is_null()) {
            *taken = Value::Array(Vec::new());
        }
    }
    let mut outcome: Outcome = serde_json::from_value(outcome)
        .map_err(|_| ReplayError::LeftOut("an outcome was too large to keep".to_owned()))?;
    if let Some(named) = named {
        let kept = blob(&named, dir).ok_or_else(|| {
            ReplayError::LeftOut("bytes that the plugin read are not kept".to_owned())
        })?;
        match &mut outcome {
            Outcome::Bytes(bytes)
            | Outcome::Responded(Response {
                body: Answer::Bytes(bytes),
                ..
            }) => *bytes = kept,
            _ => {}
        }
    }
    Ok(outcome)
}

/// Bytes kept by digest; checked, as anybody may have written there.
fn blob(named: &Value, dir: &Path) -> Option<Vec<u8>> {
    let digest = named.get("sha256")?.as_str()?;
    if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let file = fs::File::open(dir.join(BLOBS).join(digest)).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_BLOB as u64).read_to_end(&mut bytes).ok()?;
    (told::digest(&bytes) == digest).then_some(bytes)
}

/// Steps an engine through a journal.
pub async fn replay(engine: &Engine, recorded: &Recorded) -> Trace {
    let job = Arc::new(recorded.job.clone());
    let mut history: Arc<Vec<Outcome>> = Arc::default();
    let mut trace = Trace {
        steps: Vec::new(),
        end: Ended::Broke("it did not finish within its limit of steps".to_owned()),
        fuel: 0,
    };
    for step in 0..engine.limits().steps {
        let (answer, fuel) = engine.step_measured(&job, &history).await;
        trace.fuel += fuel;
        let effects = match answer {
            Ok(Ok(Next::Perform(effects))) => effects,
            Ok(Ok(Next::Finish(finished))) => {
                trace.end = Ended::Finished(told::output(&finished.output));
                return trace;
            }
            Ok(Err(failure)) => {
                trace.end = Ended::Failed(failure.message);
                return trace;
            }
            Err(fault) if fault.is_plugins_fault() => {
                trace.end = Ended::Broke(fault.to_string());
                return trace;
            }
            Err(_) => {
                // The machine was too busy to tell.
                trace.end = Ended::Diverged(step);
                return trace;
            }
        };
        let unknown = crate::job::undeclared(engine, &effects);
        let kinds: Vec<&str> = effects.iter().map(told::kind).collect();
        trace.steps.push(effects);
        if let Some(backend) = unknown {
            trace.end = Ended::UnknownBackend(backend);
            return trace;
        }
        let at = usize::try_from(step).unwrap_or(usize::MAX);
        match recorded.rounds.get(at).filter(|round| round.kinds == kinds) {
            Some(round) => {
                Arc::make_mut(&mut history).extend(round.outcomes.iter().cloned());
            }
            None => {
                trace.end = Ended::Diverged(step);
                return trace;
            }
        }
    }
    trace
}

/// What differs between two versions on one journal, a line each.
pub fn differences(before: &Trace, after: &Trace) -> Vec<String> {
    let mut lines = Vec::new();
    for (old, new) in before.steps.iter().zip(&after.steps) {
        for (old, new) in old.iter().zip(new) {
            match (old, new) {
                (Effect::Run(old), Effect::Run(new)) => commands(old, new, &mut lines),
                _ if old == new => {}
                _ => lines.push(changed(&value(old), &value(new))),
            }
        }
    }
    if before.end != after.end {
        lines.push(match (&before.end, &after.end) {
            (Ended::Finished(_), Ended::Finished(_)) => "the product differs".to_owned(),
            (old, new) => changed(&ended(old), &ended(new)),
        });
    }
    lines.truncate(MAX_LINES);
    lines
}

/// An effect on one line: a command as its words, anything else as JSON.
pub fn effect_line(effect: &Effect) -> String {
    match effect {
        Effect::Run(command) => {
            let shown: Vec<String> = arguments(command).iter().map(words).collect();
            format!("run {} {}", command.backend, shown.join(" "))
        }
        other => value(other),
    }
}

fn value(effect: &Effect) -> String {
    told::effect(effect, short).to_string()
}

/// An end in words.
pub fn ended(end: &Ended) -> String {
    match end {
        Ended::Finished(_) => "finishes".to_owned(),
        Ended::Failed(message) => format!("fails: {message}"),
        Ended::Broke(why) => format!("breaks: {why}"),
        Ended::UnknownBackend(name) => format!("asks for the undeclared program `{name}`"),
        Ended::Diverged(step) => format!("diverged at step {step}"),
    }
}

fn changed(old: &str, new: &str) -> String {
    format!("{} → {}", cut(old), cut(new))
}

fn cut(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(SHOWN)
        .collect();
    if text.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}

/// An argument as it is shown: its option and its value.
type Shown = (String, Option<String>);

fn commands(old: &Command, new: &Command, lines: &mut Vec<String>) {
    if old.backend != new.backend {
        lines.push(changed(&old.backend, &new.backend));
    }
    let (mut left, mut added) = (arguments(old), Vec::new());
    for argument in arguments(new) {
        match left.iter().position(|one| *one == argument) {
            Some(at) => drop(left.remove(at)),
            None => added.push(argument),
        }
    }
    // Options of the same name first, then what is left by position: a renamed option stands where the old one stood.
    let mut unpaired = Vec::new();
    for argument in added {
        let same = left
            .iter()
            .position(|one| one.0 == argument.0 && !one.0.is_empty());
        match same {
            Some(at) => {
                let before = left.remove(at);
                lines.push(format!(
                    "{} {}",
                    cut(&argument.0),
                    changed(
                        before.1.as_deref().unwrap_or("nothing"),
                        argument.1.as_deref().unwrap_or("nothing")
                    )
                ));
            }
            None => unpaired.push(argument),
        }
    }
    let mut left = left.into_iter();
    for argument in unpaired {
        match left.next() {
            Some(before) => lines.push(changed(&words(&before), &words(&argument))),
            None => lines.push(format!("+ {}", cut(&words(&argument)))),
        }
    }
    lines.extend(left.map(|before| format!("- {}", cut(&words(&before)))));
    if old.environment != new.environment {
        lines.push("the environment differs".to_owned());
    }
    if old.outputs != new.outputs || old.input != new.input {
        lines.push("inputs or outputs differ".to_owned());
    }
}

fn words((name, value): &Shown) -> String {
    match value {
        Some(value) if name.is_empty() => value.clone(),
        Some(value) => format!("{name} {value}"),
        None => name.clone(),
    }
}

fn arguments(command: &Command) -> Vec<Shown> {
    let arguments = command.arguments.iter();
    arguments
        .map(|argument| match argument {
            Argument::Flag(name) => (name.clone(), None),
            Argument::Setting(setting) => (setting.name.clone(), Some(join(&setting.value))),
            Argument::Positional(pieces) => (String::new(), Some(join(pieces))),
        })
        .collect()
}

fn join(pieces: &[Piece]) -> String {
    let shown = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::File(id) => format!("<file {id}>"),
        Piece::Output(index) => format!("<output {index}>"),
        Piece::Directory(entries) => format!("<directory of {}>", entries.len()),
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use worker_plugins::contract::Setting;

    use super::*;

    fn command(arguments: &[(&str, Option<&str>)]) -> Command {
        Command {
            backend: "program".to_owned(),
            environment: Vec::new(),
            arguments: arguments
                .iter()
                .map(|(name, value)| match value {
                    None => Argument::Flag((*name).to_owned()),
                    Some(value) => Argument::Setting(Setting {
                        name: (*name).to_owned(),
                        value: vec![Piece::Text((*value).to_owned())],
                        equals: false,
                    }),
                })
                .collect(),
            outputs: Vec::new(),
            input: Vec::new(),
            timeout_ms: None,
        }
    }

    #[test]
    fn a_changed_value_and_a_renamed_option_are_readable() {
        let old = command(&[("--steps", Some("20")), ("--one", None), ("--gone", None)]);
        let new = command(&[("--steps", Some("24")), ("--two", Some("x=1"))]);
        let mut lines = Vec::new();
        commands(&old, &new, &mut lines);
        assert_eq!(lines, ["--steps 20 → 24", "--one → --two x=1", "- --gone"]);
    }

    #[test]
    fn equal_commands_have_no_difference() {
        let mut lines = Vec::new();
        let one = command(&[("--steps", Some("20"))]);
        commands(&one, &one, &mut lines);
        assert!(lines.is_empty());
    }
}
