//! Every limit bites, in every export and at instantiation, and the next call succeeds.

use std::sync::Arc;

use worker_plugins::{CallError, Fault, Finisher, Loaded, Product, Provenance, Rule};

use crate::guest::{self, FLOOD, GROW, Guest, HUGE, HUGE_PAGES, LOOP, RECURSE, TABLE};
use crate::support::{Folder, Logged, assert_rule, candidate, fault, job, sandbox, worker_state};

/// Small limits, so that running into each takes no time.
const POLICY: &str = "
router = \"router\"
[plugins.x]
memory-mib = 256
quick-ms = 20
step-ms = 20
finish-ms = 20
returned-mib = 8
[plugins.router]
memory-mib = 256
quick-ms = 20
";
const ASKS: &str = r#"{"limits":{"memory-mib":256}}"#;

type IsIt = fn(&Fault) -> bool;

/// What a guest does wrong, and what that is called.
const CRIMES: [(&str, &str, IsIt); 6] = [
    ("loop", LOOP, |fault| {
        matches!(fault, Fault::Fuel { limit_ms: 20 })
    }),
    ("grow", GROW, |fault| {
        matches!(fault, Fault::Memory { limit_mib: 256 })
    }),
    ("recurse", RECURSE, |fault| {
        matches!(fault, Fault::Stack { .. })
    }),
    ("flood", FLOOD, |fault| matches!(fault, Fault::Fuel { .. })),
    ("table", TABLE, |fault| {
        matches!(fault, Fault::Tables { limit: 20_000 })
    }),
    ("huge", HUGE, |fault| {
        matches!(fault, Fault::Transfer { .. })
    }),
];

fn criminal(guest: Guest, function: &str, body: &str) -> Vec<u8> {
    if body != HUGE {
        return guest.with(function, body).asking(ASKS);
    }
    let (body, returned) = guest::huge(function);
    let guest = guest
        .with_pages(HUGE_PAGES)
        .with_data(&guest::words(6144, &returned));
    guest.with(function, body).asking(ASKS)
}

async fn loaded(name: &str, bytes: &[u8]) -> Loaded {
    let folder = Folder::serving().put(name, bytes).policy(POLICY);
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert!(loaded.refused.is_empty(), "{:?}", loaded.refused);
    loaded
}

/// Calls one function of the engine `x`.
async fn call(loaded: &Loaded, function: &str) -> Result<(), CallError> {
    let engine = loaded.generation.engine("x").unwrap();
    match function {
        "builds" => engine.builds("b", "r").await.map(drop),
        "compose" => engine.compose("haiku", "snow", "{}").await.map(drop),
        "subject" => engine.subject(&job()).await.map(drop),
        "step" => engine.step(&job(), &Arc::new(vec![])).await.map(drop),
        "read-progress" => engine
            .read_progress("b", 0, vec!["line".into()])
            .await
            .map(drop),
        other => panic!("{other}"),
    }
}

async fn finish(finisher: &Finisher) -> Result<(), CallError> {
    let provenance = Provenance {
        generation: "g".into(),
        plugins: vec![],
        programs: vec![],
        facts: vec![],
    };
    finisher
        .finish(&job(), Arc::new(Product::Json("{}".into())), provenance)
        .await
        .map(drop)
}

#[tokio::test]
async fn every_export_of_an_engine() {
    for (what, body, is_it) in CRIMES {
        for function in ["builds", "compose", "subject", "step", "read-progress"] {
            let loaded = loaded("x.wasm", &criminal(guest::engine(), function, body)).await;
            let found = fault(call(&loaded, function).await);
            assert!(is_it(&found), "{what} in {function}: {found}");
            let other = if function == "subject" {
                "builds"
            } else {
                "subject"
            };
            call(&loaded, other).await.unwrap();
        }
    }
}

#[tokio::test]
async fn every_export_of_a_router_and_a_finisher() {
    for (what, body, is_it) in CRIMES {
        let loaded_router = loaded("router.wasm", &criminal(guest::router(), "route", body)).await;
        let router = loaded_router.generation.router();
        let found = fault(
            router
                .route("{}", vec![candidate("haiku")], worker_state())
                .await,
        );
        assert!(is_it(&found), "{what} in route: {found}");

        let loaded = loaded("x.wasm", &criminal(guest::finisher(), "finish", body)).await;
        let found = fault(finish(&loaded.generation.finishers()[0]).await);
        assert!(is_it(&found), "{what} in finish: {found}");
    }
}

