//! A file's way into service, one type for each step, so that no step can be called without the one before:
//!
//! [`ReadOnce`] → [`Stored`] → [`Verified`] → [`Permitted`] → [`Examined`] → [`Compiled`] → [`Linked`] → [`Probed`].
//!
//! The bytes read are the bytes of every later step. None of the steps touches what serves.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use worker_trust::{MAX_SIGNATURE_BYTES, SUFFIX};

use crate::call::Code;
use crate::examine::{Anatomy, World};
use crate::folder::{Folder, ReadError};
use crate::generation::{Generation, Identity, Plugin};
use crate::grants::{Asked, Grants, Limits, mib};
use crate::kept::{Kept, KeptError};
use crate::load::{EmbeddedFile, LoadError, Set, assemble, read_embedded, read_folder, unique};
use crate::policy::{Permissions, Policy};
use crate::prepare::{
    Bytes, Candidate, Plugged, Prepared, check_counts, check_imports, check_name, component, link,
    probe, shape, split, stem,
};
use crate::refusal::{Broken, Refusal, Rule};
use crate::sandbox::Sandbox;
use crate::terms::{Signature, Terms};

/// A file of a folder as it looks from outside. While it differs between two looks, somebody is at work on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Print {
    size: u64,
    changed: Option<std::time::Duration>,
    inode: u64,
    ctime: (i64, i64),
    /// Its signature file, where there is one.
    signature: Option<Box<Print>>,
}

impl Print {
    /// Whether a signature file lies beside it.
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }
}

/// A plugin folder, or the built-in set, with its policy as it was when it was opened.
pub struct PluginSet {
    place: String,
    policy: Arc<Policy>,
    policy_bytes: Vec<u8>,
    files: Vec<Candidate>,
    refused: Vec<Refusal>,
}

impl std::fmt::Debug for PluginSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginSet")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl From<Set> for PluginSet {
    fn from(set: Set) -> Self {
        let (files, refused) = unique(set.files);
        Self {
            place: set.place,
            policy: Arc::new(set.policy),
            policy_bytes: set.policy_bytes,
            files,
            refused,
        }
    }
}

impl PluginSet {
    /// Opens a folder and reads its `plugins.toml`. Blocks.
    pub fn folder(path: &Path) -> Result<Self, LoadError> {
        Ok(read_folder(path)?.into())
    }

    /// The built-in set.
    pub fn embedded(files: &[EmbeddedFile]) -> Result<Self, LoadError> {
        Ok(read_embedded(files)?.into())
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The operator's word.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Whether another set's `plugins.toml` is the same, byte by byte.
    pub fn same_policy(&self, other: &Self) -> bool {
        self.policy_bytes == other.policy_bytes
    }

    /// Files that are refused by their names alone.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Whether a file of this name lies there, be it one that is refused by its name alone.
    pub fn is_there(&self, file: &str) -> bool {
        self.names().any(|name| name == file) || self.refused.iter().any(|one| one.file == file)
    }

    /// The names of all files that may be plugins.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.file.as_str())
    }

    /// How a file looks from outside; none where it is not there or no regular file.
    pub fn print(&self, file: &str) -> Option<Print> {
        let found = self.files.iter().find(|one| one.file == file)?;
        match &found.bytes {
            Bytes::InFolder(folder, path) => {
                let signature = folder.print(&signature_path(path));
                let print = folder.print(path)?;
                Some(Print {
                    signature: signature.map(Box::new),
                    ..print
                })
            }
            Bytes::Embedded(_) => None,
        }
    }

    /// Whether a file lies beside a signature of other bytes, as it does while somebody replaces one after the other. Blocks.
    pub fn is_torn(&self, file: &str) -> bool {
        match self.read(file) {
            Ok(Some(read)) => matches!(
                Terms::of_operator(read.signature).check_signature(&read.bytes, &self.policy),
                Err(Broken {
                    rule: Rule::Signature,
                    ..
                })
            ),
            Ok(None) => false,
            Err(broken) => broken.rule == Rule::Signature,
        }
    }

    /// Reads a file, once. None when the operator has disabled the plugin or there is no such file. Blocks.
    pub fn read(&self, file: &str) -> Result<Option<ReadOnce>, Broken> {
        match self.files.iter().find(|one| one.file == file) {
            Some(found) => ReadOnce::of(&self.policy, found),
            None => Ok(None),
        }
    }

    /// A generation of these plugins under this policy.
    pub fn generation(
        &self,
        plugged: impl IntoIterator<Item = Plugged>,
    ) -> Result<Arc<Generation>, LoadError> {
        let made = assemble(
            &self.place,
            &self.policy,
            &self.policy_bytes,
            plugged,
            &self.refused,
        )?;
        Ok(Arc::new(made))
    }
}

