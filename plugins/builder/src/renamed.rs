//! Components whose every kind, engine and role has another word.
//!
//! The host must serve them unchanged: that is how a test shows that it knows none of the words.
//! `tests/guests/renamed.toml` names the packages and the replacements; a copy of the sources with
//! the words replaced is built like any other workspace.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::component::Component;
use crate::error::BuildError;
use crate::twin::{Change, Twin, definition_in};

/// The file that says what is renamed.
pub(crate) const WORDS: &str = "tests/guests/renamed.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Words {
    /// Package to the name that its renamed component has.
    packages: BTreeMap<String, String>,
    /// Word to word, replaced wherever one stands alone between quotes.
    replace: BTreeMap<String, String>,
}

impl Words {
    pub(crate) fn read(root: &Path) -> Result<Option<Self>, BuildError> {
        definition_in(root, WORDS)
    }

    fn replaced(&self, text: &str) -> String {
        // With the quotes: only what a plugin says at run time changes, not the names in its code,
        // and a word inside a longer one is left to the longer one's own line.
        self.replace
            .iter()
            .fold(text.to_owned(), |text, (from, to)| {
                text.replace(&format!("\"{from}\""), &format!("\"{to}\""))
            })
    }
}

/// The renamed twins of the components listed.
pub(crate) fn components(
    root: &Path,
    components: &[Component],
) -> Result<Vec<Component>, BuildError> {
    let Some(words) = Words::read(root)? else {
        return Ok(Vec::new());
    };
    Ok(components
        .iter()
        .filter_map(|component| {
            let name = words.packages.get(&component.name)?;
            let mut twin = component.twin(Twin::Renamed, name);
            twin.grants = words.replaced(&component.grants);
            Some(twin)
        })
        .collect())
}

impl Change for Words {
    fn has(&self, package: &str) -> bool {
        self.packages.contains_key(package)
    }

    fn version(&self) -> &str {
        "0.0.0-renamed"
    }

    fn apply(&self, path: &str, text: String) -> Result<String, BuildError> {
        // Package names stay: only what a plugin says at run time is renamed.
        Ok(if path.ends_with("/Cargo.toml") {
            text
        } else {
            self.replaced(&text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_between_quotes_are_replaced() {
        let words: Words = toml::from_str(
            "[packages]\n[replace]\n\"image\" = \"picture\"\n\"image-1\" = \"picture-1\"\n",
        )
        .unwrap();
        assert_eq!(
            words.replaced(r#"use image::Image; ["image", "image-1", "images", "an image"]"#),
            r#"use image::Image; ["picture", "picture-1", "images", "an image"]"#
        );
    }
}
