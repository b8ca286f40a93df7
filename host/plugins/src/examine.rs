//! Looks at a plugin file without compiling or running any of it.
//!
//! One pass over the sections gives metadata, imports, exports and counts; a second, made only when no sealed
//! compilation of the very same bytes is at hand, validates everything. Both are the parser's work, which answers hostile bytes
//! with an error and bounds its own recursion; what remains to bound here is how much a valid file may hold.

use serde::Serialize;
use wasmparser::{
    ComponentExternName, ComponentName, ComponentNameSectionReader, CustomSectionReader, Encoding,
    Parser, Payload, Validator, WasmFeatures,
};

use crate::names;
use crate::refusal::{Broken, Rule};
use crate::room::{MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};

/// The custom section that holds a plugin's wishes.
pub(crate) const GRANTS_SECTION: &str = "studio-worker:grants";

/// Larger wishes than any list of bounded items can fill.
const MAX_GRANTS_BYTES: usize = 256 * 1024;
/// A version, licence or address that is longer is no such thing.
const MAX_METADATA_BYTES: usize = 1024;
/// Components inside components: composing a few takes three levels, an encoder's own wrapping one.
const MAX_DEPTH: usize = 8;
/// Core modules in one file; a composed plugin in an interpreted language has about twenty.
const MAX_MODULES: usize = 64;
/// Functions in one file: a Python interpreter has 30,000. More is a compiler bomb of small pieces.
const MAX_FUNCTIONS: usize = 200_000;
/// The largest function body in bytes: an interpreter's main loop has 200 KiB. Compiling costs more than in proportion.
const MAX_BODY_BYTES: usize = 2 << 20;
/// Imports and exports of the component itself.
const MAX_EXTERNS: usize = 256;

/// The version of the contract that this worker knows.
const CONTRACT: (u64, u64) = (1, 0);
const PACKAGE: &str = "studio:worker";

/// Which of the contract's worlds a plugin lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Decides how a job is done.
    Engine,
    /// Decides who takes an offer.
    Router,
    /// Works on products.
    Finisher,
}

impl World {
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Router => "routing",
            Self::Finisher => "finishing",
        }
    }

    /// The world's name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Router => "router",
            Self::Finisher => "finisher",
        }
    }
}

/// What the sections of a file say.
#[derive(Debug, Default)]
pub(crate) struct Anatomy<'a> {
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) grants: Option<&'a [u8]>,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    seen: Vec<&'a str>,
    modules: usize,
    functions: usize,
    memories: usize,
    tables: usize,
}

