//! A process killed between any two file operations, and a disk that fails there. The killing is real: this test binary
//! starts itself again as a child that stops at a named step, and kills it with SIGKILL.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use worker_wire::JobId;

use crate::aside::{Aside, AsideContent, AsideLimits};
use crate::in_place::FILES;
use crate::product::{MediaContent, Payload, Product};
use crate::recover::Recovered;
use crate::spool::{KeepError, Spool};
use crate::steps::Steps;

const CHILD: &str = "WORKER_DELIVERY_CRASH_CHILD";
const PIXELS: &[u8] = b"minutes of work";

/// Steps of keeping a product, with whether it is there after a kill.
const KEEP_STEPS: [(&str, bool); 5] = [
    ("row written", false),
    ("media written", false),
    ("media named", true),
    ("row named", true),
    ("kept", true),
];

/// Steps of setting one aside, with whether it is in the aside after a kill, else in the spool.
const ASIDE_STEPS: [(&str, bool); 4] = [
    ("aside row written", false),
    ("aside media moved", true),
    ("aside row named", true),
    ("row removed after aside", true),
];

/// Steps of removing what the studio has, with whether it is still in the spool after a kill.
const REMOVE_STEPS: [(&str, bool); 2] = [("leaving", true), ("row removed", false)];

/// Steps of keeping one in place. A killed process has told the system of all that it wrote.
const IN_PLACE_STEPS: [&str; 2] = ["written in place", "kept in place"];

pub(crate) fn product(payload: Payload) -> Product {
    Product {
        job_id: JobId::parse("job-1").unwrap(),
        kind: "k".into(),
        model: "m".into(),
        prompt: "é".repeat(300),
        studio: "http://studio".into(),
        worker_id: "w-1".into(),
        session: 1,
        finished_at: SystemTime::now(),
        payload,
    }
}

pub(crate) fn media(content: MediaContent) -> Payload {
    Payload::Media {
        content,
        ext: "webp".into(),
        media_type: None,
    }
}

fn bytes() -> Payload {
    media(MediaContent::Bytes(Bytes::from_static(PIXELS)))
}

/// Products become files of their own, but for those that fit into `in_place` files.
pub(crate) fn open_with(root: &Path, in_place: usize, steps: Steps) -> Spool {
    let (spool, aside) = (root.join("spool"), root.join("aside"));
    Spool::open_stepwise(&spool, &aside, AsideLimits::default(), in_place, steps).unwrap()
}

fn open(root: &Path, steps: Steps) -> Spool {
    open_with(root, 0, steps)
}

fn stopping_at(step: String) -> Steps {
    let hook = move |now: &str| {
        if now == step {
            println!("\nat {step}");
            io::stdout().flush()?;
            loop {
                std::thread::park();
            }
        }
        Ok(())
    };
    Steps {
        hook: Some(Arc::new(hook)),
    }
}

fn failing_at(step: &'static str) -> Steps {
    let hook = move |now: &str| match now == step {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    };
    Steps {
        hook: Some(Arc::new(hook)),
    }
}