impl Folder {
    fn print(&self, name: &Path) -> Option<Print> {
        let meta = self.look(name).ok()?;
        let changed = meta.modified().ok().map(|time| {
            time.into_std()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default()
        });
        #[cfg(unix)]
        let (inode, ctime) = {
            use cap_std::fs::MetadataExt;
            (meta.ino(), (meta.ctime(), meta.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let (inode, ctime) = (0, (0, 0));
        Some(Print {
            size: meta.len(),
            changed,
            inode,
            ctime,
            signature: None,
        })
    }

    /// The text of the signature file that lies beside a file.
    pub(crate) fn signature_of(&self, name: &Path) -> Result<Option<String>, Broken> {
        let unusable = |why: String| {
            Rule::Signature.broken(format!(
                "its signature file ({SUFFIX}) {why}; remove it or sign anew"
            ))
        };
        match self.read(&signature_path(name), MAX_SIGNATURE_BYTES as u64) {
            Ok(bytes) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| unusable("is not text".to_owned())),
            Err(ReadError::Missing) => Ok(None),
            Err(ReadError::TooLarge { .. }) => Err(unusable(format!(
                "is larger than {MAX_SIGNATURE_BYTES} bytes"
            ))),
            Err(error) => Err(unusable(error.to_string())),
        }
    }
}

fn signature_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(SUFFIX);
    PathBuf::from(name)
}

/// A file's bytes, read once.
#[derive(Debug, Clone)]
pub struct ReadOnce {
    name: String,
    file: String,
    bytes: Cow<'static, [u8]>,
    digest: String,
    signature: Option<String>,
}

impl ReadOnce {
    /// None when it is disabled.
    pub(crate) fn of(policy: &Policy, candidate: &Candidate) -> Result<Option<Self>, Broken> {
        let name = stem(&candidate.file)?;
        let given = policy.permissions(name);
        if !given.enabled {
            tracing::info!(target: "plugins", "{} is disabled in plugins.toml", candidate.file);
            return Ok(None);
        }
        let read = match &candidate.bytes {
            Bytes::InFolder(folder, path) => {
                let bytes = Cow::Owned(folder.read(path, mib(given.file_mib))?);
                let signature = folder.signature_of(path)?;
                Self::from_bytes(&candidate.file, bytes)?.signed(signature)
            }
            Bytes::Embedded(bytes) => Self::from_bytes(&candidate.file, Cow::Borrowed(*bytes))?,
        };
        Ok(Some(read))
    }

    /// A file anywhere, named like a plugin: what a person hands over by its path. Blocks.
    pub fn at(path: &Path, policy: &Policy) -> Result<Self, Broken> {
        let unreadable = |why: String| Rule::Readable.broken(why);
        let (parent, name) =
            split(path).ok_or_else(|| unreadable("the path names no file".to_owned()))?;
        let file = crate::folder::shown(name.as_os_str());
        let limit = mib(policy.permissions(stem(&file)?).file_mib);
        let folder = Folder::open(&parent)
            .map_err(|error| unreadable(format!("its folder cannot be read: {error}")))?;
        let bytes = folder.read(&name, limit)?;
        let signature = folder.signature_of(&name)?;
        Ok(Self::from_bytes(&file, Cow::Owned(bytes))?.signed(signature))
    }

    /// Bytes that came some other way, under the file name that they are to have.
    pub fn from_bytes(file: &str, bytes: Cow<'static, [u8]>) -> Result<Self, Broken> {
        Ok(Self {
            name: stem(file)?.to_owned(),
            file: file.to_owned(),
            digest: hex::encode(Sha256::digest(&bytes)),
            bytes,
            signature: None,
        })
    }

    /// With the text of its signature file.
    pub fn signed(self, signature: Option<String>) -> Self {
        Self { signature, ..self }
    }

    /// The text of its signature file; nothing about it is checked.
    pub fn signature(&self) -> Option<&str> {
        self.signature.as_deref()
    }

    /// The plugin's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the bytes, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Stores the bytes under their digest. Blocks.
    pub fn store(self, kept: &Kept) -> Result<Stored, Broken> {
        kept.put(&self.digest, &self.bytes)
            .map_err(|error| Rule::Stored.unmet(error.to_string()))?;
        Ok(Stored(self))
    }

    /// Goes on without storing: for looking at files that are not to serve, and for the built-in set.
    pub fn unstored(self) -> Stored {
        Stored(self)
    }
}

/// Bytes that are safe under their digest.
#[derive(Debug)]
pub struct Stored(ReadOnce);

impl Stored {
    /// What was stored before, hashed again. Blocks.
    pub fn again(kept: &Kept, name: &str, digest: &str) -> Result<Self, Broken> {
        let bytes = kept.get(digest).map_err(|error| match &error {
            // Gone, or other bytes: they do not come back by waiting.
            KeptError::Damaged { .. } => Rule::Stored.broken(error.to_string()),
            KeptError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Rule::Stored.broken(error.to_string())
            }
            KeptError::Io { .. } => Rule::Stored.unmet(error.to_string()),
        })?;
        ReadOnce::from_bytes(&format!("{name}.wasm"), Cow::Owned(bytes)).map(Self)
    }

