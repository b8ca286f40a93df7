//! What a plugin asks for, what it is given, and how much of everything it may use.
//!
//! A plugin states what it wants in the custom section `studio-worker:grants` of its file; the operator states
//! what it gets in `plugins.toml`. A plugin whose wishes go beyond its grants is not loaded: one that
//! ran with half of them would fail later, in the middle of somebody's job.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names;
use crate::policy::Permissions;
use crate::refusal::{Broken, Rule};

/// How many items a list of wishes may have. More is no plugin's need and would make an unreadable refusal.
const MAX_ITEMS: usize = 32;

/// What a plugin's grants section says: its wishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Asked {
    /// Native programs, by bare name.
    pub programs: Vec<String>,
    /// Prefixes of the addresses that builds of its programs are downloaded from.
    pub build_urls: Vec<String>,
    /// Shared objects that these builds take from the system. No wish: a machine without them is no place for the builds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub system_libraries: Vec<String>,
    /// Environment variables that it sets for its programs.
    pub environment: Vec<String>,
    /// Hosts that it sends requests to and downloads from, beside what an offer names.
    pub hosts: Vec<String>,
    /// Secrets that the host puts into its requests.
    pub secrets: Vec<SecretGrant>,
    /// Limits beyond the defaults.
    pub limits: LimitValues,
}

/// A secret, bound to where it may be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecretGrant {
    /// What the plugin calls it; never its value.
    pub name: String,
    /// The only host it is sent to.
    pub host: String,
    /// The only paths it is sent to begin with this.
    pub path_prefix: String,
}

/// Limits, where they are stated: by a plugin as a wish, by the operator as the most it gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitValues {
    /// Memory in MiB, summed over all of its memories.
    pub memory_mib: Option<u32>,
    /// Computing per call of everything but `step` and `finish`, in milliseconds of an idle core.
    pub quick_ms: Option<u32>,
    /// Computing per `step`, likewise.
    pub step_ms: Option<u32>,
    /// Computing per `finish`, likewise.
    pub finish_ms: Option<u32>,
    /// What a `step` or `finish` may return, in MiB; half the memory when not stated, and never more.
    pub returned_mib: Option<u32>,
    /// Steps of one job.
    pub steps: Option<u32>,
}

/// What a plugin is given: what it asked for and the operator granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Native programs, by bare name.
    pub programs: Vec<String>,
    /// Prefixes of the addresses that builds of its programs are downloaded from.
    pub build_urls: Vec<String>,
    /// Environment variables that it may set for its programs.
    pub environment: Vec<String>,
    /// Hosts that it may send requests to and download from, beside what an offer names.
    pub hosts: Vec<String>,
    /// Secrets that the host puts into its requests.
    pub secrets: Vec<SecretGrant>,
}

/// How much one plugin may use. Fuel is stated as the time it is worth on an idle core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, summed over all of its memories.
    pub memory_bytes: u64,
    /// Computing per call of everything but `step` and `finish`, in milliseconds.
    pub quick_ms: u32,
    /// Computing per `step`, in milliseconds.
    pub step_ms: u32,
    /// Computing per `finish`, in milliseconds.
    pub finish_ms: u32,
    /// What a `step` or `finish` may return, in bytes.
    pub returned_bytes: u64,
    /// Steps of one job.
    pub steps: u32,
}

/// One limit: its key, what holds without a word from anybody, and what no operator can raise it beyond.
pub(crate) struct Bound {
    pub(crate) key: &'static str,
    pub(crate) default: u32,
    pub(crate) ceiling: u32,
    pub(crate) get: fn(&LimitValues) -> Option<u32>,
    pub(crate) set: fn(&mut LimitValues, u32),
}