/// The child: does what it is told until the step it is told, and stays there.
#[test]
#[ignore = "runs only as a child of the tests below"]
fn child() {
    let Ok(told) = std::env::var(CHILD) else {
        return;
    };
    let [root, in_place, act, step] = told.split('|').collect::<Vec<_>>().try_into().unwrap();
    let root = Path::new(root);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let spool = open_with(
        root,
        in_place.parse().unwrap(),
        stopping_at(step.to_owned()),
    );
    let payload = match act.split_once(' ').unwrap().1 {
        "bytes" => bytes(),
        "file" => media(MediaContent::File(root.join("made.webp"))),
        "json" => Payload::Json(r#"{"n":1.50}"#.into()),
        other => panic!("{other}"),
    };
    let kept = runtime.block_on(spool.keep(product(payload))).unwrap();
    if act.starts_with("aside") {
        spool.set_aside(&kept, "no").unwrap();
    } else if act.starts_with("remove") {
        spool.remove(&kept.id).unwrap();
    }
}

/// Runs the child up to a step and kills it there; `false`: it never came to that step.
fn kill_at(root: &Path, act: &str, step: &str) -> bool {
    kill_with(root, 0, act, step)
}

fn kill_with(root: &Path, in_place: usize, act: &str, step: &str) -> bool {
    fs::write(root.join("made.webp"), PIXELS).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_tests::child", "--ignored", "--nocapture"])
        .env(CHILD, format!("{}|{in_place}|{act}|{step}", root.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let wanted = format!("at {step}");
    let there = lines.map_while(Result::ok).any(|line| line == wanted);
    child.kill().unwrap();
    child.wait().unwrap();
    there
}

fn in_spool(root: &Path) -> Vec<Vec<u8>> {
    let spool = open_with(root, FILES, Steps::default());
    let kept = |id| spool.load(id).unwrap().unwrap();
    let content = |kept: crate::Kept| match (&kept.row.json, &kept.bytes) {
        (Some(json), _) => json.get().as_bytes().to_vec(),
        (None, Some(bytes)) => bytes.to_vec(),
        (None, None) => fs::read(spool.media(&kept.id)).unwrap(),
    };
    spool
        .entries()
        .unwrap()
        .iter()
        .map(|id| content(kept(id)))
        .collect()
}

fn in_aside(root: &Path) -> usize {
    let aside = Aside::at(&root.join("aside"));
    let entries = aside.list().unwrap();
    for entry in &entries {
        let copy = root.join("copy");
        aside.write_out(entry, &copy).unwrap();
        let expected = match entry.content {
            AsideContent::Media { .. } => PIXELS,
            _ => br#"{"n":1.50}"#,
        };
        assert_eq!(fs::read(copy).unwrap(), expected);
        assert_eq!(entry.prompt.chars().count(), 300);
    }
    entries.len()
}

/// After an opening, nothing is there but whole products.
fn leftovers(root: &Path) -> Vec<String> {
    ["spool", "aside"]
        .iter()
        .flat_map(|dir| crate::disk::names(&root.join(dir)).unwrap())
        .filter(|name| !name.ends_with(".row") && !name.ends_with(".media"))
        .collect()
}

#[test]
fn killed_while_keeping() {
    for act in ["keep bytes", "keep file", "keep json"] {
        for (step, kept) in KEEP_STEPS {
            let root = tempfile::tempdir().unwrap();
            let root = root.path();
            let json = act == "keep json";
            // Moving a file has no step of its own, and JSON no media.
            let skipped = match step {
                "media written" => act != "keep bytes",
                "media named" => json,
                _ => false,
            };
            assert_eq!(kill_at(root, act, step), !skipped, "{act}, {step}");
            let found = in_spool(root);
            // A row of JSON is the whole product, under whichever name.
            let expected = usize::from(kept || json || skipped);
            assert_eq!(found.len(), expected, "{act}, killed at {step}");
            let content = if json { br#"{"n":1.50}"# } else { PIXELS };
            assert!(
                found.iter().all(|f| f == content),
                "{act}, killed at {step}"
            );
            if act == "keep file" {
                let still = fs::read(root.join("made.webp")).ok();
                assert_eq!(still.is_some(), expected == 0, "in one place: {step}");
            }
            assert_eq!(leftovers(root), [""; 0], "{act}, killed at {step}");
        }
    }
}

/// From files of its own, and from where it was kept in place.
#[test]
fn killed_while_setting_aside() {
    for in_place in [0, FILES] {
        for act in ["aside bytes", "aside json"] {
            for (step, aside) in ASIDE_STEPS {
                let root = tempfile::tempdir().unwrap();
                let root = root.path();
                let how = format!("{act}, {in_place} in place, killed at {step}");
                let json = act == "aside json";
                let skipped = json && step == "aside media moved";
                assert_eq!(kill_with(root, in_place, act, step), !skipped, "{how}");
                let waiting = in_spool(root).len();
                let aside = usize::from(aside || json || skipped);
                assert_eq!(in_aside(root), aside, "{how}");
                assert_eq!(waiting, 1 - aside, "{how}: in one place");
                assert_eq!(leftovers(root), [""; 0], "{how}");
            }
        }
    }
}

#[test]
fn killed_while_removing() {
    for (step, still) in REMOVE_STEPS {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(kill_at(root, "remove bytes", step), "{step}");
        let spool = open(root, Steps::default());
        let waiting = usize::from(still);
        let expected = Recovered {
            waiting,
            swept: 1 - waiting,
            ..Recovered::default()
        };
        assert_eq!(spool.recovered(), expected, "{step}");
        assert_eq!(in_aside(root), 0, "{step}");
    }
}

#[test]
fn killed_while_keeping_in_place() {
    for act in ["keep bytes", "keep json"] {
        for step in IN_PLACE_STEPS {
            let root = tempfile::tempdir().unwrap();
            let root = root.path();
            assert!(kill_with(root, FILES, act, step), "{act}, {step}");
            let content = if act == "keep json" {
                br#"{"n":1.50}"#
            } else {
                PIXELS
            };
            assert_eq!(in_spool(root), [content], "{act}, {step}");
            assert_eq!(leftovers(root), [""; 0], "{act}, killed at {step}");
        }
    }
}

#[test]
fn killed_while_removing_what_is_kept_in_place() {
    for (step, waiting) in [("leaving", 1), ("wiped", 0)] {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(kill_with(root, FILES, "remove bytes", step), "{step}");
        assert_eq!(in_spool(root).len(), waiting, "{step}");
        assert_eq!(in_aside(root), 0, "{step}");
    }
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_in_place() {
    for step in IN_PLACE_STEPS {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let spool = open_with(root, FILES, failing_at(step));
        let refused = spool.keep(product(bytes())).await.unwrap_err();
        assert!(matches!(refused, KeepError::Full { .. }), "{step}");
        assert_eq!(spool.waiting(), Some(0), "{step}");
        drop(spool);
        assert!(in_spool(root).is_empty(), "{step}");
        let left = fs::read(root.join("spool-in-place/0")).unwrap();
        assert!(left.iter().all(|byte| *byte == 0), "{step}");
    }
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_and_takes_nothing() {
    for (step, _) in KEEP_STEPS {
        for file in [true, false] {
            if file && step == "media written" {
                continue;
            }
            let root = tempfile::tempdir().unwrap();
            let root = root.path();
            let made = root.join("made.webp");
            fs::write(&made, PIXELS).unwrap();
            let payload = match file {
                true => media(MediaContent::File(made.clone())),
                false => bytes(),
            };
            let spool = open(root, failing_at(step));
            let refused = spool.keep(product(payload)).await.unwrap_err();
            assert!(matches!(refused, KeepError::Full { .. }), "{step}");
            let left = crate::disk::names(&root.join("spool")).unwrap();
            assert_eq!(left, [""; 0], "{step}");
            assert_eq!(fs::read(&made).unwrap(), PIXELS, "{step}");
        }
    }
}

#[tokio::test]
async fn a_full_disk_while_setting_aside_keeps_the_product() {
    for (step, aside) in ASIDE_STEPS {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let spool = open(root, failing_at(step));
        let kept = spool.keep(product(bytes())).await.unwrap();
        assert!(spool.set_aside(&kept, "no").is_err(), "{step}");
        let waiting = in_spool(root).len();
        assert_eq!(in_aside(root), usize::from(aside), "{step}");
        assert_eq!(waiting, 1 - usize::from(aside), "{step}");
    }
}
