//! `network.toml`, beside `config.toml`: which hosts files may come from, logins at model hosts, and what plugins may
//! have put into their requests. It may hold secrets, so only its owner may read it, and no error shows a line of it.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use worker_wire::Secret;

use crate::private_file;

/// Largest file that is read, in bytes. A hand-written one has a few KiB.
const MAX_BYTES: u64 = 1 << 20;
/// Largest secret, in bytes: what fits a header.
const MAX_SECRET: u64 = 8 * 1024;

/// What the operator said about the network.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// When not empty, the only hosts that files may come from.
    pub download_hosts: Vec<String>,
    /// Logins at model hosts.
    pub logins: Vec<Login>,
    /// Secrets of plugins.
    pub secrets: Vec<PluginSecret>,
}

/// A login for the files below one path of one host.
#[derive(Debug, Clone)]
pub struct Login {
    /// The host, with its port where that is not the usual one.
    pub host: String,
    /// The path's beginning.
    pub path_prefix: String,
    /// The registry for which tokens are asked with it, where that is another host.
    pub registry: Option<String>,
    /// With a name it is a password; without one, `token` is sent as a bearer token.
    pub user: Option<String>,
    /// The token, or the password.
    pub token: Secret,
}

/// A secret of one plugin. Where it may go is in `plugins.toml`.
#[derive(Debug, Clone)]
pub struct PluginSecret {
    /// The plugin's name.
    pub plugin: String,
    /// What the plugin calls it.
    pub name: String,
    /// The whole value of the header that it becomes.
    pub value: Secret,
}

/// What is wrong with `network.toml`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// It, or a file that it names, cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{path} can be read by other users of this machine; run `chmod 600` on it", path = path.display())]
    Readable {
        /// Which.
        path: PathBuf,
    },
    /// It does not parse. The line is not shown: it may hold a secret.
    #[error("{path}, line {line}: not as expected; see docs/network.md (the line is not shown because it may hold a secret)", path = path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// One entry cannot be used.
    #[error("{path}, {entry}: {problem}", path = path.display())]
    Entry {
        /// Which.
        path: PathBuf,
        /// `login 2`, from 1.
        entry: String,
        /// What is expected.
        problem: &'static str,
    },
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    download_hosts: Vec<String>,
    login: Vec<LoginEntry>,
    secret: Vec<SecretEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LoginEntry {
    host: String,
    path_prefix: String,
    registry: Option<String>,
    user: Option<String>,
    value: Option<Secret>,
    file: Option<PathBuf>,
    env: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SecretEntry {
    plugin: String,
    name: String,
    value: Option<Secret>,
    file: Option<PathBuf>,
    env: Option<String>,
}

impl Network {
    /// Reads `network.toml` in the folder of the configuration; none is as good as an empty one.
    ///
    /// # Errors
    /// When it is there and cannot be used as a whole.
    pub fn load(config: &Path) -> Result<Self, NetworkError> {
        let path = config.with_file_name("network.toml");
        let Some(text) = read_private(&path, MAX_BYTES)? else {
            return Ok(Self::default());
        };
        let document: Document =
            toml_edit::de::from_str(&text).map_err(|error| NetworkError::Malformed {
                line: line_of(&text, error.span().map_or(0, |span| span.start)),
                path: path.clone(),
            })?;
        document.resolve(&path)
    }
}

impl Document {
    fn resolve(self, path: &Path) -> Result<Network, NetworkError> {
        let mut network = Network {
            download_hosts: self.download_hosts,
            ..Network::default()
        };
        for (index, host) in network.download_hosts.iter().enumerate() {
            let at = Entry::new(path, "download-hosts", index);
            at.check(
                is_host(host),
                "expected a host, with its port where that is not 443",
            )?;
        }
        for (index, entry) in self.login.into_iter().enumerate() {
            let at = Entry::new(path, "login", index);
            at.check(
                is_host(&entry.host),
                "`host` must be a host, with its port where that is not 443",
            )?;
            at.check(
                entry.path_prefix.starts_with('/'),
                "`path-prefix` must begin with /",
            )?;
            at.check(
                entry.registry.as_deref().is_none_or(is_host),
                "`registry` must be a host, with its port where that is not 443",
            )?;
            let named = |user: &String| {
                !user.is_empty() && !user.contains(':') && !user.chars().any(char::is_control)
            };
            at.check(
                entry.user.as_ref().is_none_or(named),
                "`user` must not be empty, and holds no colon",
            )?;
            network.logins.push(Login {
                user: entry.user,
                token: at.secret(entry.value, entry.file, entry.env)?,
                host: entry.host,
                path_prefix: entry.path_prefix,
                registry: entry.registry,
            });
        }
        for (index, entry) in self.secret.into_iter().enumerate() {
            let at = Entry::new(path, "secret", index);
            let named = !entry.plugin.is_empty() && !entry.name.is_empty();
            at.check(named, "`plugin` and `name` must not be empty")?;
            network.secrets.push(PluginSecret {
                value: at.secret(entry.value, entry.file, entry.env)?,
                plugin: entry.plugin,
                name: entry.name,
            });
        }
        Ok(network)
    }
}

/// One entry, for saying what is wrong with it.
struct Entry<'a> {
    path: &'a Path,
    entry: String,
}

