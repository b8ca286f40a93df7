//! What a state means, and what lets a canary pass.

use super::*;

const SOON: Option<Duration> = Some(Duration::from_secs(1));

fn on_probation() -> Share {
    let mut share = Share::default();
    share.send(0, 1);
    share.tell(word::PROBATION, "", 1_000);
    share
}

fn jobs(count: u32) -> Rules {
    Rules {
        canary_jobs: Some(count),
        ..Rules::default()
    }
}

#[test]
fn a_canary_passes_by_its_jobs_by_time_or_by_the_end_of_its_probation() {
    let mut share = Share::default();
    share.send(0, 1);
    let rules = Rules::default();
    assert!(share.passed(&rules, SOON).is_err());
    let mut share = on_probation();
    let waits = share.passed(&rules, SOON).unwrap_err();
    assert!(waits.contains("end of its probation"), "{waits}");
    share.left(Some(10));
    share.left(Some(8));
    let waits = share.passed(&rules, SOON).unwrap_err();
    assert!(waits.contains("8 more jobs"), "{waits}");
    assert!(share.passed(&jobs(0), SOON).is_ok());
    assert!(share.passed(&jobs(2), SOON).is_ok());
    let waits = share.passed(&jobs(3), SOON).unwrap_err();
    assert!(waits.contains("1 more job"), "{waits}");
    let soak = Rules {
        soak_seconds: Some(5),
        ..Rules::default()
    };
    let waits = share.passed(&soak, SOON).unwrap_err();
    assert!(waits.contains("4 s of soaking, or 8 more jobs"), "{waits}");
    let long = Some(Duration::from_secs(5));
    assert!(share.passed(&soak, long).is_ok());
    // Whatever its rules, it has to be there and say so.
    for rules in [&soak, &jobs(0), &rules] {
        assert!(share.passed(rules, None).is_err());
    }
    share.tell(word::ROLLED_BACK, "it trapped", 6_000);
    assert!(share.passed(&soak, long).is_err());
    assert_eq!(share.meaning(), Meaning::Failed);
}

#[test]
fn a_canarys_jobs_count_from_when_it_began_to_serve() {
    let mut share = on_probation();
    // Three were done before the first heartbeat that says what is left.
    share.jobs_done = 3;
    share.left(Some(7));
    assert!(share.passed(&jobs(3), SOON).is_ok());
    share.left(Some(6));
    let waits = share.passed(&jobs(4), SOON).unwrap_err();
    assert!(waits.contains("1 more job"), "{waits}");
    // What it did on another version is nothing.
    share.tell(word::CHECKING, "", 2_000);
    share.tell(word::PROBATION, "", 3_000);
    assert!(share.passed(&jobs(1), SOON).is_err());
}

#[test]
fn each_session_soaks_anew() {
    let mut share = on_probation();
    assert_eq!(share.soaked(), None);
    share.seen(Some((1, true)));
    let first = share.serving;
    share.seen(Some((1, true)));
    assert_eq!(share.serving, first, "it goes on");
    share.seen(None);
    assert!(share.is_missed() && share.soaked().is_none());
    share.seen(Some((2, false)));
    assert!(!share.is_missed() && share.soaked().is_none());
    share.seen(Some((2, true)));
    assert_ne!(share.serving, first);
    share.seen(Some((3, true)));
    assert_eq!(share.serving.map(|(no, _)| no), Some(3));
}

#[test]
fn what_lies_with_a_worker_is_told_from_what_lies_with_the_component() {
    let ends = |state: &str, rule: Option<&str>| {
        let mut share = on_probation();
        share.rule = rule.map(str::to_owned);
        share.tell(state, "because", 2_000);
        share.meaning()
    };
    for state in [
        word::WAITING,
        word::PINNED,
        word::NOT_ALLOWED,
        word::REMOVED,
        word::SUPERSEDED,
        word::DRAINING,
    ] {
        assert_eq!(ends(state, None), Meaning::Declined, "{state}");
    }
    for rule in OF_THE_WORKER {
        assert_eq!(ends(word::REFUSED, Some(rule)), Meaning::Declined, "{rule}");
    }
    for rule in ["signature", "not-signed", "probe", "shadow", "compiles"] {
        assert_eq!(ends(word::REFUSED, Some(rule)), Meaning::Failed, "{rule}");
    }
    for state in [word::REFUSED, word::ROLLED_BACK, word::QUARANTINED, GONE] {
        assert_eq!(ends(state, None), Meaning::Failed, "{state}");
    }
    let mut share = Share::default();
    share.send(0, 1);
    share.tell(GONE, "", 1);
    assert_eq!(share.meaning(), Meaning::Gone, "it never served there");
}

#[test]
fn what_could_not_be_fetched_is_sent_again_a_few_times() {
    for (state, end) in [
        (word::UNFETCHED, Meaning::Declined),
        (word::INTERRUPTED, Meaning::Failed),
    ] {
        let mut share = Share::default();
        share.send(0, 1);
        share.tell(state, "no route", 1);
        assert_eq!(share.meaning(), Meaning::Again);
        share.tries = TRIES;
        assert_eq!(share.meaning(), end);
    }
}

#[test]
fn the_documentation_lists_every_state_with_its_meaning() {
    let page = include_str!("../../../../../docs/pushing-updates.md");
    let (_, table) = page.split_once("| State | Meaning |").unwrap();
    let words = |text: &str| -> Vec<String> {
        let words = text.split(['`', ' ', ',']).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let mut listed = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split('|').skip(1);
        let (Some(first), Some(second)) = (cells.next(), cells.next()) else {
            continue;
        };
        let meaning = second.split('`').nth(1).unwrap_or_default();
        let (first, _) = first.split_once(", any other").unwrap_or((first, ""));
        let (states, rules) = first.split_once(", rule ").unwrap_or((first, ""));
        let rules: Vec<Option<String>> = match words(rules) {
            none if none.is_empty() => vec![None],
            some => some.into_iter().map(Some).collect(),
        };
        for state in words(states) {
            for rule in &rules {
                let mut share = Share {
                    rule: rule.clone(),
                    ..Share::default()
                };
                share.served = state == GONE;
                share.tell(&state, "", 0);
                let found = serde_json::to_value(share.meaning()).unwrap();
                listed.push((state.clone(), rule.clone()));
                assert_eq!(found, meaning, "{state} {rule:?}");
            }
        }
    }
    let has = |state: &str, rule: Option<&str>| {
        let sought = (state.to_owned(), rule.map(str::to_owned));
        assert!(listed.contains(&sought), "{sought:?} is not listed");
    };
    for state in [
        word::QUEUED,
        word::FETCHING,
        word::UNFETCHED,
        word::INTERRUPTED,
        word::SUPERSEDED,
        word::CHECKING,
        word::RECEIVED,
        word::PINNED,
        word::WAITING,
        word::REFUSED,
        word::PROBATION,
        word::ACTIVE,
        word::ROLLED_BACK,
        word::QUARANTINED,
        word::DRAINING,
        word::REMOVED,
        word::NOT_ALLOWED,
        GONE,
    ] {
        has(state, None);
    }
    for rule in OF_THE_WORKER {
        has(word::REFUSED, Some(rule));
    }
}
