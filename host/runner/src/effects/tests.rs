//! What is refused before anything is done. The whole-program tests show the same through a real plugin.

use std::ffi::OsString;

use worker_plugins::contract::{Argument, Entry, Failure, Piece, Setting};

use super::Refused;
use super::arguments::{KnownOptions, Places, build};

/// One file, one output with a path, one printed one.
struct Fixed;

impl Places for Fixed {
    fn file(&mut self, id: u32) -> Result<OsString, Refused> {
        if id == 0 {
            Ok("/m/a.bin".into())
        } else {
            Err(Refused::NoSuchFile { id })
        }
    }

    fn output(&mut self, index: u32) -> Result<OsString, Refused> {
        match index {
            0 => Ok("/o/0.png".into()),
            1 => Err(Refused::OutputWithoutPath { index }),
            _ => Err(Refused::NoSuchOutput { index, count: 2 }),
        }
    }

    fn directory(&mut self, _: &[Entry]) -> Result<OsString, Refused> {
        Ok("/d".into())
    }
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

fn setting(name: &str, value: Vec<Piece>, equals: bool) -> Argument {
    Argument::Setting(Setting {
        name: name.to_owned(),
        value,
        equals,
    })
}

fn built(arguments: &[Argument], help: Option<&str>) -> Result<Vec<OsString>, Refused> {
    let probes = help.map(|help| vec![help.to_owned()]);
    let known = KnownOptions {
        program: "draw",
        release: Some("r7"),
        probes: probes.as_deref(),
    };
    build(arguments, &known, &mut Fixed)
}

#[test]
fn tokens_become_paths_and_values_are_taken_as_they_are() {
    let words = built(
        &[
            Argument::Flag("--fast".to_owned()),
            setting("--in", vec![Piece::File(0)], false),
            setting("-o", vec![Piece::Output(0)], false),
            setting("--text", vec![text("--help; rm -rf /")], false),
            setting("--mix", vec![text("a="), Piece::File(0)], true),
            Argument::Positional(vec![Piece::Directory(Vec::new())]),
        ],
        None,
    )
    .unwrap();
    let expected = [
        "--fast",
        "--in",
        "/m/a.bin",
        "-o",
        "/o/0.png",
        "--text",
        "--help; rm -rf /",
        "--mix=a=/m/a.bin",
        "/d",
    ];
    assert_eq!(words, expected.map(OsString::from));
}

#[test]
fn each_bad_argument_is_refused_for_what_it_is() {
    type Kind = fn(&Refused) -> bool;
    let cases: [(Argument, Kind); 9] = [
        (Argument::Positional(vec![text("-x")]), |r| {
            matches!(r, Refused::PositionalOption)
        }),
        (Argument::Positional(vec![text(""), text("-x")]), |r| {
            matches!(r, Refused::PositionalOption)
        }),
        (Argument::Positional(vec![text("a\0b")]), |r| {
            matches!(r, Refused::Nul)
        }),
        (Argument::Flag("fast".to_owned()), |r| {
            matches!(r, Refused::OptionName { .. })
        }),
        (Argument::Flag("--flag=/etc/passwd".to_owned()), |r| {
            matches!(r, Refused::OptionName { .. })
        }),
        (Argument::Flag("--a b".to_owned()), |r| {
            matches!(r, Refused::OptionName { .. })
        }),
        (setting("-o", vec![Piece::Output(1)], false), |r| {
            matches!(r, Refused::OutputWithoutPath { .. })
        }),
        (setting("-o", vec![Piece::Output(9)], false), |r| {
            matches!(r, Refused::NoSuchOutput { .. })
        }),
        (setting("-i", vec![Piece::File(7)], false), |r| {
            matches!(r, Refused::NoSuchFile { id: 7 })
        }),
    ];
    for (argument, is_kind) in cases {
        let refused = built(std::slice::from_ref(&argument), None).unwrap_err();
        assert!(is_kind(&refused), "{argument:?}: {refused}");
    }
}

#[test]
fn an_option_that_the_release_dropped_is_named_with_program_and_release() {
    let refused = built(
        &[Argument::Flag("--slow".to_owned())],
        Some("  --fast   be quick"),
    )
    .unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused, Refused::UnknownOption { .. }));
    for word in ["draw", "--slow", "r7"] {
        assert!(told.contains(word), "{told}");
    }
    assert!(
        built(
            &[Argument::Flag("--fast".to_owned())],
            Some("  --fast   be quick")
        )
        .is_ok()
    );
}

#[test]
fn too_many_and_too_long_arguments_are_refused() {
    let many: Vec<_> = (0..100_000)
        .map(|n| Argument::Positional(vec![text(&n.to_string())]))
        .collect();
    assert!(matches!(
        built(&many, None),
        Err(Refused::TooManyArguments { count: 100_000, .. })
    ));
    let long = [setting("-t", vec![text(&"x".repeat(200_000))], false)];
    assert!(matches!(
        built(&long, None),
        Err(Refused::ArgumentsTooLong { .. })
    ));
}

#[test]
fn only_a_program_that_went_missing_may_come_back() {
    let missing = Refused::MissingProgram {
        name: "draw".to_owned(),
        help: "it does not answer".to_owned(),
    };
    assert!(Failure::from(missing).retryable);
    let undeclared = Refused::UndeclaredBackend {
        name: "draw".to_owned(),
    };
    assert!(!Failure::from(undeclared).retryable);
}
