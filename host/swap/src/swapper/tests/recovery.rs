//! What is left where something goes wrong: at a start, at the operator's word, in the middle of writing it down.

use worker_runner::{JobEnd, JobReport, replay};

use super::*;
use crate::book::Entry;
use crate::shadow::compare_until;

impl Rig {
    async fn entry(&self, name: &str) -> Entry {
        self.swapper.book().await.plugins[name].clone()
    }

    fn written(&self) -> Book {
        Book::load(&self.path().join("state/plugins.json")).unwrap()
    }

    /// A job that ended so on what serves.
    async fn job(&self, end: JobEnd) {
        let generation = self.now();
        let report = JobReport {
            engine: generation.engine("x").cloned(),
            generation,
            programs: Vec::new(),
            end,
            untouched: false,
        };
        self.swapper.witness().ended(report).await;
    }

    /// Jobs that fail, as many as say that a version is worse.
    async fn fails(&self) {
        for _ in 0..2 {
            let message = "it cannot be done".to_owned();
            self.job(JobEnd::Failed { message }).await;
        }
    }
}

fn kept(dir: &Path, bytes: &[u8]) -> PathBuf {
    dir.join("state/files")
        .join(format!("{}.wasm", digest(bytes)))
}

/// A plugin that the worker brings along.
fn built_in(bytes: &[u8]) -> &'static [EmbeddedFile] {
    let bytes: &'static [u8] = Box::leak(bytes.to_vec().into_boxed_slice());
    let file = EmbeddedFile {
        name: "x.wasm",
        bytes,
    };
    Box::leak(vec![file].into_boxed_slice())
}

/// A folder where a file belongs: it is there and cannot be read, which says nothing of the bytes that were.
fn block(dir: &Path, bytes: &[u8]) {
    let path = kept(dir, bytes);
    fs::rename(&path, dir.join("aside")).unwrap();
    fs::create_dir(path).unwrap();
}

fn unblock(dir: &Path, bytes: &[u8]) {
    let path = kept(dir, bytes);
    fs::remove_dir(&path).unwrap();
    fs::rename(dir.join("aside"), path).unwrap();
}

#[tokio::test]
async fn a_version_that_cannot_be_read_at_one_start_serves_again_at_a_later_one() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    rig.add("x.wasm", &second).await.unwrap();
    assert_eq!(rig.entry("x").await.probation, Some(20));
    let rig = rig.again(|dir| block(dir, &second), &[]).await;
    assert_eq!(rig.digest("x"), Some(digest(&first)));
    let later = rig.entry("x").await.later.unwrap();
    assert_eq!(later.version.digest, digest(&second));
    // Another start changes nothing of that.
    let rig = rig.again(|_| {}, &[]).await;
    assert_eq!(rig.digest("x"), Some(digest(&first)));
    let rig = rig.again(|dir| unblock(dir, &second), &[]).await;
    assert_eq!(rig.digest("x"), Some(digest(&second)));
    let entry = rig.entry("x").await;
    assert_eq!(entry.later, None);
    assert_eq!(
        entry.previous.map(|one| one.digest),
        Some(digest(&first)),
        "there is something to go back to"
    );
    assert_eq!(
        entry.probation,
        Some(20),
        "it is as little trusted as it was"
    );
    assert!(entry.by_hand);
    // Other bytes are another matter.
    let damaged = |dir: &Path| fs::write(kept(dir, &second), "other bytes").unwrap();
    let rig = rig.again(damaged, &[]).await;
    assert_eq!(rig.digest("x"), Some(digest(&first)));
    assert_eq!(rig.entry("x").await.later, None);
}

#[tokio::test]
async fn where_the_version_before_cannot_be_loaded_the_built_in_one_is_brought_back() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let third = another(&first, "built in");
    let built_in = built_in(&third);
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    rig.add("x.wasm", &second).await.unwrap();
    let damaged = |dir: &Path| fs::write(kept(dir, &first), "other bytes").unwrap();
    let rig = rig.again(damaged, built_in).await;
    assert_eq!(rig.digest("x"), Some(digest(&second)));
    let (plugin, what) = ("x".to_owned(), "an effect that is none".to_owned());
    rig.job(JobEnd::Invalid { plugin, what }).await;
    assert_eq!(rig.digest("x"), Some(digest(&third)));
    assert_eq!(rig.entry("x").await.active.unwrap().digest, digest(&third));
    // It is in the store by now, and no file of the folder, so that none is missed.
    let gone = |dir: &Path| fs::remove_file(dir.join("plugins/x.wasm")).unwrap();
    let rig = rig.again(gone, built_in).await;
    assert_eq!(rig.digest("x"), Some(digest(&third)));
    let told = rig.swapper.told().await;
    assert_eq!(told["refused"], serde_json::json!([]), "{told}");
}

