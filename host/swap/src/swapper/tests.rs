//! Files that must not serve, and files that come in bad moments: each gets its verdict, and what served is the very same
//! object as before.

#[allow(
    dead_code,
    reason = "the guests are those of the loader's own tests, which use more of them"
)]
#[path = "../../../plugins/tests/suite/guest.rs"]
mod guest;
mod recovery;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use worker_plugins::{Generation, ReadOnce, SandboxOptions};

use super::*;
use guest::{encode_with, engine, finisher, named, router};

/// How long anything is waited for; never what a test is about.
const LIMIT: Duration = Duration::from_secs(90);

struct Rig {
    /// There until it is opened again.
    dir: Option<TempDir>,
    swapper: Arc<Swapper>,
    watching: Option<CancellationToken>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(stop) = &self.watching {
            stop.cancel();
        }
    }
}

impl Rig {
    /// A router and these files serve.
    async fn start(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("plugins");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("router.wasm"), router().build()).unwrap();
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).unwrap();
        }
        Self::open(dir, &[]).await.unwrap()
    }

    /// A worker's start on what is there.
    async fn open(dir: TempDir, embedded: &'static [EmbeddedFile]) -> Result<Self, SwapError> {
        let folder = dir.path().join("plugins");
        let sandbox = Sandbox::new(SandboxOptions {
            cache_dir: None,
            compiler: None,
            guest_threads: NonZeroUsize::new(2).unwrap(),
        });
        let options = Options {
            place: Place::Folder(folder),
            embedded,
            state: dir.path().join("state"),
            journals: dir.path().join("journals"),
            sandbox: sandbox.unwrap(),
            programs: None,
            egress: None,
        };
        let swapper = Swapper::start(options).await?;
        Ok(Self {
            dir: Some(dir),
            swapper,
            watching: None,
        })
    }

    /// The worker ends well, and something is done to what it leaves; then it starts again with these plugins built in.
    async fn again(
        mut self,
        meanwhile: impl FnOnce(&Path),
        embedded: &'static [EmbeddedFile],
    ) -> Self {
        if let Some(stop) = self.watching.take() {
            stop.cancel();
        }
        self.swapper.stop().await;
        let dir = self.dir.take().unwrap();
        meanwhile(dir.path());
        Self::open(dir, embedded).await.unwrap()
    }

    fn path(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// Looks at the folder from now on, as a worker does.
    fn watch(&mut self) {
        let stop = CancellationToken::new();
        tokio::spawn(self.swapper.clone().watch(stop.clone()));
        self.watching = Some(stop);
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.path().join("plugins").join(name)
    }

    /// Puts a file there by renaming.
    fn put(&self, name: &str, bytes: &[u8]) {
        let partial = self.folder(&format!("{name}.part"));
        fs::write(&partial, bytes).unwrap();
        fs::rename(partial, self.folder(name)).unwrap();
    }

    /// Hands a file over by its path, outside of the folder.
    async fn add(&self, name: &str, bytes: &[u8]) -> Result<Version, SwapError> {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        let added = self.swapper.add(path.clone()).await;
        fs::remove_file(path).unwrap();
        added.map(|(_, taken)| taken_in(taken))
    }

    fn now(&self) -> Arc<Generation> {
        self.swapper.serving().current()
    }

    fn digest(&self, name: &str) -> Option<String> {
        digest_in(&self.now(), name)
    }

    /// What lies in the store.
    fn stored(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().join("state/files")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    async fn until(&self, what: &str, satisfies: impl Fn(&Value) -> bool) -> Value {
        let looking = async {
            loop {
                let told = self.swapper.told().await;
                if satisfies(&told) {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(LIMIT, looking).await;
        found.unwrap_or_else(|_| panic!("waited for {what}"))
    }

    async fn serves(&self, name: &str, digest: Option<&str>) {
        self.until(&format!("{name} at {digest:?}"), |_| {
            self.digest(name).as_deref() == digest
        })
        .await;
    }
}

/// What serves now; nothing in these tests has programs.
fn taken_in(taken: Taken) -> Version {
    match taken {
        Taken::In(version) => version,
        Taken::Later => panic!("it needs no program"),
    }
}

fn digest_in(generation: &Generation, name: &str) -> Option<String> {
    let engine = generation.engine(name)?;
    Some(engine.identity().digest.clone())
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// The same plugin in other bytes.
fn another(bytes: &[u8], mark: &str) -> Vec<u8> {
    guest::section(bytes.to_vec(), "mark", mark.as_bytes())
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A component with one more component inside, which nobody uses.
fn with_inside(outer: &[u8], inner: &[u8]) -> Vec<u8> {
    let mut all = [outer, &[4][..]].concat();
    let mut length = inner.len();
    while length > 0x7f {
        all.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    all.push(u8::try_from(length).unwrap());
    all.extend(inner);
    all
}

/// Importing something else, or exporting something else, than the contract says.
fn other_contract(version: &str, import: &str, core_import: &str, function: &str) -> Vec<u8> {
    let wit = format!(
        "package studio:worker@{version}; interface log {{ write: func(); read: func(); resource r; }} \
         interface secret {{ get: func(); }} interface engine {{ {function}: func(); }} world w {{ {import} export engine; }}"
    );
    let module = format!(
        r#"(module {core_import} (func (export "studio:worker/engine@{version}#{function}")))"#
    );
    encode_with(&wit, "w", &module)
}

fn hostile_files() -> Vec<(&'static str, Vec<u8>, Rule)> {
    let whole = engine().build();
    let functions = |all: &[&str]| {
        let declared: String = all.iter().map(|name| format!("{name}: func(); ")).collect();
        let defined: String = all
            .iter()
            .map(|name| format!("(func (export \"studio:worker/engine@1.0.0#{name}\"))"))
            .collect();
        let wit = format!(
            "package studio:worker@1.0.0; interface engine {{ {declared} }} world w {{ export engine; }}"
        );
        encode_with(&wit, "w", &format!("(module {defined})"))
    };
    let exports = [
        "describe",
        "builds",
        "compose",
        "subject",
        "step",
        "read-progress",
    ];
    let deep: String = (1..5000)
        .map(|n| format!("(type $t{n} (list $t{}))", n - 1))
        .collect();
    let wide: String = (1..64)
        .map(|n| format!("(type $t{n} (tuple $t{0} $t{0}))", n - 1))
        .collect();
    let nested = (0..50).fold(String::new(), |inner, _| format!("(component {inner})"));
    let mut huge = engine();
    huge.extra = format!("(func {})", "nop ".repeat((2 << 20) + 1));
    let mut tables = engine();
    tables.extra = (0..9).map(|n| format!("(table $t{n} 1 funcref)")).collect();
    let pages = |count| engine().with_pages(count).build();
    vec![
        ("empty", Vec::new(), Rule::Component),
        ("text", b"(component)".to_vec(), Rule::Component),
        ("noise", vec![0x5a; 10_000], Rule::Component),
        ("a core module", wat("(module)"), Rule::Component),
        ("no exports", wat("(component)"), Rule::World),
        (
            "two in one file",
            [whole.clone(), whole.clone()].concat(),
            Rule::WellFormed,
        ),
        (
            "cut in half",
            whole[..whole.len() / 2].to_vec(),
            Rule::WellFormed,
        ),
        ("one huge function", huge.build(), Rule::Counts),
        (
            "very many tiny functions",
            wat(&format!(
                "(component (core module {}))",
                "(func)".repeat(200_001)
            )),
            Rule::Counts,
        ),
        (
            "deep types",
            with_inside(
                &whole,
                &wat(&format!("(component (type $t0 (list u8)) {deep})")),
            ),
            Rule::WellFormed,
        ),
        (
            "types that double",
            with_inside(
                &whole,
                &wat(&format!("(component (type $t0 (tuple u8 u8)) {wide})")),
            ),
            Rule::WellFormed,
        ),
        ("deep components", wat(&nested), Rule::Counts),
        ("many tables", tables.build(), Rule::Counts),
        ("more memory than it may have", pages(2_000), Rule::Probe),
        (
            "more memory than anybody has",
            pages(60_000),
            Rule::Compiles,
        ),
        (
            "another function imported",
            other_contract(
                "1.0.0",
                "import secret;",
                r#"(import "studio:worker/secret@1.0.0" "get" (func))"#,
                "f",
            ),
            Rule::Imports,
        ),
        (
            "a resource imported",
            other_contract(
                "1.0.0",
                "import log;",
                r#"(import "studio:worker/log@1.0.0" "[resource-drop]r" (func (param i32)))"#,
                "f",
            ),
            Rule::Imports,
        ),
        (
            "another major version",
            other_contract("2.0.0", "", "", "f"),
            Rule::ContractVersion,
        ),
        ("a function short", functions(&["describe"]), Rule::Shape),
        ("the wrong shape", functions(&exports), Rule::Shape),
        (
            "another's name",
            named(whole.clone(), "other"),
            Rule::Metadata,
        ),
        (
            "wishes that nobody gets",
            engine().asking(r#"{"environment":["LD_PRELOAD"]}"#),
            Rule::Asks,
        ),
        (
            "endless when asked what it is",
            engine().with("describe", guest::LOOP).build(),
            Rule::Probe,
        ),
        (
            "a trap when it begins",
            engine().with_start("unreachable").build(),
            Rule::Probe,
        ),
        (
            "a description of nonsense",
            engine().with_data(&guest::text(1100, "ha\nku")).build(),
            Rule::Description,
        ),
        ("another world", finisher().build(), Rule::SameWorld),
    ]
}

#[tokio::test]
async fn a_hostile_file_is_refused_and_what_serves_is_the_same_object() {
    let good = engine().build();
    let rig = Rig::start(&[("x.wasm", &good)]).await;
    let before = rig.now();
    let refused = |added: Result<Version, SwapError>| match added {
        Err(SwapError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    for (what, bytes, rule) in hostile_files() {
        let refusal = refused(rig.add("x.wasm", &bytes).await);
        assert_eq!(refusal.rule, rule, "{what}: {refusal}");
        assert!(Arc::ptr_eq(&before, &rig.now()), "{what}");
    }
    // What is found out without its bytes.
    let large = rig.path().join("x.wasm");
    let file = fs::File::create(&large).unwrap();
    file.set_len((32 << 20) + 1).unwrap();
    let path = |name: &str| rig.path().join(name);
    let odd = [
        (large, Rule::FileSize),
        (path("X.wasm"), Rule::Name),
        (path("gone.wasm"), Rule::Readable),
    ];
    for (path, rule) in odd {
        let added = rig.swapper.add(path).await;
        let added = added.map(|(_, taken)| taken_in(taken));
        assert_eq!(refused(added).rule, rule);
        assert!(Arc::ptr_eq(&before, &rig.now()));
    }
    // Nothing of them is kept: files by hand must not fill the disk.
    assert_eq!(rig.stored().len(), 2, "{:?}", rig.stored());
    // One that asks for more than it may have waits, and waiting changes nothing either.
    let asks = engine().asking(r#"{"programs":["stand-in"]}"#);
    let waits = rig.add("x.wasm", &asks).await.unwrap_err();
    assert!(matches!(waits, SwapError::Waiting { .. }), "{waits}");
    assert!(Arc::ptr_eq(&before, &rig.now()));
    let next = another(&good, "next");
    rig.add("x.wasm", &next).await.unwrap();
    assert!(!Arc::ptr_eq(&before, &rig.now()), "a good one is taken");
    assert_eq!(rig.digest("x"), Some(digest(&next)));
}

/// At a prime distance, so that every kind of section is hit somewhere.
#[tokio::test]
async fn a_file_cut_or_flipped_anywhere_is_refused_or_whole() {
    const STEP: usize = 11;
    let good = named(engine().build(), "x");
    let rig = Rig::start(&[("x.wasm", &good)]).await;
    let cut = (0..good.len()).step_by(STEP).map(|at| good[..at].to_vec());
    let flipped = (0..good.len()).step_by(STEP).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    let mut refused = 0;
    let all: Vec<Vec<u8>> = cut.chain(flipped).collect();
    for bytes in &all {
        let before = rig.now();
        match rig.add("x.wasm", bytes).await {
            Err(SwapError::Refused(refusal)) => {
                refused += 1;
                assert!(!refusal.to_string().contains("interrupted"), "a panic");
                assert!(Arc::ptr_eq(&before, &rig.now()), "{refusal}");
            }
            // A bit that nobody reads: another file, and as good.
            Ok(version) => assert_eq!(rig.digest("x"), Some(version.digest)),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > all.len() * 2 / 3, "{refused} of {}", all.len());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_no_file_of_its_name_takes_nothing_away() {
    use std::os::unix::fs::symlink;
    let good = engine().build();
    let mut rig = Rig::start(&[("x.wasm", &good), ("y.wasm", &good)]).await;
    let before = rig.now();
    rig.watch();
    let names = ["link.wasm", "folder.wasm", "pipe.wasm", "socket.wasm"];
    symlink(rig.folder("x.wasm"), rig.folder("link.wasm")).unwrap();
    fs::create_dir(rig.folder("folder.wasm")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        rig.folder("pipe.wasm"),
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(rig.folder("socket.wasm")).unwrap();
    // Two that differ by case: neither is read, and the one that serves goes on.
    rig.put("X.wasm", &another(&good, "X"));
    let mut wanted: Vec<&str> = [&names[..], &["x.wasm", "X.wasm"]].concat();
    if make_device(&rig.folder("device.wasm")) {
        wanted.push("device.wasm");
    }
    let is_said = |told: &Value, name: &str| {
        let refused = told["refused"].as_array().unwrap();
        let start = format!("{name} refused (");
        let mut lines = refused.iter().map(|line| line.as_str().unwrap());
        lines.any(|line| line.starts_with(&start))
    };
    rig.until("every refusal", |told| {
        wanted.iter().all(|name| is_said(told, name))
    })
    .await;
    // A file that serves becomes none: what serves is not its file.
    fs::remove_file(rig.folder("y.wasm")).unwrap();
    fs::create_dir(rig.folder("y.wasm")).unwrap();
    rig.until("a word on y.wasm", |told| is_said(told, "y.wasm"))
        .await;
    // Longer than a file must be gone to count as deleted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(Arc::ptr_eq(&before, &rig.now()));
    // Told apart again, the newer one serves.
    let newer = another(&good, "newer");
    fs::remove_file(rig.folder("X.wasm")).unwrap();
    rig.put("x.wasm", &newer);
    rig.serves("x", Some(&digest(&newer))).await;
}

/// A character device, where this user may make one.
#[cfg(target_os = "linux")]
fn make_device(path: &Path) -> bool {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let zero = makedev(1, 5);
    let made = mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, zero);
    if made.is_err() {
        eprintln!("NOT RUN: a device named like a plugin: only root can make one");
    }
    made.is_ok()
}

/// The bytes that were read are the bytes that are hashed, stored, compiled and served, whatever becomes of the file.
#[tokio::test]
async fn a_file_replaced_between_hash_and_load_serves_as_it_was_read() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    rig.put("x.wasm", &second);
    let set = PluginSet::folder(rig.folder("").as_path()).unwrap();
    let read = set.read("x.wasm").unwrap().unwrap();
    rig.put("x.wasm", b"something else entirely");
    let taken = taken_in(rig.swapper.take(read, Sender::Folder).await.unwrap());
    assert_eq!(taken.digest, digest(&second));
    assert_eq!(rig.digest("x"), Some(digest(&second)));
    let kept = rig.path().join("state/files");
    let stored = fs::read(kept.join(format!("{}.wasm", taken.digest))).unwrap();
    assert_eq!(stored, second);
    // Changed in the store, it is never loaded again.
    fs::write(kept.join(format!("{}.wasm", taken.digest)), &first).unwrap();
    let again = Stored::again(&rig.swapper.kept, "x", &taken.digest);
    assert!(again.is_err());
}

/// What was on its way when the operator pinned the plugin does not come in.
#[tokio::test]
async fn a_pin_holds_against_what_is_on_its_way() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    let read = ReadOnce::from_bytes("x.wasm", second.clone().into()).unwrap();
    let candidate = rig.swapper.store(read, &Sender::Hand).await.unwrap();
    rig.swapper.pin("x", true).await.unwrap();
    let way = rig.swapper.underway.begin("x", &candidate.digest, false);
    let tried = rig.swapper.try_in(candidate, &way).await;
    assert!(matches!(tried, Err(SwapError::Pinned(name)) if name == "x"));
    assert_eq!(rig.digest("x"), Some(digest(&first)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_swaps_as_fast_as_the_disk_end_with_the_last() {
    let first = engine().build();
    let versions = [first.clone(), another(&first, "b"), another(&first, "c")];
    let digests: Vec<String> = versions.iter().map(|bytes| digest(bytes)).collect();
    let mut rig = Rig::start(&[("x.wasm", &first)]).await;
    rig.watch();
    let held = rig.now();
    for round in 0..1000 {
        rig.put("x.wasm", &versions[round % 3]);
        let now = rig.now();
        let serves = digest_in(&now, "x").expect("a version serves at every moment");
        assert!(digests.contains(&serves), "{serves}");
        assert_eq!(now.router().identity().name, "router");
        if round % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    rig.put("x.wasm", &versions[1]);
    rig.serves("x", Some(&digests[1])).await;
    // A job of the first moment still has what it took.
    assert_eq!(digest_in(&held, "x").as_ref(), Some(&digests[0]));
    drop(held);
    rig.until("no earlier generation", |told| {
        told["draining"].as_array().unwrap().is_empty()
    })
    .await;
    assert!(rig.stored().len() <= 4, "{:?}", rig.stored());
}

#[tokio::test]
async fn there_and_back_and_deleted_under_a_job() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let mut rig = Rig::start(&[("x.wasm", &first)]).await;
    rig.watch();
    let (job, id) = (rig.now(), rig.now().id().to_owned());
    rig.put("x.wasm", &second);
    rig.serves("x", Some(&digest(&second))).await;
    assert_ne!(rig.now().id(), id);
    rig.put("x.wasm", &first);
    rig.serves("x", Some(&digest(&first))).await;
    assert_eq!(rig.now().id(), id, "equal content, equal name");
    fs::remove_file(rig.folder("x.wasm")).unwrap();
    rig.serves("x", None).await;
    // The job goes on with what it took, and only then is that gone.
    assert_eq!(digest_in(&job, "x"), Some(digest(&first)));
    let told = rig.swapper.told().await;
    let draining = told["draining"].as_array().unwrap();
    assert!(
        draining.iter().any(|one| one["generation"] == id.as_str()),
        "{told}"
    );
    drop(job);
    rig.until("no earlier generation", |told| {
        told["draining"].as_array().unwrap().is_empty()
    })
    .await;
}

/// A decision that cannot be written down is none, and can be made again.
#[tokio::test]
async fn a_disk_that_refuses_changes_nothing() {
    let (first, second) = (engine().build(), another(&engine().build(), "second"));
    let rig = Rig::start(&[("x.wasm", &first)]).await;
    let before = rig.now();
    let (book, files) = (
        rig.path().join("state/plugins.json"),
        rig.path().join("state/files"),
    );
    for place in [book, files] {
        let aside = place.with_extension("aside");
        fs::rename(&place, &aside).unwrap();
        // A folder where a file belongs, and a file where a folder does.
        match aside.is_file() {
            true => fs::create_dir(&place).unwrap(),
            false => fs::write(&place, "").unwrap(),
        }
        let error = rig.add("x.wasm", &second).await.unwrap_err();
        let SwapError::Refused(refusal) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(refusal.rule, Rule::Stored, "{refusal}");
        assert!(Arc::ptr_eq(&before, &rig.now()), "{refusal}");
        assert_eq!(
            rig.swapper.book().await.plugins["x"].active,
            Some(Version {
                digest: digest(&first),
                version: String::new()
            })
        );
        match place.is_dir() {
            true => fs::remove_dir(&place).unwrap(),
            false => fs::remove_file(&place).unwrap(),
        }
        fs::rename(&aside, &place).unwrap();
    }
    rig.add("x.wasm", &second).await.unwrap();
    assert_eq!(rig.digest("x"), Some(digest(&second)));
}
