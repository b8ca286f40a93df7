use super::*;
use crate::contract::Overrides;

fn good() -> Description {
    Description {
        engines: vec!["haiku".into()],
        kinds: vec![SupportedKind {
            kind: "haiku".into(),
            models: vec!["haiku:*".into()],
        }],
        backends: vec![Backend {
            name: "stand-in".into(),
            program: "stand-in".into(),
            release: Some("v1.2".into()),
            overrides: Overrides {
                path: Some("STUDIO_WORKER_STAND_IN".into()),
                release: None,
                url: None,
            },
            probes: vec![vec!["--help".into()]],
            strict_options: true,
            serves: Some(Server {
                listen: vec!["--port={port}".into()],
                ready: "/health".into(),
                parallel: 1,
                start_ms: 1000,
                routes: vec!["/v1/".into()],
            }),
            optional: false,
        }],
    }
}

fn grants() -> Grants {
    Grants {
        programs: vec!["stand-in".into()],
        ..Grants::default()
    }
}

#[test]
fn what_goes_beyond_or_makes_no_sense_is_refused() {
    assert!(description(&good(), &grants()).is_ok());
    // Two programs for one thing.
    let mut renamed = good();
    let mut other = renamed.backends[0].clone();
    other.program = "other".to_owned();
    renamed.backends.push(other);
    let mut both = grants();
    both.programs.push("other".to_owned());
    assert!(description(&renamed, &both).is_ok());
    renamed.backends[1].optional = !renamed.backends[0].optional;
    assert!(description(&renamed, &both).is_err());
    assert!(description(&good(), &Grants::default()).is_err());
    type Spoil = fn(&mut Description);
    let spoilt: [(&str, Spoil); 16] = [
        ("no engine", |d| d.engines.clear()),
        ("escape in engine", |d| d.engines = vec!["a\u{1b}".into()]),
        ("no kind", |d| d.kinds.clear()),
        ("kind twice", |d| {
            d.kinds = vec![d.kinds[0].clone(), d.kinds[0].clone()]
        }),
        ("kind with space", |d| d.kinds[0].kind = "a b".into()),
        ("many models", |d| d.kinds[0].models = vec!["m".into(); 257]),
        ("control in model", |d| {
            d.kinds[0].models = vec!["m\n".into()]
        }),
        ("long model", |d| d.kinds[0].models = vec!["m".repeat(257)]),
        ("backend twice", |d| {
            d.backends = vec![d.backends[0].clone(), d.backends[0].clone()]
        }),
        ("other program", |d| d.backends[0].program = "other".into()),
        ("interpreter", |d| d.backends[0].program = "bash".into()),
        ("release climbs", |d| {
            d.backends[0].release = Some("../x".into())
        }),
        ("foreign override", |d| {
            d.backends[0].overrides.path = Some("SHELL".into())
        }),
        ("many probes", |d| d.backends[0].probes = vec![vec![]; 9]),
        ("route climbs", |d| {
            d.backends[0].serves.as_mut().unwrap().routes = vec!["/../".into()]
        }),
        ("no requests", |d| {
            d.backends[0].serves.as_mut().unwrap().parallel = 0
        }),
    ];
    for (what, spoil) in spoilt {
        let mut spoiled = good();
        spoil(&mut spoiled);
        assert_eq!(
            description(&spoiled, &grants()).unwrap_err().rule,
            Rule::Description,
            "{what}"
        );
    }
}

#[test]
fn extensions() {
    assert!(accepts(&[("webp".into(), 1), ("x3d".into(), 2)]).is_ok());
    for bad in [("WEBP", 1), ("a/b", 1), ("", 1), ("webp", 0)] {
        assert!(accepts(&[(bad.0.into(), bad.1)]).is_err());
    }
    assert!(accepts(&[("webp".into(), 1), ("webp".into(), 1)]).is_err());
}
