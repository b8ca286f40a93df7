//! The configuration file as operators and the reference worker have it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "helpers of tests fail like tests"
)]

use std::fs;
use std::path::{Path, PathBuf};

use worker_config::{
    ConfigError, ConfigFile, Environment, Expected, IdentityFile, KEYS, Kind, Paths, Provenance,
    Setting, Settings, StoredIdentity, Studio, local_api_token, register, set_threshold,
};
use worker_wire::{ApiBase, Secret};

/// As the reference worker writes it, with a comment of its operator's and keys of the future.
const REFERENCE: &str = r#"# my box
api_base_url = "https://studio.minis.gg/"
worker_id = "w-1"
auth_token = "tok-SECRET"
vram_threshold_gb = 12
auto_start = false          # by hand
auto_update_enabled = true
auto_update_interval_secs = 1800
auto_update_feed = "https://api.github.com/repos/webbertakken/studio-worker/releases?key=SECRET"
auto_update_prerelease = false
models_root = "~/models"
install_id = "i-1"
registration_secret = "sec-SECRET"
memory_max_gb = 32
start_minimised = true
only_when_idle = true
local_api_port = 4800
stream_port = 4798
local_api_token = "api-SECRET"
tea = "milk"

[voice]
sets = 3
"#;

struct Place {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Place {
    fn new(text: &str) -> Self {
        let place = Self::empty();
        fs::write(&place.config, text).unwrap();
        place
    }

    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        Self { dir, config }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.config).unwrap()
    }

    fn resolve(&self, environment: &Environment) -> Result<Settings, ConfigError> {
        Settings::resolve(&ConfigFile::load(&self.config)?, environment)
    }

    fn settings(&self) -> Settings {
        self.resolve(&Environment::default()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

fn setting<'a>(settings: &'a Settings, name: &str) -> &'a Setting {
    settings.shown.iter().find(|s| s.key.name == name).unwrap()
}

fn port(value: &str) -> Environment {
    let value = value.to_owned();
    Environment::from_fn(move |name| {
        (name == "STUDIO_WORKER_LOCAL_API_PORT").then(|| value.clone())
    })
}

