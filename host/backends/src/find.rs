//! Where a program is on this machine.
//!
//! In order: what the operator named in an environment variable, the models' root's `bin`, `~/.local/bin`, `PATH`. An
//! operator who names a file means it: when it cannot be run, that is an error, not a reason to take another.
//!
//! A program that its makers renamed has further names. Those are not looked for where the system's programs are: a short
//! former name is another program's there sooner or later, and which of two programs a file is, its name alone tells.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf, absolute};

use rustix::fs::{Access, access};

/// A program that an engine needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How the engine calls it.
    pub name: String,
    /// Bare executable name, without `.exe`.
    pub program: String,
    /// The environment variable by which an operator names another file.
    pub path_override_env: Option<String>,
    /// Whether it is a further name of a program that has another one first. Such a name counts only where somebody put
    /// the file for this worker: in the variable and in the models' `bin`.
    pub further_name: bool,
}

/// A program that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Absolute; links are not resolved.
    pub path: PathBuf,
    /// Where it was found.
    pub how: Origin,
}

/// Where a program was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Named by the operator in this environment variable.
    Environment(String),
    /// In `bin` under the models' root.
    Cache,
    /// In `~/.local/bin`.
    LocalBin,
    /// In a folder of `PATH`.
    Path,
}

/// Why a program is not looked for, or not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The operator's variable names nothing that can be run.
    #[error("{variable} names {}, which is no executable file: correct or unset it", .path.display())]
    Override {
        /// The variable.
        variable: String,
        /// What it names.
        path: PathBuf,
    },
    /// The plugin's name for its program is no bare name.
    #[error("the plugin asks for the program {program:?}, which is no bare file name")]
    NotBare {
        /// The name, shortened.
        program: String,
    },
    /// A program that runs whatever it is told, which would be every program.
    #[error(
        "the plugin asks for {program}, which runs any code it is given; such programs are never found by name"
    )]
    Interpreter {
        /// The name.
        program: String,
    },
}

/// Programs that run others or any code: granting one by name would grant them all. Versions (`python3.13`) count too.
const INTERPRETERS: [&str; 56] = [
    "ash",
    "awk",
    "bash",
    "bun",
    "busybox",
    "chroot",
    "cmd",
    "cscript",
    "csh",
    "dash",
    "deno",
    "doas",
    "env",
    "expect",
    "find",
    "fish",
    "gawk",
    "gdb",
    "java",
    "ksh",
    "ld.so",
    "lua",
    "luajit",
    "make",
    "mawk",
    "mksh",
    "nice",
    "node",
    "nodejs",
    "nohup",
    "nsenter",
    "osascript",
    "perl",
    "php",
    "pkexec",
    "powershell",
    "pwsh",
    "pypy",
    "python",
    "rbash",
    "ruby",
    "script",
    "setsid",
    "sh",
    "ssh",
    "strace",
    "su",
    "sudo",
    "tclsh",
    "tcsh",
    "timeout",
    "toybox",
    "unshare",
    "wscript",
    "xargs",
    "zsh",
];

