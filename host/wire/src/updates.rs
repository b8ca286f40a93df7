//! Plugins that a studio pushes: the `pluginUpdate` frame down, the `pluginStatus` frame up.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest id of an update, in bytes. Longer ones would crowd each log line about it.
const MAX_UPDATE_ID_BYTES: usize = 64;
/// Longest name of a plugin, in bytes: what a plugin file may be called.
const MAX_NAME_BYTES: usize = 64;
/// Longest version, in bytes.
const MAX_VERSION_BYTES: usize = 100;
/// Longest URL, in bytes: as long as any that is asked for.
const MAX_URL_BYTES: usize = 16 * 1024;
/// Longest signature, in bytes. One has some 300; a trusted comment makes it longer.
const MAX_SIGNATURE_BYTES: usize = 16 * 1024;
/// Longest reason of a status, in bytes. A reason is one line for people.
const MAX_REASON_BYTES: usize = 2_000;

/// A plugin that the studio wants a worker to run, as the frame `pluginUpdate` announces it. One that was read keeps to the
/// bounds of its fields; whether its size, its address and its signature are any good is for whoever fetches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginUpdate {
    /// The studio's id of it: 1 to 64 ASCII letters, digits, `.`, `_` or `-`. Several workers may get the same.
    pub update_id: String,
    /// Name of the plugin: 1 to 64 lower-case letters, digits or hyphens.
    pub name: String,
    /// Its version, for people; may be empty.
    pub version: String,
    /// SHA-256 of the component in lower-case hex.
    pub digest: String,
    /// Size of the component in bytes.
    pub size: u64,
    /// Where it is: an absolute URL, or a path at the studio's origin, beginning with one slash.
    pub url: String,
    /// Text of the detached minisign signature; empty where there is none.
    pub signature: String,
}

/// Why a `pluginUpdate` is not one. `update_id` and `name` are there when they could be read, so that the studio can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct UpdateError {
    /// The update's id, sound.
    pub update_id: Option<String>,
    /// The plugin's name, sound.
    pub name: Option<String>,
    /// What is wrong, naming the field.
    pub reason: String,
}

/// How a plugin of a worker stands, as the frame `pluginStatus` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginStatus {
    /// The update that it is about; absent where it came another way, such as from the worker's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_id: Option<String>,
    /// Name of the plugin.
    pub name: String,
    /// Its version; empty while that is not known.
    pub version: String,
    /// SHA-256 of the component in hex; empty while that is not known.
    pub digest: String,
    /// A word of [`state`], or one that a later worker has.
    pub state: String,
    /// Why, for people: one line; may be empty.
    pub reason: String,
    /// Where it was refused: the rule that it broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// When it came to that state, RFC 3339.
    pub at: String,
}

/// Words for the states of a plugin.
pub mod state {
    /// Announced; another one is fetched first.
    pub const QUEUED: &str = "queued";
    /// It is being fetched.
    pub const FETCHING: &str = "fetching";
    /// It cannot be fetched now; sending it again may help.
    pub const UNFETCHED: &str = "fetch-failed";
    /// The worker ended while it was under way; sending it again helps.
    pub const INTERRUPTED: &str = "interrupted";
    /// A later update of the same plugin came before it was taken in.
    pub const SUPERSEDED: &str = "superseded";
    /// It is on its way through the checks.
    pub const CHECKING: &str = "checking";
    /// It arrived whole; nothing is decided.
    pub const RECEIVED: &str = "received";
    /// The plugin is pinned.
    pub const PINNED: &str = "pinned";
    /// The operator has to say something first.
    pub const WAITING: &str = "waiting";
    /// It broke a rule.
    pub const REFUSED: &str = "refused";
    /// It serves, and its first jobs are watched.
    pub const PROBATION: &str = "probation";
    /// It serves.
    pub const ACTIVE: &str = "active";
    /// It served, and the version before it is back.
    pub const ROLLED_BACK: &str = "rolled-back";
    /// It is not taken again.
    pub const QUARANTINED: &str = "quarantined";
    /// It serves a job that began on it, and no new one.
    pub const DRAINING: &str = "draining";
    /// It is out of service by the operator's word.
    pub const REMOVED: &str = "removed";
    /// It is out of service by the worker's `plugins.toml`.
    pub const NOT_ALLOWED: &str = "not-allowed";
}

