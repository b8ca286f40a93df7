//! The folder: renames, writes in place, deletions, what is broken, what is endless.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use worker_tests::{Home, PluginFolder, ScriptedStudio, Worker, offers};

use crate::support::{
    Rig, a_while, active, another, bomb, component, digest, journals, published, rename_in, saying,
};

/// A poem for a studio to ask for.
fn haiku(number: usize) -> Value {
    let task = json!({"kind": "haiku", "text": "snow"});
    let job = format!("job-{number}");
    offers::claim(&job, "haiku", task, offers::source("haiku"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_swaps_while_jobs_run_lose_and_tear_nothing_and_keep_no_memory() {
    swaps(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quarter of an hour; `cargo test --workspace --test swap ten_thousand -- --ignored`"]
async fn ten_thousand_swaps() {
    swaps(10_000).await;
}

/// What the versions say in every poem.
const SAYS: [&str; 2] = ["a frog leaps in", "a toad leaps in"];

/// What each job was delivered, by its id: which of the two it is.
fn products(studio: &ScriptedStudio) -> BTreeMap<String, usize> {
    let calls = studio.calls("complete").into_iter();
    calls
        .map(|call| {
            let job = call.path.rsplit('/').next().unwrap().to_owned();
            let body = String::from_utf8_lossy(&call.body).into_owned();
            let says: Vec<usize> = (0..2).filter(|one| body.contains(SAYS[*one])).collect();
            assert_eq!(says.len(), 1, "{job}: {body}");
            (job, says[0])
        })
        .collect()
}

/// Versions that take turns while a studio offers one job after the other.
async fn swaps(count: usize) {
    // They make different things, so that a job which one begins and the other ends could be seen.
    let first = component("haiku");
    let second = saying(&first, SAYS[0], SAYS[1]);
    let studio = Arc::new(ScriptedStudio::start().await);
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party().file("haiku.wasm", &first);
    let worker = home.start_with(folder.path(), &[]);
    let mut peer = studio.welcomed().await;
    let swapping = Arc::new(AtomicBool::new(true));
    let jobs = tokio::spawn({
        let (swapping, studio) = (swapping.clone(), studio.clone());
        async move {
            let mut done = 0usize;
            while swapping.load(Ordering::SeqCst) || done < 10 {
                // Each must be taken, and succeed.
                peer.accepted(&haiku(done)).await;
                done += 1;
                studio.called("complete", done).await;
            }
            done
        }
    });
    let mut done_by: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut note = || {
        for (job, generation, engine) in journals(&home.path("state/journal")) {
            done_by
                .entry(generation)
                .or_default()
                .insert(engine.clone());
            let before = seen.insert(job.clone(), engine.clone());
            assert!(
                before.is_none_or(|before| before == engine),
                "{job} began twice"
            );
        }
    };
    let mut resident = Vec::new();
    for round in 0..count {
        let next = if round % 2 == 0 { &second } else { &first };
        rename_in(folder.path(), "haiku.wasm", next);
        let wanted = digest(next);
        worker
            .status("the next version", |status| {
                active(status, "haiku") == wanted
            })
            .await;
        resident.push(worker.resident_kib());
        // The last 500 journals or so are kept.
        if round % 100 == 99 {
            note();
        }
    }
    swapping.store(false, Ordering::SeqCst);
    let done = jobs.await.unwrap();
    note();
    assert!(seen.len() >= done.min(500), "{} of {done}", seen.len());
    // Each product is of the version that its job began with, and both had their turns.
    let (products, digests) = (products(&studio), [digest(&first), digest(&second)]);
    assert_eq!(products.len(), done, "none lost, none twice");
    for (job, engine) in &seen {
        let says = products.get(job).map(|one| &digests[*one]);
        assert_eq!(says, Some(engine), "{job}");
    }
    let kinds: BTreeSet<usize> = products.values().copied().collect();
    assert_eq!(kinds.len(), 2);
    // Two contents, so two names of generations, however often they took turns; and none holds both.
    assert!(done_by.len() <= 2, "{done_by:?}");
    for (generation, engines) in &done_by {
        assert_eq!(engines.len(), 1, "{generation} mixes {engines:?}");
        assert!(
            engines
                .iter()
                .all(|engine| [digest(&first), digest(&second)].contains(engine))
        );
    }
    let status = worker
        .status("no draining generation", |status| {
            status["swap"]["draining"] == json!([])
        })
        .await;
    assert_eq!(
        active(&status, "haiku"),
        digest(if count.is_multiple_of(2) {
            &first
        } else {
            &second
        })
    );
    // What it holds is read at moments of all kinds, in the middle of compiling too: the middle one of many says what stays.
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let quarter = |number: usize| median(&resident[count * number / 4..count * (number + 1) / 4]);
    let steps: Vec<u64> = resident.chunks(count / 20).map(median).collect();
    println!("resident KiB, by twentieths: {steps:?}");
    let (second, last) = (quarter(1), quarter(3));
    println!(
        "{count} swaps, {done} jobs; resident {second} KiB in the second quarter, {last} KiB in the last"
    );
    assert!(
        last <= second + second / 20,
        "memory grew from {second} KiB in the second quarter to {last} KiB in the last"
    );
}

#[tokio::test]
async fn a_file_written_in_place_serves_once_it_is_whole_and_never_before() {
    use std::io::Write;
    let first = component("haiku");
    let second = another(&first, "second");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let before = (rig.generation().await, rig.published().await);
    let mut file = fs::File::create(rig.folder.path().join("haiku.wasm")).unwrap();
    file.write_all(&second[..second.len() / 2]).unwrap();
    file.flush().unwrap();
    // Half of it lies there long enough to be looked at, and refused.
    rig.candidate("haiku", "refused").await;
    assert_eq!(rig.active("haiku").await, digest(&first));
    let now = (rig.generation().await, rig.published().await);
    assert_eq!(now, before, "the very same object");
    rig.haiku().await;
    file.write_all(&second[second.len() / 2..]).unwrap();
    drop(file);
    rig.serves("haiku", &digest(&second)).await;
    rig.haiku().await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_that_runs() {
    let first = component("haiku");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let before = rig.generation().await;
    let rows: [(&str, Vec<u8>, &str); 5] = [
        ("empty", Vec::new(), "component"),
        ("text", b"(component)".to_vec(), "component"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "component"),
        (
            "a component of nothing",
            b"\0asm\x0d\0\x01\0".to_vec(),
            "world",
        ),
        ("another's name", component("scripted"), "metadata"),
    ];
    for (what, bytes, rule) in rows {
        rig.put("haiku.wasm", &bytes);
        let wanted = digest(&bytes);
        let status = rig
            .worker
            .status(what, |status| {
                let one = &status["swap"]["candidates"][0];
                one["state"] == "refused" && one["digest"] == wanted.as_str()
            })
            .await;
        let reason = status["swap"]["candidates"][0]["reason"].to_string();
        assert!(reason.contains(rule), "{what}: {reason}");
        assert_eq!(status["generation"], before.as_str(), "{what}");
        assert_eq!(rig.active("haiku").await, digest(&first), "{what}");
        rig.haiku().await;
    }
    rig.put("haiku.wasm", &first);
    rig.worker
        .status("no complaint", |status| status["refused"] == json!([]))
        .await;
    assert_eq!(rig.generation().await, before);
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_holds_nobody_up() {
    let rig = Rig::start(&[("haiku.wasm", &component("haiku"))]).await;
    let folder = rig.folder.path();
    std::os::unix::fs::symlink("haiku.wasm", folder.join("linked.wasm")).unwrap();
    fs::create_dir(folder.join("folder.wasm")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(folder.join("pipe.wasm"))
        .status();
    assert!(made.unwrap().success());
    for name in ["linked", "folder", "pipe"] {
        let reason = rig.candidate(name, "refused").await;
        assert!(reason.contains("regular"), "{reason}");
    }
    rig.haiku().await;
}

#[tokio::test]
async fn a_probe_that_traps_is_refused() {
    let first = component("haiku");
    let deeds = ["start-loop", "describe-grow", "describe-recurse"];
    let granted = deeds
        .map(|deed| format!("[plugins.hostile-{deed}]\nmemory-mib = 256\nreturned-mib = 16\n"));
    let folder = PluginFolder::first_party()
        .grant(&granted.concat())
        .file("haiku.wasm", &first);
    let rig = Rig::with(Home::new(), folder, &[]).await;
    for deed in deeds {
        let name = format!("hostile-{deed}");
        fs::write(
            rig.folder.path().join(format!("{name}.wasm")),
            component(&name),
        )
        .unwrap();
    }
    for deed in deeds {
        let reason = rig.candidate(&format!("hostile-{deed}"), "refused").await;
        assert!(reason.contains("(probe)"), "{reason}");
    }
    rig.haiku().await;
    assert_eq!(rig.active("haiku").await, digest(&first));
}

#[tokio::test]
async fn a_deleted_file_ends_its_plugin_and_comes_back() {
    let first = component("haiku");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    fs::remove_file(rig.folder.path().join("haiku.wasm")).unwrap();
    rig.serves("haiku", "").await;
    let told = rig
        .worker
        .status("a heartbeat without it", |status| {
            !status["heartbeat"].to_string().contains("haiku")
        })
        .await;
    assert_eq!(told["refused"], json!([]));
    rig.put("haiku.wasm", &first);
    rig.serves("haiku", &digest(&first)).await;
    rig.haiku().await;
    // The only router cannot go: what serves is never none.
    fs::remove_file(rig.folder.path().join("router.wasm")).unwrap();
    rig.worker
        .status("a word on the router", |status| {
            status["swap"]["trouble"]
                .as_str()
                .is_some_and(|why| why.contains("router"))
        })
        .await;
    rig.haiku().await;
}

#[tokio::test]
async fn a_changed_policy_is_applied_and_a_broken_one_is_not() {
    let rig = Rig::start(&[("haiku.wasm", &component("haiku"))]).await;
    let path = rig.folder.path().join("plugins.toml");
    let whole = fs::read_to_string(&path).unwrap();
    let before = rig.published().await;
    fs::write(&path, "engines = [").unwrap();
    rig.worker
        .status("a word on the policy", |status| {
            status["swap"]["trouble"].is_string()
        })
        .await;
    rig.haiku().await;
    // Nor one that can be read and leaves nobody to route.
    let nobody = whole.replace("router = \"router\"", "router = \"nobody\"");
    fs::write(&path, nobody).unwrap();
    rig.worker
        .status("a word on the router", |status| {
            let trouble = status["swap"]["trouble"].as_str();
            trouble.is_some_and(|why| why.contains("nobody"))
        })
        .await;
    rig.haiku().await;
    assert_eq!(rig.published().await, before, "the very same object");
    fs::write(
        &path,
        format!("{whole}\n[plugins.haiku]\nenabled = false\n"),
    )
    .unwrap();
    rig.serves("haiku", "").await;
    fs::write(&path, &whole).unwrap();
    rig.serves("haiku", &digest(&component("haiku"))).await;
    rig.haiku().await;
}

#[tokio::test]
async fn a_compile_bomb_ends_in_the_child_and_no_heartbeat_is_missed_and_no_offer_waits() {
    let first = component("haiku");
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party().file("haiku.wasm", &first);
    let mut command = home.command(&["run", "--plugins"]);
    command
        .arg(folder.path())
        .env("STUDIO_WORKER_COMPILE_SECONDS", "8");
    let worker = Worker::start(command, &home.path("local-api.json"));
    let mut peer = studio.welcomed().await;
    let before = published(&worker.api().await.get("/daemon/status").await);
    rename_in(folder.path(), "haiku.wasm", &bomb(&first));
    worker
        .status("compiling", |status| {
            status["swap"]["candidates"][0]["state"] == "checking"
        })
        .await;
    // Offers are answered and jobs done as ever: the compilation outlasts them all.
    for job in 1..=20 {
        let task = json!({"kind": "haiku", "text": "snow"});
        let claim = offers::claim(
            &format!("job-{job}"),
            "haiku",
            task,
            offers::source("haiku"),
        );
        peer.accepted(&claim).await;
        studio.called("complete", job).await;
    }
    let still = worker.api().await.get("/daemon/status").await;
    assert_eq!(still["swap"]["candidates"][0]["state"], "checking");
    // Heartbeats come every five seconds; the child computes for eight at least.
    peer.expect("heartbeat").await;
    peer.expect("heartbeat").await;
    // Answered on, however long it computes: a studio that falls silent is left.
    let refusal = worker.status("a refusal", |status| {
        status["swap"]["candidates"][0]["state"] == "refused"
    });
    let status = tokio::select! {
        status = refusal => status,
        frame = peer.next_but(&["heartbeat", "logBatch"]) => panic!("not expected: {frame}"),
    };
    let reason = status["swap"]["candidates"][0]["reason"].to_string();
    assert!(reason.contains("compil"), "{reason}");
    assert_eq!(status["session"]["state"], "connected");
    a_while().await;
    assert_eq!(
        status["swap"]["states"]["haiku"]["digest"],
        digest(&first),
        "what runs is what ran"
    );
    assert_eq!(published(&status), before, "the very same object");
}
