//! What comes from afar: each way of not being trusted ends in its own state, and what serves stays the same object.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;
use worker_plugins::{EmbeddedFile, Rule, Sandbox, SandboxOptions, Signature};
use worker_runner::{JobEnd, JobReport};
use worker_swap::{Options, Parcel, Place, Sender, State, StateChange, SwapError, Swapper};
use worker_tests::PluginFolder;
use worker_tests::component::{asking, without_section};

use crate::push::rig::Signer;
use crate::support::{another, at_version, component, digest, nameless};

/// A signed order to replace what has this digest.
fn order(signer: &Signer, bytes: &[u8], replaces: &str) -> Option<String> {
    Some(signer.sign_with(bytes, &format!("timestamp:1\treplaces:{replaces}")))
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    worker_tests::wait::soon(what, async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn from_studio(bytes: &[u8], signature: Option<String>) -> Parcel {
    Parcel {
        name: "haiku".to_owned(),
        bytes: bytes.to_vec(),
        signature,
        from: Sender::Studio {
            update: "u-1".to_owned(),
        },
    }
}

/// A swapper in this process, with a folder that it watches.
struct Store {
    folder: PluginFolder,
    state: TempDir,
    sandbox: Arc<Sandbox>,
    swapper: Arc<Swapper>,
    changes: Receiver<StateChange>,
    stop: CancellationToken,
    /// What it brings along.
    embedded: &'static [EmbeddedFile],
}

impl Store {
    async fn start(policy: &str) -> Self {
        Self::start_with(policy, &[]).await
    }

    async fn start_with(policy: &str, embedded: &'static [EmbeddedFile]) -> Self {
        let read = |name: &str| fs::read(worker_tests::built::root().join(name)).unwrap();
        let folder = PluginFolder::empty()
            .file("router.wasm", read("plugins/router.wasm"))
            .file("haiku.wasm", component("haiku"))
            .file("plugins.toml", policy);
        let state = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(SandboxOptions {
            cache_dir: Some(state.path().join("cache")),
            ..SandboxOptions::default()
        });
        Self::open(folder, state, sandbox.unwrap(), embedded).await
    }

    async fn open(
        folder: PluginFolder,
        state: TempDir,
        sandbox: Arc<Sandbox>,
        embedded: &'static [EmbeddedFile],
    ) -> Self {
        fs::create_dir_all(state.path().join("journal")).unwrap();
        let swapper = Swapper::start(Options {
            place: Place::Folder(folder.path().to_owned()),
            embedded,
            state: state.path().to_owned(),
            journals: state.path().join("journal"),
            sandbox: sandbox.clone(),
            programs: None,
            egress: None,
        })
        .await
        .unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(swapper.clone().watch(stop.clone()));
        Self {
            folder,
            state,
            sandbox,
            changes: swapper.changes(),
            swapper,
            stop,
            embedded,
        }
    }

    /// The worker ends well and starts again.
    async fn restarted(self) -> Self {
        self.stop.cancel();
        self.swapper.stop().await;
        Self::open(self.folder, self.state, self.sandbox, self.embedded).await
    }

    fn policy(&self, text: &str) {
        let path = self.folder.path();
        fs::write(path.join("plugins.toml.new"), text).unwrap();
        fs::rename(path.join("plugins.toml.new"), path.join("plugins.toml")).unwrap();
    }

    fn serves(&self) -> (String, Signature) {
        let generation = self.swapper.serving().current();
        let haiku = generation.engine("haiku").unwrap().identity();
        (haiku.digest.clone(), haiku.signature.clone())
    }

    async fn serves_in_the_end(&self, wanted: &str) -> Signature {
        until(&format!("haiku at {wanted}"), async || {
            self.serves().0 == wanted
        })
        .await;
        self.serves().1
    }

    /// The states that were told since the last time.
    fn told(&mut self) -> Vec<(State, Option<Rule>)> {
        let mut told = Vec::new();
        while let Ok(change) = self.changes.try_recv() {
            if change.update.is_some() {
                assert_eq!(change.update.as_deref(), Some("u-1"));
                told.push((change.state, change.rule));
            }
        }
        told
    }

    async fn works(&self) {
        let generation = self.swapper.serving().current();
        let haiku = generation.engine("haiku").unwrap();
        let composed = haiku.compose("haiku", "snow", "{}").await;
        assert!(composed.unwrap().is_ok());
    }

    /// A job that ended on what serves.
    async fn job(&self, end: JobEnd) {
        let generation = self.swapper.serving().current();
        let report = JobReport {
            engine: generation.engine("haiku").cloned(),
            generation,
            end,
            programs: Vec::new(),
            untouched: false,
        };
        self.swapper.witness().ended(report).await;
    }
}

/// A name for the row, the component, its signature, and what comes of them.
type Row<'a> = (&'a str, &'a [u8], Option<String>, State, Option<Rule>);

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_not_being_trusted_ends_in_its_own_state_and_changes_nothing() {
    let (own, stranger) = (Signer::stranger(), Signer::stranger());
    let mut store = Store::start(&format!("keys = [\"{}\"]", own.line())).await;
    let first = component("haiku");
    let newer = at_version(&first, "0.2.0");
    let older = at_version(&first, "0.0.9");
    let more = asking(&newer, &json!({"programs": ["stand-in"]}));
    let no_version = without_section(&first, "version");
    let no_number = at_version(&first, "monday");
    let no_name = nameless(&newer);
    let other = another(&newer, "other");
    let lies = at_version(&component("scripted"), "0.2.0");
    let elsewhere = "ab".repeat(32);
    let rows: [Row<'_>; 12] = [
        (
            "unsigned",
            &newer,
            None,
            State::Refused,
            Some(Rule::NotSigned),
        ),
        (
            "the very file that serves, unsigned",
            &first,
            None,
            State::Refused,
            Some(Rule::NotSigned),
        ),
        (
            "a stranger's",
            &newer,
            Some(stranger.sign(&newer)),
            State::Refused,
            Some(Rule::UnknownKey),
        ),
        (
            "of other bytes",
            &other,
            Some(own.sign(&newer)),
            State::Refused,
            Some(Rule::Signature),
        ),
        (
            "no signature at all",
            &newer,
            Some("signed, truly".to_owned()),
            State::Refused,
            Some(Rule::Signature),
        ),
        (
            "older",
            &older,
            Some(own.sign(&older)),
            State::Refused,
            Some(Rule::Older),
        ),
        (
            "ordered for another digest",
            &older,
            order(&own, &older, &elsewhere),
            State::Refused,
            Some(Rule::Older),
        ),
        (
            "without a version",
            &no_version,
            Some(own.sign(&no_version)),
            State::Refused,
            Some(Rule::Metadata),
        ),
        (
            "with no number for a version",
            &no_number,
            Some(own.sign(&no_number)),
            State::Refused,
            Some(Rule::Metadata),
        ),
        (
            "without a name",
            &no_name,
            Some(own.sign(&no_name)),
            State::Refused,
            Some(Rule::Metadata),
        ),
        (
            "another's name",
            &lies,
            Some(own.sign(&lies)),
            State::Refused,
            Some(Rule::Metadata),
        ),
        (
            "wants more",
            &more,
            Some(own.sign(&more)),
            State::Waiting,
            None,
        ),
    ];
    let before = store.swapper.serving().current();
    for (what, bytes, signature, state, rule) in rows {
        let answer = store.swapper.receive(from_studio(bytes, signature)).await;
        match (answer, state) {
            (Err(SwapError::Refused(refusal)), State::Refused) => {
                assert_eq!(Some(refusal.rule), rule, "{what}: {refusal}");
            }
            (Err(SwapError::Waiting { more, .. }), State::Waiting) => {
                assert_eq!(more, "programs stand-in");
            }
            other => panic!("{what}: {other:?}"),
        }
        let told = store.told();
        assert_eq!(told[0], (State::Received, None), "{what}");
        assert_eq!(told.last(), Some(&(state, rule)), "{what}: {told:?}");
        let now = store.swapper.serving().current();
        assert!(Arc::ptr_eq(&before, &now), "{what}: another object serves");
        assert_eq!(
            store.serves(),
            (digest(&first), Signature::NotSigned),
            "{what}"
        );
        store.works().await;
    }
    let told = store.swapper.history().await.to_string();
    for word in [
        "not-signed",
        "unknown-key",
        "(signature)",
        "older",
        "waiting",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // By nobody's key nothing from afar is taken at all.
    store.policy("");
    until("no keys", async || {
        // Of other bytes, so that it is not taken while the key is still trusted.
        let answer = store
            .swapper
            .receive(from_studio(&other, Some(own.sign(&newer))))
            .await;
        matches!(answer, Err(SwapError::Refused(refusal)) if refusal.rule == Rule::UnknownKey)
    })
    .await;
    assert_eq!(store.serves().0, digest(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_come_back_by_a_signed_order_for_what_serves_and_once() {
    let own = Signer::stranger();
    let mut store = Store::start(&format!("keys = [\"{}\"]", own.line())).await;
    let at = |version: &str| at_version(&component("haiku"), version);
    let (second, third) = (at("0.2.0"), at("0.3.0"));
    let same = another(&third, "same");
    for bytes in [&second, &third, &same] {
        let parcel = from_studio(bytes, Some(own.sign(bytes)));
        store.swapper.receive(parcel).await.unwrap();
        let told = store.told();
        assert_eq!(told.last(), Some(&(State::Probation, None)));
        let (serves, signature) = store.serves();
        assert_eq!(serves, digest(bytes));
        assert!(matches!(signature, Signature::Verified { .. }));
    }
    let older = |answer: Result<_, SwapError>, what: &str| match answer {
        Err(SwapError::Refused(refusal)) => assert_eq!(refusal.rule, Rule::Older, "{what}"),
        other => panic!("{what}: {other:?}"),
    };
    // Signed as they once were, an older one and one of the same number that was replaced.
    for bytes in [&second, &third] {
        let answer = store
            .swapper
            .receive(from_studio(bytes, Some(own.sign(bytes))))
            .await;
        older(answer, "a replay");
    }
    let order = order(&own, &second, &digest(&same));
    let parcel = from_studio(&second, order.clone());
    store.swapper.receive(parcel.clone()).await.unwrap();
    assert_eq!(store.serves().0, digest(&second));
    // What was ordered away does not come again as the higher version that it is.
    older(
        store
            .swapper
            .receive(from_studio(&same, Some(own.sign(&same))))
            .await,
        "ordered away",
    );
    // The operator takes it back, and the same order is no order any more.
    store.swapper.rollback("haiku").await.unwrap();
    assert_eq!(store.serves().0, digest(&same));
    older(store.swapper.receive(parcel).await, "an order twice");
    // To remove it and to add it anew is no way round.
    store.swapper.remove("haiku").await.unwrap();
    older(
        store
            .swapper
            .receive(from_studio(&second, Some(own.sign(&second))))
            .await,
        "after removal",
    );
    let mut store = store.restarted().await;
    older(
        store.swapper.receive(from_studio(&second, order)).await,
        "after a restart",
    );
    // The operator's own hand may go down.
    let file = store.state.path().join("haiku.wasm");
    fs::write(&file, &second).unwrap();
    store.swapper.add(file).await.unwrap();
    assert_eq!(store.serves(), (digest(&second), Signature::NotSigned));
    store.told();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_more_waits_for_the_operators_word_on_that_and_nothing_else() {
    let own = Signer::stranger();
    // That plugins.toml would allow it is no word on what comes from afar.
    let policy = format!(
        "keys = [\"{}\"]\n[plugins.haiku]\nprograms = [\"stand-in\"]",
        own.line()
    );
    let store = Store::start(&policy).await;
    let at = |version: &str, asks: serde_json::Value| {
        asking(&at_version(&component("haiku"), version), &asks)
    };
    let second = at("0.2.0", json!({"programs": ["stand-in"]}));
    let third = at(
        "0.3.0",
        json!({"programs": ["stand-in", "other"], "limits": {"memory-mib": 128}}),
    );
    let fourth = at("0.4.0", json!({"programs": ["other"]}));
    let push = async |store: &Store, bytes: &[u8]| {
        store
            .swapper
            .receive(from_studio(bytes, Some(own.sign(bytes))))
            .await
    };
    assert!(matches!(
        push(&store, &second).await,
        Err(SwapError::Waiting { .. })
    ));
    assert!(matches!(
        push(&store, &third).await,
        Err(SwapError::Waiting { .. })
    ));
    // What was looked at is not what waits by now.
    let answer = store.swapper.grant("haiku", Some(&digest(&second))).await;
    assert!(
        matches!(answer, Err(SwapError::AnotherWaits { .. })),
        "{answer:?}"
    );
    let told = store.swapper.told().await;
    assert_eq!(told["candidates"][0]["state"], "waiting");
    assert_eq!(
        told["candidates"][0]["more"]["programs"],
        json!(["stand-in", "other"])
    );
    assert_eq!(
        told["candidates"][0]["lacks"],
        "programs stand-in other; memory-mib 128"
    );
    // It waits beyond a restart, and the folder's file goes on serving.
    let mut store = store.restarted().await;
    assert_eq!(store.serves().0, digest(&component("haiku")));
    store.told();
    store
        .swapper
        .grant("haiku", Some(&digest(&third)))
        .await
        .unwrap();
    assert_eq!(store.serves().0, digest(&third));
    assert_eq!(store.told().last(), Some(&(State::Probation, None)));
    let answer = store.swapper.grant("haiku", None).await;
    assert!(matches!(answer, Err(SwapError::NothingWaits(_))));
    // A successor that asks for less needs no word, and what was granted outlives a restart.
    push(&store, &fourth).await.unwrap();
    let store = store.restarted().await;
    assert_eq!(store.serves().0, digest(&fourth));
    let fifth = at("0.5.0", json!({"programs": ["other", "third"]}));
    assert!(matches!(
        push(&store, &fifth).await,
        Err(SwapError::Waiting { .. })
    ));
    assert_eq!(store.serves().0, digest(&fourth));
    let kept = fs::read_to_string(store.folder.path().join("plugins.toml")).unwrap();
    assert_eq!(kept, policy, "the operator's file is the operator's");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_locked_or_pinned_no_studio_changes() {
    let own = Signer::stranger();
    let keys = format!("keys = [\"{}\"]\n[plugins.haiku]\n", own.line());
    let second = at_version(&component("haiku"), "0.2.0");
    let rule = |answer: Result<_, SwapError>| match answer {
        Err(SwapError::Refused(refusal)) => refusal.rule,
        other => panic!("{other:?}"),
    };
    let mut store = Store::start(&format!("{keys}locked = true")).await;
    let answer = store
        .swapper
        .receive(from_studio(&second, Some(own.sign(&second))))
        .await;
    assert_eq!(rule(answer), Rule::Locked);
    assert_eq!(
        store.told().last(),
        Some(&(State::Refused, Some(Rule::Locked)))
    );
    store.stop.cancel();

    let mut store = Store::start(&format!("{keys}pinned = \"0.1.0\"")).await;
    let answer = store
        .swapper
        .receive(from_studio(&second, Some(own.sign(&second))))
        .await;
    assert_eq!(rule(answer), Rule::Pinned);
    store.swapper.pin("haiku", true).await.unwrap();
    store.told();
    let answer = store
        .swapper
        .receive(from_studio(&second, Some(own.sign(&second))))
        .await;
    assert!(matches!(answer, Err(SwapError::Pinned(_))));
    assert_eq!(store.told().last(), Some(&(State::Pinned, None)));
    assert_eq!(store.serves().0, digest(&component("haiku")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_without_a_pause_and_a_revoked_one_ends_what_it_signed() {
    let (old, new) = (Signer::stranger(), Signer::stranger());
    let keys = |signers: &[&Signer]| {
        let lines: Vec<String> = signers
            .iter()
            .map(|one| format!("{{ key = \"{}\", name = \"studio\" }}", one.line()))
            .collect();
        format!("keys = [{}]", lines.join(", "))
    };
    let mut store = Store::start(&keys(&[&old])).await;
    let second = at_version(&component("haiku"), "0.2.0");
    store
        .swapper
        .receive(from_studio(&second, Some(old.sign(&second))))
        .await
        .unwrap();
    let key_of = |signature: Signature| match signature {
        Signature::Verified { key, name } => {
            assert_eq!(name.as_deref(), Some("studio"));
            key
        }
        Signature::NotSigned => panic!("not signed"),
    };
    let before = key_of(store.serves().1);
    store.policy(&keys(&[&old, &new]));
    until("the new key", async || {
        let signature = Some(new.sign(&second));
        store
            .swapper
            .receive(from_studio(&second, signature))
            .await
            .is_ok()
    })
    .await;
    let after = key_of(store.serves().1);
    assert_ne!(before, after, "the same bytes, signed by the other key");
    store.policy(&keys(&[&new]));
    let third = at_version(&component("haiku"), "0.3.0");
    until("the old key to go", async || {
        // Of other bytes, so that it is not taken while the key is still trusted.
        let signature = Some(old.sign(&second));
        let answer = store.swapper.receive(from_studio(&third, signature)).await;
        matches!(answer, Err(SwapError::Refused(refusal)) if refusal.rule == Rule::UnknownKey)
    })
    .await;
    assert_eq!(key_of(store.serves().1), after);
    store.told();
    // Revoked: the version before serves, which is the operator's own.
    store.policy("");
    let signature = store.serves_in_the_end(&digest(&component("haiku"))).await;
    assert_eq!(signature, Signature::NotSigned);
    until("a word on it", async || {
        store.told().contains(&(State::RolledBack, None))
    })
    .await;
    let store = store.restarted().await;
    assert_eq!(store.serves().0, digest(&component("haiku")));
}

/// Where a revoked key signed every router that there is, nothing more comes in by it, and all goes once there is another router.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_that_signed_every_router_lets_nothing_more_in() {
    let (old, new) = (Signer::stranger(), Signer::stranger());
    let store = Store::start(&format!("keys = [\"{}\"]", old.line())).await;
    let own = fs::read(worker_tests::built::root().join("plugins/router.wasm")).unwrap();
    let router = |version: &str, signer: &Signer| {
        let bytes = at_version(&own, version);
        Parcel {
            name: "router".to_owned(),
            ..from_studio(&bytes, Some(signer.sign(&bytes)))
        }
    };
    let haiku = |version: &str| {
        let bytes = at_version(&component("haiku"), version);
        from_studio(&bytes, Some(old.sign(&bytes)))
    };
    for version in ["70.0.0", "70.1.0"] {
        store.swapper.receive(router(version, &old)).await.unwrap();
    }
    store.swapper.receive(haiku("0.2.0")).await.unwrap();
    store.policy(&format!("keys = [\"{}\"]", new.line()));
    let mut patch = 0;
    until("the old key to let nothing in", async || {
        patch += 1;
        let answer = store.swapper.receive(haiku(&format!("0.3.{patch}"))).await;
        matches!(answer, Err(SwapError::Refused(refusal)) if refusal.rule == Rule::UnknownKey)
    })
    .await;
    let router_now = || {
        let generation = store.swapper.serving().current();
        generation.router().identity().version.clone()
    };
    assert_eq!(router_now(), "70.1.0", "without one no job could be taken");
    store.swapper.receive(router("70.2.0", &new)).await.unwrap();
    assert_eq!(router_now(), "70.2.0");
    until("what the old key signed to go", async || {
        let generation = store.swapper.serving().current();
        let haiku = generation
            .engine("haiku")
            .map(|one| &one.identity().signature);
        haiku.is_none_or(|signature| *signature == Signature::NotSigned)
    })
    .await;
    assert_eq!(router_now(), "70.2.0");
}

/// Nor can whoever holds the key make that impossible where the worker brings a router along.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_that_signed_every_router_leaves_the_built_in_one() {
    let old = Signer::stranger();
    let own = fs::read(worker_tests::built::root().join("plugins/router.wasm")).unwrap();
    let built_in: &'static [u8] = Box::leak(at_version(&own, "60.0.0").into_boxed_slice());
    let embedded = Box::leak(Box::new([EmbeddedFile {
        name: "router.wasm",
        bytes: built_in,
    }]));
    let store = Store::start_with(&format!("keys = [\"{}\"]", old.line()), embedded).await;
    for version in ["70.0.0", "70.1.0"] {
        let bytes = at_version(&own, version);
        let parcel = Parcel {
            name: "router".to_owned(),
            ..from_studio(&bytes, Some(old.sign(&bytes)))
        };
        store.swapper.receive(parcel).await.unwrap();
    }
    let router = |store: &Store| {
        let generation = store.swapper.serving().current();
        generation.router().identity().version.clone()
    };
    assert_eq!(router(&store), "70.1.0");
    store.policy("");
    until("the built-in router", async || router(&store) == "60.0.0").await;
    store.works().await;
    let told = store.swapper.told().await;
    assert!(told["trouble"].is_null(), "{told}");
    // It is in no folder, and is missed in none.
    let published = store.swapper.serving().published();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(store.swapper.serving().published(), published);
    let store = store.restarted().await;
    assert_eq!(router(&store), "60.0.0");
    let told = store.swapper.told().await;
    assert_eq!(told["refused"], json!([]), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_studio_hears_how_probation_ends() {
    let own = Signer::stranger();
    let mut store = Store::start(&format!("keys = [\"{}\"]", own.line())).await;
    let second = at_version(&component("haiku"), "0.2.0");
    store
        .swapper
        .receive(from_studio(&second, Some(own.sign(&second))))
        .await
        .unwrap();
    store.told();
    for _ in 0..20 {
        store.job(JobEnd::Done).await;
    }
    assert_eq!(store.told(), [(State::Active, None)]);
    let third = at_version(&component("haiku"), "0.3.0");
    store
        .swapper
        .receive(from_studio(&third, Some(own.sign(&third))))
        .await
        .unwrap();
    store.told();
    store
        .job(JobEnd::Invalid {
            plugin: "haiku".to_owned(),
            what: "an effect that is none".to_owned(),
        })
        .await;
    assert_eq!(
        store.told(),
        [(State::RolledBack, None), (State::Quarantined, None)]
    );
    assert_eq!(store.serves().0, digest(&second));
    // A version that broke has raised nothing: a repaired one in between is taken.
    let between = at_version(&component("haiku"), "0.2.1");
    store
        .swapper
        .receive(from_studio(&between, Some(own.sign(&between))))
        .await
        .unwrap();
    assert_eq!(store.serves().0, digest(&between));
}
