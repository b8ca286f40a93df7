//! `plugins.toml`: what the operator grants, and which plugins serve in which order.
//!
//! An error names line and key and nothing else of the file: settings may hold what is not for a log.
//! Therefore the document is walked by hand instead of by serde, whose messages quote values.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use worker_trust::{TrustedKey, TrustedKeys};

use crate::grants::{BOUNDS, LimitValues, SecretGrant};
use crate::names;

/// The file's name, in the plugin folder.
pub(crate) const FILE: &str = "plugins.toml";

/// Larger files are refused: a hand-written one has a few KiB.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// The most an operator can allow one plugin's file to have, in MiB.
pub const MAX_FILE_MIB: u32 = 128;
/// What it may have without a word.
pub(crate) const DEFAULT_FILE_MIB: u32 = 32;

/// The operator's word on the plugins of one folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Engines in the order in which the router sees them, `*` standing for all others by name; none means `*`.
    pub engines: Option<Vec<String>>,
    /// Finishers in the order in which they work; none means all by name.
    pub finishers: Option<Vec<String>>,
    /// The router, where the folder holds more than one.
    pub router: Option<String>,
    /// Whose signatures are trusted.
    pub keys: TrustedKeys,
    /// Whether the operator's own files must be signed too.
    pub require_signature: bool,
    /// What single plugins are allowed.
    pub plugins: BTreeMap<String, Permissions>,
}

/// What one plugin is allowed.
#[derive(Debug, Clone, PartialEq)]
pub struct Permissions {
    /// Whether it is loaded at all.
    pub enabled: bool,
    /// Whether the studio may not change it.
    pub locked: bool,
    /// The only version, or digest or first digits of it, that is taken.
    pub pinned: Option<String>,
    /// Native programs.
    pub programs: Vec<String>,
    /// Prefixes of the addresses of builds.
    pub build_urls: Vec<String>,
    /// Environment variables that it may set for its programs.
    pub environment: Vec<String>,
    /// Hosts.
    pub hosts: Vec<String>,
    /// Secrets, by name and place; their values are kept elsewhere.
    pub secrets: Vec<SecretGrant>,
    /// The most it may ask for.
    pub limits: LimitValues,
    /// The largest file it may come in, in MiB.
    pub file_mib: u32,
    /// Whether WASI imports are met with an empty context instead of a refusal.
    pub empty_wasi: bool,
    /// Handed to the plugin as it is: a JSON object.
    pub settings: String,
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            enabled: true,
            locked: false,
            pinned: None,
            programs: Vec::new(),
            build_urls: Vec::new(),
            environment: Vec::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            limits: LimitValues::default(),
            file_mib: DEFAULT_FILE_MIB,
            empty_wasi: false,
            settings: "{}".to_owned(),
        }
    }
}

/// What is wrong with `plugins.toml`: where, and what is expected there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// The line, from 1.
    pub line: usize,
    /// The key, dotted; empty where no key could be read.
    pub key: String,
    /// What is expected.
    pub problem: &'static str,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if !self.key.is_empty() {
            write!(f, ", `{}`", self.key)?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// A value, where it stands.
struct Place<'a> {
    text: &'a str,
    key: String,
    at: usize,
}

impl Place<'_> {
    fn wrong<T>(&self, problem: &'static str) -> Result<T, PolicyError> {
        Err(PolicyError {
            line: line_of(self.text, self.at),
            key: self.key.clone(),
            problem,
        })
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Policy {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let document = DeTable::parse(text).map_err(|error| PolicyError {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            key: String::new(),
            problem: "not valid TOML",
        })?;
        let mut policy = Self::default();
        for (key, value) in document.get_ref() {
            let place = child(text, "", key);
            match key.get_ref().as_ref() {
                "engines" => policy.engines = Some(name_list(&place, value, true)?),
                "finishers" => policy.finishers = Some(name_list(&place, value, false)?),
                "router" => policy.router = Some(plugin_name(&place, value)?),
                "keys" => policy.keys = keys(text, &place, value)?,
                "require-signature" => policy.require_signature = boolean(&place, value)?,
                "plugins" => policy.plugins = plugins(text, &place, value)?,
                _ => {
                    return place.wrong(
                        "unknown key; known are engines, finishers, router, keys, require-signature and [plugins.NAME]",
                    );
                }
            }
        }
        Ok(policy)
    }

    /// What one plugin is allowed; nothing beyond the defaults where the file does not speak of it.
    pub fn permissions(&self, plugin: &str) -> Permissions {
        self.plugins.get(plugin).cloned().unwrap_or_default()
    }
}