#[tokio::test]
async fn what_is_called_while_loading() {
    for (what, body, _) in CRIMES {
        let mut files = vec![
            (guest::engine(), "describe"),
            (guest::finisher(), "accepts"),
        ];
        for (guest, function) in files.drain(..) {
            let folder = Folder::serving()
                .put("x.wasm", &criminal(guest, function, body))
                .policy(POLICY);
            let loaded = folder.load(&sandbox()).await.unwrap();
            assert_rule(&loaded.refused[0], Rule::Probe, function);
            assert!(
                names_limit(what, &loaded.refused[0].detail),
                "{what}: {}",
                loaded.refused[0]
            );
        }
    }
}

#[tokio::test]
// A start function cannot log: the import is joined to the module only after it.
async fn instantiation() {
    for guest in [guest::engine(), guest::router(), guest::finisher()] {
        for (what, body, _) in CRIMES
            .into_iter()
            .filter(|(what, ..)| *what != "huge" && *what != "flood")
        {
            let bytes = guest.clone().with_start(body).asking(ASKS);
            let folder = Folder::serving().put("x.wasm", &bytes).policy(POLICY);
            let loaded = folder.load(&sandbox()).await.unwrap();
            assert_rule(&loaded.refused[0], Rule::Probe, "instantiate");
            assert!(
                names_limit(what, &loaded.refused[0].detail),
                "{what}: {}",
                loaded.refused[0]
            );
        }
    }
}

fn names_limit(crime: &str, line: &str) -> bool {
    line.contains(match crime {
        "loop" | "flood" => "20 ms worth of fuel",
        "grow" => "limit of 256 MiB",
        "recurse" => "limit of 512 KiB",
        "table" => "limit of 20000",
        _ => "at most 4 MiB",
    })
}

#[tokio::test]
async fn initial_memory_is_counted_over_all_memories() {
    let mut guest = guest::engine().with_pages(600);
    guest.extra = "(memory $second 600)".to_owned();
    let folder = Folder::serving().put("x.wasm", &guest.build());
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert_rule(&loaded.refused[0], Rule::Probe, "limit of 64 MiB");
}

#[tokio::test]
async fn a_realloc_that_never_ends_is_ended() {
    let mut guest = guest::engine();
    // Lowering the arguments calls into the guest as well.
    guest.extra = "(global $calls (mut i32) (i32.const 0))".to_owned();
    let module = guest.module().replace(
        "(global.get $heap)\n                (global.set",
        "(loop $l (br $l)) (global.get $heap)\n                (global.set",
    );
    let bytes = guest::section(
        guest::encode("engine-plugin", &module),
        "studio-worker:grants",
        ASKS.as_bytes(),
    );
    let loaded = loaded("x.wasm", &bytes).await;
    assert!(matches!(
        fault(call(&loaded, "subject").await),
        Fault::Fuel { .. }
    ));
}

#[tokio::test]
async fn a_flood_of_lines_is_cut_and_said_once() {
    Logged::global();
    let body = "(local $n i32) (loop $l (call $log (i32.const 1) (i32.const 1100) (i32.const 5)) (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 500)))) i32.const 3300";
    let bytes = guest::engine().with("subject", body).build();
    let folder = Folder::serving().put("flood-lines.wasm", &bytes);
    let loaded = folder.load(&sandbox()).await.unwrap();
    let engine = loaded.generation.engine("flood-lines").unwrap();
    assert_eq!(engine.subject(&job()).await.unwrap(), "haiku");
    let lines = Logged::of("flood-lines");
    assert_eq!(lines.len(), 65, "{lines:?}");
    assert_eq!(lines.first().unwrap(), "haiku");
    assert_eq!(
        lines.last().unwrap(),
        "436 more log lines of this call were dropped"
    );
}

#[tokio::test]
async fn long_lines_and_escapes_are_cut_and_escaped() {
    Logged::global();
    // A line of 50,000 zero bytes, and one with a terminal escape, as an error; then a trap.
    let body = "(call $log (i32.const 3) (i32.const 80000) (i32.const 50000)) (call $log (i32.const 3) (i32.const 1200) (i32.const 6)) unreachable";
    let guest = guest::engine()
        .with("subject", body)
        .with_data(&guest::text(1200, "a\n\u{1b}[2J"));
    let folder = Folder::serving().put("long-lines.wasm", &guest.build());
    let loaded = folder.load(&sandbox()).await.unwrap();
    let engine = loaded.generation.engine("long-lines").unwrap();
    let error = engine.subject(&job()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Trap(_)), "{error}");
    // What it said last as an error is part of what the job fails with.
    assert_eq!(error.said.as_deref(), Some("a\\n\\u{1b}[2J"));
    let lines = Logged::of("long-lines");
    assert!(
        lines[0].len() < 2_200 && lines[0].starts_with("\\u{0}"),
        "{}",
        lines[0].len()
    );
    assert_eq!(lines[1], "a\\n\\u{1b}[2J");
}
