//! One component: which package and features make it, what it asks for, where it is written.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::BuildError;
use crate::twin::Twin;
use crate::workspace::{Package, Workspace};

/// Fields of `[package.metadata.studio-worker]` that go into the component, as the grants that it
/// asks for; the worker checks what is in them.
const GRANTS: [&str; 7] = [
    "programs",
    "build-urls",
    "system-libraries",
    "environment",
    "hosts",
    "secrets",
    "limits",
];

/// Stack of a guest that says nothing else. Larger costs each call more fresh pages; smaller
/// does not hold a JSON document nested 64 deep.
const STACK_KIB: u32 = 64;

/// Something to build.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// `router`, `hostile-describe-loop`, `renamed/artificial`.
    pub(crate) name: String,
    pub(crate) package: Package,
    pub(crate) features: Vec<String>,
    /// World of `wit/` that it has to export.
    pub(crate) world: String,
    pub(crate) stack_kib: u32,
    /// Content of the custom section `studio-worker:grants`.
    pub(crate) grants: String,
    /// Relative to the workspace's root.
    pub(crate) file: PathBuf,
    /// Built from a changed copy.
    pub(crate) twin: Option<Twin>,
}

/// The part of the table that speaks to this program.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    world: String,
    #[serde(default)]
    stack_kib: Option<u32>,
    #[serde(default)]
    components: Vec<Variant>,
    #[serde(flatten)]
    grants: Map<String, Value>,
}

/// One of several components that a package makes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Variant {
    name: String,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    world: Option<String>,
}

impl Component {
    /// What a package makes: one component of its own name, unless it lists others.
    pub(crate) fn of_package(root: &Path, package: &Package) -> Result<Vec<Self>, BuildError> {
        let manifest = |detail: String| BuildError::Manifest {
            package: package.name.clone(),
            detail,
        };
        let table = package.plugin_table().cloned().unwrap_or_default();
        let table: Table =
            serde_json::from_value(table).map_err(|error| manifest(error.to_string()))?;
        if let Some(unknown) = table
            .grants
            .keys()
            .find(|key| !GRANTS.contains(&key.as_str()))
        {
            return Err(manifest(format!("it knows no field {unknown}")));
        }
        let grants = Value::Object(table.grants).to_string();
        let variants = if table.components.is_empty() {
            vec![Variant {
                name: package.name.clone(),
                features: Vec::new(),
                world: None,
            }]
        } else {
            table.components
        };
        let folder = if package.folder().starts_with(root.join("plugins")) {
            "plugins"
        } else {
            "tests/components"
        };
        Ok(variants
            .into_iter()
            .map(|variant| Self {
                file: Path::new(folder).join(format!("{}.wasm", variant.name)),
                name: variant.name,
                package: package.clone(),
                features: variant.features,
                world: variant.world.unwrap_or_else(|| table.world.clone()),
                stack_kib: table.stack_kib.unwrap_or(STACK_KIB),
                grants: grants.clone(),
                twin: None,
            })
            .collect())
    }

    /// Whether somebody who types `name` means this one: its own name, its package's, or the
    /// folder of its kind of twin.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.name == name
            || (self.package.name == name && self.twin.is_none())
            || self.twin.is_some_and(|twin| name == twin.word())
    }

    /// The name that its metadata says: that of the file.
    pub(crate) fn plugin_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// Puts the file in its place in one move.
    pub(crate) fn write(&self, workspace: &Workspace, bytes: &[u8]) -> Result<(), BuildError> {
        write_whole(&workspace.root.join(&self.file), bytes)
    }
}

/// Writes beside and renames, so that a reader sees the old file or the new one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let failed = || BuildError::file(path);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed())?;
    let mut builder = tempfile::Builder::new();
    // Temporary files are private; these are to be committed and read by anybody.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(folder).map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(table: &str) -> Result<Vec<Component>, BuildError> {
        let package: Package = serde_json::from_str(&format!(
            r#"{{"name":"p","version":"1.0.0","license":null,"description":null,"repository":null,
                "manifest_path":"/w/plugins/p/Cargo.toml","metadata":{{"studio-worker":{table}}}}}"#
        ))
        .unwrap();
        Component::of_package(Path::new("/w"), &package)
    }

    #[test]
    fn a_package_makes_one_component_of_its_name() {
        let components = of(r#"{"world":"engine-plugin","programs":["sd-cli"]}"#).unwrap();
        let [component] = components.as_slice() else {
            panic!("{components:?}");
        };
        assert_eq!(component.file, Path::new("plugins/p.wasm"));
        assert_eq!(component.grants, r#"{"programs":["sd-cli"]}"#);
        assert!(component.answers_to("p") && !component.answers_to("renamed"));
    }

    #[test]
    fn a_package_may_make_several_of_other_features() {
        let components = of(r#"{"world":"engine-plugin","components":[{"name":"a"},
                {"name":"b","world":"router-plugin","features":["x"]}]}"#)
        .unwrap();
        let found: Vec<_> = components
            .iter()
            .map(|it| (it.name.as_str(), it.world.as_str(), it.features.len()))
            .collect();
        assert_eq!(
            found,
            [("a", "engine-plugin", 0), ("b", "router-plugin", 1)]
        );
        assert!(
            components
                .iter()
                .all(|it| it.answers_to("p") && it.grants == "{}")
        );
    }

    #[test]
    fn a_field_that_nobody_reads_is_refused_and_named() {
        for (table, named) in [
            (
                r#"{"world":"engine-plugin","program":["sd-cli"]}"#,
                "no field program",
            ),
            (r#"{"programs":[]}"#, "world"),
            (
                r#"{"world":"w","components":[{"name":"a","feature":[]}]}"#,
                "feature",
            ),
        ] {
            let error = of(table).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
