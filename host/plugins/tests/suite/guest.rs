//! Small components for the tests, written as core modules in text and encoded against the real contract.
//!
//! Each function's body can be replaced, so a test says only what its guest does wrong.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A core module of one of the worlds; bodies are WebAssembly text.
#[derive(Clone)]
pub(crate) struct Guest {
    world: &'static str,
    /// Name, signature and body of each export.
    exports: Vec<(&'static str, &'static str, String)>,
    data: String,
    pub(crate) pages: u32,
    pub(crate) start: Option<String>,
    pub(crate) extra: String,
}

/// Ways to misbehave that need no return value: each is a body that never comes to its end.
pub(crate) const LOOP: &str = "(loop $l (br $l)) unreachable";
pub(crate) const GROW: &str = "(loop $l (drop (memory.grow (i32.const 16))) (br $l)) unreachable";
pub(crate) const RECURSE: &str = "(drop (call $recurse)) unreachable";
pub(crate) const FLOOD: &str =
    "(loop $l (call $log (i32.const 1) (i32.const 1100) (i32.const 5)) (br $l)) unreachable";
pub(crate) const TABLE: &str =
    "(loop $l (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $l)) unreachable";
/// Stands for [`huge`], which differs by function.
pub(crate) const HUGE: &str = "huge";
/// Enough memory for 100 MiB to lie in.
pub(crate) const HUGE_PAGES: u32 = 1_700;

pub(crate) fn engine() -> Guest {
    Guest {
        world: "engine-plugin",
        exports: vec![
            ("engine#describe", "(result i32)", "i32.const 1024".into()),
            (
                "engine#builds",
                "(param i32 i32 i32 i32) (result i32)",
                "i32.const 3072".into(),
            ),
            (
                "engine#compose",
                "(param i32 i32 i32 i32 i32 i32) (result i32)",
                "i32.const 3200".into(),
            ),
            (
                "engine#subject",
                "(param i32) (result i32)",
                "i32.const 3300".into(),
            ),
            (
                "engine#step",
                "(param i32) (result i32)",
                "i32.const 2048".into(),
            ),
            (
                "engine#read-progress",
                "(param i32 i32 i64 i32 i32) (result i32)",
                "i32.const 3400".into(),
            ),
        ],
        // describe: engines, kinds, no backends; step: finish(json "{}"), no facts; compose: two "{}".
        data: [
            words(1024, &[1056, 1, 1064, 1, 0, 0]),
            words(1056, &[1100, 5, 1100, 5, 0, 0]),
            text(1100, "haiku"),
            words(2048, &[0, 1, 1, 1110, 2]),
            text(1110, "{}"),
            words(3200, &[0, 1110, 2, 1110, 2]),
            words(3300, &[1100, 5]),
        ]
        .concat(),
        pages: 2,
        start: None,
        extra: String::new(),
    }
}

pub(crate) fn router() -> Guest {
    Guest {
        world: "router-plugin",
        exports: vec![(
            "routing#route",
            "(param i32) (result i32)",
            "i32.const 2048".into(),
        )],
        data: [words(2048, &[0, 1100, 5]), text(1100, "haiku")].concat(),
        pages: 2,
        start: None,
        extra: String::new(),
    }
}

pub(crate) fn finisher() -> Guest {
    Guest {
        world: "finisher-plugin",
        exports: vec![
            ("finishing#accepts", "(result i32)", "i32.const 1024".into()),
            (
                "finishing#finish",
                "(param i32) (result i32)",
                "i32.const 2048".into(),
            ),
        ],
        data: [
            words(1024, &[1056, 1]),
            words(1056, &[1100, 4, 1000, 0]),
            text(1100, "webp"),
            words(2048, &[0, 1, 1110, 2]),
            text(1110, "{}"),
        ]
        .concat(),
        pages: 2,
        start: None,
        extra: String::new(),
    }
}

