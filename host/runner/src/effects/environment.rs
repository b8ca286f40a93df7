//! Which environment variables a plugin may set for a program.

use super::Refused;

/// Longest value, in bytes. The system bounds arguments and environment together.
const MAX_VALUE: usize = 32 * 1024;

/// Checks one variable: no grant reaches a name that changes what is loaded or contacted; the rest must be granted.
pub(super) fn check(name: &str, value: &str, granted: &[String]) -> Result<(), Refused> {
    worker_backends::check_env_name(name)
        .map_err(|error| Refused::Environment(error.to_string()))?;
    let refused = |why: &str| {
        Err(Refused::Environment(format!(
            "environment variable `{name}` {why}"
        )))
    };
    if !granted.iter().any(|allowed| allowed == name) {
        return refused("was not granted to the plugin; grant it in plugins.toml");
    }
    if value.contains('\0') || value.len() > MAX_VALUE {
        return refused("has a value that is too long or holds a NUL byte");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_names_are_beyond_any_grant() {
        let all: Vec<String> = [
            "LD_PRELOAD",
            "ld_preload",
            "DYLD_INSERT_LIBRARIES",
            "PATH",
            "https_proxy",
            "HTTPS_PROXY",
            "PYTHONSTARTUP",
            "MY_PATH",
            "A B",
            "",
            "X=Y",
        ]
        .map(str::to_owned)
        .to_vec();
        for name in &all {
            assert!(check(name, "x", &all).is_err(), "{name}");
        }
        let granted = ["THREADS".to_owned()];
        assert!(check("THREADS", "4", &granted).is_ok());
        assert!(check("threads", "4", &granted).is_err());
        assert!(check("THREADS", "4\0", &granted).is_err());
        assert!(check("THREADS", "4", &[]).is_err());
    }
}