/// Every limit that can be stated. A larger memory default costs nothing until used, but a leak is noticed later;
/// larger times let a broken plugin hold a guest thread longer.
pub(crate) const BOUNDS: [Bound; 6] = [
    Bound {
        key: "memory-mib",
        default: 64,
        ceiling: 1024,
        get: |v| v.memory_mib,
        set: |v, n| v.memory_mib = Some(n),
    },
    Bound {
        key: "quick-ms",
        default: 50,
        ceiling: 1_000,
        get: |v| v.quick_ms,
        set: |v, n| v.quick_ms = Some(n),
    },
    Bound {
        key: "step-ms",
        default: 1_000,
        ceiling: 60_000,
        get: |v| v.step_ms,
        set: |v, n| v.step_ms = Some(n),
    },
    Bound {
        key: "finish-ms",
        default: 5_000,
        ceiling: 60_000,
        get: |v| v.finish_ms,
        set: |v, n| v.finish_ms = Some(n),
    },
    Bound {
        key: "returned-mib",
        default: 32,
        ceiling: 512,
        get: |v| v.returned_mib,
        set: |v, n| v.returned_mib = Some(n),
    },
    Bound {
        key: "steps",
        default: 64,
        ceiling: 1_024,
        get: |v| v.steps,
        set: |v, n| v.steps = Some(n),
    },
];

impl Default for Limits {
    fn default() -> Self {
        settle(&LimitValues::default(), &LimitValues::default())
    }
}

impl Asked {
    /// Reads the section's JSON; the default when a file has no such section.
    pub(crate) fn parse(section: Option<&[u8]>) -> Result<Self, Broken> {
        let Some(bytes) = section else {
            return Ok(Self::default());
        };
        let wrong = |what: String| {
            Rule::Asks.broken(format!(
                "its grants section is not the JSON that this worker knows: {what}"
            ))
        };
        // Records can be read from lists too, in an order that is nobody's contract.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(wrong("it is no object".to_owned()));
        }
        let asked: Self =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        asked.check()?;
        Ok(asked)
    }

    /// Refuses wishes that nobody can grant.
    fn check(&self) -> Result<(), Broken> {
        check_items("program", &self.programs, |name| {
            if names::is_interpreter(name) {
                return Err("runs whatever it is told to; no plugin gets shells and interpreters");
            }
            names::is_program(name)
                .then_some(())
                .ok_or("is not a bare program name")
        })?;
        check_items("build URL", &self.build_urls, |url| {
            names::is_url_prefix(url)
                .then_some(())
                .ok_or("is not an https:// prefix that ends in a slash")
        })?;
        check_items("system library", &self.system_libraries, |name| {
            names::is_library(name)
                .then_some(())
                .ok_or("is not a bare name of a shared object")
        })?;
        check_items("environment variable", &self.environment, |name| {
            if names::is_forbidden_variable(name) {
                return Err("decides what a program loads or where it connects; no plugin gets it");
            }
            names::is_variable(name)
                .then_some(())
                .ok_or("is not a variable's name")
        })?;
        check_items("host", &self.hosts, |host| {
            names::is_host(host)
                .then_some(())
                .ok_or("is not a host name in lower case")
        })?;
        check_secrets(&self.secrets)?;
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), Broken> {
        for bound in &BOUNDS {
            match (bound.get)(&self.limits) {
                Some(0) => return Err(Rule::Asks.broken(format!("asks for {} = 0", bound.key))),
                Some(asked) if asked > bound.ceiling => {
                    return Err(Rule::Asks.broken(format!(
                        "asks for {} = {asked}; no plugin gets more than {}",
                        bound.key, bound.ceiling
                    )));
                }
                _ => {}
            }
        }
        let memory = self.limits.memory_mib.unwrap_or(64);
        match self.limits.returned_mib {
            Some(returned) if returned > memory / 2 => Err(Rule::Asks.broken(format!(
                "asks for returned-mib = {returned}, more than half of its memory of {memory} MiB; ask for more memory-mib too"
            ))),
            _ => Ok(()),
        }
    }

    /// What the plugin is given, or the first wish that the operator has not granted and how to.
    pub(crate) fn grant(
        &self,
        plugin: &str,
        given: &Permissions,
    ) -> Result<(Grants, Limits), Broken> {
        self.check_granted(plugin, given)
            .map_err(|broken| broken.lacking(self, self.beyond(given)))?;
        let grants = Grants {
            programs: self.programs.clone(),
            build_urls: self.build_urls.clone(),
            environment: self.environment.clone(),
            hosts: self.hosts.clone(),
            secrets: self.secrets.clone(),
        };
        Ok((grants, settle(&self.limits, &given.limits)))
    }

    fn check_granted(&self, plugin: &str, given: &Permissions) -> Result<(), Broken> {
        let lists: [(&str, &[String], &[String]); 4] = [
            ("programs", &self.programs, &given.programs),
            ("build-urls", &self.build_urls, &given.build_urls),
            ("environment", &self.environment, &given.environment),
            ("hosts", &self.hosts, &given.hosts),
        ];
        for (key, asked, granted) in lists {
            if let Some(item) = asked.iter().find(|item| !covers(key, granted, item)) {
                return Err(missing_item(plugin, key, item, asked, granted));
            }
        }
        if let Some(secret) = self.secrets.iter().find(|s| !given.secrets.contains(s)) {
            return Err(missing_secret(plugin, secret));
        }
        for bound in &BOUNDS {
            if let Some((asked, cap)) = bound.beyond(&self.limits, &given.limits) {
                return Err(Rule::Granted.broken(format!(
                    "asks for {key} = {asked}, it may have {cap}; to allow it, put `{key} = {asked}` under [plugins.{plugin}] in plugins.toml",
                    key = bound.key
                )));
            }
        }
        Ok(())
    }

    /// The part that is not given.
    pub fn beyond(&self, given: &Permissions) -> Self {
        let part = |key: &str, asked: &[String], granted: &[String]| {
            let missing = asked.iter().filter(|item| !covers(key, granted, item));
            missing.cloned().collect()
        };
        let secrets = self.secrets.iter();
        let mut limits = LimitValues::default();
        for bound in &BOUNDS {
            if let Some((asked, _)) = bound.beyond(&self.limits, &given.limits) {
                (bound.set)(&mut limits, asked);
            }
        }
        Self {
            programs: part("programs", &self.programs, &given.programs),
            build_urls: part("build-urls", &self.build_urls, &given.build_urls),
            system_libraries: Vec::new(),
            environment: part("environment", &self.environment, &given.environment),
            hosts: part("hosts", &self.hosts, &given.hosts),
            secrets: secrets
                .filter(|secret| !given.secrets.contains(secret))
                .cloned()
                .collect(),
            limits,
        }
    }

    /// Whether it asks for nothing beyond the defaults.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

