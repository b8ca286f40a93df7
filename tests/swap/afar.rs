//! `plugin add` of addresses: files with a signature beside them, and registries, honest and other.

use std::fs;

use serde_json::json;
use worker_tests::registry::{CONFIG, DebianRegistry, MANIFEST, Said, ScriptedRegistry, manifest};
use worker_tests::{FileServer, Home, PluginFolder, registry};
use worker_trust::{KeyPair, SecretKey};

use crate::support::{Rig, another, component, digest};

/// Somebody who signs plugins.
struct Signer {
    pair: KeyPair,
}

impl Signer {
    fn new() -> Self {
        Self {
            pair: KeyPair::generate(None).unwrap(),
        }
    }

    fn sign(&self, bytes: &[u8]) -> String {
        let key = SecretKey::open(&self.pair.secret, None).unwrap();
        key.sign(bytes, "a test").unwrap()
    }

    /// A folder with the plugin `haiku`, whose operator trusts this signer.
    fn folder(&self, haiku: &[u8]) -> PluginFolder {
        let folder = PluginFolder::first_party().file("haiku.wasm", haiku);
        let policy = fs::read_to_string(folder.path().join("plugins.toml")).unwrap();
        let key = self.pair.public.lines().nth(1).unwrap();
        folder.file("plugins.toml", format!("keys = [{key:?}]\n{policy}"))
    }

    async fn rig(&self, haiku: &[u8]) -> Rig {
        Rig::with(Home::new(), self.folder(haiku), &[]).await
    }
}

#[tokio::test]
async fn a_file_with_its_signature_serves_and_one_without_or_a_strangers_does_not() {
    let (signer, files) = (Signer::new(), FileServer::start().await);
    let first = component("haiku");
    let [second, third] = ["second", "third"].map(|mark| another(&first, mark));
    let rig = signer.rig(&first).await;
    let add = async |url: &str| rig.home.run(&["plugin", "add", url]).await;

    // The name is the component's, whatever the file is called.
    let url = files.put("published.wasm", second.clone());
    files.put("published.wasm.minisig", signer.sign(&second));
    let told = add(&url).await.ok();
    assert!(
        told.contains("haiku") && told.contains(&digest(&second)[..12]),
        "{told}"
    );
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.haiku().await;

    for (name, signature, named) in [
        ("unsigned.wasm", None, "not signed"),
        ("strange.wasm", Some(Signer::new().sign(&third)), "sign"),
        ("other.wasm", Some(signer.sign(b"other bytes")), "sign"),
        ("text.wasm", Some("no signature".to_owned()), "sign"),
    ] {
        let url = files.put(name, third.clone());
        if let Some(signature) = signature {
            files.put(&format!("{name}.minisig"), signature);
        }
        let error = add(&url).await.error();
        assert!(error.contains(named), "{name}: {error}");
        assert_eq!(rig.active("haiku").await, digest(&second), "{name}");
    }
    for (url, named) in [
        (files.answer("gone.wasm", 404, ""), "404"),
        ("http://192.0.2.1/x.wasm".to_owned(), "only https"),
        (
            "https://127.0.0.2.invalid/x.wasm".to_owned(),
            "cannot be reached",
        ),
        ("ftp://127.0.0.1/x.wasm".to_owned(), "only https"),
        ("oci://127.0.0.1".to_owned(), "names no artifact"),
    ] {
        let error = add(&url).await.error();
        assert!(error.contains(named), "{url}: {error}");
    }
    let story = rig
        .home
        .run(&["plugin", "history", "haiku", "--json"])
        .await
        .ok();
    assert!(story.contains(&digest(&second)), "{story}");
}

#[tokio::test]
async fn a_plugin_is_pulled_from_a_real_registry_by_tag_and_by_digest() {
    let Some(registry) = DebianRegistry::start("pulling from a real registry") else {
        return;
    };
    let signer = Signer::new();
    let first = component("haiku");
    let [second, third] = ["second", "third"].map(|mark| another(&first, mark));
    let rig = signer.rig(&first).await;
    let (host, name) = (&registry.host, "acme/plugins/haiku");
    let by_tag = registry
        .push(name, "1.2", &second, Some(&signer.sign(&second)))
        .await;
    let told = rig
        .home
        .run(&["plugin", "add", &format!("oci://{host}/{name}:1.2")])
        .await
        .ok();
    let from = format!("oci://{host}/{name}:1.2@{by_tag}");
    assert!(told.contains(&from), "{told}");
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.haiku().await;

    // The tag moves on; the digest stays.
    let by_digest = registry
        .push(name, "1.2", &third, Some(&signer.sign(&third)))
        .await;
    rig.home
        .run(&["plugin", "add", &format!("oci://{host}/{name}@{by_digest}")])
        .await
        .ok();
    assert_eq!(rig.active("haiku").await, digest(&third));

    registry.push(name, "unsigned", &first, None).await;
    let error = rig
        .home
        .run(&["plugin", "add", &format!("oci://{host}/{name}:unsigned")])
        .await
        .error();
    assert!(error.contains("not signed"), "{error}");
    let error = rig
        .home
        .run(&["plugin", "add", &format!("oci://{host}/{name}:none")])
        .await
        .error();
    assert!(error.contains("404"), "{error}");
    assert_eq!(rig.active("haiku").await, digest(&third));
    rig.haiku().await;
}

