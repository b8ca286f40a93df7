//! Files and folders: who may read them, and how much room there is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use worker_backends::{free_bytes, gib};
use worker_config::{Paths, Settings};

use super::Check;

/// Room below which a model will hardly fit, and below which nothing will.
const MODELS: (u64, u64) = (40 << 30, 2 << 30);
/// The same for results and journals, of which the disk keeps what no studio has taken.
const STATE: (u64, u64) = (8 << 30, 512 << 20);
/// The same for the files of one job.
const SCRATCH: (u64, u64) = (8 << 30, 1 << 30);

pub(super) fn checks(paths: &Paths, settings: &Settings) -> Vec<Check> {
    let mut checks = vec![
        private("permissions.config", &paths.config),
        private("permissions.token", &paths.token),
        private("permissions.state", &paths.state),
    ];
    for (name, dir) in [
        ("folder.models", &settings.models_root),
        ("folder.state", &paths.state),
    ] {
        checks.push(writable(name, dir));
    }
    for (name, dir, room) in [
        ("disk.models", &settings.models_root, MODELS),
        ("disk.state", &paths.state, STATE),
        ("disk.scratch", &paths.scratch, SCRATCH),
    ] {
        checks.push(room_in(name, dir, room));
    }
    checks.extend(set_aside(&settings.models_root));
    checks
}

/// Model files that were found to be others than they were, where there are any.
fn set_aside(models_root: &Path) -> Option<Check> {
    let (count, bytes) = worker_files::quarantined(models_root);
    (count > 0).then(|| {
        Check::warning(
            "models.set-aside",
            format!(
                "model files that were changed or damaged are set aside: {count}, of {:.1} GiB",
                gib(bytes)
            ),
            "find out what writes there, or whether the disk fails; they are removed two weeks after, or by you: .studio-worker/quarantine in the models' folder",
        )
    })
}

/// Whether nobody but its owner can use a file, and its owner is the one who runs this.
fn private(check: &str, path: &Path) -> Check {
    let shown = path.display();
    let Ok(metadata) = fs::metadata(path) else {
        return Check::ok(check, format!("{shown} does not exist yet"));
    };
    let mode = metadata.permissions().mode() & 0o777;
    let wanted = if metadata.is_dir() { "700" } else { "600" };
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Check::failure(
            check,
            format!(
                "{shown} belongs to user {}, and this is user {own}",
                metadata.uid()
            ),
            format!("run the worker as that user, or `chown {own} {shown}`"),
        );
    }
    if mode & 0o077 == 0 {
        return Check::ok(check, format!("{shown} is {mode:o}"));
    }
    let found = format!("{shown} is {mode:o}: others can look into it");
    let next = format!("chmod {wanted} {shown}");
    // A folder that others can list shows names; a file that they can read may show tokens.
    if !metadata.is_dir() && holds_secret(path) {
        Check::failure(check, found, next)
    } else {
        Check::warning(check, found, next)
    }
}

/// Whether a file is one of ours that has a token in it. The token's own file is nothing but one.
fn holds_secret(path: &Path) -> bool {
    const SECRETS: [&str; 3] = ["auth_token", "registration_secret", "local_api_token"];
    let is_config = path.extension().is_some_and(|ext| ext == "toml");
    let text = fs::read_to_string(path).unwrap_or_default();
    !is_config
        || text
            .lines()
            .any(|line| SECRETS.iter().any(|key| line.trim_start().starts_with(key)))
}

fn writable(check: &str, dir: &Path) -> Check {
    let there = nearest(dir);
    let may = rustix::fs::access(
        &there,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    );
    match may {
        Ok(()) if there == dir => Check::ok(check, format!("{} can be written", dir.display())),
        Ok(()) => Check::ok(
            check,
            format!("{} is made when it is needed", dir.display()),
        ),
        Err(error) => Check::failure(
            check,
            format!("{} cannot be written: {error}", there.display()),
            "give this user the folder, or set another one in config.toml",
        ),
    }
}

fn room_in(check: &str, dir: &Path, (good, least): (u64, u64)) -> Check {
    let there = nearest(dir);
    let Some(free) = free_bytes(&there) else {
        return Check::warning(
            check,
            format!("the room in {} cannot be measured", there.display()),
            "look at it with `df`",
        );
    };
    let found = format!("{:.1} GiB free in {}", gib(free), there.display());
    let next = format!("make room there; {:.0} GiB serve well", gib(good));
    if free < least {
        Check::failure(check, found, next)
    } else if free < good {
        Check::warning(check, found, next)
    } else {
        Check::ok(check, found)
    }
}

/// The folder, or the nearest one above it that exists.
fn nearest(dir: &Path) -> PathBuf {
    let there = dir.ancestors().find(|dir| dir.is_dir());
    there.unwrap_or_else(|| Path::new("/")).to_owned()
}