#[test]
fn without_a_file_all_is_default_and_none_is_made() {
    let place = Place::empty();
    let settings = place.settings();
    assert_eq!(settings.studio, Studio::Embedded);
    assert!((settings.vram_threshold_gb - 12.0).abs() < f64::EPSILON);
    assert_eq!(settings.listen.address.to_string(), "127.0.0.1:4787");
    assert!(settings.listen.else_any_port);
    assert_eq!(settings.reconnect_attempts, None, "it never gives up");
    assert_eq!(settings.drain_timeout.as_secs(), 600);
    assert_eq!(settings.programs.timeout.as_secs(), 86_400);
    assert!(settings.prompts_in_journal && settings.auto_start);
    assert!(settings.models_root.ends_with("models"));
    assert!(settings.shown.iter().all(|s| s.from == Provenance::Default));
    let paths = Paths::new(&place.config, &settings);
    assert_eq!(paths.spool, place.dir.path().join("state/spool"));
    assert!(
        IdentityFile::remote(&place.config, &studio("https://h"))
            .load()
            .unwrap()
            .is_empty()
    );
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[test]
fn the_reference_workers_file_is_read_as_it_is() {
    let place = Place::new(REFERENCE);
    let settings = place.settings();
    assert_eq!(
        settings.studio,
        Studio::Remote(studio("https://studio.minis.gg"))
    );
    assert!((settings.vram_threshold_gb - 12.0).abs() < f64::EPSILON);
    assert!(!settings.auto_start && settings.only_when_idle);
    assert_eq!(settings.listen.address.port(), 4800);
    assert_eq!(settings.local_api_token, Some(Secret::new("api-SECRET")));
    assert!(settings.warnings.is_empty());
    assert_eq!(
        setting(&settings, "vram_threshold_gb").from,
        Provenance::File { line: 5 }
    );
    let file = ConfigFile::load(&place.config).unwrap();
    assert_eq!(file.unknown_keys(), ["tea", "voice"]);
    let identity = IdentityFile::remote(&place.config, &studio("https://studio.minis.gg"))
        .load()
        .unwrap();
    assert_eq!(identity.worker_id.as_deref(), Some("w-1"));
    assert_eq!(identity.auth_token, Some(Secret::new("tok-SECRET")));
    assert_eq!(identity.registration_request_id, None);
}

#[test]
fn secrets_are_never_shown() {
    let place = Place::new(REFERENCE);
    let file = ConfigFile::load(&place.config).unwrap();
    let settings = place.settings();
    let identity = IdentityFile::remote(&place.config, &studio("https://studio.minis.gg")).load();
    let all = format!("{file:?} {settings:?} {identity:?} {:?}", port("1"));
    assert!(!all.contains("SECRET"), "{all}");
    assert_eq!(
        setting(&settings, "auth_token").shown.as_deref(),
        Some("<set>")
    );
    let none = Place::empty().settings();
    for key in KEYS.iter().filter(|key| key.kind == Kind::Secret) {
        assert_eq!(setting(&none, key.name).shown.as_deref(), Some("<not set>"));
    }
}

#[test]
fn a_change_keeps_everything_else() {
    let place = Place::new(REFERENCE);
    set_threshold(&place.config, 7.5).unwrap();
    let expected = REFERENCE.replace("vram_threshold_gb = 12\n", "vram_threshold_gb = 7.5\n");
    assert_eq!(place.text(), expected);
    set_threshold(&place.config, 7.5).unwrap();
    assert_eq!(place.text(), expected);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&place.config).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let left: Vec<String> = place
        .names()
        .into_iter()
        .filter(|n| !n.starts_with("config.toml"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_threshold_is_a_number_of_at_least_nothing() {
    let place = Place::new(REFERENCE);
    for given in [-0.5, f64::NAN, f64::INFINITY] {
        let refused = set_threshold(&place.config, given).unwrap_err();
        assert!(matches!(
            refused,
            ConfigError::Given {
                key: "vram_threshold_gb",
                ..
            }
        ));
    }
    assert_eq!(place.text(), REFERENCE);
}

#[test]
fn commands_on_nothing_write_only_what_they_were_given() {
    let place = Place::empty();
    set_threshold(&place.config, 8.0).unwrap();
    assert_eq!(place.text(), "vram_threshold_gb = 8.0\n");
    let removed = register(&place.config, None, true)
        .unwrap()
        .identity_removed;
    assert!(!removed);
    assert_eq!(place.text(), "vram_threshold_gb = 8.0\n");
    assert_eq!(place.settings().studio, Studio::Embedded);
}

#[test]
fn broken_toml_is_placed_and_not_shown() {
    for (text, line, key) in [
        ("auth_token = \"SECRET\nx = 1\n", 1, Some("auth_token")),
        ("x = 1\nSECRET\n", 2, None),
        ("x = 1\nSECRET = = 2\n", 2, None),
        ("x = 1\ny = 1\ny = SECRET", 3, None),
        ("auth_token = SECRET", 1, Some("auth_token")),
        (
            "worker_id = \"a\"\nworker_id = \"SECRET\"",
            2,
            Some("worker_id"),
        ),
        ("[SECRET", 1, None),
    ] {
        let place = Place::new(text);
        let error = place.resolve(&Environment::default()).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("SECRET"), "{said}");
        assert!(
            matches!(&error, ConfigError::Syntax { line: at, key: of, .. } if *at == line && *of == key),
            "{text}: {error:?}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("config.toml, line {line}")),
            "{error}"
        );
        // A command changes nothing in such a file.
        assert!(matches!(
            set_threshold(&place.config, 1.0),
            Err(ConfigError::Syntax { .. })
        ));
        assert_eq!(place.text(), text);
    }
}

#[test]
fn a_wrong_value_names_its_line_and_key_only() {
    for (line, key) in [
        ("auth_token = 12345", "auth_token"),
        ("worker_id = [\"SECRET\"]", "worker_id"),
        ("vram_threshold_gb = \"SECRET\"", "vram_threshold_gb"),
        ("vram_threshold_gb = -1", "vram_threshold_gb"),
        ("vram_threshold_gb = nan", "vram_threshold_gb"),
        ("auto_start = \"SECRET\"", "auto_start"),
        ("api_base_url = \"https://me:SECRET@h\"", "api_base_url"),
        ("api_base_url = \"SECRET\"", "api_base_url"),
        ("api_base_url = \"SECRET:x\"", "api_base_url"),
        ("local_api_port = 65536", "local_api_port"),
        ("local_api_port = 80.5", "local_api_port"),
        ("drain_timeout_secs = -1", "drain_timeout_secs"),
        ("program_timeout_secs = -1", "program_timeout_secs"),
        (
            "ws_reconnect_attempts = 4294967296",
            "ws_reconnect_attempts",
        ),
        ("listen = \"SECRET\"", "listen"),
        ("models_root = \" \"", "models_root"),
        ("memory_max_gb = \"SECRET\"", "memory_max_gb"),
        ("[state_dir]\nx = \"SECRET\"", "state_dir"),
    ] {
        let place = Place::new(&format!("# one\n# two\n{line}\n"));
        let error = place.resolve(&Environment::default()).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(
            !said.contains("SECRET") && !said.contains("12345"),
            "{said}"
        );
        assert!(
            matches!(&error, ConfigError::Value { line: 3, key: of, .. } if *of == key),
            "{line}: {error:?}"
        );
    }
}

#[test]
fn what_only_the_reference_worker_goes_by_stops_nobody() {
    let place = Place::new("memory_max_gb = 2\nauto_update_feed = \"SECRET\"\n");
    let settings = place.settings();
    assert_eq!(settings.warnings.len(), 2);
    assert!(
        settings
            .warnings
            .concat()
            .contains("line 1: `memory_max_gb` must be a whole number from 4 to 1024")
    );
    assert!(!settings.warnings.concat().contains("SECRET"));
    assert_eq!(
        setting(&settings, "memory_max_gb").shown.as_deref(),
        Some("32")
    );
}

#[test]
fn the_environment_wins_and_says_so() {
    let place = Place::new("local_api_port = 4800\n");
    let settings = place.resolve(&port("0")).unwrap();
    assert_eq!(settings.listen.address.port(), 0);
    let variable = "STUDIO_WORKER_LOCAL_API_PORT";
    assert_eq!(
        setting(&settings, "local_api_port").from,
        Provenance::Environment { variable }
    );
    for empty in ["", "  "] {
        assert_eq!(
            place.resolve(&port(empty)).unwrap().listen.address.port(),
            4800
        );
    }
    for bad in ["65536", "-1", "SECRET"] {
        let error = place.resolve(&port(bad)).unwrap_err();
        let expected = Expected::Integer { min: 0, max: 65535 };
        assert!(matches!(&error, ConfigError::Environment { expected: e, .. } if *e == expected));
        assert!(!error.to_string().contains("SECRET"));
    }
}

#[test]
fn an_address_named_as_a_whole_is_not_given_up() {
    let place = Place::new("listen = \"0.0.0.0:9000\"\nlocal_api_port = 1\n");
    let listen = place.settings().listen;
    assert_eq!(listen.address.to_string(), "0.0.0.0:9000");
    assert!(!listen.else_any_port);
}

#[test]
fn places_may_be_moved() {
    for (given, below) in [
        ("\"/var/x\"", Path::new("/var/x")),
        ("\"sub\"", Path::new("sub")),
    ] {
        let place = Place::new(&format!("state_dir = {given}\n"));
        let paths = Paths::new(&place.config, &place.settings());
        assert_eq!(paths.state, place.dir.path().join(below));
        assert_eq!(paths.lock, place.dir.path().join("daemon.lock"));
        assert_eq!(paths.discovery, place.dir.path().join("local-api.json"));
    }
}

#[test]
fn an_identity_is_for_its_studio_only() {
    let place = Place::new("# mine\napi_base_url = \"https://one.example\" # here\n");
    let (one, two) = (
        studio("https://one.example/"),
        studio("https://two.example"),
    );
    let identity = StoredIdentity {
        install_id: Some("i".into()),
        worker_id: Some("w".into()),
        auth_token: Some(Secret::new("t")),
        ..StoredIdentity::default()
    };
    let file = IdentityFile::remote(&place.config, &one);
    file.save(&identity).unwrap();
    assert_eq!(file.load().unwrap(), identity);
    assert!(
        place
            .text()
            .starts_with("# mine\napi_base_url = \"https://one.example\" # here\n")
    );
    // The operator edits the URL by hand.
    assert!(
        IdentityFile::remote(&place.config, &two)
            .load()
            .unwrap()
            .is_empty()
    );
    // And by the command, which removes what belongs to the old studio; the same one again changes nothing.
    let before = place.text();
    assert!(
        !register(&place.config, Some(&one), false)
            .unwrap()
            .identity_removed
    );
    assert_eq!(
        IdentityFile::remote(&place.config, &one).load().unwrap(),
        identity
    );
    assert_eq!(place.text(), before);
    assert!(
        register(&place.config, Some(&two), false)
            .unwrap()
            .identity_removed
    );
    assert!(!place.text().contains("auth_token"));
    assert_eq!(place.settings().studio, Studio::Remote(two));
}

#[test]
fn a_reset_forgets_and_keeps_the_rest() {
    let place = Place::new(REFERENCE);
    assert!(
        register(&place.config, None, true)
            .unwrap()
            .identity_removed
    );
    let text = place.text();
    for gone in [
        "worker_id",
        "auth_token",
        "install_id",
        "registration_secret",
    ] {
        assert!(!text.contains(gone), "{gone}");
    }
    assert!(
        text.contains("local_api_token") && text.contains("tea = \"milk\"\n\n[voice]\nsets = 3\n")
    );
    assert_eq!(
        place.settings().studio,
        Studio::Remote(studio("https://studio.minis.gg"))
    );
}

#[test]
fn half_an_identity_and_empty_texts_are_read() {
    let place =
        Place::new("worker_id = \"\"\nauth_token = \"\"\nregistration_request_id = \"r\"\n");
    let identity = IdentityFile::remote(&place.config, &studio("https://h"))
        .load()
        .unwrap();
    let expected = StoredIdentity {
        registration_request_id: Some("r".into()),
        ..StoredIdentity::default()
    };
    assert_eq!(identity, expected);
}

#[test]
fn the_embedded_studios_identity_is_apart() {
    let place = Place::new(REFERENCE);
    let paths = Paths::new(&place.config, &place.settings());
    let file = IdentityFile::embedded(&paths.embedded_identity);
    assert!(file.load().unwrap().is_empty());
    let identity = StoredIdentity {
        worker_id: Some("local".into()),
        ..StoredIdentity::default()
    };
    file.save(&identity).unwrap();
    assert_eq!(file.load().unwrap(), identity);
    assert_eq!(place.text(), REFERENCE);
    file.save(&StoredIdentity::default()).unwrap();
    assert!(file.load().unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn a_linked_file_stays_linked() {
    let place = Place::empty();
    let real = place.dir.path().join("dotfiles.toml");
    fs::write(&real, "x = 1\n").unwrap();
    std::os::unix::fs::symlink(&real, &place.config).unwrap();
    set_threshold(&place.config, 1.0).unwrap();
    assert!(place.config.is_symlink());
    assert_eq!(
        fs::read_to_string(real).unwrap(),
        "x = 1\nvram_threshold_gb = 1.0\n"
    );
}

#[test]
fn what_is_no_configuration_is_said() {
    let place = Place::empty();
    fs::write(&place.config, [0xff, 0xfe]).unwrap();
    assert!(matches!(
        ConfigFile::load(&place.config),
        Err(ConfigError::NotText { .. })
    ));
    fs::write(&place.config, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(matches!(
        ConfigFile::load(&place.config),
        Err(ConfigError::TooLarge { .. })
    ));
    assert!(matches!(
        ConfigFile::load(place.dir.path()),
        Err(ConfigError::Read { .. })
    ));
}

#[test]
fn changes_at_once_lose_none() {
    let place = Place::empty();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let config = &place.config;
            scope.spawn(move || {
                if writer % 2 == 0 {
                    set_threshold(config, f64::from(writer)).unwrap();
                } else {
                    let file = IdentityFile::embedded(config);
                    let mut identity = file.load().unwrap();
                    identity.install_id = Some(format!("i-{writer}"));
                    file.save(&identity).unwrap();
                }
            });
        }
    });
    let text = place.text();
    assert!(
        text.contains("vram_threshold_gb = ") && text.contains("install_id = \"i-"),
        "{text}"
    );
}

#[test]
fn the_token_is_made_once_and_not_in_the_file() {
    let place = Place::empty();
    let settings = place.settings();
    let paths = Paths::new(&place.config, &settings);
    let token = local_api_token(&paths, &settings).unwrap();
    assert_eq!(token.expose().len(), 64);
    assert_eq!(local_api_token(&paths, &settings).unwrap(), token);
    assert!(!place.config.exists());
    fs::write(&paths.token, "short").unwrap();
    let error = local_api_token(&paths, &settings).unwrap_err();
    assert!(!error.to_string().contains("short"));
    let named = Place::new("local_api_token = \"mine\"\n");
    let settings = named.settings();
    let paths = Paths::new(&named.config, &settings);
    assert_eq!(
        local_api_token(&paths, &settings).unwrap(),
        Secret::new("mine")
    );
    assert!(!paths.token.exists());
}

#[test]
fn every_key_has_a_sound_default_and_its_own_name() {
    let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KEYS.len());
    let settings = Place::empty().settings();
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
        assert_eq!(
            setting(&settings, key.name).shown.as_deref(),
            key.default,
            "{}",
            key.name
        );
    }
}

fn studio(url: &str) -> ApiBase {
    ApiBase::parse(url).unwrap()
}
