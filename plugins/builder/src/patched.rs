//! Components built from the same source plus a patch: later versions of a plugin, for tests of the way from one to the next.
//!
//! `tests/guests/patched.toml` names the packages and their patches. A patch that no longer fits its source fails the build.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use diffy::apply;
use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};
use serde::Deserialize;

use crate::component::Component;
use crate::error::BuildError;
use crate::twin::{Change, Twin, definition_in};

/// The file that says what is patched.
const LIST: &str = "tests/guests/patched.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// Version that the patched components say they are.
    version: String,
    /// Package to its patch, a file beside the list.
    patches: BTreeMap<String, PathBuf>,
}

impl List {
    fn read(root: &Path) -> Result<Option<Self>, BuildError> {
        definition_in(root, LIST)
    }

    fn file(root: &Path, patch: &Path) -> PathBuf {
        root.join("tests/guests").join(patch)
    }
}

/// The patched twins of the components listed.
pub(crate) fn components(
    root: &Path,
    components: &[Component],
) -> Result<Vec<Component>, BuildError> {
    let Some(list) = List::read(root)? else {
        return Ok(Vec::new());
    };
    Ok(components
        .iter()
        .filter(|component| list.patches.contains_key(&component.name))
        .map(|component| {
            let mut twin = component.twin(Twin::Patched, &component.name);
            twin.package.version.clone_from(&list.version);
            twin
        })
        .collect())
}

/// Files that say what is changed in a package.
pub(crate) fn definition(root: &Path, package: &str) -> Result<Vec<PathBuf>, BuildError> {
    let patch = List::read(root)?.and_then(|list| list.patches.get(package).cloned());
    let patch = patch.map(|patch| List::file(root, &patch));
    Ok(std::iter::once(root.join(LIST)).chain(patch).collect())
}

/// All patches, by the file that each part of them changes.
#[derive(Debug)]
pub(crate) struct Patches {
    version: String,
    packages: BTreeSet<String>,
    /// Path relative to the root, and the part for it as text.
    parts: BTreeMap<String, String>,
    used: RefCell<BTreeSet<String>>,
}

impl Patches {
    pub(crate) fn read(root: &Path) -> Result<Option<Self>, BuildError> {
        let Some(list) = List::read(root)? else {
            return Ok(None);
        };
        let mut parts = BTreeMap::new();
        for patch in list.patches.values() {
            let path = List::file(root, patch);
            let text = fs::read_to_string(&path).map_err(BuildError::file(&path))?;
            parts.extend(split(&text).map_err(|detail| BuildError::Unreadable {
                what: path.display().to_string(),
                detail,
            })?);
        }
        Ok(Some(Self {
            version: list.version,
            packages: list.patches.into_keys().collect(),
            parts,
            used: RefCell::default(),
        }))
    }

    /// Fails where a patch is for a file that was not copied.
    pub(crate) fn all_used(&self) -> Result<(), BuildError> {
        let used = self.used.borrow();
        match self.parts.keys().find(|path| !used.contains(*path)) {
            Some(path) => Err(BuildError::Patch {
                file: path.clone(),
                detail: "there is no such file in the packages that are patched".to_owned(),
            }),
            None => Ok(()),
        }
    }
}

impl Change for Patches {
    fn has(&self, package: &str) -> bool {
        self.packages.contains(package)
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn apply(&self, path: &str, text: String) -> Result<String, BuildError> {
        let Some(part) = self.parts.get(path) else {
            return Ok(text);
        };
        let failed = |detail: String| BuildError::Patch {
            file: path.to_owned(),
            detail,
        };
        self.used.borrow_mut().insert(path.to_owned());
        let patch = diffy::Patch::from_str(part).map_err(|error| failed(error.to_string()))?;
        apply(&text, &patch).map_err(|error| failed(error.to_string()))
    }
}

/// The parts of a patch by the file that each changes.
fn split(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut parts = BTreeMap::new();
    for part in PatchSet::parse(text, ParseOptions::unidiff()) {
        let part = part.map_err(|error| error.to_string())?;
        let FileOperation::Modify { modified, .. } = part.operation().strip_prefix(1) else {
            return Err("it does more than change files".to_owned());
        };
        let path = modified.into_owned();
        let Some(patch) = part.patch().as_text() else {
            return Err(format!("what it does to {path} is no text"));
        };
        parts.insert(path, patch.to_string());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "--- a/x/one.rs\n+++ b/x/one.rs\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n--- a/x/two.rs\n+++ b/x/two.rs\n@@ -1 +1 @@\n-d\n+e\n";

    fn patches() -> Patches {
        Patches {
            version: "0.2.0".to_owned(),
            packages: BTreeSet::new(),
            parts: split(PATCH).unwrap(),
            used: RefCell::default(),
        }
    }

    #[test]
    fn each_file_gets_its_part() {
        let patches = patches();
        let apply = |path: &str, text: &str| patches.apply(path, text.to_owned());
        assert_eq!(apply("x/one.rs", "a\nb\n").unwrap(), "a\nc\n");
        assert_eq!(apply("x/other.rs", "a\nb\n").unwrap(), "a\nb\n");
        assert!(patches.all_used().is_err(), "two.rs was not there");
        assert_eq!(apply("x/two.rs", "d\n").unwrap(), "e\n");
        patches.all_used().unwrap();
    }

    #[test]
    fn a_patch_that_does_not_fit_fails() {
        let error = patches()
            .apply("x/one.rs", "a\nz\n".to_owned())
            .unwrap_err();
        assert!(error.to_string().contains("x/one.rs"), "{error}");
    }
}
