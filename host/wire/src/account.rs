//! Who this worker is to a studio, and the secrets that prove it.

use std::fmt;

use crate::ApiBase;

/// A token or key. It prints as `<secret>`, so that no log line, error or debug dump can leak it.
/// It serialises as its text, for the wire and for private files.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for an `Authorization` header or a private file, nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Somebody else's words, with `<secret>` wherever they repeat this one: who refuses a secret may quote it.
    pub fn hidden_in(&self, words: &str) -> String {
        match self.is_empty() {
            true => words.to_owned(),
            false => words.replace(&self.0, "<secret>"),
        }
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// An approved identity at one studio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudioAccount {
    /// Where the studio is.
    pub base: ApiBase,
    /// The id that the studio gave this worker.
    pub worker_id: String,
    /// Bearer token of every authenticated request.
    pub token: Secret,
}