#[tokio::test]
async fn jobs_that_fail_bring_the_version_before_back_and_quarantine_the_second_time() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    let quarantined = async || rig.swapper.book().await.quarantined.len();
    for (round, quarantines) in [(1, 0), (2, 1)] {
        rig.add("x.wasm", &second).await.unwrap();
        rig.job(JobEnd::Other).await;
        rig.fails().await;
        assert_eq!(rig.digest("x"), Some(digest(&first)), "round {round}");
        assert_eq!(quarantined().await, quarantines, "round {round}");
    }
    rig.add("x.wasm", &second).await.unwrap_err();
    let start = &digest(&second)[..12];
    let none = rig.swapper.forgive(&"0".repeat(12)).await;
    assert!(matches!(none, Err(SwapError::NotQuarantined(_))));
    let short = rig.swapper.forgive(&start[..3]).await;
    assert!(matches!(short, Err(SwapError::NotQuarantined(_))));
    let one = rig.swapper.forgive(start).await.unwrap();
    assert_eq!((one.plugin.as_str(), one.digest), ("x", digest(&second)));
    assert_eq!(rig.written().quarantined, []);
    rig.add("x.wasm", &second).await.unwrap();
    assert_eq!(rig.digest("x"), Some(digest(&second)));
    // What is counted is the generation's own.
    let now = rig.now();
    assert_eq!(now.statistics().counts(), [0, 0, 0]);
    rig.job(JobEnd::Done).await;
    rig.fails().await;
    assert_eq!(now.statistics().counts(), [1, 2, 0]);
    assert_eq!(rig.now().statistics().counts(), [0, 0, 0]);
}

#[tokio::test]
async fn the_operators_word_waits_for_no_candidate_and_ends_what_is_on_its_way() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let third = another(&first, "third");
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    rig.add("x.wasm", &second).await.unwrap();
    let read = ReadOnce::from_bytes("x.wasm", third.clone().into()).unwrap();
    let candidate = rig.swapper.store(read, &Sender::Hand).await.unwrap();
    let way = rig.swapper.underway.begin("x", &candidate.digest, false);
    // Somebody is at work on something that takes long.
    let work = rig.swapper.work.lock().await;
    let at_once = async |what: &str, done: std::pin::Pin<Box<dyn Future<Output = bool> + '_>>| {
        let done = tokio::time::timeout(LIMIT, done).await;
        assert!(done.unwrap_or_else(|_| panic!("{what} waits")), "{what}");
    };
    let swapper = &rig.swapper;
    at_once(
        "pin",
        Box::pin(async { swapper.pin("x", true).await.is_ok() }),
    )
    .await;
    at_once(
        "unpin",
        Box::pin(async { swapper.pin("x", false).await.is_ok() }),
    )
    .await;
    at_once(
        "rollback",
        Box::pin(async { swapper.rollback("x").await.is_ok() }),
    )
    .await;
    assert_eq!(rig.digest("x"), Some(digest(&first)));
    drop(work);
    let tried = rig.swapper.try_in(candidate, &way).await;
    let Err(SwapError::Refused(refusal)) = tried.map(drop) else {
        panic!("it comes in after the operator's word");
    };
    assert_eq!(refusal.rule, Rule::Overtaken);
    assert_eq!(rig.digest("x"), Some(digest(&first)));
    let work = rig.swapper.work.lock().await;
    at_once(
        "remove",
        Box::pin(async { swapper.remove("x").await.is_ok() }),
    )
    .await;
    assert_eq!(rig.digest("x"), None);
    drop(work);
}

/// Whoever asked goes away in the middle: what is on disk and what serves are the same all the same.
#[tokio::test]
async fn a_decision_that_nobody_waits_for_is_made_whole() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    rig.add("x.wasm", &second).await.unwrap();
    for wanted in [&first, &second, &first] {
        {
            // As far as the writing, and no further.
            let mut asked = std::pin::pin!(rig.swapper.rollback("x"));
            let polled = std::future::poll_fn(|context| {
                std::task::Poll::Ready(asked.as_mut().poll(context).is_pending())
            });
            assert!(polled.await, "it is dropped before it is done");
        }
        let book = rig.swapper.book().await;
        let active = |book: &Book| book.plugins["x"].active.clone().unwrap().digest;
        assert_eq!(active(&book), active(&rig.written()));
        assert_eq!(rig.digest("x"), Some(active(&book)));
        assert_eq!(
            active(&book),
            digest(wanted),
            "and what was asked for is done"
        );
    }
}