/// A body that returns strings or lists of about 100 MiB, all of them zeros at address 0, and the words it returns.
pub(crate) fn huge(function: &str) -> (&'static str, Vec<u32>) {
    let bytes = 100 << 20;
    let words = match function {
        // A pointer and a length; of strings of eight bytes each, of pairs of sixteen.
        "subject" => vec![0, bytes],
        "describe" => vec![0, 10_000_000, 0, 0, 0, 0],
        "accepts" => vec![0, 6_000_000],
        // In front of them whether it is a failure, and for some which case it is.
        "builds" => vec![0, 0, 2_000_000],
        "compose" | "route" => vec![0, 0, bytes, 0, 0],
        "step" => vec![0, 0, 0, 300_000],
        "finish" => vec![0, 0, 0, bytes, 0, 0],
        // A state, and a progress with a note.
        "read-progress" => vec![0, 0, 1, 0, 0, 1, 0, bytes],
        other => panic!("{other}"),
    };
    ("i32.const 6144", words)
}

/// Words in little-endian order, as a data segment.
pub(crate) fn words(at: u32, values: &[u32]) -> String {
    let bytes: String = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .map(|byte| format!("\\{byte:02x}"))
        .collect();
    format!("(data (i32.const {at}) \"{bytes}\")\n")
}

pub(crate) fn text(at: u32, text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const {at}) \"{bytes}\")\n")
}

impl Guest {
    /// The same guest with another body for one function.
    pub(crate) fn with(mut self, function: &str, body: &str) -> Self {
        let found = self
            .exports
            .iter_mut()
            .find(|(name, ..)| name.ends_with(&format!("#{function}")));
        found.unwrap().2 = body.to_owned();
        self
    }

    pub(crate) fn with_start(mut self, body: &str) -> Self {
        self.start = Some(body.to_owned());
        self
    }

    pub(crate) fn with_pages(mut self, pages: u32) -> Self {
        self.pages = pages;
        self
    }

    pub(crate) fn with_data(mut self, data: &str) -> Self {
        self.data.push_str(data);
        self
    }

    pub(crate) fn module(&self) -> String {
        let functions: String = self
            .exports
            .iter()
            .map(|(name, signature, body)| {
                let (interface, function) = name.split_once('#').unwrap();
                format!("(func (export \"studio:worker/{interface}@1.0.0#{function}\") {signature} {body})\n")
            })
            .collect();
        let start = self.start.as_ref().map_or(String::new(), |body| {
            format!("(func $start {body}) (start $start)")
        });
        format!(
            r#"(module
            (import "studio:worker/log@1.0.0" "write" (func $log (param i32 i32 i32)))
            (memory (export "memory") {pages})
            (table $t 1 funcref)
            (global $heap (mut i32) (i32.const 8192))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
                (global.get $heap)
                (global.set $heap (i32.add (global.get $heap) (local.get 3))))
            (func $recurse (result i32) (i32.add (call $recurse) (i32.const 1)))
            {extra}
            {functions}
            {start}
            {data})"#,
            pages = self.pages,
            extra = self.extra,
            data = self.data,
        )
    }

    /// As a component.
    pub(crate) fn build(&self) -> Vec<u8> {
        encode(self.world, &self.module())
    }

    /// As a component with a grants section.
    pub(crate) fn asking(&self, grants: &str) -> Vec<u8> {
        section(self.build(), "studio-worker:grants", grants.as_bytes())
    }
}

pub(crate) fn encode(world: &str, module: &str) -> Vec<u8> {
    encode_in(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit"),
        None,
        world,
        module,
    )
}

/// Encodes against a contract given as text instead.
pub(crate) fn encode_with(wit: &str, world: &str, module: &str) -> Vec<u8> {
    encode_in("other.wit", Some(wit), world, module)
}

fn encode_in(path: &str, wit: Option<&str>, world: &str, module: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = match wit {
        Some(wit) => resolve.push_str(path, wit).unwrap(),
        None => resolve.push_dir(path).unwrap().0,
    };
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut encoder = ComponentEncoder::default();
    encoder
        .validate(true)
        .debug_names(false)
        .module(&module)
        .unwrap();
    encoder.encode().unwrap_or_else(|error| panic!("{error:?}"))
}

/// A component with one more custom section.
pub(crate) fn section(mut component: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = leb(name.len());
    body.extend(name.as_bytes());
    body.extend(data);
    component.push(0);
    component.extend(leb(body.len()));
    component.extend(body);
    component
}

/// A component whose metadata says its name, written as the build command writes it.
pub(crate) fn named(component: Vec<u8>, name: &str) -> Vec<u8> {
    let mut metadata = wasm_metadata::AddMetadata::default();
    metadata.name = wasm_metadata::AddMetadataField::Set(name.to_owned());
    metadata.to_wasm(&component).unwrap()
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