    /// Checks the signature, as far as the terms and the operator require one.
    pub fn verify(self, terms: Terms, policy: &Policy) -> Result<Verified, Broken> {
        let (signature, order) = terms.check_signature(&self.0.bytes, policy)?;
        Ok(Verified {
            read: self.0,
            terms,
            signature,
            order,
        })
    }
}

/// Bytes whose origin may bring them.
#[derive(Debug)]
pub struct Verified {
    read: ReadOnce,
    terms: Terms,
    signature: Signature,
    order: Option<String>,
}

impl Verified {
    /// What is known of the signature.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Looks up what the operator allows it. None when it is disabled.
    pub fn permit(self, policy: &Policy) -> Result<Option<Permitted>, Broken> {
        let given = policy.permissions(&self.read.name);
        if self.read.bytes.len() as u64 > mib(given.file_mib) {
            return Err(Rule::FileSize.broken(format!(
                "is larger than its limit of {} MiB",
                given.file_mib
            )));
        }
        let given = self.terms.granted.iter().fold(given, Permissions::with);
        Ok(given.enabled.then_some(Permitted {
            verified: self,
            given,
        }))
    }
}

/// Bytes with what the operator allows them.
#[derive(Debug)]
pub struct Permitted {
    verified: Verified,
    given: Permissions,
}

impl Permitted {
    /// Checks sections, counts, imports, exports and wishes, before anything is compiled. Blocks.
    pub fn examine(self) -> Result<Examined, Broken> {
        let Self { verified, given } = self;
        let Verified {
            read,
            terms,
            signature,
            order,
        } = verified;
        let anatomy = Anatomy::read(&read.bytes)?;
        check_name(&read.name, anatomy.name.as_deref())?;
        terms.check_version(&read.digest, &anatomy, order.as_deref(), &given)?;
        let asked = Asked::parse(anatomy.grants)?;
        let (world, interface) = anatomy.world(given.empty_wasi)?;
        let granted = terms.check_asked(&asked);
        let granted = granted.and_then(|()| asked.grant(&read.name, &given));
        let version = anatomy.version.unwrap_or_default();
        let (grants, limits) = granted.map_err(|broken| broken.of(&read.digest, &version))?;
        let identity = Identity {
            name: read.name.clone(),
            version,
            license: anatomy.license,
            source: anatomy.source,
            digest: read.digest.clone(),
            file: read.file.clone(),
            signature,
        };
        Ok(Examined {
            asked,
            interface: interface.to_string(),
            world,
            grants,
            limits,
            identity,
            given,
            read,
        })
    }
}

/// A component of one of the contract's worlds that asks for no more than it is given.
#[derive(Debug)]
pub struct Examined {
    read: ReadOnce,
    given: Permissions,
    identity: Identity,
    world: World,
    interface: String,
    asked: Asked,
    grants: Grants,
    limits: Limits,
}

impl Examined {
    /// Who it says it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Which world it lives in.
    pub fn world(&self) -> World {
        self.world
    }

    /// Takes the sealed compiled form, or compiles. Blocks, for up to the compiler's time limit.
    pub fn compile(self, sandbox: &Sandbox) -> Result<Compiled, Broken> {
        let component = component(sandbox, &self.read.digest, &self.read.bytes)?;
        check_counts(&component)?;
        check_imports(&component)?;
        Ok(Compiled {
            examined: self,
            component,
        })
    }
}

/// A component in machine code.
pub struct Compiled {
    examined: Examined,
    component: Component,
}

impl Compiled {
    /// Joins its imports to what a plugin may import.
    pub fn link(self, sandbox: &Arc<Sandbox>) -> Result<Linked, Broken> {
        let Examined {
            given,
            identity,
            world,
            interface,
            asked,
            grants,
            limits,
            ..
        } = self.examined;
        let pre = link(sandbox, &self.component, given.empty_wasi)?;
        let code = Code::new(sandbox, &identity.name, pre, &interface, limits).map_err(shape)?;
        Ok(Linked(Prepared {
            plugin: Plugin {
                identity,
                asked,
                grants,
                settings: given.settings,
                code: Arc::new(code),
            },
            world,
        }))
    }
}

/// A component that could be instantiated; nothing of it has run.
pub struct Linked(pub(crate) Prepared);

impl Linked {
    /// Instantiates it under its real limits and asks what it is.
    pub async fn probe(self) -> Result<Probed, Broken> {
        probe(self.0).await.map(Probed)
    }
}

/// A plugin that answered about itself. What it still lacks before it serves is the comparison with what it replaces.
#[derive(Debug)]
pub struct Probed(Plugged);

impl Probed {
    /// The plugin, for comparing and publishing.
    pub fn plugged(&self) -> &Plugged {
        &self.0
    }

    /// The plugin.
    pub fn into_plugged(self) -> Plugged {
        self.0
    }
}