impl<'a> Entry<'a> {
    fn new(path: &'a Path, kind: &str, index: usize) -> Self {
        let entry = format!("{kind} {}", index.saturating_add(1));
        Self { path, entry }
    }

    fn check(&self, fine: bool, problem: &'static str) -> Result<(), NetworkError> {
        if fine {
            Ok(())
        } else {
            Err(self.wrong(problem))
        }
    }

    fn wrong(&self, problem: &'static str) -> NetworkError {
        NetworkError::Entry {
            path: self.path.to_owned(),
            entry: self.entry.clone(),
            problem,
        }
    }

    /// The secret, from the one place that is named.
    fn secret(
        &self,
        value: Option<Secret>,
        file: Option<PathBuf>,
        env: Option<String>,
    ) -> Result<Secret, NetworkError> {
        let secret = match (value, file, env) {
            (Some(value), None, None) => value,
            (None, Some(file), None) => {
                // A name alone lies beside this file.
                let file = self.path.parent().unwrap_or(Path::new(".")).join(file);
                let text = read_private(&file, MAX_SECRET)?;
                Secret::new(
                    text.ok_or_else(|| self.wrong("`file` is not there"))?
                        .trim(),
                )
            }
            (None, None, Some(name)) => match std::env::var(&name) {
                Ok(value) => Secret::new(value.trim()),
                Err(_) => return Err(self.wrong("the variable that `env` names is not set")),
            },
            _ => return Err(self.wrong("needs exactly one of `value`, `file` and `env`")),
        };
        self.check(!secret.is_empty(), "the secret is empty")?;
        let clean = !secret.expose().chars().any(char::is_control);
        self.check(
            clean,
            "the secret holds a line break or another control character",
        )?;
        Ok(secret)
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
}

fn read_private(path: &Path, limit: u64) -> Result<Option<String>, NetworkError> {
    let failed = |source| NetworkError::Read {
        path: path.to_owned(),
        source,
    };
    let Some(bytes) = private_file::read(path, limit).map_err(failed)? else {
        return Ok(None);
    };
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(path).map_err(failed)?.permissions(),
        );
        if mode & 0o077 != 0 {
            return Err(NetworkError::Readable {
                path: path.to_owned(),
            });
        }
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| failed(io::Error::from(io::ErrorKind::InvalidData)))
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.bytes().take(at).filter(|byte| *byte == b'\n');
    before.count().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn load(text: &str, mode: u32) -> Result<Network, NetworkError> {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("network.toml", text);
        write("token", "planted-file\n");
        Network::load(&dir.path().join("config.toml"))
    }

    #[test]
    fn logins_and_secrets_from_their_three_places() {
        let network = load(
            "download-hosts = [\"models.example\", \"cdn.example:8443\"]\n[[login]]\nhost = \"models.example\"\npath-prefix = \"/acme\"\nfile = \"token\"\n[[secret]]\nplugin = \"remote\"\nname = \"key\"\nvalue = \"planted-value\"\n[[secret]]\nplugin = \"remote\"\nname = \"path\"\nenv = \"PATH\"\n",
            0o600,
        )
        .unwrap();
        assert_eq!(network.logins[0].token.expose(), "planted-file");
        assert_eq!(network.secrets[0].value.expose(), "planted-value");
        assert_eq!(
            network.secrets[1].value.expose(),
            std::env::var("PATH").unwrap()
        );
        assert_eq!(network.download_hosts.len(), 2);
        assert!(!format!("{network:?}").contains("planted"));
        let dir = tempfile::tempdir().unwrap();
        assert!(
            Network::load(&dir.path().join("config.toml"))
                .unwrap()
                .logins
                .is_empty()
        );
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        assert!(matches!(
            load("", 0o644),
            Err(NetworkError::Readable { .. })
        ));
        assert!(matches!(
            load("", 0o640),
            Err(NetworkError::Readable { .. })
        ));
        assert!(load("", 0o400).is_ok());
    }

    #[test]
    fn nothing_wrong_is_passed_over_or_shown() {
        let login = "[[login]]\nhost = \"h\"\npath-prefix = \"/\"\n";
        for text in [
            "planted = 1".to_owned(),
            "x = \"planted".to_owned(),
            format!("{login}value = \"planted\"\ntypo = \"planted\""),
            login.to_owned(),
            format!("{login}value = \"planted\"\nenv = \"PATH\""),
            format!("{login}value = \"\""),
            format!("{login}value = \"planted\\r\\nx: y\""),
            format!("{login}env = \"NO_SUCH_VARIABLE_HERE\""),
            format!("{login}file = \"missing\""),
            format!("{login}value = 7"),
            "[[login]]\nhost = \"https://planted/\"\npath-prefix = \"/\"\nvalue = \"x\"".to_owned(),
            "[[login]]\nhost = \"h\"\npath-prefix = \"planted\"\nvalue = \"x\"".to_owned(),
            format!("{login}value = \"x\"\nregistry = \"https://planted/\""),
            "download-hosts = [\"planted/x\"]".to_owned(),
        ] {
            let error = load(&text, 0o600).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("planted"),
                "{error:?}"
            );
        }
    }
}
