use super::*;

fn read(line: &[&str]) -> Result<Invocation, clap::Error> {
    invocation(
        std::iter::once("studio-worker")
            .chain(line.iter().copied())
            .map(OsString::from),
    )
}

fn meant(line: &[&str]) -> Command {
    read(line).unwrap().command
}

#[test]
fn the_definition_is_sound() {
    Typed::command().debug_assert();
}

#[test]
fn words_and_settings_become_one_submission() {
    let Command::Submit(submission) = meant(&[
        "submit",
        "image",
        "--a koi pond",
        "--model",
        "m",
        "--set",
        "seed=7",
        "--set",
        "ext=webp",
        "--set",
        "tags=[1]",
        "-o",
        "koi.webp",
    ]) else {
        panic!("not a submission")
    };
    assert_eq!(
        submission.work,
        Work::Compose {
            kind: "image".into(),
            text: "--a koi pond".into(),
            model: Some("m".into()),
            settings: vec![
                ("seed".into(), 7.into()),
                ("ext".into(), "webp".into()),
                ("tags".into(), serde_json::json!([1])),
            ],
            model_source: None,
            vram_gb: None,
        }
    );
    assert!(submission.wait && submission.output.is_some());
}

#[test]
fn an_offer_stands_alone() {
    let Command::Submit(submission) = meant(&["submit", "--offer", "o.json", "--no-wait"]) else {
        panic!("not a submission")
    };
    assert_eq!(submission.work, Work::Offer("o.json".into()));
    assert!(!submission.wait);
}

#[test]
fn what_contradicts_itself_is_a_usage_error() {
    for line in [
        &["submit"][..],
        &["submit", "image"],
        &["submit", "image", "x", "--offer", "f"],
        &["submit", "image", "x", "--set", "seed"],
        &["submit", "image", "x", "--set", "=7"],
        &["submit", "image", "x", "--no-wait", "-o", "f"],
        &["results", "remove"],
        &["results", "remove", "x", "--all"],
        &["register", "--api-base-url", "ftp://h"],
        &["register", "--api-base-url", "https://me:pw@h"],
        &["studio", "--listen", "nowhere"],
        &["cancel", "../x"],
        &["set-threshold", "much"],
        &["plugin"],
        &["models", "remove"],
        &["models", "gc", "--max=-1"],
        &["models", "pull"],
        &["plugin", "validate"],
        &["programs", "accept"],
        &["programs", "accept", "abc"],
        &["nonsense"],
        &[],
    ] {
        assert_eq!(read(line).unwrap_err().exit_code(), 2, "{line:?}");
    }
}

#[test]
fn results_without_a_word_lists() {
    assert!(matches!(
        meant(&["results"]),
        Command::Results {
            action: Results::List,
            json: false
        }
    ));
    assert!(matches!(
        meant(&["results", "list", "--json"]),
        Command::Results {
            action: Results::List,
            json: true
        }
    ));
}

#[test]
fn the_configuration_may_be_named_on_either_side() {
    for line in [
        ["--config", "c.toml", "status"],
        ["status", "--config", "c.toml"],
    ] {
        assert_eq!(
            read(&line).unwrap().config,
            Some("c.toml".into()),
            "{line:?}"
        );
    }
}

#[test]
fn a_negative_threshold_reaches_its_own_check() {
    assert!(
        matches!(meant(&["set-threshold", "-1"]), Command::SetThreshold { gigabytes } if gigabytes < 0.0)
    );
}
