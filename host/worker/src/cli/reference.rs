//! The reference pages, written from the code and compared with what is in `docs/reference`.
//!
//! `UPDATE_REFERENCE=1 cargo test -p studio-worker` writes them anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use worker_config::{Effect, KEYS};

use super::typed::Typed;

const HEAD: &str = "<!-- Written from the code; `UPDATE_REFERENCE=1 cargo test -p studio-worker` writes it anew. -->\n\n";

fn compare(name: &str, page: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/reference")
        .join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/reference/{name} is out of date; write it with UPDATE_REFERENCE=1 cargo test -p studio-worker"
    );
}

fn describe(command: &mut Command, path: &str, page: &mut String) {
    let full = format!("{path} {}", command.get_name()).trim().to_owned();
    let help = command
        .clone()
        .bin_name(&full)
        .term_width(100)
        .render_long_help()
        .to_string();
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    write!(
        page,
        "## `{full}`\n\n```text\n{}\n```\n\n",
        lines.join("\n")
    )
    .unwrap();
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names.iter().filter(|name| *name != "help") {
        describe(command.find_subcommand_mut(name).unwrap(), &full, page);
    }
}

#[test]
fn the_command_line_page_is_current() {
    let mut page = format!("{HEAD}# The command line\n\n");
    describe(&mut Typed::command(), "", &mut page);
    page.truncate(page.trim_end().len());
    page.push('\n');
    compare("command-line.md", &page);
}

#[test]
fn the_metrics_page_is_current() {
    let mut page = format!("{HEAD}# Metrics\n\n");
    page.push_str("`GET /metrics` of the local API, in the text format of Prometheus; token and guards are those of every other route\n([protocol-extensions.md](../protocol-extensions.md#guards)). Counters begin with the worker.\n\n");
    page.push_str("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in crate::metrics::table::ALL {
        let labels: Vec<String> = metric.labels.iter().map(|one| format!("`{one}`")).collect();
        writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind.name(),
            labels.join(", "),
            metric.help
        )
        .unwrap();
    }
    compare("metrics.md", &page);
}

#[test]
fn the_configuration_page_is_current() {
    let mut page = format!("{HEAD}# config.toml\n\n");
    page.push_str("Unknown keys and comments are kept. `kept` keys are the reference worker's: checked and kept, and told to\nthe studio where the protocol has a place for them. `internal` ones are written by the worker.\n\n");
    page.push_str("| key | default | environment | use | meaning |\n|---|---|---|---|---|\n");
    for key in KEYS {
        let used = match key.effect {
            Effect::Used => "used",
            Effect::Internal => "internal",
            Effect::Kept => "kept",
        };
        let code = |text: Option<&str>| text.map_or_else(String::new, |text| format!("`{text}`"));
        writeln!(
            page,
            "| `{}` | {} | {} | {used} | {} |",
            key.name,
            code(key.default),
            code(key.variable),
            key.meaning
        )
        .unwrap();
    }
    compare("configuration.md", &page);
}
