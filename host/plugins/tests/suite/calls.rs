//! Calls that succeed, values that are refused, and calls that nobody waits for.

use std::sync::Arc;

use worker_plugins::{Fault, Next, Output};

use crate::guest::{self, engine, words};
use crate::support::{Folder, candidate, fault, job, sandbox, worker_state};

#[tokio::test]
async fn each_call_gets_an_answer_from_a_fresh_instance() {
    // Counts its calls in a global: a kept instance would fail the second.
    let mut guest = engine().with(
        "step",
        "(if (global.get $calls) (then unreachable)) (global.set $calls (i32.const 1)) i32.const 2048",
    );
    guest.extra = "(global $calls (mut i32) (i32.const 0))".to_owned();
    let engine = crate::support::engine(&guest.build(), "").await;
    for _ in 0..20 {
        match engine
            .step(&job(), &Arc::new(vec![]))
            .await
            .unwrap()
            .unwrap()
        {
            Next::Finish(finished) => assert_eq!(finished.output, Output::Json("{}".into())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(engine.subject(&job()).await.unwrap(), "haiku");
    assert_eq!(
        engine
            .compose("haiku", "snow", "{}")
            .await
            .unwrap()
            .unwrap(),
        ("{}".into(), "{}".into())
    );
    assert_eq!(engine.builds("b", "r").await.unwrap().unwrap(), vec![]);
    assert_eq!(
        engine
            .read_progress("b", 0, vec!["x".into()])
            .await
            .unwrap(),
        (0, None)
    );
    assert_eq!(engine.candidate().kinds, [("haiku".to_owned(), vec![])]);
}

#[tokio::test]
async fn memory_of_an_earlier_call_is_gone() {
    // Stores a mark where the job's text is, and traps when it is there already.
    let guest = engine().with(
        "subject",
        "(if (i32.load (i32.const 70000)) (then unreachable)) (i32.store (i32.const 70000) (i32.const 1)) i32.const 3300",
    );
    let engine = crate::support::engine(&guest.build(), "").await;
    for _ in 0..50 {
        assert_eq!(engine.subject(&job()).await.unwrap(), "haiku");
    }
}

#[tokio::test]
async fn a_router_can_choose_only_candidates() {
    let loaded = Folder::serving().load(&sandbox()).await.unwrap();
    let router = loaded.generation.router();
    let chosen = router
        .route("{}", vec![candidate("haiku")], worker_state())
        .await
        .unwrap();
    assert_eq!(chosen.unwrap(), "haiku");
    let found = fault(
        router
            .route("{}", vec![candidate("other")], worker_state())
            .await,
    );
    assert!(matches!(found, Fault::BadValue(_)));
}

#[tokio::test]
async fn values_that_make_no_sense() {
    // Each is a state of the words that `step` returns: a discriminant nobody knows, JSON that is none, nothing to perform.
    type IsIt = fn(&Fault) -> bool;
    let cases: [(&str, Vec<u32>, IsIt); 4] = [
        ("discriminant", vec![9], |f| {
            matches!(f, Fault::Transfer { .. })
        }),
        ("no json", vec![0, 1, 1, 1100, 5], |f| {
            matches!(f, Fault::BadValue(_))
        }),
        ("no effects", vec![0, 0, 0, 0], |f| {
            matches!(f, Fault::BadValue(_))
        }),
        ("wild list", vec![0, 0, 0xffff_fff0, 0xffff], |f| {
            matches!(f, Fault::Transfer { .. })
        }),
    ];
    for (what, state, is_it) in cases {
        let guest = engine()
            .with_data(&words(2048, &[0; 16]))
            .with_data(&words(2048, &state));
        let engine = crate::support::engine(&guest.build(), "").await;
        let found = fault(engine.step(&job(), &Arc::new(vec![])).await);
        assert!(is_it(&found), "{what}: {found}");
    }
}

#[tokio::test]
async fn a_failure_of_the_plugins_own_is_a_value() {
    let guest = engine()
        .with_data(&words(2048, &[1, 1200, 9, 1]))
        .with_data(&guest::text(1200, "no\n model"));
    let engine = crate::support::engine(&guest.build(), "").await;
    let failure = engine
        .step(&job(), &Arc::new(vec![]))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (failure.message.as_str(), failure.retryable),
        ("no model", true)
    );
}

#[tokio::test]
async fn calls_nobody_waits_for_free_their_threads() {
    // Two calls that would burn a minute of fuel hold both threads; abandoned, they end within a tick.
    let policy = "[plugins.x]\nstep-ms = 60000";
    let guest = engine()
        .with("step", guest::LOOP)
        .asking(r#"{"limits":{"step-ms":60000}}"#);
    let engine = crate::support::engine(&guest, policy).await;
    for _ in 0..4 {
        let (job, history) = (job(), Arc::new(vec![]));
        let step = engine.step(&job, &history);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(30), step).await;
        assert!(waited.is_err());
    }
    assert_eq!(engine.subject(&job()).await.unwrap(), "haiku");
}

#[tokio::test]
async fn many_calls_at_once_all_get_answers() {
    let engine = crate::support::engine(&engine().build(), "").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let engine = Arc::clone(&engine);
        tasks.spawn(async move { engine.subject(&job()).await });
    }
    for answer in tasks.join_all().await {
        assert_eq!(answer.unwrap(), "haiku");
    }
}