fn covers(key: &str, granted: &[String], item: &String) -> bool {
    granted.contains(item)
        || (key == "build-urls" && granted.iter().any(|g| names::is_under(item, g)))
}

impl Bound {
    /// What is asked, where that is more than is given, and what is given.
    fn beyond(&self, asked: &LimitValues, given: &LimitValues) -> Option<(u32, u32)> {
        let cap = (self.get)(given).unwrap_or(self.default);
        let asked = (self.get)(asked).filter(|asked| *asked > cap)?;
        // What comes with memory that was granted needs no second word.
        let with_memory = self.key == "returned-mib" && (self.get)(given).is_none();
        (!with_memory).then_some((asked, cap))
    }
}

impl Permissions {
    /// These and all that `asked` names.
    pub fn with(mut self, asked: &Asked) -> Self {
        let lists = [
            (&mut self.programs, &asked.programs),
            (&mut self.build_urls, &asked.build_urls),
            (&mut self.environment, &asked.environment),
            (&mut self.hosts, &asked.hosts),
        ];
        for (given, asked) in lists {
            given.extend(asked.iter().cloned());
        }
        self.secrets.extend(asked.secrets.iter().cloned());
        for bound in &BOUNDS {
            let given = (bound.get)(&self.limits).unwrap_or(bound.default);
            if let Some(more) = (bound.get)(&asked.limits).filter(|more| *more > given) {
                (bound.set)(&mut self.limits, more);
            }
        }
        self
    }
}

