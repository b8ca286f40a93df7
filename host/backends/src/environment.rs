//! What a program finds in its environment: little, and nothing that a plugin could bend the loader with.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::invocation::Invocation;

/// Variables of the worker's own environment that are passed on, since they say which GPU may be used and how its driver
/// is found. Whoever set them is the operator.
const PASSED: [&str; 14] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "GGML_VK_VISIBLE_DEVICES",
    "MESA_VK_DEVICE_SELECT",
    "ONEAPI_DEVICE_SELECTOR",
    "ZE_AFFINITY_MASK",
    "OMP_NUM_THREADS",
    "TZ",
    "RADV_PERFTEST",
];
/// And all that begin so.
const PASSED_PREFIX: &str = "VK_";

/// The variable in which this system's loader looks for shared objects.
const LIBRARY_VARIABLE: &str = if cfg!(target_os = "macos") {
    "DYLD_LIBRARY_PATH"
} else {
    "LD_LIBRARY_PATH"
};

/// Why an environment variable is not given to a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentRefusal {
    /// No name at all, or one with `=`, NUL or other than letters, digits and `_`.
    #[error("{name:?} is no name of an environment variable")]
    Name {
        /// The name, shortened.
        name: String,
    },
    /// One by which code or traffic could be led elsewhere. No grant allows it.
    #[error("the environment variable {name} is never passed to a program, whoever grants it")]
    Never {
        /// The name.
        name: String,
    },
    /// A value with NUL in it.
    #[error("the value of the environment variable {name} holds a NUL")]
    Value {
        /// The name.
        name: String,
    },
}

/// Whether a plugin's variable may be given to a program, granted or not.
///
/// # Errors
/// The rule that it breaks.
pub fn check_env_name(name: &str) -> Result<(), EnvironmentRefusal> {
    let well_formed = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
        && name.len() <= 128;
    if !well_formed {
        return Err(EnvironmentRefusal::Name {
            name: name.chars().take(40).collect(),
        });
    }
    let upper = name.to_ascii_uppercase();
    let prefixes = [
        "BASH_",
        "DYLD_",
        "GCONV",
        "GCONV_",
        "GLIBC_",
        "LD_",
        "MALLOC_",
        "PYTHON",
        "VK_",
        "STUDIO_WORKER_",
    ];
    let whole = [
        "BASH_ENV",
        "ENV",
        "HOME",
        "IFS",
        "NODE_OPTIONS",
        "PERL5LIB",
        "PERL5OPT",
        "PROMPT_COMMAND",
        "RUBYOPT",
        "SHELL",
        "SHELLOPTS",
        "TMPDIR",
    ];
    let never = prefixes.iter().any(|prefix| upper.starts_with(prefix))
        || upper.ends_with("PATH")
        || upper.ends_with("_PROXY")
        || upper.ends_with("_PRELOAD")
        || whole.contains(&upper.as_str());
    if never {
        Err(EnvironmentRefusal::Never {
            name: name.to_owned(),
        })
    } else {
        Ok(())
    }
}

