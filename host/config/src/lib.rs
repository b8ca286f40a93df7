//! `config.toml`, the places where files are kept, and the lock that makes a worker the only one on them.
//!
//! The file is the reference worker's: same path, same keys, and what this worker does not know is kept, comments
//! included. It is written only by a command that changes something and by registration, never by merely running.
//! Each value says where it came from; no error and no debug output shows what the file says, because a line of it
//! may be a token.

mod changes;
mod discovery;
mod document;
mod environment;
mod error;
mod identity;
mod keys;
mod lock;
mod network;
mod paths;
mod private_file;
mod settings;
mod token;

pub use changes::{Registration, register, set_threshold};
pub use discovery::{Announced, Discovery, DiscoveryError};
pub use document::ConfigFile;
pub use environment::Environment;
pub use error::{ConfigError, Expected};
pub use identity::{IdentityFile, StoredIdentity};
pub use keys::{Effect, KEYS, Key, Kind};
pub use lock::{DaemonLock, LockError};
pub use network::{Login, Network, NetworkError, PluginSecret};
pub use paths::{Paths, PathsError};
pub use private_file::WriteError;
pub use settings::{Listen, ProgramSettings, Provenance, Setting, Settings, Studio};
pub use token::{TokenError, local_api_token};
