//! The ways to misbehave, each of which runs into the limit that it is named after and no other.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use studio_plugin::log;

/// More than any limit lets out.
const BIG: usize = 100 << 20;
/// Large enough to reach any memory limit before the computing limit.
const PIECE: usize = 1 << 20;

/// What an export is asked for in a text: the word behind `export:`.
pub(crate) fn asked<'a>(text: &'a str, export: &str) -> &'a str {
    let Some((_, rest)) = text.split_once(&format!("{export}:")) else {
        return "";
    };
    rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-')
        .next()
        .unwrap_or_default()
}

/// What this variant was built to do, when it is to be done here; else the usual text.
#[cfg_attr(
    feature = "router",
    allow(dead_code, reason = "the router's export has arguments")
)]
pub(crate) fn as_built(here: bool, usual: &str) -> String {
    let how = [
        ("loop", cfg!(feature = "loop")),
        ("grow", cfg!(feature = "grow")),
        ("recurse", cfg!(feature = "recurse")),
        ("big", cfg!(feature = "big")),
        ("flood", cfg!(feature = "flood")),
    ];
    match how.iter().find(|(_, built)| *built) {
        Some((how, _)) if here => now(how, usual),
        _ => usual.to_owned(),
    }
}

/// Does it. What comes back from `big` is 100 MiB, from `chatter` and from an unknown word the usual text.
pub(crate) fn now(how: &str, usual: &str) -> String {
    // Without it a panic would not say why.
    studio_plugin::runtime::start();
    match how {
        "loop" => loop {
            black_box(());
        },
        "grow" => grow(),
        "recurse" => recurse(1).to_string(),
        "big" => big(),
        "flood" => loop {
            log::info("over and over and over again");
        },
        "chatter" => {
            for _ in 0..1000 {
                log::info("a thousand lines, then it goes on");
            }
            usual.to_owned()
        }
        #[allow(clippy::panic, reason = "that is what it is here for")]
        "panic" => panic!("it was asked to"),
        _ => usual.to_owned(),
    }
}

/// Never written to, by [`crate::pages`]: putting letters into it would use up the computing limit
/// before the host sees how much comes.
#[allow(unsafe_code, reason = "checking 100 MiB costs as much as writing them")]
fn big() -> String {
    // SAFETY: zero bytes are UTF-8.
    unsafe { String::from_utf8_unchecked(vec![0; BIG]) }
}

fn grow() -> String {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![0_u8; PIECE]);
        black_box(&kept);
    }
}

/// Deep on the machine's stack and not on the one that the guest keeps in its memory. It has an end
/// that is never reached, without which the compiler makes a loop of it.
#[inline(never)]
fn recurse(depth: u32) -> u32 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    if CALLS.fetch_add(1, Ordering::Relaxed) == u32::MAX {
        return depth;
    }
    recurse(depth.wrapping_add(1)).rotate_left(7) ^ depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_asks_for_one_export() {
        let text = r#"{"prompt":"step:loop and subject:big"}"#;
        assert_eq!(asked(text, "step"), "loop");
        assert_eq!(asked(text, "subject"), "big");
        assert_eq!(asked(text, "compose"), "");
    }

    #[test]
    fn what_comes_back_comes_back() {
        assert_eq!(now("big", "usual").len(), 104_857_600);
        assert_eq!(now("chatter", "usual"), "usual");
        assert_eq!(now("", "usual"), "usual");
    }
}
