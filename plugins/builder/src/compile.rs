//! From a package to the bytes of a component.

use std::fs;
use std::path::Path;

use wasm_metadata::{AddMetadata, AddMetadataField};
use wit_component::{ComponentEncoder, DecodedWasm};

use crate::component::Component;
use crate::error::{BuildError, output};
use crate::toolchain::{TARGET, Toolchain, remap, remap_dependencies};
use crate::twin::Twin;
use crate::workspace::{Workspace, cargo};

/// Custom section that holds what a plugin asks the operator for.
const GRANTS_SECTION: &str = "studio-worker:grants";

/// Compiles components, all with one toolchain.
#[derive(Debug)]
pub(crate) struct Compiler {
    toolchain: Toolchain,
}

impl Compiler {
    /// Finds the toolchain, and readies it where need be.
    pub(crate) fn find() -> Result<Self, BuildError> {
        Ok(Self {
            toolchain: Toolchain::find()?,
        })
    }

    /// Compiler and linker, as the lock file names them.
    pub(crate) fn version(&self) -> &str {
        &self.toolchain.version
    }

    /// The component's bytes, the same on every machine with this compiler.
    pub(crate) fn compile(
        &self,
        workspace: &Workspace,
        component: &Component,
    ) -> Result<Vec<u8>, BuildError> {
        let root = match component.twin {
            Some(twin) => twin.copy(workspace)?,
            None => workspace.root.clone(),
        };
        let module = self.module(workspace, &root, component)?;
        let encode = |detail: String| BuildError::Encode {
            component: component.name.clone(),
            detail,
        };
        let bytes = ComponentEncoder::default()
            .validate(true)
            .module(&module)
            .and_then(|encoder| encoder.encode())
            .map_err(|error| encode(format!("{error:#}")))?;
        check_world(component, &bytes)?;
        describe(component, &bytes).map_err(|error| encode(format!("{error:#}")))
    }

    /// The core module that cargo makes of the package.
    fn module(
        &self,
        workspace: &Workspace,
        root: &Path,
        component: &Component,
    ) -> Result<Vec<u8>, BuildError> {
        let target = workspace.guests();
        let folder = target.join(TARGET).join("guest");
        let name = format!("{}.wasm", component.package.name.replace('-', "_"));
        // Every variant of a package, a twin's too, is written to this one name, while
        // cargo remembers each of them as built. Without the file it builds.
        remove(&folder.join("deps").join(&name))?;
        // One package per run: cargo would unite the features that several of them want, and a
        // component's bytes would depend on what it was built together with.
        let mut command = cargo();
        command
            .args(["build", "--quiet", "--profile", "guest", "--target", TARGET])
            .args(["--lib", "--package", &component.package.name])
            .arg("--features")
            .arg(component.features.join(","))
            .arg("--target-dir")
            .arg(&target)
            .current_dir(root);
        self.toolchain
            .apply(&mut command, flags(workspace, component));
        output(&mut command, &format!("building {}", component.name))?;
        let file = folder.join(name);
        fs::read(&file).map_err(BuildError::file(file))
    }
}

fn remove(file: &Path) -> Result<(), BuildError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BuildError::file(file)(error))
        }
        _ => Ok(()),
    }
}

/// The same for the workspace and for its copies, or cargo would compile every dependency twice.
fn flags(workspace: &Workspace, component: &Component) -> Vec<String> {
    let mut flags = vec![
        format!("-Clink-arg=-zstack-size={}", component.stack_kib * 1024),
        // Decoding and checking pictures works on many bytes at once. The sandbox has it on every machine it runs on.
        "-Ctarget-feature=+simd128".to_owned(),
        remap(&workspace.root, "/studio-worker"),
    ];
    // Usually inside of the root: the later one counts.
    flags.extend(Twin::ALL.map(|twin| remap(&twin.folder(workspace), "/studio-worker")));
    flags.extend(remap_dependencies());
    flags
}

/// Refuses a component that exports another world than its manifest says.
fn check_world(component: &Component, bytes: &[u8]) -> Result<(), BuildError> {
    let unreadable = |detail: String| BuildError::Encode {
        component: component.name.clone(),
        detail,
    };
    let decoded = wit_component::decode(bytes).map_err(|error| unreadable(format!("{error:#}")))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(unreadable("it holds a WIT package alone".to_owned()));
    };
    let found: Vec<String> = resolve
        .worlds
        .get(world)
        .map(|world| {
            world
                .exports
                .keys()
                .map(|key| resolve.name_world_key(key))
                .collect()
        })
        .unwrap_or_default();
    let expected = match component.world.as_str() {
        "engine-plugin" => "studio:worker/engine@",
        "router-plugin" => "studio:worker/routing@",
        "finisher-plugin" => "studio:worker/finishing@",
        other => {
            return Err(BuildError::Manifest {
                package: component.package.name.clone(),
                detail: format!("wit/ has no world {other}"),
            });
        }
    };
    match found.as_slice() {
        [only] if only.starts_with(expected) => Ok(()),
        _ => Err(BuildError::World {
            component: component.name.clone(),
            expected: component.world.clone(),
            found: found.join(", "),
        }),
    }
}

/// Appends name, version, licence, description, source and grants.
fn describe(component: &Component, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut metadata = AddMetadata::default();
    metadata.name = AddMetadataField::Set(component.plugin_name().to_owned());
    let mut named = metadata.to_wasm(bytes)?;
    let package = &component.package;
    for (name, content) in [
        ("version", Some(package.version.as_str())),
        ("licenses", package.license.as_deref()),
        ("description", package.description.as_deref()),
        ("source", package.repository.as_deref()),
        (GRANTS_SECTION, Some(component.grants.as_str())),
    ] {
        if let Some(content) = content {
            append_section(&mut named, name, content.as_bytes());
        }
    }
    Ok(named)
}

/// A custom section: id 0, its length, the name with its length, the content.
fn append_section(bytes: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut body = Vec::new();
    append_length(&mut body, name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(content);
    bytes.push(0);
    append_length(bytes, body.len());
    bytes.extend_from_slice(&body);
}

/// Unsigned LEB128.
fn append_length(bytes: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or(0x7f);
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_read_back_by_another_parser() {
        // An empty component.
        let mut bytes = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0];
        append_section(&mut bytes, "version", b"1.2.3");
        append_section(&mut bytes, "description", "x".repeat(300).as_bytes());
        let sections: Vec<(String, usize)> = wasmparser::Parser::new(0)
            .parse_all(&bytes)
            .filter_map(|payload| match payload.unwrap() {
                wasmparser::Payload::CustomSection(section) => {
                    Some((section.name().to_owned(), section.data().len()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            sections,
            [("version".to_owned(), 5), ("description".to_owned(), 300)]
        );
    }

    #[test]
    fn lengths_are_written_as_leb128() {
        for (length, expected) in [
            (0_usize, vec![0_u8]),
            (127, vec![0x7f]),
            (128, vec![0x80, 1]),
            (624_485, vec![0xe5, 0x8e, 0x26]),
        ] {
            let mut bytes = Vec::new();
            append_length(&mut bytes, length);
            assert_eq!(bytes, expected);
        }
    }
}