/// Looks for a program. `env` is the worker's environment; a variable that is set to nothing counts as set.
///
/// # Errors
/// When the name is one that is never looked for, or the operator's variable names no executable file.
pub fn find(
    wanted: &Wanted,
    models_root: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<Found>, FindError> {
    check_program(&wanted.program)?;
    if let Some(variable) = &wanted.path_override_env
        && let Some(value) = env(variable)
    {
        return from_override(variable, &value).map(Some);
    }
    let file = format!("{}{}", wanted.program, std::env::consts::EXE_SUFFIX);
    let own = (models_root.join("bin"), Origin::Cache);
    let shared = match wanted.further_name {
        true => Vec::new(),
        false => shared_places(env),
    };
    for (dir, how) in std::iter::once(own).chain(shared) {
        if let Ok(path) = absolute(dir.join(&file))
            && is_executable(&path)
        {
            return Ok(Some(Found { path, how }));
        }
    }
    Ok(None)
}

/// Folders that hold whatever the operator and the system installed.
fn shared_places(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<(PathBuf, Origin)> {
    let home = env("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute());
    let path = env("PATH").unwrap_or_default();
    // A relative folder would mean another one wherever the worker is started.
    let path = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| (dir, Origin::Path));
    home.map(|home| (home.join(".local/bin"), Origin::LocalBin))
        .into_iter()
        .chain(path)
        .collect()
}

fn from_override(variable: &str, value: &OsStr) -> Result<Found, FindError> {
    match absolute(value) {
        Ok(path) if is_executable(&path) => Ok(Found {
            path,
            how: Origin::Environment(variable.to_owned()),
        }),
        _ => Err(FindError::Override {
            variable: variable.to_owned(),
            path: value.into(),
        }),
    }
}

fn check_program(program: &str) -> Result<(), FindError> {
    let mut components = Path::new(program).components();
    let bare = matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == program);
    if !bare
        || program.starts_with(['-', '.'])
        || program.contains(['\\', ':'])
        || program.chars().any(char::is_control)
    {
        return Err(FindError::NotBare {
            program: program.chars().take(40).collect(),
        });
    }
    if is_interpreter(program) {
        return Err(FindError::Interpreter {
            program: program.to_owned(),
        });
    }
    Ok(())
}

/// Whether a program runs whatever it is told to, by its bare name. Versions (`python3.13`) count too.
#[must_use]
pub fn is_interpreter(program: &str) -> bool {
    let lower = program.to_ascii_lowercase();
    let lower = lower.strip_suffix(".exe").unwrap_or(&lower);
    let stem = lower.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    INTERPRETERS.contains(&stem) || INTERPRETERS.contains(&lower)
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    struct Places {
        dir: tempfile::TempDir,
        env: HashMap<String, OsString>,
    }

    impl Places {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |part: &str| dir.path().join(part);
            let path =
                std::env::join_paths([PathBuf::from("relative"), at("p1"), at("p2")]).unwrap();
            let env = [
                ("HOME".to_owned(), at("home").into()),
                ("PATH".to_owned(), path),
            ]
            .into();
            Self { dir, env }
        }

        fn put(&self, part: &str, mode: u32) -> PathBuf {
            let path = self.dir.path().join(part);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn find(&self) -> Result<Option<Found>, FindError> {
            self.find_as(false)
        }

        fn find_as(&self, further_name: bool) -> Result<Option<Found>, FindError> {
            let wanted = Wanted {
                name: "engine".into(),
                program: "engine-cli".into(),
                path_override_env: Some("ENGINE_CLI".into()),
                further_name,
            };
            find(&wanted, &self.dir.path().join("models"), &|name| {
                self.env.get(name).cloned()
            })
        }
    }

    #[test]
    fn places_in_their_order() {
        let mut places = Places::new();
        assert_eq!(places.find(), Ok(None));
        for (part, how) in [
            ("p2/engine-cli", Origin::Path),
            ("p1/engine-cli", Origin::Path),
            ("home/.local/bin/engine-cli", Origin::LocalBin),
            ("models/bin/engine-cli", Origin::Cache),
        ] {
            let path = places.put(part, 0o755);
            assert_eq!(places.find(), Ok(Some(Found { path, how })));
        }
        let path = places.put("own", 0o755);
        places.env.insert("ENGINE_CLI".into(), path.clone().into());
        let how = Origin::Environment("ENGINE_CLI".into());
        assert_eq!(places.find(), Ok(Some(Found { path, how })));
    }

    /// Debian's `sd` finds and replaces text, and is no program of ours.
    #[test]
    fn a_further_name_counts_only_where_it_was_put_for_this_worker() {
        let mut places = Places::new();
        places.put("p1/engine-cli", 0o755);
        places.put("home/.local/bin/engine-cli", 0o755);
        assert!(places.find().unwrap().is_some());
        assert_eq!(places.find_as(true), Ok(None));
        let path = places.put("models/bin/engine-cli", 0o755);
        let how = Origin::Cache;
        assert_eq!(places.find_as(true), Ok(Some(Found { path, how })));
        let path = places.put("own", 0o755);
        places.env.insert("ENGINE_CLI".into(), path.clone().into());
        let how = Origin::Environment("ENGINE_CLI".into());
        assert_eq!(places.find_as(true), Ok(Some(Found { path, how })));
    }

    #[test]
    fn a_file_that_cannot_be_run_is_passed_over_but_not_where_the_operator_named_it() {
        let mut places = Places::new();
        let plain = places.put("p1/engine-cli", 0o644);
        let path = places.put("p2/engine-cli", 0o755);
        assert_eq!(
            places.find(),
            Ok(Some(Found {
                path,
                how: Origin::Path
            }))
        );
        for value in [
            plain,
            "/nowhere/engine".into(),
            PathBuf::new(),
            places.dir.path().to_owned(),
        ] {
            places.env.insert("ENGINE_CLI".into(), value.clone().into());
            assert_eq!(
                places.find(),
                Err(FindError::Override {
                    variable: "ENGINE_CLI".into(),
                    path: value
                })
            );
        }
    }

    #[test]
    fn interpreters_and_paths_are_never_found() {
        let none = |_: &str| None;
        let wanted = |program: &str| Wanted {
            name: "x".into(),
            program: program.into(),
            path_override_env: None,
            further_name: false,
        };
        for program in [
            "sh",
            "bash",
            "python3",
            "python3.13",
            "Perl",
            "env",
            "node",
            "busybox",
            "cmd.exe",
        ] {
            let found = find(&wanted(program), Path::new("/m"), &none);
            assert_eq!(
                found,
                Err(FindError::Interpreter {
                    program: program.into()
                })
            );
        }
        for program in ["", "..", "/bin/ls", "a/b", "-x", ".x", "a\0", "a\\b", "x/"] {
            let found = find(&wanted(program), Path::new("/m"), &none);
            assert_eq!(
                found,
                Err(FindError::NotBare {
                    program: program.into()
                }),
                "{program:?}"
            );
        }
    }
}