/// Keys beyond these are no operator's.
const MAX_KEYS: usize = 32;

fn keys(text: &str, place: &Place<'_>, value: &Value<'_>) -> Result<TrustedKeys, PolicyError> {
    let Some(items) = value
        .get_ref()
        .as_array()
        .filter(|items| items.len() <= MAX_KEYS)
    else {
        return place.wrong("expected a list of at most 32 keys");
    };
    items
        .iter()
        .map(|item| trusted_key(text, place, item))
        .collect()
}

/// A key alone, or `{ key, name }`.
fn trusted_key(text: &str, place: &Place<'_>, item: &Value<'_>) -> Result<TrustedKey, PolicyError> {
    let (mut key, mut name) = (None, None);
    match item.get_ref() {
        DeValue::Table(table) => {
            for (word, value) in table {
                let place = child(text, &place.key, word);
                match word.get_ref().as_ref() {
                    "key" => key = Some(string(&place, value)?),
                    "name" => name = Some(plugin_name(&place, value)?),
                    _ => return place.wrong("unknown key; known are key and name"),
                }
            }
        }
        _ => key = Some(string(place, item)?),
    }
    let read = key.and_then(|key| TrustedKey::parse(&key, name.as_deref()).ok());
    match read {
        Some(key) => Ok(key),
        None => place.wrong(
            "expected minisign public keys, as the second line of a .pub file has them: \"RW…\", or { key = \"RW…\", name = \"studio\" }",
        ),
    }
}

fn plugins(
    text: &str,
    place: &Place<'_>,
    value: &Value<'_>,
) -> Result<BTreeMap<String, Permissions>, PolicyError> {
    let Some(table) = value.get_ref().as_table() else {
        return place.wrong("expected a table for each plugin: [plugins.NAME]");
    };
    let mut plugins = BTreeMap::new();
    for (name, value) in table {
        let place = child(text, &place.key, name);
        if !names::is_plugin_name(name.get_ref()) {
            return place.wrong("expected a plugin's name: lower-case letters, digits and hyphens");
        }
        let Some(table) = value.get_ref().as_table() else {
            return place.wrong("expected a table");
        };
        plugins.insert(
            name.get_ref().to_string(),
            permissions(text, &place, table)?,
        );
    }
    Ok(plugins)
}

fn permissions(
    text: &str,
    above: &Place<'_>,
    table: &DeTable<'_>,
) -> Result<Permissions, PolicyError> {
    let mut given = Permissions::default();
    for (key, value) in table {
        let place = child(text, &above.key, key);
        let name = key.get_ref().as_ref();
        if let Some(bound) = BOUNDS.iter().find(|bound| bound.key == name) {
            (bound.set)(&mut given.limits, number(&place, value, bound.ceiling)?);
            continue;
        }
        match name {
            "enabled" => given.enabled = boolean(&place, value)?,
            "locked" => given.locked = boolean(&place, value)?,
            "pinned" => given.pinned = Some(pin(&place, value)?),
            "programs" => given.programs = strings(&place, value)?,
            "build-urls" => given.build_urls = url_prefixes(&place, value)?,
            "environment" => given.environment = strings(&place, value)?,
            "hosts" => given.hosts = strings(&place, value)?,
            "secrets" => given.secrets = secrets(text, &place, value)?,
            "file-mib" => given.file_mib = number(&place, value, MAX_FILE_MIB)?,
            "wasi" => match string(&place, value)?.as_str() {
                "empty" => given.empty_wasi = true,
                "none" => given.empty_wasi = false,
                _ => return place.wrong("expected \"empty\" or \"none\""),
            },
            "settings" => given.settings = settings(&place, value)?,
            _ => return place.wrong("unknown key"),
        }
    }
    Ok(given)
}

fn settings(place: &Place<'_>, value: &Value<'_>) -> Result<String, PolicyError> {
    if !value.get_ref().is_table() {
        return place.wrong("expected a table");
    }
    match json(value.get_ref(), 0) {
        Some(json) => Ok(json.to_string()),
        None => place.wrong("holds a number that JSON has no word for, or more than 32 levels"),
    }
}

/// TOML as JSON; dates and times become text.
fn json(value: &DeValue<'_>, depth: u32) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    if depth > 32 {
        return None;
    }
    Some(match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Integer(number) => {
            Json::from(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Float(number) => {
            Json::Number(serde_json::Number::from_f64(number.as_str().parse().ok()?)?)
        }
        DeValue::Boolean(flag) => Json::Bool(*flag),
        DeValue::Datetime(date) => Json::String(date.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<Json>> = items
                .iter()
                .map(|item| json(item.get_ref(), depth + 1))
                .collect();
            Json::Array(items?)
        }
        DeValue::Table(table) => {
            let mut object = serde_json::Map::new();
            for (key, value) in table {
                object.insert(key.get_ref().to_string(), json(value.get_ref(), depth + 1)?);
            }
            Json::Object(object)
        }
    })
}

