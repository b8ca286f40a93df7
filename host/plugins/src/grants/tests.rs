use super::*;

fn asked(json: &str) -> Result<Asked, Broken> {
    Asked::parse(Some(json.as_bytes()))
}

#[test]
fn no_section_asks_for_nothing() {
    assert_eq!(Asked::parse(None).unwrap(), Asked::default());
    assert_eq!(asked("{}").unwrap(), Asked::default());
    assert_eq!(Limits::default().memory_bytes, 64 << 20);
    assert_eq!(Limits::default().returned_bytes, 32 << 20);
}

#[test]
fn ungrantable_wishes_are_refused() {
    for json in [
        "",
        "[]",
        "{\"programs\":1}",
        "{\"unknown\":1}",
        "{\"programs\":[],\"programs\":[]}",
        r#"{"programs":["bash"]}"#,
        r#"{"programs":["python3.11"]}"#,
        r#"{"programs":["/bin/x"]}"#,
        r#"{"environment":["LD_PRELOAD"]}"#,
        r#"{"hosts":["EXAMPLE.org"]}"#,
        r#"{"hosts":["*"]}"#,
        r#"{"system-libraries":["../libx.so"]}"#,
        r#"{"system-libraries":["libx"]}"#,
        r#"{"build-urls":["http://example.org/"]}"#,
        r#"{"limits":{"memory-mib":0}}"#,
        r#"{"limits":{"memory-mib":1025}}"#,
        r#"{"limits":{"step-ms":60001}}"#,
        r#"{"limits":{"memory-mib":-1}}"#,
        r#"{"limits":{"returned-mib":33}}"#,
        r#"{"limits":{"unknown":1}}"#,
        r#"{"secrets":[{"name":"a","host":"h","path-prefix":"x"}]}"#,
        r#"{"secrets":[{"name":"a","host":"h"}]}"#,
    ] {
        assert_eq!(asked(json).unwrap_err().rule, Rule::Asks, "{json}");
    }
    let many = format!(r#"{{"programs":[{}]}}"#, vec!["\"a\""; 33].join(","));
    assert_eq!(asked(&many).unwrap_err().rule, Rule::Asks);
}

#[test]
fn what_is_not_granted_is_named_with_the_line_to_add() {
    let cases = [
        (
            r#"{"programs":["sd-cli"]}"#,
            "`programs = [\"sd-cli\"]` under [plugins.x]",
        ),
        (r#"{"environment":["A"]}"#, "`environment = [\"A\"]`"),
        (
            r#"{"hosts":["example.org"]}"#,
            "`hosts = [\"example.org\"]`",
        ),
        (
            r#"{"build-urls":["https://example.org/a/"]}"#,
            "`build-urls = [\"https://example.org/a/\"]`",
        ),
        (r#"{"limits":{"memory-mib":65}}"#, "`memory-mib = 65`"),
        (r#"{"limits":{"steps":65}}"#, "`steps = 65`"),
        (
            r#"{"secrets":[{"name":"n","host":"h","path-prefix":"/p"}]}"#,
            "path-prefix = \"/p\"",
        ),
    ];
    for (json, line) in cases {
        let broken = asked(json)
            .unwrap()
            .grant("x", &Permissions::default())
            .unwrap_err();
        assert_eq!(broken.rule, Rule::Granted);
        assert!(broken.detail.contains(line), "{}", broken.detail);
    }
}

#[test]
fn limits_follow_the_wish_and_the_operator() {
    let mut given = Permissions::default();
    given.limits.memory_mib = Some(256);
    let (_, limits) = asked(r#"{"limits":{"memory-mib":256}}"#)
        .unwrap()
        .grant("x", &given)
        .unwrap();
    assert_eq!(
        (limits.memory_bytes, limits.returned_bytes),
        (256 << 20, 128 << 20)
    );
    // The operator's larger number is a permission, not a gift.
    let (_, limits) = asked("{}").unwrap().grant("x", &given).unwrap();
    assert_eq!(limits, Limits::default());
    given.limits.memory_mib = Some(16);
    let (_, limits) = asked("{}").unwrap().grant("x", &given).unwrap();
    assert_eq!(limits.memory_bytes, 16 << 20);
    assert!(
        asked(r#"{"limits":{"memory-mib":32}}"#)
            .unwrap()
            .grant("x", &given)
            .is_err()
    );
    given.limits.memory_mib = Some(256);
    let (_, limits) = asked(r#"{"limits":{"memory-mib":256,"returned-mib":100}}"#)
        .unwrap()
        .grant("x", &given)
        .unwrap();
    assert_eq!(limits.returned_bytes, 100 << 20);
}

#[test]
fn a_build_url_is_covered_by_a_shorter_prefix() {
    let asked = asked(r#"{"build-urls":["https://example.org/a/b/"]}"#).unwrap();
    let mut given = Permissions {
        build_urls: vec!["https://example.org/a/".into()],
        ..Permissions::default()
    };
    assert!(asked.grant("x", &given).is_ok());
    given.build_urls = vec!["https://example.org/b/".into()];
    assert!(asked.grant("x", &given).is_err());
}

#[test]
fn what_is_beyond_is_said_and_granting_it_is_enough() {
    let asks = r#"{"programs":["a","b"],"hosts":["example.org"],"build-urls":["https://example.org/a/"],
        "secrets":[{"name":"n","host":"example.org","path-prefix":"/"}],"limits":{"memory-mib":128,"step-ms":10}}"#;
    let asked = asked(asks).unwrap();
    let mut given = Permissions {
        programs: vec!["a".into()],
        build_urls: vec!["https://example.org/".into()],
        ..Permissions::default()
    };
    // Tighter than the default: what is granted on top lifts that too.
    given.limits.step_ms = Some(5);
    let lacks = asked.grant("x", &given).unwrap_err().lacks.unwrap();
    assert_eq!(lacks.asked, asked);
    assert_eq!(
        lacks.more.to_string(),
        "programs b; hosts example.org; secret n on example.org/; memory-mib 128; step-ms 10"
    );
    let given = given.with(&asked);
    assert!(asked.beyond(&given).is_nothing());
    let (grants, limits) = asked.grant("x", &given).unwrap();
    assert_eq!(grants.programs, ["a", "b"]);
    assert_eq!((limits.memory_bytes, limits.step_ms), (128 << 20, 10));
}