impl PluginUpdate {
    /// Reads the whole text of a frame.
    pub fn read(text: &str) -> Result<Self, UpdateError> {
        let nothing = |reason: &str| UpdateError {
            update_id: None,
            name: None,
            reason: reason.to_owned(),
        };
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|_| nothing("it is not a JSON object"))?;
        let text = |field: &str| fields.get(field).and_then(Value::as_str);
        let update_id = text("updateId").filter(|id| is_update_id(id));
        let name = text("name").filter(|name| is_plugin_name(name));
        let wrong = |reason: &str| UpdateError {
            update_id: update_id.map(str::to_owned),
            name: name.map(str::to_owned),
            reason: reason.to_owned(),
        };
        let bounded = |field: &str, most: usize| text(field).filter(|text| text.len() <= most);
        Ok(Self {
            update_id: update_id
                .ok_or_else(|| {
                    wrong("`updateId` must be 1 to 64 ASCII letters, digits, `.`, `_` or `-`")
                })?
                .to_owned(),
            name: name
                .ok_or_else(|| {
                    wrong(
                        "`name` must be a plugin's: 1 to 64 lower-case letters, digits or hyphens",
                    )
                })?
                .to_owned(),
            version: bounded("version", MAX_VERSION_BYTES)
                .filter(|version| version.chars().all(|c| c.is_ascii_graphic()))
                .ok_or_else(|| {
                    wrong("`version` must be a text of at most 100 printable characters")
                })?
                .to_owned(),
            digest: text("digest")
                .filter(|digest| is_digest(digest))
                .ok_or_else(|| wrong("`digest` must be a SHA-256 in 64 lower-case hex digits"))?
                .to_owned(),
            size: fields
                .get("size")
                .and_then(Value::as_u64)
                .filter(|size| *size > 0)
                .ok_or_else(|| wrong("`size` must be the component's size in bytes"))?,
            url: bounded("url", MAX_URL_BYTES)
                .ok_or_else(|| wrong("`url` must be a URL, or a path at the studio"))?
                .to_owned(),
            signature: match fields.get("signature") {
                // Whether an update may go without one is for whoever takes it in.
                None | Some(Value::Null) => String::new(),
                Some(_) => bounded("signature", MAX_SIGNATURE_BYTES)
                    .ok_or_else(|| wrong("`signature` must be the text of a minisign signature"))?
                    .to_owned(),
            },
        })
    }

    /// The text of its frame.
    pub fn to_text(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("type".to_owned(), "pluginUpdate".into());
        }
        value.to_string()
    }
}

impl PluginStatus {
    /// Brings fields to their bounds, so that what is kept of a hostile worker's stays small.
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String, most: usize| {
            text.retain(|c| !c.is_control());
            if text.len() > most {
                text.truncate(text.floor_char_boundary(most));
            }
        };
        if let Some(id) = &mut self.update_id {
            cut(id, MAX_UPDATE_ID_BYTES);
        }
        cut(&mut self.name, MAX_NAME_BYTES);
        cut(&mut self.version, MAX_VERSION_BYTES);
        cut(&mut self.digest, 64);
        cut(&mut self.state, 40);
        cut(&mut self.reason, MAX_REASON_BYTES);
        if let Some(rule) = &mut self.rule {
            cut(rule, 40);
        }
        cut(&mut self.at, 40);
        self
    }
}

/// Whether a text can be an update's id.
pub fn is_update_id(text: &str) -> bool {
    (1..=MAX_UPDATE_ID_BYTES).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether a text can be a plugin's name.
pub fn is_plugin_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|b| plain(b) || b == b'-')
        && text.bytes().next().is_some_and(plain)
}

/// Whether a text is a SHA-256 in lower-case hex.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        serde_json::json!({
            "type": "pluginUpdate", "updateId": "u-1", "name": "sd-cpp", "version": "1.2.0",
            "digest": "ab".repeat(32), "size": 7, "url": "/x", "signature": "s",
        })
    }

    #[test]
    fn what_is_written_is_read() {
        let read = PluginUpdate::read(&good().to_string()).unwrap();
        assert_eq!(PluginUpdate::read(&read.to_text()).unwrap(), read);
    }

    #[test]
    fn a_hostile_field_is_named_and_what_can_be_answered_is_kept() {
        let wild = [
            ("name", serde_json::json!("../../etc/passwd")),
            ("name", serde_json::json!(7)),
            ("name", serde_json::json!("-x")),
            ("version", serde_json::json!("1\n2")),
            ("digest", serde_json::json!("AB".repeat(32))),
            ("size", serde_json::json!(-1)),
            ("size", serde_json::json!("7")),
            ("size", serde_json::json!(0)),
            ("size", serde_json::json!(1e300)),
            ("url", serde_json::json!("x".repeat(MAX_URL_BYTES + 1))),
            ("signature", serde_json::json!(7)),
        ];
        for (field, value) in wild {
            let mut frame = good();
            frame[field] = value;
            let error = PluginUpdate::read(&frame.to_string()).unwrap_err();
            assert!(error.reason.contains(&format!("`{field}`")), "{error:?}");
            assert_eq!(error.update_id.as_deref(), Some("u-1"), "{frame}");
            assert_eq!(error.name.is_none(), field == "name", "{frame}");
        }
        let mut frame = good();
        frame["updateId"] = "a/b".into();
        let error = PluginUpdate::read(&frame.to_string()).unwrap_err();
        assert_eq!(error.update_id, None);
    }

    #[test]
    fn a_status_is_cut_to_its_bounds() {
        let status = PluginStatus {
            reason: "ä".repeat(MAX_REASON_BYTES),
            state: "x\n".repeat(100),
            ..PluginStatus::default()
        }
        .bounded();
        assert!(status.reason.len() <= MAX_REASON_BYTES && status.state == "x".repeat(40));
    }
}
