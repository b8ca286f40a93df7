//! The host knows no task kind, no engine, no flag and no model.

use std::path::{Path, PathBuf};

use worker_tests::built;

/// Words that belong to plugins.
const WORDS: &[&str] = &[
    "diffusion",
    "sampling",
    "whisper",
    "llama",
    "audio_stt",
    "audio_tts",
    "lora",
];

/// Pairs of words, with at most one character between them.
const PAIRS: &[(&str, &str)] = &[("cfg", "scale"), ("negative", "prompt")];

fn has_pair(line: &str, (first, second): (&str, &str)) -> bool {
    line.match_indices(first).any(|(at, _)| {
        let rest = &line[at + first.len()..];
        let mut behind = rest.chars();
        behind.next();
        rest.starts_with(second) || behind.as_str().starts_with(second)
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_word_of_any_engine_stands_in_the_host() {
    let mut files = Vec::new();
    sources(&built::root().join("host"), &mut files);
    assert!(files.len() > 20, "the host was found");
    let mut hits = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap().to_lowercase();
        for (number, line) in text.lines().enumerate() {
            let word = WORDS.iter().find(|word| line.contains(**word)).copied();
            let pair = PAIRS
                .iter()
                .find(|pair| has_pair(line, **pair))
                .map(|pair| pair.0);
            if let Some(word) = word.or(pair) {
                hits.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    assert!(hits.is_empty(), "{hits:#?}");
}

#[test]
fn the_search_finds_what_it_looks_for() {
    for line in ["cfgscale", "--cfg-scale", "a cfg_scale b"] {
        assert!(has_pair(line, PAIRS[0]), "{line}");
    }
    assert!(!has_pair("cfg the scale", PAIRS[0]));
}

/// What `docs/security.md` promises is shown by tests that are there.
#[test]
fn every_test_that_the_security_page_names_is_there() {
    let page = std::fs::read_to_string(built::root().join("docs/security.md")).unwrap();
    let named: Vec<(&str, &str)> = page
        .split('`')
        .filter_map(|part| part.split_once(".rs::"))
        .collect();
    assert!(named.len() > 60, "the page names tests: {}", named.len());
    for (file, test) in named {
        let path = built::root().join(format!("{file}.rs"));
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            text.contains(&format!("fn {test}(")),
            "{file}.rs has no test {test}"
        );
    }
}
