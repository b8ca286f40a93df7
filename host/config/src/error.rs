//! Why a configuration cannot be used. No variant carries what the file says.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::private_file::WriteError;

/// What a key's value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds, both included.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A finite number of at least this.
    Number {
        /// Smallest.
        min: f64,
    },
    /// A text.
    Text,
    /// A text that is not empty.
    Path,
    /// An absolute http or https URL without user name and password.
    Url,
    /// The URL of a studio.
    StudioUrl,
    /// An IP address with a port.
    Address,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("`true` or `false`"),
            Self::Integer { min, max } if *max == i64::MAX => {
                write!(f, "a whole number of at least {min}")
            }
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min } => write!(f, "a number of at least {min}"),
            Self::Text => f.write_str("a text in quotes"),
            Self::Path => f.write_str("a path in quotes, not empty"),
            Self::Url => f.write_str("an absolute http or https URL without user name and password"),
            Self::StudioUrl => f.write_str(
                "the studio's absolute URL, such as \"https://studio.example\", without user name and password",
            ),
            Self::Address => f.write_str("an address with a port, such as \"127.0.0.1:4787\""),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than any configuration.
    #[error("{path} is larger than {limit} bytes, so it is no configuration", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// Not UTF-8.
    #[error("{path} is not UTF-8 text", path = path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Not TOML.
    #[error("{path}, line {line}, column {column}{at}: not valid TOML; the line is not shown because it may hold a secret", path = path.display(), at = of_key(.key))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// The known key that the line is about.
        key: Option<&'static str>,
    },
    /// A value of the wrong type or out of range.
    #[error("{path}, line {line}: `{key}` must be {expected}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: Expected,
    },
    /// An environment variable's value.
    #[error("the environment variable {variable} must be {expected}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What it must be.
        expected: Expected,
    },
    /// A value that a command was asked to write.
    #[error("`{key}` must be {expected}")]
    Given {
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: Expected,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn of_key(key: &Option<&'static str>) -> String {
    key.map_or_else(String::new, |key| format!(" (`{key}`)"))
}