impl<'a> Anatomy<'a> {
    /// Reads the sections of a binary component.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Broken> {
        check_header(bytes)?;
        let mut anatomy = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(malformed)?;
            match payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                _ => {}
            }
            anatomy.count(&payload, depth)?;
            if depth == 0 {
                anatomy.take(payload)?;
            }
        }
        Ok(anatomy)
    }

    fn count(&mut self, payload: &Payload<'_>, depth: usize) -> Result<(), Broken> {
        if depth > MAX_DEPTH {
            return Err(too_many("nested components", MAX_DEPTH));
        }
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => self.modules += 1,
            Payload::CodeSectionStart { count, .. } => {
                self.functions = self.functions.saturating_add(*count as usize);
            }
            Payload::MemorySection(reader) => {
                self.memories = self.memories.saturating_add(reader.count() as usize);
            }
            Payload::TableSection(reader) => {
                self.tables = self.tables.saturating_add(reader.count() as usize);
                for table in reader.clone() {
                    if table.map_err(malformed)?.ty.initial > MAX_TABLE_ELEMENTS as u64 {
                        return Err(too_many("elements in a table", MAX_TABLE_ELEMENTS));
                    }
                }
            }
            Payload::CodeSectionEntry(body) if body.range().len() > MAX_BODY_BYTES => {
                return Err(too_many("bytes in one function", MAX_BODY_BYTES));
            }
            _ => {}
        }
        if self.modules > MAX_MODULES {
            return Err(too_many("core modules", MAX_MODULES));
        }
        if self.memories > MAX_MEMORIES {
            return Err(too_many("memories", MAX_MEMORIES));
        }
        if self.tables > MAX_TABLES {
            return Err(too_many("tables", MAX_TABLES));
        }
        if self.functions > MAX_FUNCTIONS {
            return Err(too_many("functions", MAX_FUNCTIONS));
        }
        Ok(())
    }

    fn take(&mut self, payload: Payload<'a>) -> Result<(), Broken> {
        match payload {
            Payload::CustomSection(section) => self.take_custom(&section)?,
            Payload::ComponentImportSection(reader) => {
                for import in reader {
                    self.imports
                        .push(extern_name(&import.map_err(malformed)?.name));
                    self.bound_externs()?;
                }
            }
            Payload::ComponentExportSection(reader) => {
                for export in reader {
                    self.exports
                        .push(extern_name(&export.map_err(malformed)?.name));
                    self.bound_externs()?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn bound_externs(&self) -> Result<(), Broken> {
        if self.imports.len().max(self.exports.len()) > MAX_EXTERNS {
            return Err(too_many("imports or exports", MAX_EXTERNS));
        }
        Ok(())
    }

    fn take_custom(&mut self, section: &CustomSectionReader<'a>) -> Result<(), Broken> {
        let name = section.name();
        let data = section.data();
        let known = [
            "component-name",
            "version",
            "licenses",
            "source",
            "description",
            GRANTS_SECTION,
        ];
        if !known.contains(&name) {
            return Ok(());
        }
        if self.seen.contains(&name) {
            return Err(Rule::Metadata.broken(format!("has two sections `{name}`")));
        }
        self.seen.push(name);
        match name {
            "component-name" => self.name = component_name(section)?,
            "version" => self.version = Some(metadata_text(name, data)?),
            "licenses" => self.license = Some(metadata_text(name, data)?),
            "source" => self.source = Some(metadata_text(name, data)?),
            "description" => self.description = Some(metadata_text(name, data)?),
            _ if data.len() > MAX_GRANTS_BYTES => {
                return Err(
                    Rule::Asks.broken(format!("its grants section has {} bytes", data.len()))
                );
            }
            _ => self.grants = Some(data),
        }
        Ok(())
    }

    /// Which world it lives in, and the full name of the interface it exports; imports are checked by name.
    pub(crate) fn world(&self, wasi: bool) -> Result<(World, String), Broken> {
        for name in self.imports.iter().chain(&self.exports) {
            check_version(name)?;
        }
        for import in &self.imports {
            check_import(import, wasi)?;
        }
        let mut found = None;
        for export in &self.exports {
            let Some(interface) = interface_of(export) else {
                continue;
            };
            let world = [World::Engine, World::Router, World::Finisher]
                .into_iter()
                .find(|world| world.interface() == interface);
            match (world, &found) {
                (Some(world), None) => found = Some((world, export.clone())),
                (Some(_), Some(_)) => {
                    return Err(Rule::World.broken(
                        "exports more than one of the interfaces engine, routing and finishing",
                    ));
                }
                (None, _) => {
                    return Err(
                        Rule::World.broken(format!("exports `{export}`, which no plugin does"))
                    );
                }
            }
        }
        found.ok_or_else(|| {
            Rule::World.broken("exports none of studio:worker/engine, studio:worker/routing and studio:worker/finishing")
        })
    }
}

/// Validates every part of the file.
pub(crate) fn validate(bytes: &[u8]) -> Result<(), Broken> {
    let features = WasmFeatures::default()
        .difference(WasmFeatures::THREADS)
        .difference(WasmFeatures::RELAXED_SIMD)
        .difference(WasmFeatures::MEMORY64);
    Validator::new_with_features(features)
        .validate_all(bytes)
        .map(drop)
        .map_err(malformed)
}

fn check_header(bytes: &[u8]) -> Result<(), Broken> {
    if bytes.is_empty() {
        return Err(Rule::Component.broken("is empty"));
    }
    if Parser::is_component(bytes) {
        return Ok(());
    }
    if Parser::is_core_wasm(bytes) {
        return Err(Rule::Component.broken(
            "is a core module, not a component; encode it as one (`cargo plugins build` does)",
        ));
    }
    let text = bytes.trim_ascii_start();
    if text.starts_with(b"(") || text.starts_with(b";;") {
        return Err(Rule::Component.broken("is text; only binary components are loaded"));
    }
    Err(Rule::Component.broken("is not a WebAssembly component"))
}

fn malformed(error: wasmparser::BinaryReaderError) -> Broken {
    Rule::WellFormed.broken(format!("{} at byte {}", error.message(), error.offset()))
}

fn too_many(what: &str, limit: usize) -> Broken {
    Rule::Counts.broken(format!("has more than {limit} {what}"))
}

fn extern_name(name: &ComponentExternName<'_>) -> String {
    names::one_line(name.name, 256)
}

fn component_name(section: &CustomSectionReader<'_>) -> Result<Option<String>, Broken> {
    let reader = wasmparser::BinaryReader::new(section.data(), section.data_offset());
    let mut found = None;
    for subsection in ComponentNameSectionReader::new(reader) {
        let subsection = subsection.map_err(|error| {
            Rule::Metadata.broken(format!(
                "its component-name section is broken: {}",
                error.message()
            ))
        })?;
        if let ComponentName::Component { name, .. } = subsection {
            if found.is_some() {
                return Err(Rule::Metadata.broken("has two names in its component-name section"));
            }
            found = Some(names::one_line(name, MAX_METADATA_BYTES));
        }
    }
    Ok(found)
}

fn metadata_text(section: &str, data: &[u8]) -> Result<String, Broken> {
    let text = std::str::from_utf8(data)
        .map_err(|_| Rule::Metadata.broken(format!("its section `{section}` is not UTF-8")))?;
    if data.len() > MAX_METADATA_BYTES || text.chars().any(char::is_control) {
        return Err(Rule::Metadata.broken(format!("its section `{section}` is not one short line")));
    }
    Ok(text.to_owned())
}

/// The interface's name, for names of the contract's package.
fn interface_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
    Some(
        rest.split_once('@')
            .map_or(rest, |(interface, _)| interface),
    )
}

/// The linker itself would take a newer minor version and fail on the first shape that differs, so the version is looked at first.
fn check_version(name: &str) -> Result<(), Broken> {
    if interface_of(name).is_none() {
        return Ok(());
    }
    let version = name.split_once('@').map(|(_, version)| version);
    let mut numbers = version
        .unwrap_or_default()
        .split('.')
        .map(str::parse::<u64>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(_)), None) if major == CONTRACT.0 && minor <= CONTRACT.1 => Ok(()),
        _ => Err(Rule::ContractVersion.broken(format!(
            "is made for `{name}`; this worker knows {PACKAGE} {}.{}: rebuild the plugin for it, or take a newer worker",
            CONTRACT.0, CONTRACT.1
        ))),
    }
}

fn check_import(import: &str, wasi: bool) -> Result<(), Broken> {
    match interface_of(import) {
        // The two others hold nothing but types.
        Some("log" | "types" | "effects") => Ok(()),
        Some(_) => Err(Rule::Imports.broken(format!("imports `{import}`; a plugin may import nothing but studio:worker/log"))),
        None if import.starts_with("wasi:") && wasi => Ok(()),
        None if import.starts_with("wasi:") => Err(Rule::Imports.broken(format!(
            "imports `{import}`; build it without WASI (for wasm32-unknown-unknown, or with your toolchain's WASI stubbed out), or meet its imports with an empty context by `wasi = \"empty\"` in plugins.toml"
        ))),
        None => Err(Rule::Imports.broken(format!("imports `{import}`; a plugin may import nothing but studio:worker/log"))),
    }
}

#[cfg(test)]
mod tests;
