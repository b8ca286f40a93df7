//! `results`: what no studio took.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use worker_delivery::{Aside, AsideContent, AsideEntry};
use worker_wire::timestamp;

use crate::cli::{Failure, Output, Results, one_line};

/// Characters of a prompt in a list; `show` prints all of it.
const PREVIEW_CHARS: usize = 60;

/// Lists, shows or removes. It works whether or not a worker runs.
pub(crate) fn run<W: Write>(
    aside: &Path,
    action: &Results,
    json: bool,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let aside = Aside::at(aside);
    match action {
        Results::List => list(&aside, json, output),
        Results::Show {
            wanted,
            output: file,
        } => show(&aside, wanted, file.as_deref(), json, output),
        Results::Remove { wanted } => {
            let entry = aside.find(wanted)?;
            aside.remove(&entry.id)?;
            removed(1, json, output)
        }
        Results::RemoveAll => {
            let entries = aside.list()?;
            for entry in &entries {
                aside.remove(&entry.id)?;
            }
            removed(entries.len(), json, output)
        }
    }
}

fn list<W: Write>(aside: &Aside, json: bool, output: &mut Output<W>) -> Result<(), Failure> {
    let entries = aside.list()?;
    if json {
        return output.json(&entries.iter().map(as_json).collect::<Vec<_>>());
    }
    if entries.is_empty() {
        return output.line("no results were kept aside");
    }
    for entry in &entries {
        output.line(format_args!(
            "{}  {}  job {}  {}  {}  \"{}\"",
            entry.id,
            timestamp(entry.set_aside_at),
            one_line(&entry.job),
            one_line(&entry.kind),
            size(&entry.content),
            preview(&entry.prompt),
        ))?;
        output.line(format_args!("    {}", one_line(&entry.reason)))?;
    }
    Ok(())
}

fn show<W: Write>(
    aside: &Aside,
    wanted: &str,
    file: Option<&Path>,
    json: bool,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let entry = aside.find(wanted)?;
    if let Some(file) = file {
        aside.write_out(&entry, file)?;
    }
    if json {
        return output.json(&as_json(&entry));
    }
    for (name, value) in [
        ("id", entry.id.to_string()),
        ("job", entry.job.clone()),
        ("kind", entry.kind.clone()),
        ("model", entry.model.clone()),
        ("studio", entry.studio.clone()),
        ("worker", entry.worker_id.clone()),
        ("finished", timestamp(entry.finished_at)),
        ("kept aside", timestamp(entry.set_aside_at)),
        ("reason", entry.reason.clone()),
        ("prompt", entry.prompt.clone()),
        ("content", size(&entry.content)),
    ] {
        output.line(format_args!("{name:<11} {}", one_line(&value)))?;
    }
    match (file, &entry.content) {
        (Some(file), _) => output.line(format_args!("written to  {}", file.display())),
        (None, AsideContent::Json(text) | AsideContent::Failure(text)) => {
            output.line(one_line(text))
        }
        (None, AsideContent::Media { ext, .. }) => output.line(format_args!(
            "write it with: studio-worker results show {} -o FILE.{}",
            entry.id,
            one_line(ext)
        )),
    }
}

fn removed<W: Write>(count: usize, json: bool, output: &mut Output<W>) -> Result<(), Failure> {
    if json {
        return output.json(&json!({ "removed": count }));
    }
    let plural = if count == 1 { "" } else { "s" };
    output.line(format_args!("removed {count} result{plural}"))
}

fn as_json(entry: &AsideEntry) -> Value {
    let mut value = json!({
        "id": entry.id.as_str(),
        "jobId": entry.job,
        "kind": entry.kind,
        "model": entry.model,
        "prompt": entry.prompt,
        "studio": entry.studio,
        "workerId": entry.worker_id,
        "finishedAt": timestamp(entry.finished_at),
        "keptAsideAt": timestamp(entry.set_aside_at),
        "reason": entry.reason,
        "bytes": entry.content.bytes(),
    });
    let (name, content) = match &entry.content {
        AsideContent::Media { ext, .. } => ("ext", Value::from(ext.clone())),
        AsideContent::Json(text) => ("result", serde_json::from_str(text).unwrap_or(Value::Null)),
        AsideContent::Failure(text) => ("failure", Value::from(text.clone())),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert(name.to_owned(), content);
    }
    value
}

fn size(content: &AsideContent) -> String {
    match content {
        AsideContent::Media { ext, bytes } => format!("{ext}, {bytes} bytes"),
        AsideContent::Json(text) => format!("JSON, {} bytes", text.len()),
        AsideContent::Failure(_) => "a failure".to_owned(),
    }
}

fn preview(prompt: &str) -> String {
    let mut text: String = prompt.chars().take(PREVIEW_CHARS).collect();
    if text.len() < prompt.len() {
        text.push('…');
    }
    one_line(&text)
}
