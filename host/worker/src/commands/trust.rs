//! `plugin keygen | sign | verify`: the same files as other minisign programs read and write.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use worker_config::Paths;
use worker_trust::{
    KeyPair, MAX_KEY_BYTES, MAX_SIGNATURE_BYTES, SUFFIX, SecretKey, TrustedKey, TrustedKeys,
    VerifyError, is_protected,
};
use zeroize::Zeroizing;

use crate::cli::{Failure, Password};
use crate::commands::swap;
use crate::output;

/// No plugin's file may be larger.
const MAX_PLUGIN_BYTES: usize = 128 << 20;

/// What is to be verified, by whose keys.
pub(crate) struct Wanted<'a> {
    pub(crate) file: &'a Path,
    pub(crate) key_files: &'a [PathBuf],
    pub(crate) keys: &'a [String],
    pub(crate) signature: Option<&'a Path>,
}

/// Makes a pair. Files that are there are left alone.
pub(crate) fn keygen(secret: &Path, public: &Path, password: &Password) -> Result<(), Failure> {
    for path in [secret, public] {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::new(format!("{} is there already", path.display()))
                .with_hint("move it away, or name another file: a lost key cannot be made again"));
        }
    }
    let password = match password {
        Password::None => None,
        Password::File(path) => Some(password_in(path)?),
        Password::Asked => Some(new_password()?),
    };
    let pair = KeyPair::generate(password.as_ref().map(|word| word.as_str()))?;
    write(secret, pair.secret.as_bytes(), 0o600, false)?;
    write(public, pair.public.as_bytes(), 0o644, false)?;
    let key = TrustedKey::parse(&pair.public, None)?;
    output::line(&format!("secret key  {}", secret.display()))?;
    output::line(&format!("public key  {} ({})", public.display(), key.id()))?;
    output::line(&format!(
        "to trust it, put into plugins.toml: keys = [\"{}\"]",
        key.line()
    ))
}

/// Signs files, each beside itself.
pub(crate) fn sign(
    files: &[PathBuf],
    secret: &Path,
    password: &Password,
    replaces: Option<&str>,
) -> Result<(), Failure> {
    let of = |error: worker_trust::SecretError| {
        Failure::new(format!("the key in {} {error}", secret.display()))
    };
    let text = Zeroizing::new(text(secret, MAX_KEY_BYTES)?);
    let password = match (is_protected(&text), password) {
        (Some(true), Password::File(path)) => Some(password_in(path)?),
        (Some(true), Password::Asked) => Some(ask(&format!("Password of {}: ", secret.display()))?),
        _ => None,
    };
    let key = SecretKey::open(&text, password.as_ref().map(|word| word.as_str())).map_err(of)?;
    let public = TrustedKey::parse(&key.public().map_err(of)?, None)?;
    let trusted = TrustedKeys::from_iter([public.clone()]);
    for file in files {
        let bytes = bytes(file, MAX_PLUGIN_BYTES)?;
        let signature = key.sign(&bytes, &comment(file, replaces)).map_err(of)?;
        // What is handed out was read once as whoever receives it will read it.
        worker_trust::verify(&bytes, &signature, &trusted)?;
        let path = beside(file);
        write(&path, signature.as_bytes(), 0o644, true)?;
        output::line(&format!("{} signed by {}", path.display(), public.id()))?;
        for problem in afar(file) {
            output::line(&format!("note: {problem}"))?;
        }
    }
    Ok(())
}

/// Why a worker would not take the file from afar, as far as the file itself says.
fn afar(file: &Path) -> Vec<String> {
    let Ok(found) = worker_plugins::inspect(file) else {
        return vec![format!("{} is no plugin", file.display())];
    };
    let mut problems = found.problems;
    if found.name.is_none() {
        problems.push("its metadata holds no name, so that no studio can push it".to_owned());
    }
    if !worker_plugins::is_version(found.version.as_deref().unwrap_or_default()) {
        problems.push(
            "its metadata holds no version such as 1.2.0, so that no studio can push it".to_owned(),
        );
    }
    problems
}

/// What minisign itself writes, with the order where there is one.
fn comment(file: &Path, replaces: Option<&str>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    let order = replaces.map(|digest| format!("\treplaces:{digest}"));
    format!(
        "timestamp:{}\tfile:{}\thashed{}",
        now.unwrap_or_default().as_secs(),
        name.trim(),
        order.unwrap_or_default()
    )
}

