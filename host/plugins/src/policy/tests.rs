use super::*;

#[test]
fn a_whole_file() {
    let policy = Policy::parse(
        r#"
        engines = ["*", "synthetic"]
        finishers = ["finisher"]
        router = "router"
        [plugins.sd-cpp]
        programs = ["sd-cli"]
        build-urls = ["https://example.org/"]
        environment = ["A"]
        hosts = ["example.org"]
        secrets = [{ name = "n", host = "h", path-prefix = "/p" }]
        memory-mib = 0x40
        step-ms = 2_000
        file-mib = 64
        wasi = "empty"
        settings = { a = [1, 2.5, true], b = { c = "d" } }
        [plugins.off]
        enabled = false
        "#,
    )
    .unwrap();
    assert_eq!(policy.engines.as_deref().unwrap(), ["*", "synthetic"]);
    let given = policy.permissions("sd-cpp");
    assert_eq!(given.limits.memory_mib, Some(64));
    assert_eq!(given.limits.step_ms, Some(2_000));
    assert_eq!(given.file_mib, 64);
    assert!(given.empty_wasi);
    assert_eq!(given.settings, r#"{"a":[1,2.5,true],"b":{"c":"d"}}"#);
    assert_eq!(given.secrets.len(), 1);
    assert!(!policy.permissions("off").enabled);
    assert_eq!(policy.permissions("other"), Permissions::default());
    assert_eq!(Policy::parse("").unwrap(), Policy::default());
}

#[test]
fn errors_name_line_and_key_and_quote_nothing() {
    let cases = [
        ("\nengines = hunter2", 2, ""),
        ("router = \"a\"\nrouter = \"hunter2\"", 2, ""),
        ("\n\nhunter = 1", 3, "hunter"),
        ("engines = \"hunter2\"", 1, "engines"),
        ("engines = [\"HUNTER2\"]", 1, "engines"),
        ("engines = [\"a\", \"a\"]", 1, "engines"),
        ("finishers = [\"*\"]", 1, "finishers"),
        ("router = 1", 1, "router"),
        ("plugins = 1", 1, "plugins"),
        ("[plugins.A]", 1, "plugins.A"),
        ("[plugins]\nx = 1", 2, "plugins.x"),
        ("[plugins.x]\nunknown = \"hunter2\"", 2, "plugins.x.unknown"),
        (
            "[plugins.x]\nmemory-mib = \"hunter2\"",
            2,
            "plugins.x.memory-mib",
        ),
        ("[plugins.x]\nmemory-mib = 0", 2, "plugins.x.memory-mib"),
        ("[plugins.x]\nmemory-mib = 1025", 2, "plugins.x.memory-mib"),
        ("[plugins.x]\nmemory-mib = -1", 2, "plugins.x.memory-mib"),
        ("[plugins.x]\nwasi = \"hunter2\"", 2, "plugins.x.wasi"),
        ("[plugins.x]\nenabled = \"hunter2\"", 2, "plugins.x.enabled"),
        ("[plugins.x]\nprograms = [1]", 2, "plugins.x.programs"),
        (
            "[plugins.x]\nbuild-urls = [\"http://hunter2/\"]",
            2,
            "plugins.x.build-urls",
        ),
        (
            "[plugins.x]\nsettings = \"hunter2\"",
            2,
            "plugins.x.settings",
        ),
        (
            "[plugins.x]\nsettings = { a = nan }",
            2,
            "plugins.x.settings",
        ),
        (
            "[plugins.x]\nsecrets = [{ value = \"hunter2\" }]",
            2,
            "plugins.x.secrets.value",
        ),
        (
            "[plugins.x]\nsecrets = [{ name = \"hunter2\" }]",
            2,
            "plugins.x.secrets",
        ),
    ];
    for (text, line, key) in cases {
        let error = Policy::parse(text).unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (line, key), "{text}");
        assert!(
            !error.to_string().to_lowercase().contains("hunter2"),
            "{error}"
        );
    }
}

#[test]
fn keys_pins_and_locks() {
    let line = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let policy = Policy::parse(&format!(
        r#"
        keys = ["{line}", {{ key = "{line}", name = "studio" }}]
        require-signature = true
        [plugins.a]
        locked = true
        pinned = "1.2.0"
        [plugins.b]
        pinned = "ABCDEF012345"
        "#
    ))
    .unwrap();
    let keys: Vec<String> = policy.keys.iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["E7620F1842B4E81F", "E7620F1842B4E81F (studio)"]);
    assert!(policy.require_signature);
    let given = policy.permissions("a");
    assert!(given.locked);
    assert_eq!(given.pinned.as_deref(), Some("1.2.0"));
    let pinned = policy.permissions("b").pinned;
    assert_eq!(pinned.as_deref(), Some("abcdef012345"));
    for (text, key) in [
        ("keys = 1", "keys"),
        ("keys = [\"hunter2\"]", "keys"),
        ("keys = [{ name = \"a\" }]", "keys"),
        ("keys = [{ kee = \"a\" }]", "keys.kee"),
        ("require-signature = \"no\"", "require-signature"),
        ("[plugins.a]\npinned = \"1.2\"", "plugins.a.pinned"),
        ("[plugins.a]\nlocked = 1", "plugins.a.locked"),
    ] {
        let error = Policy::parse(text).unwrap_err();
        assert_eq!(error.key, key, "{text}");
        assert!(!error.to_string().contains("hunter2"));
    }
}
