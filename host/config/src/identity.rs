//! Who the worker is at its studio, on disk.
//!
//! At a studio elsewhere it is five keys of `config.toml`, as the reference worker has them, and one of ours that says
//! which studio they belong to: after `api_base_url` was changed by hand, the old studio's token is not sent to the
//! new one. At the embedded studio it is a file of its own in the state folder.

use std::path::{Path, PathBuf};

use toml_edit::{TableLike, value};
use worker_wire::{ApiBase, Secret};

use crate::document::{self, ConfigFile};
use crate::error::{ConfigError, Expected};
use crate::keys;

/// The identity as it is stored. An empty text is read as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredIdentity {
    /// This installation, to a studio's operator.
    pub install_id: Option<String>,
    /// Proves that the waiting registration is this worker's.
    pub registration_secret: Option<Secret>,
    /// The registration that waits for approval.
    pub registration_request_id: Option<String>,
    /// The worker's id.
    pub worker_id: Option<String>,
    /// Its token.
    pub auth_token: Option<Secret>,
}

impl StoredIdentity {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where an identity is stored.
#[derive(Clone, Debug)]
pub struct IdentityFile {
    path: PathBuf,
    studio: Option<String>,
}

impl IdentityFile {
    /// In `config.toml`, for a studio elsewhere.
    pub fn remote(config: &Path, studio: &ApiBase) -> Self {
        Self {
            path: config.to_owned(),
            studio: Some(studio.to_string()),
        }
    }

    /// In a file of its own, for the embedded studio.
    pub fn embedded(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            studio: None,
        }
    }

    /// Reads it; empty where there is none for this studio.
    pub fn load(&self) -> Result<StoredIdentity, ConfigError> {
        let file = ConfigFile::load(&self.path)?;
        let belongs_to = text(&file, keys::REGISTERED_STUDIO)?;
        if let (Some(owner), Some(studio)) = (&belongs_to, &self.studio)
            && owner != studio
        {
            return Ok(StoredIdentity::default());
        }
        Ok(StoredIdentity {
            install_id: text(&file, keys::INSTALL_ID)?,
            registration_secret: text(&file, keys::REGISTRATION_SECRET)?.map(Secret::new),
            registration_request_id: text(&file, keys::REQUEST_ID)?,
            worker_id: text(&file, keys::WORKER_ID)?,
            auth_token: text(&file, keys::AUTH_TOKEN)?.map(Secret::new),
        })
    }

    /// Writes it, at once and durably; what else the file says is kept.
    pub fn save(&self, identity: &StoredIdentity) -> Result<(), ConfigError> {
        document::change(&self.path, |table| {
            put(table, keys::INSTALL_ID, identity.install_id.as_deref());
            put(
                table,
                keys::REQUEST_ID,
                identity.registration_request_id.as_deref(),
            );
            put(table, keys::WORKER_ID, identity.worker_id.as_deref());
            let secret = identity.registration_secret.as_ref();
            put(table, keys::REGISTRATION_SECRET, secret.map(Secret::expose));
            put(
                table,
                keys::AUTH_TOKEN,
                identity.auth_token.as_ref().map(Secret::expose),
            );
            let owner = self.studio.as_deref().filter(|_| !identity.is_empty());
            put(table, keys::REGISTERED_STUDIO, owner);
        })
    }
}

fn put(table: &mut dyn TableLike, key: &str, text: Option<&str>) {
    match text.filter(|text| !text.is_empty()) {
        // An equal value is left as it is written, with its comment.
        Some(text) if table.get(key).and_then(|item| item.as_str()) == Some(text) => {}
        Some(text) => set(table, key, text.into()),
        None => {
            table.remove(key);
        }
    }
}

/// Sets a value, keeping the comments around the one that it replaces.
pub(crate) fn set(table: &mut dyn TableLike, key: &str, mut new: toml_edit::Value) {
    if let Some(old) = table.get_mut(key).and_then(|item| item.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
        *old = new;
    } else {
        table.insert(key, value(new));
    }
}

fn text(file: &ConfigFile, key: &'static str) -> Result<Option<String>, ConfigError> {
    let Some((item, line)) = file.get(key) else {
        return Ok(None);
    };
    let text = item.as_str().ok_or_else(|| ConfigError::Value {
        path: file.path().to_owned(),
        line,
        key,
        expected: Expected::Text,
    })?;
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}
