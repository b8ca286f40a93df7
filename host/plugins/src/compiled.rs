//! Compiles components, and keeps what came of it, sealed.
//!
//! A compiled component is machine code that runs as part of this process: loading one is believing it. The engine does not check it
//! (one flipped byte is accepted), so each is kept under a seal, an HMAC with a key that only this installation has, over digest,
//! engine and code together. What does not bear the seal is as good as absent and compiled anew. Whoever can read the
//! key file could forge a seal; it is the user's own, mode 0600.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::compiler::Compiler;
use crate::failpoint::failpoint;
use crate::kept::remove_unfinished;
use crate::refusal::{Broken, Rule};

const MAGIC: &[u8; 8] = b"studiow1";
const SEAL_BYTES: usize = 32;
const KEY_FILE: &str = "seal.key";
const KEY_BYTES: usize = 32;
/// Larger files are none of ours: the largest plugin there may be compiles to about three times its size.
const MAX_COMPILED_BYTES: u64 = 1 << 30;
/// How many compiled plugins are kept; the least recently written go first.
const MAX_KEPT: usize = 64;

/// Why the folder of compiled plugins cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path} to keep compiled plugins; make it writable or choose another")]
pub struct CacheError {
    path: String,
    source: std::io::Error,
}

/// The folder of compiled plugins.
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    /// Tells apart what engines of other versions and settings made.
    engine_tag: String,
}

impl Cache {
    /// Opens the folder, and makes it and its key where there is none.
    pub(crate) fn open(dir: PathBuf, engine: &Engine) -> Result<Self, CacheError> {
        let failed = |source| CacheError {
            path: dir.display().to_string(),
            source,
        };
        make_private_dir(&dir).map_err(failed)?;
        let key = read_or_make_key(&dir).map_err(failed)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine_tag = format!("{:016x}", hasher.finish());
        Ok(Self {
            dir,
            key,
            engine_tag,
        })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir
            .join(format!("{digest}-{}.compiled", self.engine_tag))
    }

    fn seal(&self, digest: &str, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        for part in [
            &MAGIC[..],
            digest.as_bytes(),
            b"/",
            self.engine_tag.as_bytes(),
            b"/",
            code,
        ] {
            mac.update(part);
        }
        Some(mac)
    }

    /// The compiled form of the component of this digest, if it is there and bears the seal.
    #[allow(
        unsafe_code,
        reason = "loading compiled code cannot be made safe by types; see below why it is sound"
    )]
    pub(crate) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let bytes = read_bounded(&self.path(digest), MAX_COMPILED_BYTES).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (seal, code) = rest.split_at_checked(SEAL_BYTES)?;
        // Compares in constant time.
        self.seal(digest, code)?.verify_slice(seal).ok()?;
        // SAFETY: `deserialize` must be given what `Component::serialize` returned. The seal says that these very bytes were
        // written by `store` below, which writes nothing else, by a holder of this installation's key; they are in memory already,
        // so nobody can change them in between. Whether the engine's version and settings fit is checked by `deserialize` itself.
        unsafe { Component::deserialize(engine, code) }.ok()
    }

    /// Keeps machine code. That this fails costs time at the next start and nothing else, so it is logged, not returned.
    pub(crate) fn store(&self, digest: &str, code: &[u8]) {
        if let Err(error) = self.write(digest, code) {
            tracing::warn!(target: "plugins", "cannot keep a compiled plugin in {}: {error}", self.dir.display());
        }
        self.prune();
    }

    fn write(&self, digest: &str, code: &[u8]) -> std::io::Result<()> {
        let seal = self
            .seal(digest, code)
            .ok_or_else(|| std::io::Error::other("no key"))?
            .finalize()
            .into_bytes();
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(MAGIC)?;
        file.write_all(&seal)?;
        file.write_all(code)?;
        failpoint("sealing");
        file.as_file().sync_all()?;
        file.persist(self.path(digest))
            .map_err(|error| error.error)?;
        sync_dir(&self.dir)
    }

    /// Removes what an interrupted write left.
    pub(crate) fn clear(&self) {
        remove_unfinished(&self.dir);
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let mut kept: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "compiled"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        kept.sort();
        let surplus = kept.len().saturating_sub(MAX_KEPT);
        for (_, path) in kept.iter().take(surplus) {
            // One that another process removed first is gone as well.
            let _ = fs::remove_file(path);
        }
    }
}

/// Machine code of a component that was validated: from a child where there is a compiler, else from this process.
pub(crate) fn compile(
    engine: &Engine,
    compiler: Option<&Compiler>,
    bytes: &[u8],
) -> Result<Vec<u8>, Broken> {
    match compiler {
        Some(compiler) => compiler.compile(bytes),
        None => engine
            .precompile_component(bytes)
            .map_err(|error| Rule::Compiles.broken(format!("{error:#}"))),
    }
}

/// The component of machine code that [`compile`] has just returned.
#[allow(
    unsafe_code,
    reason = "loading compiled code cannot be made safe by types; see below why it is sound"
)]
pub(crate) fn adopt(engine: &Engine, code: &[u8]) -> Result<Component, Broken> {
    // SAFETY: `deserialize` must be given what the engine's compiler returned. These bytes come from it, in this process or over a pipe
    // that only this program's own child wrote to; nobody else could touch them. Version and settings are checked by `deserialize`.
    let component = unsafe { Component::deserialize(engine, code) };
    component.map_err(|error| Rule::Compiles.broken(format!("{error:#}")))
}

fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Two processes may make a key at the same time: the file appears whole and is never replaced, so both end with the same.
fn read_or_make_key(dir: &Path) -> std::io::Result<[u8; KEY_BYTES]> {
    let path = dir.join(KEY_FILE);
    if let Some(key) = read_key(&path)? {
        return Ok(key);
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
    // Temporary files are made for their owner alone.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(&path) {
        Ok(_) => sync_dir(dir)?,
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error),
    }
    read_key(&path)?.ok_or_else(|| std::io::Error::other("the key file vanished"))
}

/// The key, or none where there is no usable one: one of the wrong length, or one that others can read, is removed.
fn read_key(path: &Path) -> std::io::Result<Option<[u8; KEY_BYTES]>> {
    let bytes = match read_bounded(path, KEY_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Vec::new(),
        Err(error) => return Err(error),
    };
    match bytes.try_into() {
        Ok(key) if is_private(path)? => Ok(Some(key)),
        _ => {
            fs::remove_file(path)?;
            Ok(None)
        }
    }
}

#[cfg(unix)]
fn is_private(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::symlink_metadata(path)?.mode() & 0o077 == 0)
}

#[cfg(not(unix))]
fn is_private(_path: &Path) -> std::io::Result<bool> {
    // The folder lies in the user's profile, whose access list other users are not on.
    Ok(true)
}

fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "too large",
        ));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> std::io::Result<()> {
    // A folder cannot be opened for syncing here; a lost entry means compiling again.
    Ok(())
}
