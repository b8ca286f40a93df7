//! What commands change in the file.

use std::path::Path;

use worker_wire::ApiBase;

use crate::document::{self, ConfigFile};
use crate::error::{ConfigError, Expected};
use crate::identity::set;
use crate::keys;
use crate::settings::is_valid_number;

/// What `register` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Whether the file has an identity no more that it had.
    pub identity_removed: bool,
}

/// Keys of the identity.
const IDENTITY: [&str; 6] = [
    keys::INSTALL_ID,
    keys::WORKER_ID,
    keys::AUTH_TOKEN,
    keys::REQUEST_ID,
    keys::REGISTRATION_SECRET,
    keys::REGISTERED_STUDIO,
];

/// Writes the studio, if one is given, and removes the identity: when asked to, or when it belongs to another studio
/// than the one given.
pub fn register(
    config: &Path,
    studio: Option<&ApiBase>,
    reset: bool,
) -> Result<Registration, ConfigError> {
    let file = ConfigFile::load(config)?;
    let before = studio_of(&file);
    let moved = studio.is_some_and(|new| before.as_ref() != Some(new));
    let mut removed = false;
    document::change(config, |table| {
        if let Some(studio) = studio {
            set(table, keys::API_BASE_URL, studio.to_string().into());
        }
        if reset || moved {
            for key in IDENTITY {
                removed |= table.remove(key).is_some();
            }
        }
    })?;
    Ok(Registration {
        identity_removed: removed,
    })
}

/// Writes the largest job to take, in GiB.
pub fn set_threshold(config: &Path, gigabytes: f64) -> Result<(), ConfigError> {
    if !is_valid_number(keys::VRAM_THRESHOLD_GB, gigabytes) {
        return Err(ConfigError::Given {
            key: keys::VRAM_THRESHOLD_GB,
            expected: Expected::Number { min: 0.0 },
        });
    }
    document::change(config, |table| {
        set(table, keys::VRAM_THRESHOLD_GB, gigabytes.into());
    })
}

fn studio_of(file: &ConfigFile) -> Option<ApiBase> {
    let (item, _) = file.get(keys::API_BASE_URL)?;
    ApiBase::parse(item.as_str()?).ok()
}
