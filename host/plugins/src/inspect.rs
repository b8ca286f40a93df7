//! One file, for its author: what it says, and whether it would be loaded.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::contract::Description;
use crate::examine::{Anatomy, World};
use crate::folder::{Folder, shown};
use crate::grants::{Asked, mib};
use crate::load::{LoadError, plug, read_folder};
use crate::policy::DEFAULT_FILE_MIB;
use crate::prepare::{Bytes, Candidate, Plugged, check_name, split, stem};
use crate::refusal::{Broken, Refusal, Rule};
use crate::sandbox::Sandbox;
use crate::terms::SignatureSeen;

/// Why a file could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The folder it lies in cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Folder {
        /// The folder or path.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file broke a rule.
    #[error("{0}")]
    Refused(Refusal),
    /// It is disabled in the `plugins.toml` beside it.
    #[error("{file} is disabled in the plugins.toml beside it")]
    Disabled {
        /// The file's name.
        file: String,
    },
    /// The `plugins.toml` beside it is wrong.
    #[error(transparent)]
    Policy(#[from] LoadError),
}

/// What a file says without being run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// The file's name.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub digest: String,
    /// The name in its metadata.
    pub name: Option<String>,
    /// The version in its metadata.
    pub version: Option<String>,
    /// The licence in its metadata.
    pub license: Option<String>,
    /// The source address in its metadata.
    pub source: Option<String>,
    /// The description in its metadata.
    pub description: Option<String>,
    /// The world that its exports show; none where they show no single one.
    pub world: Option<World>,
    /// Names of its imports.
    pub imports: Vec<String>,
    /// Names of its exports.
    pub exports: Vec<String>,
    /// Who signed it, by the keys of the `plugins.toml` beside it.
    pub signature: SignatureSeen,
    /// What it asks for.
    pub asks: Asked,
    /// Rules that it would be seen to break before anything of it is run; WASI imports count as allowed.
    pub problems: Vec<String>,
}

/// A file that would be loaded.
#[derive(Debug, Clone)]
pub struct Validated {
    /// What the file says.
    pub inspection: Inspection,
    /// What it said when it was asked, for an engine.
    pub description: Option<Description>,
    /// What it said when it was asked, for a finisher.
    pub accepts: Option<Vec<(String, u64)>>,
}

/// The name that a component's metadata says, which its file would have.
///
/// # Errors
/// When it is no component that could be a plugin, or says no name.
pub fn name_in(bytes: &[u8]) -> Result<String, Broken> {
    let anatomy = Anatomy::read(bytes)?;
    let name = anatomy.name.ok_or_else(|| {
        Rule::Name
            .broken("says no name in its metadata; a file of this machine has one by its file name")
    })?;
    stem(&format!("{name}.wasm"))?;
    Ok(name)
}

/// Looks at a file without running any of it. Files that are no components at all are refused; other broken rules are listed.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let (folder, name) = open(path)?;
    let file = shown(name.as_os_str());
    let refused = |broken: Broken| InspectError::Refused(broken.by(&file));
    let bytes = folder
        .read(&name, mib(DEFAULT_FILE_MIB).saturating_mul(4))
        .map_err(|error| refused(error.into()))?;
    let anatomy = Anatomy::read(&bytes).map_err(refused)?;
    let mut problems = Vec::new();
    let mut note = |broken: Broken| problems.push(broken.by(&file).to_string());
    match stem(&file) {
        Ok(stem) => check_name(stem, anatomy.name.as_deref()).unwrap_or_else(&mut note),
        Err(broken) => note(broken),
    }
    let asks = Asked::parse(anatomy.grants).unwrap_or_else(|broken| {
        note(broken);
        Asked::default()
    });
    let world = match anatomy.world(true) {
        Ok((world, _)) => Some(world),
        Err(broken) => {
            note(broken);
            None
        }
    };
    // A folder of anything else than plugins has nobody's keys.
    let parent = split(path).map(|(parent, _)| parent).unwrap_or_default();
    let policy = read_folder(&parent)
        .map(|set| set.policy)
        .unwrap_or_default();
    let signature = SignatureSeen::of(&bytes, folder.signature_of(&name), &policy);
    Ok(Inspection {
        signature,
        size: bytes.len() as u64,
        digest: hex::encode(Sha256::digest(&bytes)),
        name: anatomy.name,
        version: anatomy.version,
        license: anatomy.license,
        source: anatomy.source,
        description: anatomy.description,
        world,
        imports: anatomy.imports,
        exports: anatomy.exports,
        asks,
        problems,
        file,
    })
}