/// The limits that hold: what was asked, else the default, and never more than the operator's.
fn settle(asked: &LimitValues, given: &LimitValues) -> Limits {
    let mut settled = LimitValues::default();
    for bound in &BOUNDS {
        let cap = (bound.get)(given).unwrap_or(bound.ceiling);
        let value = (bound.get)(asked).unwrap_or(bound.default);
        (bound.set)(&mut settled, value.min(cap));
    }
    let memory = settled.memory_mib.unwrap_or(64);
    let stated = asked.returned_mib.or(given.returned_mib);
    let returned = stated.unwrap_or(memory / 2).min(memory / 2).max(1);
    Limits {
        memory_bytes: mib(memory),
        quick_ms: settled.quick_ms.unwrap_or(50),
        step_ms: settled.step_ms.unwrap_or(1_000),
        finish_ms: settled.finish_ms.unwrap_or(5_000),
        returned_bytes: mib(returned),
        steps: settled.steps.unwrap_or(64),
    }
}

/// MiB in bytes.
pub(crate) fn mib(count: u32) -> u64 {
    u64::from(count) << 20
}

/// One line, for people.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        for (what, items) in [
            ("programs", &self.programs),
            ("build-urls", &self.build_urls),
            ("environment", &self.environment),
            ("hosts", &self.hosts),
        ] {
            if !items.is_empty() {
                said.push(format!("{what} {}", items.join(" ")));
            }
        }
        for secret in &self.secrets {
            said.push(format!(
                "secret {} on {}{}",
                secret.name, secret.host, secret.path_prefix
            ));
        }
        for bound in &BOUNDS {
            if let Some(value) = (bound.get)(&self.limits) {
                said.push(format!("{} {value}", bound.key));
            }
        }
        f.write_str(&if said.is_empty() {
            "nothing".to_owned()
        } else {
            said.join("; ")
        })
    }
}

fn check_items(
    what: &str,
    items: &[String],
    fits: impl Fn(&str) -> Result<(), &'static str>,
) -> Result<(), Broken> {
    if items.len() > MAX_ITEMS {
        return Err(Rule::Asks.broken(format!(
            "asks for {} of the kind {what}; no plugin gets more than {MAX_ITEMS}",
            items.len()
        )));
    }
    for item in items {
        fits(item).map_err(|why| {
            Rule::Asks.broken(format!(
                "asks for the {what} `{}`, which {why}",
                names::one_line(item, 128)
            ))
        })?;
    }
    Ok(())
}

fn check_secrets(secrets: &[SecretGrant]) -> Result<(), Broken> {
    if secrets.len() > MAX_ITEMS {
        return Err(Rule::Asks.broken(format!("asks for more than {MAX_ITEMS} secrets")));
    }
    for secret in secrets {
        let fits = names::is_plugin_name(&secret.name)
            && names::is_host(&secret.host)
            && secret.path_prefix.starts_with('/')
            && secret.path_prefix.len() <= 256
            && secret.path_prefix.chars().all(|c| c.is_ascii_graphic())
            && !secret.path_prefix.contains("..");
        if !fits {
            return Err(Rule::Asks.broken(format!(
                "asks for the secret `{}` without a proper name, host and path-prefix",
                names::one_line(&secret.name, 128)
            )));
        }
    }
    Ok(())
}

fn missing_item(
    plugin: &str,
    key: &str,
    item: &str,
    asked: &[String],
    granted: &[String],
) -> Broken {
    let mut all: Vec<&String> = granted.iter().collect();
    all.extend(asked.iter().filter(|item| !granted.contains(item)));
    let list: Vec<String> = all.iter().map(|item| format!("\"{item}\"")).collect();
    Rule::Granted.broken(format!(
        "asks for {key} `{item}`, which is not granted; to allow it, put `{key} = [{}]` under [plugins.{plugin}] in plugins.toml",
        list.join(", ")
    ))
}

fn missing_secret(plugin: &str, secret: &SecretGrant) -> Broken {
    Rule::Granted.broken(format!(
        "asks for the secret `{name}` on {host}{path}, which is not granted; to allow it, put `secrets = [{{ name = \"{name}\", host = \"{host}\", path-prefix = \"{path}\" }}]` under [plugins.{plugin}] in plugins.toml",
        name = secret.name,
        host = secret.host,
        path = secret.path_prefix,
    ))
}

#[cfg(test)]
mod tests;
