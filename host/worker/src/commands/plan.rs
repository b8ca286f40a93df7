//! `plan`: what the plugins would ask for to serve an offer. Nothing is spawned, fetched or kept.

use std::path::Path;

use serde_json::Value;
use worker_config::{Paths, Settings};
use worker_runner::Programs;
use worker_wire::Claim;

use crate::cli::Failure;
use crate::{assemble, output};

/// Largest offer that is read, in bytes.
const MAX_OFFER: u64 = worker_wire::MAX_FRAME_BYTES as u64;

/// Longest line of one effect that is printed, in bytes. Shorter would cut off prompts that people write.
const MAX_SHOWN: usize = 16 * 1024;

/// Prints each effect, in order.
pub(crate) async fn run(
    paths: &Paths,
    settings: &Settings,
    offer: &Path,
    folder: Option<&Path>,
    as_json: bool,
) -> Result<(), Failure> {
    let claim = read(offer)?;
    let generation = assemble::would_serve(paths, folder).await?;
    let programs = Programs::only_looked_at(&settings.models_root, &paths.programs);
    programs.discover(&generation).await;
    let platform = assemble::platform();
    let plan = worker_runner::plan(&generation, &programs, &platform, &claim).await?;
    if as_json {
        return output::line(&serde_json::to_string_pretty(&plan.to_json())?);
    }
    output::line(&format!("plugin {} takes the offer", plan.engine))?;
    for program in &plan.unasked {
        output::line(&format!(
            "what this {program} can do is not known: a worker asks it when it starts, and a plan runs nothing"
        ))?;
    }
    for planned in &plan.steps {
        match &planned.command_line {
            Some(words) => {
                let words = shell_like(words);
                output::line(&format!("step {}: run {}", planned.step, shown(words)))?
            }
            None => {
                let effect = shown(planned.effect.to_string());
                output::line(&format!("step {}: {effect}", planned.step))?
            }
        }
    }
    output::line(&plan.end)
}

/// A line that a terminal can take.
fn shown(mut line: String) -> String {
    if line.len() > MAX_SHOWN {
        let bytes = line.len();
        line.truncate(line.floor_char_boundary(MAX_SHOWN));
        line.push_str(&format!("… ({bytes} bytes in all; --json shows more)"));
    }
    line
}

/// The claim in a file, or in the whole frame around it.
pub(super) fn read(path: &Path) -> Result<Claim, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_OFFER {
        return Err(Failure::new(format!(
            "{} has {size} bytes; an offer has at most {MAX_OFFER}",
            path.display()
        )));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|e| Failure::new(format!("{} is not JSON: {e}", path.display())))?;
    // A file may hold the claim or the whole frame around it; what a person writes by hand may lack the job's id.
    let mut claim = value.get("claim").cloned().unwrap_or(value);
    if let Some(object) = claim.as_object_mut() {
        for (name, value) in [
            ("jobId", Value::from("plan")),
            ("model", Value::from("")),
            ("vramGbEstimate", Value::from(0)),
        ] {
            object.entry(name).or_insert(value);
        }
    }
    Claim::read(&claim.to_string())
        .map_err(|e| Failure::new(format!("{}: {}", path.display(), e.reason)))
}

/// Words as a person would type them; for reading, not for running.
fn shell_like(words: &[String]) -> String {
    let plain = |word: &String| {
        !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_=./:,+<>".contains(c))
    };
    let shown: Vec<String> = words
        .iter()
        .map(|word| {
            if plain(word) {
                word.clone()
            } else {
                format!("{word:?}")
            }
        })
        .collect();
    shown.join(" ")
}