/// Says which of the three states the file is in.
pub(crate) async fn verify(
    paths: &Paths,
    wanted: &Wanted<'_>,
    as_json: bool,
) -> Result<(), Failure> {
    let keys = trusted(paths, wanted).await?;
    let beside = beside(wanted.file);
    let signature = wanted.signature.unwrap_or(&beside);
    let bytes = bytes(wanted.file, MAX_PLUGIN_BYTES)?;
    let there = signature.symlink_metadata().is_ok() || wanted.signature.is_some();
    let verified = match there {
        true => Some(match text(signature, MAX_SIGNATURE_BYTES) {
            Ok(text) => worker_trust::verify(&bytes, &text, &keys),
            Err(failure) if wanted.signature.is_some() => return Err(failure),
            Err(_) => Err(VerifyError::Malformed),
        }),
        false => None,
    };
    let shown = wanted.file.display();
    let (told, line): (Value, Result<String, String>) = match verified {
        None => (
            json!({ "state": "not-signed" }),
            Err(format!(
                "{shown} is not signed: there is no {}",
                signature.display()
            )),
        ),
        Some(Err(error)) => (
            json!({ "state": "failed", "reason": error.to_string() }),
            Err(format!("{shown}: {error}")),
        ),
        Some(Ok(good)) => {
            let by = match &good.name {
                Some(name) => format!("{name} ({})", good.key),
                None => good.key.clone(),
            };
            let line = format!("{shown} is signed by {by}; {}", good.trusted_comment);
            (
                json!({ "state": "verified", "key": good.key, "name": good.name, "trustedComment": good.trusted_comment, "replaces": good.replaces() }),
                Ok(line),
            )
        }
    };
    if as_json {
        output::line(&serde_json::to_string_pretty(&told)?)?;
    }
    match line {
        Ok(_) if as_json => Ok(()),
        Ok(line) => output::line(&line),
        Err(why) => Err(Failure::new(why)),
    }
}

async fn trusted(paths: &Paths, wanted: &Wanted<'_>) -> Result<TrustedKeys, Failure> {
    if wanted.keys.is_empty() && wanted.key_files.is_empty() {
        let set = swap::default_set(paths).await?;
        return Ok(set.policy().keys.clone());
    }
    let mut keys = Vec::new();
    for path in wanted.key_files {
        let key = TrustedKey::parse(&text(path, MAX_KEY_BYTES)?, None)
            .map_err(|error| Failure::new(format!("{} {error}", path.display())))?;
        keys.push(key);
    }
    for key in wanted.keys {
        let key = TrustedKey::parse(key, None)
            .map_err(|error| Failure::new(format!("`{key}` {error}")))?;
        keys.push(key);
    }
    Ok(keys.into_iter().collect())
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(SUFFIX);
    PathBuf::from(name)
}

fn password_in(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = Zeroizing::new(text(path, MAX_KEY_BYTES)?);
    let line = text.lines().next().unwrap_or_default();
    Ok(Zeroizing::new(line.to_owned()))
}

fn new_password() -> Result<Zeroizing<String>, Failure> {
    let password = ask("Password for the secret key: ")?;
    if *password != *ask("Once more: ")? {
        return Err(Failure::new("the two passwords differ"));
    }
    Ok(password)
}

fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    let asked = rpassword::prompt_password(question);
    asked.map(Zeroizing::new).map_err(|error| {
        Failure::new(format!("cannot ask for the password: {error}"))
            .with_hint("name a file that holds it by --password-file")
    })
}

fn bytes(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::new(format!("cannot read {}: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() > limit {
        return Err(failed(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

fn text(path: &Path, limit: usize) -> Result<String, Failure> {
    String::from_utf8(bytes(path, limit)?)
        .map_err(|_| Failure::new(format!("{} is not text", path.display())))
}

/// Writes a file whole, or leaves what is there. Its permissions are right from the first byte.
fn write(path: &Path, content: &[u8], mode: u32, replace: bool) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // Made for its owner alone.
    let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(mode);
        file.as_file()
            .set_permissions(permissions)
            .map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    let kept = match replace {
        true => file.persist(path),
        false => file.persist_noclobber(path),
    };
    kept.map(drop).map_err(|error| failed(error.error))
}
