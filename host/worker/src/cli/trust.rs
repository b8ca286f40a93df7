//! What can be typed about keys, signatures and grants.

use std::path::PathBuf;

use clap::Args;

use super::typed::Json;

#[derive(Debug, Args)]
pub(super) struct TypedKeygen {
    /// File for the secret key; nobody but you can read it
    #[arg(short = 's', long, value_name = "FILE")]
    pub(super) secret_key: PathBuf,
    /// File for the public key
    #[arg(short = 'p', long, value_name = "FILE")]
    pub(super) public_key: PathBuf,
    #[command(flatten)]
    pub(super) password: TypedPassword,
    /// Keep the secret key by no password, only by its file's permissions
    #[arg(short = 'W', long, conflicts_with = "password_file")]
    pub(super) no_password: bool,
}

#[derive(Debug, Args)]
pub(super) struct TypedPassword {
    /// File whose first line is the password; without it you are asked
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct TypedSign {
    /// The plugins; each signature is written beside its file, as NAME.wasm.minisig
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// The secret key
    #[arg(short = 's', long, value_name = "FILE")]
    pub(super) secret_key: PathBuf,
    #[command(flatten)]
    pub(super) password: TypedPassword,
    /// Order workers to take the file although its version is lower, where this digest serves
    #[arg(long, value_name = "SHA256", value_parser = super::typed::digest)]
    pub(super) replaces: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct TypedVerify {
    /// The plugin
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Public key to trust, as a file; without one those of the plugins.toml that the worker uses
    #[arg(short = 'p', long, value_name = "FILE")]
    pub(super) public_key: Vec<PathBuf>,
    /// Public key to trust, as text
    #[arg(short = 'P', long, value_name = "KEY")]
    pub(super) key: Vec<String>,
    /// The signature, where it does not lie beside the file
    #[arg(short = 'x', long, value_name = "FILE")]
    pub(super) signature: Option<PathBuf>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Debug, Args)]
pub(super) struct TypedGrant {
    /// The plugin's name
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// Only if this is what waits, by the digest that `plugin list --json` shows
    #[arg(long, value_name = "SHA256", value_parser = super::typed::digest)]
    pub(super) digest: Option<String>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Debug, Args)]
pub(super) struct TypedForgive {
    /// SHA-256 of the version, or its first 12 digits or more, as `plugin list` shows it
    #[arg(value_name = "DIGEST", value_parser = digest_start)]
    pub(super) digest: String,
}

fn digest_start(text: &str) -> Result<String, &'static str> {
    let sound = (12..=64).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_hexdigit());
    sound
        .then(|| text.to_ascii_lowercase())
        .ok_or("give 12 to 64 hex digits of the SHA-256 digest")
}
