//! `docs/failures`: what its pages quote is what the program says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use worker_tests::built;

/// What differs from one time to the next: `<…>` or `…` on a page, `{…}` in the code.
const ANYTHING: char = '\u{0}';
/// Fewer letters would be found anywhere.
const LETTERS: usize = 10;
/// Where a file's own tests begin.
const TESTS: &str = "#[cfg(test)]\nmod tests {";
/// What each page has, in this order.
const PARTS: [&str; 4] = [
    "**It says**",
    "**It means**",
    "**What to do**",
    "**By itself**",
];

fn pages() -> Vec<PathBuf> {
    let folder = fs::read_dir(built::root().join("docs/failures")).unwrap();
    let mut pages: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.file_name().unwrap() != "README.md");
    pages.sort();
    pages
}

/// All files of Rust below a folder that are no tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && !["tests", "benches", "target"].contains(&name.as_str()) {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The texts in a file, as far as its own tests: between quotation marks, lines joined.
fn texts(code: &str) -> Vec<String> {
    let code = code.split(TESTS).next().unwrap();
    let (mut found, mut rest) = (Vec::new(), code);
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (sign, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = match sign {
            b'/' if after.starts_with('/') => after.split_once('\n').map_or("", |(_, rest)| rest),
            b'\'' if after.starts_with("\"'") => &after[2..],
            b'"' => {
                let (text, after) = text(after);
                found.push(text);
                after
            }
            _ => after,
        };
    }
    found
}

/// One text, and what follows it.
fn text(code: &str) -> (String, &str) {
    let mut text = String::new();
    let mut signs = code.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return (text, &code[at + 1..]),
            '\\' => match signs.next() {
                // The line goes on at the next one's first word.
                Some((at, '\n')) => {
                    let blanks = code[at..].chars().take_while(|c| c.is_whitespace());
                    for _ in 1..blanks.count() {
                        signs.next();
                    }
                }
                Some((_, sign)) => text.push(sign),
                None => {}
            },
            sign => text.push(sign),
        }
    }
    (text, "")
}

/// A text with one sign for each thing that differs, written between these two, and without the marks of a quote in a quote.
fn pattern(text: &str, (begin, end): (char, char)) -> String {
    let mut pattern = String::new();
    let mut inside = false;
    for sign in text.chars() {
        if sign == begin || sign == '…' {
            if !pattern.ends_with(ANYTHING) {
                pattern.push(ANYTHING);
            }
            inside = sign == begin;
        } else if inside {
            inside = sign != end;
        } else if sign != '`' {
            pattern.push(sign);
        }
    }
    pattern
}

/// What stands between backticks before the page says what it means.
fn quotes(page: &str) -> Vec<String> {
    let says = page.split(PARTS[1]).next().unwrap();
    let says = says.split_once(PARTS[0]).map_or("", |(_, says)| says);
    let says = says.split_whitespace().collect::<Vec<_>>().join(" ");
    let quoted = says.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// Of those the ones that are sentences of the program's; names of settings and commands are none.
fn sentences(page: &str) -> Vec<String> {
    let patterns = quotes(page)
        .into_iter()
        .map(|quote| pattern(&quote, ('<', '>')));
    let trimmed = patterns.map(|pattern| pattern.trim_matches([ANYTHING, ' ']).to_owned());
    trimmed
        .filter(|quote| {
            let letters = quote.chars().filter(|c| c.is_alphabetic()).count();
            letters >= LETTERS && quote.contains(' ')
        })
        .collect()
}

#[test]
fn every_sentence_that_a_page_quotes_is_in_the_code() {
    let mut files = Vec::new();
    for folder in ["host", "plugins"] {
        sources(&built::root().join(folder), &mut files);
    }
    let read = |path: &PathBuf| texts(&fs::read_to_string(path).unwrap());
    let said: Vec<String> = { files.iter().flat_map(read) }
        .map(|text| pattern(&text, ('{', '}')))
        .collect();
    assert!(said.len() > 3_000, "the texts of the code: {}", said.len());
    // The kernel's words, in a program's mouth.
    let others = ["Permission denied", "Operation not permitted"];
    let mut missing = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let name = page.file_name().unwrap().to_str().unwrap();
        let quoted = sentences(&text);
        if quoted.is_empty() {
            missing.push(format!("{name} quotes nothing"));
        }
        let lost = quoted.iter().filter(|quote| {
            !others.contains(&quote.as_str()) && !said.iter().any(|text| text.contains(*quote))
        });
        missing.extend(lost.map(|quote| format!("{name}: {}", quote.replace(ANYTHING, "<…>"))));
    }
    assert!(missing.is_empty(), "not in the code: {missing:#?}");
}

#[test]
fn every_page_has_its_parts_and_is_in_the_index_once() {
    let index = fs::read_to_string(built::root().join("docs/failures/README.md")).unwrap();
    let mut listed: BTreeSet<String> = BTreeSet::new();
    for line in index.lines().filter(|line| line.starts_with("- [")) {
        assert!(listed.insert(line.to_owned()), "twice: {line}");
    }
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let name = page.file_name().unwrap().to_str().unwrap();
        let title = text.lines().next().unwrap().trim_start_matches("# ");
        let line = format!("- [{title}]({name})");
        assert!(listed.remove(&line), "not in the index: {line}");
        let places = PARTS.map(|part| text.find(part).unwrap_or_else(|| panic!("{name}: {part}")));
        assert!(places.is_sorted(), "{name}: {places:?}");
    }
    assert!(listed.is_empty(), "no such page: {listed:?}");
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().unwrap();
            let (file, part) = target.split_once('#').unwrap_or((target, ""));
            let path = page.parent().unwrap().join(file);
            let found = fs::read_to_string(&path);
            let found = found.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let anchors = found
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(anchor);
            assert!(
                part.is_empty() || anchors.into_iter().any(|anchor| anchor == part),
                "{}: {target}",
                page.display()
            );
        }
    }
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn texts_are_found_in_code_whatever_they_hold() {
    let code = r#"
        #[cfg(test)]
        // "no text"
        #[error("{url} is \"there\" ({}): \
            go on", .path.display())]
        let quote = '"';
        let half = if full { "; make room" } else { "" };
"#;
    let code = format!("{code}{TESTS} \"nor this\"");
    let found: Vec<String> = texts(&code)
        .iter()
        .map(|text| pattern(text, ('{', '}')))
        .collect();
    assert_eq!(found, ["\0 is \"there\" (\0): go on", "; make room", ""]);
    let page = "**It says** `<url> is \"there\" (…): go\non`, of `a` **It means** `no quote of it`";
    assert_eq!(sentences(page), ["is \"there\" (\0): go on"]);
}