#[tokio::test]
async fn what_is_written_after_the_end_says_that_it_ended_well() {
    let rig = Rig::start(&[("x.wasm", &engine().build())]).await;
    assert!(rig.written().running);
    rig.swapper.stop().await;
    rig.swapper.pin("x", true).await.unwrap();
    let written = rig.written();
    assert!(!written.running);
    assert!(written.plugins["x"].pinned);
}

/// What is added between a crash and the next start had no part in the crash.
#[tokio::test]
async fn a_crash_is_counted_once() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    let options = rig.swapper.options.clone();
    let file = rig.path().join("x.wasm");
    fs::write(&file, &second).unwrap();
    let offline = Swapper::offline(options.clone()).await.unwrap();
    offline.add(file).await.unwrap();
    let started = Swapper::start(options).await.unwrap();
    let now = started.serving().current();
    assert_eq!(digest_in(&now, "x"), Some(digest(&second)));
}

#[tokio::test]
async fn what_waits_is_bounded_and_keeps_no_worker_from_starting() {
    let asks = engine().asking(r#"{"programs":["stand-in"]}"#);
    let rig = Rig::start(&[("x.wasm", &engine().build())]).await;
    let mut waiting = 0;
    for number in 0..40 {
        let added = rig.add(&format!("w-{number}.wasm"), &asks).await;
        match added.unwrap_err() {
            SwapError::Waiting { .. } => waiting += 1,
            SwapError::Refused(refusal) => assert_eq!(refusal.rule, Rule::Stored, "{refusal}"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(waiting, 32);
    assert_eq!(rig.swapper.book().await.waiting(), 32);
    rig.swapper.remove("w-0").await.unwrap();
    assert!(!rig.swapper.book().await.plugins.contains_key("w-0"));
    // More names than a generation may have, none of which is to serve.
    let held = rig.swapper.held().await;
    let mut book = held.book.clone();
    let removed = Entry {
        seen: Some("0".repeat(64)),
        ..Entry::default()
    };
    for number in 0..200 {
        book.plugins.insert(format!("r-{number}"), removed.clone());
    }
    drop(rig.swapper.record(held, book).await.unwrap());
    let rig = rig.again(|_| {}, &[]).await;
    assert!(rig.digest("x").is_some());
}

/// What a killed process left of its writing, at each place where something is written.
#[tokio::test]
async fn what_an_interrupted_write_left_is_gone_after_the_next_start() {
    let rig = Rig::start(&[("x.wasm", &engine().build())]).await;
    let left = ["state/.tmpbook", "state/files/.tmpfile"];
    let rig = rig
        .again(
            |dir| {
                for name in left {
                    fs::write(dir.join(name), "half").unwrap();
                }
            },
            &[],
        )
        .await;
    for name in left {
        assert!(!rig.path().join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn a_comparison_has_its_time_and_what_there_was_none_for_is_said() {
    let rig = Rig::start(&[("x.wasm", &engine().build())]).await;
    let journals = rig.path().join("journals");
    fs::create_dir_all(&journals).unwrap();
    let body = serde_json::json!({
        "id": "job-1", "kind": "k", "model": "m", "task": {}, "model_source": {}, "vram_gb_estimate": 0.0, "entropy": 7,
        "settings": "{}", "backends": [], "platform": {"os": "linux", "arch": "x86_64", "gpu": null},
    });
    let offered = serde_json::json!({"event": "offered", "body": {"engine": "x"}});
    let job = serde_json::json!({"event": "job", "body": body});
    for number in 0..4 {
        let path = journals.join(format!("{number}.jsonl"));
        fs::write(path, format!("{offered}\n{job}\n")).unwrap();
    }
    let (recorded, unusable) = replay::recent(&journals, "x", 20);
    assert_eq!((recorded.len(), unusable), (4, 0));
    let now = rig.now();
    let one = now.engine("x").unwrap();
    let whole = compare_until(None, &recorded, 0, one, one).await;
    assert_eq!((whole.jobs.len(), whole.left), (4, 0));
    assert!(whole.enough());
    let over = tokio::time::Instant::now();
    let cut = compare_until(Some(over), &recorded, 0, one, one).await;
    assert_eq!((cut.jobs.len(), cut.left), (0, 4));
    assert!(!cut.enough(), "so it is watched for longer");
    assert!(cut.to_string().contains("for 4 there was no time"), "{cut}");
}