/// Takes one file through everything that loading does, under the `plugins.toml` beside it.
pub async fn validate(sandbox: &Arc<Sandbox>, path: &Path) -> Result<Validated, InspectError> {
    let (folder, name) = open(path)?;
    let file = shown(name.as_os_str());
    let inspection = inspect(path)?;
    let (parent, _) = split(path).unwrap_or_default();
    let set = read_folder(&parent)?;
    let candidate = Candidate {
        file: file.clone(),
        bytes: Bytes::InFolder(Arc::new(folder), name),
    };
    let plugged = plug(sandbox, &Arc::new(set.policy), candidate).await;
    let (description, accepts) =
        match plugged.map_err(|broken| InspectError::Refused(broken.by(&file)))? {
            None => return Err(InspectError::Disabled { file }),
            Some(Plugged::Engine(engine)) => (Some(engine.description.clone()), None),
            Some(Plugged::Router(_)) => (None, None),
            Some(Plugged::Finisher(finisher)) => (None, Some(finisher.accepts.clone())),
        };
    Ok(Validated {
        inspection,
        description,
        accepts,
    })
}

fn open(path: &Path) -> Result<(Folder, PathBuf), InspectError> {
    let failed = |path: &Path, source| InspectError::Folder {
        path: path.to_owned(),
        source,
    };
    let Some((parent, name)) = split(path) else {
        return Err(failed(path, std::io::Error::other("it names no file")));
    };
    let folder = Folder::open(&parent).map_err(|source| failed(&parent, source))?;
    Ok((folder, name))
}

/// One fact a line, for people.
impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none =
            |text: &Option<String>| text.clone().unwrap_or_else(|| "not stated".to_owned());
        writeln!(f, "file         {} ({} bytes)", self.file, self.size)?;
        writeln!(f, "digest       {}", self.digest)?;
        writeln!(f, "name         {}", or_none(&self.name))?;
        writeln!(f, "version      {}", or_none(&self.version))?;
        writeln!(f, "license      {}", or_none(&self.license))?;
        writeln!(f, "source       {}", or_none(&self.source))?;
        writeln!(f, "description  {}", or_none(&self.description))?;
        writeln!(f, "world        {}", self.world.map_or("none", World::name))?;
        writeln!(f, "imports      {}", self.imports.join(", "))?;
        writeln!(f, "exports      {}", self.exports.join(", "))?;
        writeln!(f, "signature    {}", self.signature)?;
        write!(f, "asks for     {}", self.asks)?;
        for problem in &self.problems {
            write!(f, "\nproblem      {problem}")?;
        }
        Ok(())
    }
}

/// One line, for people.
impl fmt::Display for Validated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inspection = &self.inspection;
        let short: String = inspection.digest.chars().take(12).collect();
        write!(
            f,
            "{} ({short}) is a sound {}",
            inspection.file,
            inspection.world.map_or("plugin", World::name)
        )?;
        if let Some(description) = &self.description {
            let kinds: Vec<&str> = description
                .kinds
                .iter()
                .map(|kind| kind.kind.as_str())
                .collect();
            write!(f, " for {}", kinds.join(", "))?;
        }
        if let Some(accepts) = &self.accepts {
            let extensions: Vec<&str> = accepts
                .iter()
                .map(|(extension, _)| extension.as_str())
                .collect();
            write!(f, " for {}", extensions.join(", "))?;
        }
        write!(f, ", {}", inspection.signature)
    }
}