#[tokio::test]
async fn whatever_a_registry_says_what_serves_stays() {
    let signer = Signer::new();
    let first = component("haiku");
    let second = another(&first, "second");
    let signature = signer.sign(&second);
    let rig = signer.rig(&first).await;
    let before = rig.generation().await;
    let registry = ScriptedRegistry::start().await;
    let host = registry.host();
    let honest = manifest(&second, Some(&signature));
    let layer = honest["layers"][0].clone();
    let text = honest.to_string();
    let say = |name: &str, said: Said| registry.say(&format!("/v2/{name}/manifests/latest"), said);
    let blob = |name: &str, said: Said| {
        registry.say(
            &format!("/v2/{name}/blobs/{}", registry::digest(&second)),
            said,
        );
    };
    let with = |key: &str, value: serde_json::Value| {
        let mut changed = honest.clone();
        changed[key] = value;
        Said::body(changed.to_string())
    };
    let other = format!("sha256:{}", "0".repeat(64));

    registry.say(
        &format!("/v2/swapped/manifests/{other}"),
        Said::body(text.clone()),
    );
    say(
        "liar",
        Said::body(text.clone()).header("Docker-Content-Digest", &other),
    );
    // All else is there: but for the digests these would serve.
    for name in ["swapped", "liar"] {
        blob(name, Said::body(second.clone()));
    }
    say("changed", Said::body(text.clone()));
    blob("changed", Said::body(first.clone()));
    let mut longer = second.clone();
    longer.push(0);
    say("longer", Said::body(text.clone()));
    blob("longer", Said::body(longer));
    say("huge", Said::body(" ".repeat(2 << 20)));
    let mut vast = layer.clone();
    vast["size"] = json!(1_u64 << 40);
    say("vast", with("layers", json!([vast])));
    say("two", with("layers", json!([layer, layer])));
    say(
        "picture",
        with(
            "config",
            json!({"mediaType": "application/vnd.oci.image.config.v1+json"}),
        ),
    );
    let native = json!({"digest": other, "platform": {"architecture": "amd64", "os": "linux"}});
    let index =
        json!({"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [native]});
    say("index", Said::body(index.to_string()));
    let again =
        json!({"digest": registry::digest(index.to_string().as_bytes()), "artifactType": CONFIG});
    let nested =
        json!({"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [again]});
    say("nested", Said::body(nested.to_string()));
    registry.say(
        &format!(
            "/v2/nested/manifests/{}",
            registry::digest(index.to_string().as_bytes())
        ),
        Said::body(index.to_string()),
    );
    say("text", Said::body("no JSON"));
    say(
        "round",
        Said::status(307).header("Location", "/v2/round/manifests/latest"),
    );
    say(
        "inward",
        Said::status(307).header("Location", "http://10.0.0.1/x"),
    );
    say("broken", Said::status(500));
    say(
        "closed",
        Said::status(401).header("WWW-Authenticate", "Basic realm=\"x\""),
    );
    say(
        "lost",
        Said::status(401).header("WWW-Authenticate", "Bearer realm=\"http://10.0.0.1/token\""),
    );
    let realm = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
    say(
        "forever",
        Said::status(401).header("WWW-Authenticate", &realm),
    );
    registry.say(
        "/token?service=s&scope=repository%3Aforever%3Apull",
        Said::body(r#"{"token":"t"}"#),
    );
    say("mute", Said::status(401).header("WWW-Authenticate", &realm));
    registry.say(
        "/token?service=s&scope=repository%3Amute%3Apull",
        Said::body(r#"{"tokens":[]}"#),
    );

    for (reference, named) in [
        (format!("swapped@{other}"), "has the digest"),
        ("liar".to_owned(), "has the digest"),
        ("changed".to_owned(), "has the digest"),
        ("longer".to_owned(), "longer than"),
        ("huge".to_owned(), "longer than"),
        ("vast".to_owned(), "longer than"),
        ("two".to_owned(), "several layers"),
        ("picture".to_owned(), "image.config"),
        ("index".to_owned(), "no WebAssembly"),
        ("nested".to_owned(), "no WebAssembly"),
        ("text".to_owned(), "cannot be read"),
        ("round".to_owned(), "redirects"),
        ("inward".to_owned(), "refused"),
        ("broken".to_owned(), "500"),
        ("closed".to_owned(), "401"),
        ("lost".to_owned(), "token"),
        ("forever".to_owned(), "401"),
        ("mute".to_owned(), "token"),
    ] {
        let address = format!("oci://{host}/{reference}");
        let error = rig.home.run(&["plugin", "add", &address]).await.error();
        assert!(error.contains(named), "{reference}: {error}");
        assert_eq!(rig.generation().await, before, "{reference}");
    }
    rig.haiku().await;
    let asked = registry.asked();
    let tokens = asked
        .iter()
        .filter(|(path, _)| path.contains("scope=repository%3Aforever"))
        .count();
    assert_eq!(tokens, 1, "a token is asked for once");
    let accepted = [MANIFEST, CONFIG];
    assert!(accepted.iter().all(|one| one.starts_with("application/")));
}

/// The operator's password goes to the place that gives tokens, the token to the registry, and neither anywhere else.
#[tokio::test]
async fn logins_and_tokens_stay_where_they_belong() {
    let signer = Signer::new();
    let first = component("haiku");
    let second = another(&first, "second");
    let [registry, tokens, storage] = [
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    ];
    let home = Home::new();
    let login = format!(
        "[[login]]\nhost = \"{}\"\npath-prefix = \"/\"\nregistry = \"{}\"\nuser = \"me\"\nvalue = \"planted\"\n",
        tokens.host(),
        registry.host()
    );
    let file = home.path("network.toml");
    fs::write(&file, login).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&file, private).unwrap();
    let rig = Rig::with(home, signer.folder(&first), &[]).await;

    let text = manifest(&second, Some(&signer.sign(&second))).to_string();
    let path = "/v2/acme/haiku/manifests/1";
    let challenge = format!(
        "Bearer realm=\"http://{}/token?scope=repository:acme/private:pull\",service=\"s\"",
        tokens.host()
    );
    registry.say(
        path,
        Said::status(401).header("WWW-Authenticate", &challenge),
    );
    registry.say(&format!("{path} Bearer t-1"), Said::body(text));
    tokens.say(
        "/token?service=s&scope=repository%3Aacme%2Fhaiku%3Apull",
        Said::body(r#"{"access_token":"t-1"}"#),
    );
    // The bytes lie elsewhere, as with registries in a cloud.
    let blob = format!("/v2/acme/haiku/blobs/{}", registry::digest(&second));
    let away = format!("http://{}/bytes", storage.host());
    registry.say(&blob, Said::status(307).header("Location", &away));
    storage.say("/bytes", Said::body(second.clone()));

    let address = format!("oci://{}/acme/haiku:1", registry.host());
    rig.home.run(&["plugin", "add", &address]).await.ok();
    assert_eq!(rig.active("haiku").await, digest(&second));
    let logins = |registry: &ScriptedRegistry| -> Vec<Option<String>> {
        registry
            .asked()
            .into_iter()
            .map(|(_, login)| login)
            .collect()
    };
    let token = Some("Bearer t-1".to_owned());
    assert_eq!(logins(&registry), [None, token.clone(), token]);
    // `me:planted` in base64.
    assert_eq!(logins(&tokens), [Some("Basic bWU6cGxhbnRlZA==".to_owned())]);
    assert_eq!(logins(&storage), [None]);
    // A registry that the login does not name gets no token by it.
    let evil = ScriptedRegistry::start().await;
    evil.say(
        path,
        Said::status(401).header("WWW-Authenticate", &challenge),
    );
    let address = format!("oci://{}/acme/haiku:1", evil.host());
    rig.home.run(&["plugin", "add", &address]).await.error();
    assert_eq!(logins(&tokens).last(), Some(&None));
    for line in rig.worker.lines() {
        assert!(!line.contains("planted") && !line.contains("t-1"), "{line}");
    }
}

#[tokio::test]
async fn plain_http_reaches_this_machine_only_where_the_studio_is_on_it() {
    let files = FileServer::start().await;
    let url = files.put("haiku.wasm", component("haiku"));
    let home = Home::unregistered("https://studio.example");
    for address in [url, format!("oci://{}/a", "127.0.0.1:1")] {
        let error = home.run(&["plugin", "add", &address]).await.error();
        assert!(error.contains("only https"), "{address}: {error}");
    }
    assert_eq!(files.asked("haiku.wasm"), 0);
}