pub(crate) fn check_env_value(name: &str, value: &str) -> Result<(), EnvironmentRefusal> {
    if value.contains('\0') {
        return Err(EnvironmentRefusal::Value {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// The whole environment of a run. `own` is the worker's.
pub(crate) fn environment(
    invocation: &Invocation,
    own: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let passed = own.filter(|(name, _)| {
        name.to_str()
            .is_some_and(|name| PASSED.contains(&name) || name.starts_with(PASSED_PREFIX))
    });
    // A map, so that the later of two wins and no name stands twice.
    let mut all: BTreeMap<OsString, OsString> = passed.collect();
    let home = invocation.home.clone().into_os_string();
    all.extend([
        ("PATH".into(), "/usr/bin:/bin".into()),
        ("HOME".into(), home.clone()),
        ("TMPDIR".into(), home),
        ("LANG".into(), "C.UTF-8".into()),
        // A library that aborts would otherwise start a debugger on itself, which takes minutes.
        ("GGML_NO_BACKTRACE".into(), "1".into()),
    ]);
    all.extend(
        invocation
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    );
    // Compiled shaders and kernels take minutes to make anew.
    let cache = invocation
        .sandbox
        .as_ref()
        .and_then(|it| it.cache_dir.as_ref());
    for name in ["XDG_CACHE_HOME", "CUDA_CACHE_PATH"] {
        all.extend(cache.map(|dir| (name.into(), dir.clone().into_os_string())));
    }
    // Last, so that it is ours.
    all.extend(
        invocation
            .library_dir
            .iter()
            .map(|dir| (LIBRARY_VARIABLE.into(), dir.clone().into_os_string())),
    );
    all.into_iter().collect()
}

/// The folder of a program, when shared objects lie beside it, as they do in an unpacked release. System folders hold
/// none and need no such help.
#[must_use]
pub fn library_dir(program: &Path) -> Option<PathBuf> {
    let dir = fs::canonicalize(program).ok()?.parent()?.to_owned();
    let is_library = |name: &OsStr| {
        name.to_str().is_some_and(|name| {
            name.ends_with(".so") || name.contains(".so.") || name.ends_with(".dylib")
        })
    };
    // A folder with more entries than this is no release.
    let mut entries = fs::read_dir(&dir).ok()?.flatten().take(10_000);
    entries
        .any(|entry| is_library(&entry.file_name()))
        .then_some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_that_bend_the_loader_are_never_passed() {
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "ld_preload",
            "DYLD_INSERT_LIBRARIES",
            "PATH",
            "MYPATH",
            "HTTPS_PROXY",
            "https_proxy",
            "PYTHONSTARTUP",
            "HOME",
            "BASH_ENV",
        ] {
            assert_eq!(
                check_env_name(name),
                Err(EnvironmentRefusal::Never {
                    name: name.to_owned()
                })
            );
        }
        for name in ["", "A=B", "A B", "1A", "A\0", "É"] {
            assert_eq!(
                check_env_name(name),
                Err(EnvironmentRefusal::Name {
                    name: name.to_owned()
                })
            );
        }
        for name in ["GGML_CUDA_NO_PINNED", "CUDA_VISIBLE_DEVICES", "_x9"] {
            assert_eq!(check_env_name(name), Ok(()));
        }
    }

    #[test]
    fn only_what_is_listed_is_passed_on() {
        let mut run = Invocation::new(
            "/bin/true".into(),
            vec![],
            "/scratch".into(),
            Duration::from_secs(1),
        );
        run.env = vec![("MINE".into(), "0".into()), ("MINE".into(), "1".into())];
        run.library_dir = Some("/release".into());
        let own = [
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("LD_PRELOAD", "/evil.so"),
            ("PATH", "/home/me/bin"),
            ("HOME", "/home/me"),
            ("VK_ICD_FILENAMES", "/icd.json"),
            ("CUDA_VISIBLE_DEVICES", "1"),
        ];
        let own = own
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        let mut all: Vec<String> = environment(&run, own)
            .into_iter()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect();
        all.sort();
        let expected = [
            "CUDA_VISIBLE_DEVICES=1",
            "GGML_NO_BACKTRACE=1",
            "HOME=/scratch",
            "LANG=C.UTF-8",
            &format!("{LIBRARY_VARIABLE}=/release"),
            "MINE=1",
            "PATH=/usr/bin:/bin",
            "TMPDIR=/scratch",
            "VK_ICD_FILENAMES=/icd.json",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_release_folder_is_known_by_its_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "").unwrap();
        assert_eq!(library_dir(&program), None);
        fs::write(dir.path().join("libengine.so.1"), "").unwrap();
        assert_eq!(
            library_dir(&program),
            Some(fs::canonicalize(dir.path()).unwrap())
        );
    }
}