fn secrets(
    text: &str,
    place: &Place<'_>,
    value: &Value<'_>,
) -> Result<Vec<SecretGrant>, PolicyError> {
    let Some(items) = value.get_ref().as_array() else {
        return place.wrong("expected a list of { name, host, path-prefix }");
    };
    let mut secrets = Vec::new();
    for item in items.iter() {
        let Some(table) = item.get_ref().as_table() else {
            return place.wrong("expected a list of { name, host, path-prefix }");
        };
        let mut secret = SecretGrant {
            name: String::new(),
            host: String::new(),
            path_prefix: String::new(),
        };
        for (key, value) in table {
            let place = child(text, &place.key, key);
            match key.get_ref().as_ref() {
                "name" => secret.name = string(&place, value)?,
                "host" => secret.host = string(&place, value)?,
                "path-prefix" => secret.path_prefix = string(&place, value)?,
                _ => return place.wrong("unknown key"),
            }
        }
        if secret.name.is_empty() || secret.host.is_empty() || !secret.path_prefix.starts_with('/')
        {
            return place.wrong("expected name, host and a path-prefix that begins with a slash");
        }
        secrets.push(secret);
    }
    Ok(secrets)
}

fn url_prefixes(place: &Place<'_>, value: &Value<'_>) -> Result<Vec<String>, PolicyError> {
    let prefixes = strings(place, value)?;
    if prefixes.iter().all(|prefix| names::is_url_prefix(prefix)) {
        Ok(prefixes)
    } else {
        place.wrong("expected https:// prefixes that end in a slash")
    }
}

fn strings(place: &Place<'_>, value: &Value<'_>) -> Result<Vec<String>, PolicyError> {
    let Some(items) = value.get_ref().as_array() else {
        return place.wrong("expected a list of strings");
    };
    items.iter().map(|item| string(place, item)).collect()
}

fn name_list(place: &Place<'_>, value: &Value<'_>, star: bool) -> Result<Vec<String>, PolicyError> {
    let names = strings(place, value)?;
    for (at, name) in names.iter().enumerate() {
        if !(names::is_plugin_name(name) || star && name == "*") {
            return place.wrong("expected a list of plugin names");
        }
        if names.iter().take(at).any(|earlier| earlier == name) {
            return place.wrong("names a plugin twice");
        }
    }
    Ok(names)
}

fn plugin_name(place: &Place<'_>, value: &Value<'_>) -> Result<String, PolicyError> {
    let name = string(place, value)?;
    if names::is_plugin_name(&name) {
        Ok(name)
    } else {
        place.wrong("expected a name: lower-case letters, digits and hyphens")
    }
}

fn pin(place: &Place<'_>, value: &Value<'_>) -> Result<String, PolicyError> {
    let pin = string(place, value)?;
    let is_digest = pin.len() >= 12 && pin.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest {
        return Ok(pin.to_ascii_lowercase());
    }
    match semver::Version::parse(&pin) {
        Ok(_) => Ok(pin),
        Err(_) => place.wrong(
            "expected a version such as 1.2.0, or a digest or its first digits, at least 12",
        ),
    }
}

fn string(place: &Place<'_>, value: &Value<'_>) -> Result<String, PolicyError> {
    match value.get_ref().as_str() {
        Some(text) => Ok(text.to_owned()),
        None => place.wrong("expected a string"),
    }
}

fn boolean(place: &Place<'_>, value: &Value<'_>) -> Result<bool, PolicyError> {
    match value.get_ref().as_bool() {
        Some(flag) => Ok(flag),
        None => place.wrong("expected true or false"),
    }
}

fn number(place: &Place<'_>, value: &Value<'_>, most: u32) -> Result<u32, PolicyError> {
    let number = value
        .get_ref()
        .as_integer()
        .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
    match number {
        Some(number) if (1..=most).contains(&number) => Ok(number),
        Some(_) => place.wrong("out of range: at least 1, and no more than the documented ceiling"),
        None => place.wrong("expected a whole number"),
    }
}

fn child<'a>(text: &'a str, above: &str, key: &Spanned<std::borrow::Cow<'_, str>>) -> Place<'a> {
    let name = names::one_line(key.get_ref(), 64);
    Place {
        text,
        key: if above.is_empty() {
            name
        } else {
            format!("{above}.{name}")
        },
        at: key.span().start,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
