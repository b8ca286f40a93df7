use super::*;
use crate::contract::{Media, Range};

fn run(arguments: Vec<Argument>) -> Next {
    Next::Perform(vec![Effect::Run(Command {
        backend: "b".into(),
        arguments,
        environment: vec![],
        outputs: vec![],
        input: vec![],
        timeout_ms: None,
    })])
}

#[test]
fn commands_are_bounded_in_arguments_and_bytes() {
    let limits = Limits::default();
    assert!(
        next(
            &run(vec![Argument::Flag("-v".into()); MAX_ARGUMENTS]),
            &limits
        )
        .is_ok()
    );
    for too_much in [
        run(vec![Argument::Flag("-v".into()); MAX_ARGUMENTS + 1]),
        run(vec![Argument::Positional(vec![Piece::Text(
            "x".repeat(MAX_ARGUMENT_BYTES + 1),
        )])]),
    ] {
        assert!(matches!(
            next(&too_much, &limits),
            Err(Fault::ReturnedTooLarge { .. })
        ));
    }
}

#[test]
fn empty_and_endless_wishes_are_refused() {
    let limits = Limits::default();
    assert!(matches!(
        next(&Next::Perform(vec![]), &limits),
        Err(Fault::BadValue(_))
    ));
    let waits = Next::Perform(vec![Effect::Wait(1); MAX_EFFECTS + 1]);
    assert!(matches!(
        next(&waits, &limits),
        Err(Fault::ReturnedTooLarge { .. })
    ));
    let read = Next::Perform(vec![Effect::Read(Range {
        file: 1,
        offset: 0,
        length: u32::MAX,
    })]);
    assert!(matches!(
        next(&read, &limits),
        Err(Fault::ReturnedTooLarge { .. })
    ));
}

#[test]
fn json_is_checked_and_its_depth_bounded() {
    let limits = Limits::default();
    let finish = |text: String| {
        Next::Finish(Finished {
            output: Output::Json(text),
            facts: vec![],
        })
    };
    assert!(next(&finish("{}".into()), &limits).is_ok());
    for bad in [
        "{".to_owned(),
        String::new(),
        format!("{}{}", "[".repeat(200), "]".repeat(200)),
        "NaN".to_owned(),
    ] {
        assert!(matches!(
            next(&finish(bad), &limits),
            Err(Fault::BadValue(_))
        ));
    }
    let long = format!("\"{}\"", "x".repeat(MAX_JSON_BYTES));
    assert!(matches!(
        next(&finish(long), &limits),
        Err(Fault::ReturnedTooLarge { .. })
    ));
    let media = Media {
        content: Part::File(0),
        ext: "webp".into(),
        media_type: None,
    };
    let facts = vec![("a".to_owned(), "b".to_owned()); MAX_FACTS + 1];
    let many = Next::Finish(Finished {
        output: Output::Media(media),
        facts,
    });
    assert!(matches!(
        next(&many, &limits),
        Err(Fault::ReturnedTooLarge { .. })
    ));
}

#[test]
fn builds_stay_under_their_granted_addresses() {
    let grants = Grants {
        build_urls: vec!["https://example.org/a/".into()],
        ..Grants::default()
    };
    let build = |url: &str, sha256: Option<&str>| {
        vec![Build {
            os: "linux".into(),
            arch: "x86_64".into(),
            url: url.into(),
            sha256: sha256.map(Into::into),
        }]
    };
    let digest = "0".repeat(64);
    assert!(
        builds(
            &build("https://example.org/a/b.zip", Some(&digest)),
            &grants
        )
        .is_ok()
    );
    for (url, sha256) in [
        ("https://evil.example/b.zip", None),
        ("https://example.org/a/../b", None),
        ("https://example.org/a/b", Some("0")),
    ] {
        assert!(
            matches!(
                builds(&build(url, sha256), &grants),
                Err(Fault::BadValue(_))
            ),
            "{url}"
        );
    }
}

#[test]
fn messages_are_one_line() {
    let shown = failure(Failure {
        message: "a\n  b\u{1b}[31m".into(),
        retryable: true,
    });
    assert_eq!(shown.message, "a b\\u{1b}[31m");
    assert!(
        !failure(Failure {
            message: String::new(),
            retryable: false
        })
        .message
        .is_empty()
    );
    let code = |code: &str| {
        rejection(Rejection {
            code: code.into(),
            reason: "r".into(),
        })
    };
    assert!(code("insufficient_memory").is_ok());
    for bad in ["", "Busy", "a-b", "1a", "a b"] {
        assert!(code(bad).is_err(), "{bad}");
    }
}
