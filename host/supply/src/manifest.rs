//! Manifests and indexes, as far as a WebAssembly component in a registry goes.
//!
//! The ecosystem's convention for one component: a manifest whose config is of the type [`CONFIG`], with one layer of the type
//! [`LAYER`], which is the component's bytes.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::SupplyError;
use crate::reference::is_digest;

/// Type of the config of a WebAssembly artifact.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// Type of the layer that is the component.
const LAYER: &str = "application/wasm";
/// Type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Type of an index of manifests.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Annotation of the manifest that holds the text of the minisign signature of the component.
const SIGNATURE: &str = "studio-worker.plugin.minisig";
/// Manifests that an index may list; more is no index of plugins.
const MAX_LISTED: usize = 64;

/// What one document points at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    artifact_type: Option<String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    media_type: String,
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
}

/// What an artifact's document says.
#[derive(Debug, Clone)]
pub(crate) enum Manifest {
    /// The component's layer, and its signature.
    Plugin {
        layer: Descriptor,
        signature: Option<String>,
    },
    /// The manifest that an index lists for WebAssembly.
    Listed(Descriptor),
}

impl Manifest {
    /// Reads a manifest or an index. `reference` is for what goes wrong.
    pub(crate) fn read(bytes: &[u8], reference: &str) -> Result<Self, SupplyError> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| SupplyError::Unreadable {
                what: "the artifact's manifest",
                why: error.to_string(),
            })?;
        let no_plugin = |why: String| SupplyError::NoPlugin {
            reference: reference.to_owned(),
            why,
        };
        let is_index = document.media_type == INDEX
            || document.media_type.is_empty() && !document.manifests.is_empty();
        if is_index {
            return document.listed().map(Self::Listed).map_err(no_plugin);
        }
        document.plugin().map_err(no_plugin)
    }
}

impl Document {
    fn listed(self) -> Result<Descriptor, String> {
        if self.manifests.len() > MAX_LISTED {
            return Err(format!("its index lists more than {MAX_LISTED} manifests"));
        }
        let mut wasm = self.manifests.into_iter().filter(|one| {
            let platform = one.platform.as_ref();
            one.artifact_type.as_deref() == Some(CONFIG)
                || platform.is_some_and(|platform| platform.architecture == "wasm")
        });
        match (wasm.next(), wasm.next()) {
            (Some(only), None) => sound(only),
            (None, _) => Err("its index lists no WebAssembly".to_owned()),
            (Some(_), Some(_)) => {
                Err("its index lists several for WebAssembly; name one by its digest".to_owned())
            }
        }
    }

    fn plugin(self) -> Result<Manifest, String> {
        let kind = self
            .artifact_type
            .as_deref()
            .unwrap_or(&self.config.media_type);
        if self.config.media_type != CONFIG {
            return Err(format!(
                "its config is of the type {:?}, not {CONFIG}",
                shortened(kind)
            ));
        }
        let mut layers = self.layers.into_iter();
        match (layers.next(), layers.next()) {
            (Some(layer), None) if layer.media_type == LAYER => Ok(Manifest::Plugin {
                layer: sound(layer)?,
                signature: self.annotations.get(SIGNATURE).cloned(),
            }),
            (Some(layer), None) => Err(format!(
                "its layer is of the type {:?}, not {LAYER}",
                shortened(&layer.media_type)
            )),
            (None, _) => Err("it has no layer".to_owned()),
            (Some(_), Some(_)) => Err("it has several layers; a component has one".to_owned()),
        }
    }
}

fn sound(descriptor: Descriptor) -> Result<Descriptor, String> {
    match is_digest(&descriptor.digest) {
        true => Ok(descriptor),
        false => Err("it names something by no SHA-256 digest".to_owned()),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest, String> {
        Manifest::read(text.as_bytes(), "oci://h/n").map_err(|error| error.to_string())
    }

    fn layer(media_type: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":3}}"#,
            "ab".repeat(32)
        )
    }

    #[test]
    fn one_component_with_its_signature() {
        let text = format!(
            r#"{{"config":{{"mediaType":"{CONFIG}"}},"layers":[{}],"annotations":{{"{SIGNATURE}":"sig"}}}}"#,
            layer(LAYER)
        );
        let Ok(Manifest::Plugin { layer, signature }) = read(&text) else {
            panic!("{text}");
        };
        assert_eq!((layer.size, signature.as_deref()), (3, Some("sig")));
    }

    #[test]
    fn an_index_gives_its_one_manifest_for_webassembly() {
        let wasm = format!(
            r#"{{"digest":"sha256:{}","platform":{{"architecture":"wasm","os":"wasip2"}}}}"#,
            "cd".repeat(32)
        );
        let other = format!(
            r#"{{"digest":"sha256:{}","platform":{{"architecture":"amd64","os":"linux"}}}}"#,
            "ef".repeat(32)
        );
        let index = |listed: &str| format!(r#"{{"mediaType":"{INDEX}","manifests":[{listed}]}}"#);
        assert!(
            matches!(read(&index(&format!("{other},{wasm}"))), Ok(Manifest::Listed(one)) if one.digest.contains("cdcd"))
        );
        assert!(read(&index(&other)).unwrap_err().contains("no WebAssembly"));
        assert!(
            read(&index(&format!("{wasm},{wasm}")))
                .unwrap_err()
                .contains("several")
        );
    }

    #[test]
    fn anything_else_is_no_plugin() {
        let image = "application/vnd.oci.image.config.v1+json";
        for (config, layers, named) in [
            (image, layer(LAYER), image),
            (CONFIG, layer("application/gzip"), "application/gzip"),
            (CONFIG, String::new(), "no layer"),
            (
                CONFIG,
                format!("{},{}", layer(LAYER), layer(LAYER)),
                "several layers",
            ),
            (
                CONFIG,
                format!(r#"{{"mediaType":"{LAYER}","digest":"md5:00","size":1}}"#),
                "SHA-256",
            ),
        ] {
            let error = read(&format!(
                r#"{{"config":{{"mediaType":"{config}"}},"layers":[{layers}]}}"#
            ))
            .unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        assert!(read("[]").is_err() && read("{").is_err() && read("{}").is_err());
    }
}
