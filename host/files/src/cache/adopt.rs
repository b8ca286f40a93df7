//! Files of an older worker, used where they lie: neither downloaded again nor moved.
//!
//! It kept them flat in the models' root, or in a folder per model, under the names that the registry gave. A name proves
//! nothing. So a file is hashed once before its first use where a digest is known; where none is, it serves only the first
//! URL that asked for it, by its model's own folder or flat, and is marked unverified.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::CacheError;
use super::hash::{Stop, hash};
use super::key::CacheKey;
use super::locks::InUse;
use super::record::{Place, Record, Stamp, read_json, write_json};
use super::{CachedFile, ModelCache};
use crate::name::check_bare_name;

/// Most folders of models that are looked through. More than that is no models' folder.
const MAX_FOLDERS: usize = 4096;

/// A file that a job wants.
#[derive(Debug, Clone)]
pub struct WantedFile {
    /// Where it comes from.
    pub url: String,
    /// Its SHA-256, where the offer gives one.
    pub sha256: Option<[u8; 32]>,
    /// Its bare file name, for showing and for finding it in an older worker's folders.
    pub name: String,
    /// The model that it belongs to, which an older worker named a folder after.
    pub model: String,
    /// Its size as the registry believes it.
    pub approx_bytes: Option<u64>,
}

impl WantedFile {
    /// What it is kept under.
    #[must_use]
    pub fn key(&self) -> CacheKey {
        CacheKey::of(self.sha256, &self.url)
    }

    /// Whether a file may be this one by its size: a tenth more or less than the registry says.
    fn plausible(&self, size: u64) -> bool {
        self.approx_bytes
            .is_none_or(|approx| size.abs_diff(approx) <= approx / 10)
    }
}

/// What hashing a file of an older worker came to.
#[derive(Debug, Serialize, Deserialize)]
struct Hashed {
    path: PathBuf,
    stamp: Stamp,
    sha256: String,
}

impl ModelCache {
    /// The file in an older worker's folders, if it is there. Hashes where a digest is known, each file once. Blocks.
    pub(super) fn adopt(
        &self,
        wanted: &WantedFile,
        stop: &Stop,
    ) -> Result<Option<CachedFile>, CacheError> {
        if check_bare_name(&wanted.name).is_err() || wanted.name.starts_with('.') {
            return Ok(None);
        }
        let key = wanted.key();
        for path in self.candidates(wanted) {
            // The operator may keep models on another disk, behind a link; it is the file there that is used.
            let Ok(path) = fs::canonicalize(&path) else {
                continue;
            };
            let Ok(Some(stamp)) = Stamp::of(&path) else {
                continue;
            };
            if path.starts_with(&self.dir) || !wanted.plausible(stamp.size) {
                continue;
            }
            let (stamp, sha256) = match wanted.sha256 {
                Some(digest) => {
                    let hashed = self.hashed(&path, stamp, stop)?;
                    if hashed.sha256 != hex::encode(digest) {
                        continue;
                    }
                    (hashed.stamp, Some(hashed.sha256))
                }
                None if self.claimed(&path, &key)? => continue,
                None => (stamp, None),
            };
            let mut record = Record::new(&key, &wanted.name, Place::Adopted(path.clone()), stamp);
            record.verified = sha256.is_some();
            record.sha256 = sha256;
            let in_use = InUse::take(&self.use_path(&key))?;
            in_use.touch();
            self.write_record(&key, &record)?;
            let how = if record.verified {
                "its digest agrees"
            } else {
                "unverified: no digest is known"
            };
            tracing::info!(target: "models", path = %path.display(), "using a model file of an older worker where it lies; {how}");
            return Ok(Some(CachedFile {
                key,
                path,
                size: stamp.size,
                verified: record.verified,
                stamp,
                in_use: Arc::new(in_use),
                unsettled: false,
            }));
        }
        Ok(None)
    }

    /// Where an older worker may have put it: the model's own folder, flat, and where a digest will tell, any folder.
    fn candidates(&self, wanted: &WantedFile) -> Vec<PathBuf> {
        let own = self.root.join(folder_of(&wanted.model));
        let mut paths = vec![own.join(&wanted.name), self.root.join(&wanted.name)];
        if wanted.sha256.is_none() {
            return paths;
        }
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        for entry in entries.take(MAX_FOLDERS) {
            let path = entry.path().join(&wanted.name);
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && !paths.contains(&path) && path.is_file() {
                paths.push(path);
            }
        }
        paths
    }

    /// The digest of an older worker's file, from the last time it was computed if nobody touched it since.
    fn hashed(&self, path: &Path, stamp: Stamp, stop: &Stop) -> Result<Hashed, CacheError> {
        let name = hex::encode(Sha256::digest(path.as_os_str().as_encoded_bytes()));
        let place = self.dir.join("hashes").join(format!("{name}.json"));
        if let Some(known) = read_json::<Hashed>(&place)?
            && known.path == path
            && known.stamp == stamp
        {
            return Ok(known);
        }
        tracing::info!(target: "models", path = %path.display(), "hashing a model file of an older worker, once");
        let (digest, stamp) = hash(path, stop)?;
        let hashed = Hashed {
            path: path.to_owned(),
            stamp,
            sha256: hex::encode(digest),
        };
        write_json(&place, &hashed)?;
        Ok(hashed)
    }

    /// Whether another URL has the file already.
    fn claimed(&self, path: &Path, key: &CacheKey) -> Result<bool, CacheError> {
        for (other, record) in self.records()? {
            let same = matches!(&record.place, Place::Adopted(taken) if taken == path);
            if same && other != *key && matches!(other, CacheKey::Url(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The folder that the older worker named after a model.
fn folder_of(model: &str) -> String {
    let mut name: String = model
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(255)
        .collect();
    if name.is_empty() {
        name.push('_');
    }
    if name.starts_with('.') {
        name.replace_range(..1, "_");
    }
    name
}
