//! Which words a plugin may use for the things it names.
//!
//! Every name here ends in a log line, a file path, an environment or a command line, so each is held to
//! the few characters that mean nothing special in any of them.

/// The longest plugin name; longer ones would crowd the log line that each load writes.
pub(crate) const MAX_PLUGIN_NAME: usize = 64;

/// A plugin's name, which is also its file's stem: lower-case letters, digits and hyphens.
pub(crate) fn is_plugin_name(name: &str) -> bool {
    name.len() <= MAX_PLUGIN_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// A bare executable name: no directory, no extension that only Windows has, no leading dot or hyphen.
pub(crate) fn is_program(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-'))
        && !name.to_ascii_lowercase().ends_with(".exe")
}

/// A bare name of a shared object, as any system names them.
pub(crate) fn is_library(name: &str) -> bool {
    is_program(name)
        && [".so", ".dylib", ".dll"]
            .iter()
            .any(|part| name.contains(part))
}

/// Whether a program runs whatever it is told to: a shell, an interpreter, or one that starts others.
/// Version suffixes are seen through: `python3.12` is `python`.
pub(crate) fn is_interpreter(name: &str) -> bool {
    worker_backends::is_interpreter(name)
}

/// An environment variable's name.
pub(crate) fn is_variable(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a variable decides what code the child loads or where its traffic goes.
pub(crate) fn is_forbidden_variable(name: &str) -> bool {
    worker_backends::check_env_name(name).is_err()
}

/// A host name in lower case, with a port if it is not the usual one.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let labels_fit = (1..=253).contains(&host.len())
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        });
    labels_fit && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n != 0))
}

/// A prefix of download addresses: `https`, no user, ending in a slash so that it cannot match half a name.
pub(crate) fn is_url_prefix(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://") else {
        return false;
    };
    let Some((host, path)) = rest.split_once('/') else {
        return false;
    };
    text.len() <= 2048
        && is_host(host)
        && text.ends_with('/')
        && !path.split('/').any(|part| part == "..")
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '@' | '\\' | '%'))
}

/// Whether `url` lies under a prefix that [`is_url_prefix`] accepted, with nothing in it that climbs out again.
pub(crate) fn is_under(url: &str, prefix: &str) -> bool {
    url.strip_prefix(prefix).is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '\\' | '#' | '?'))
            && !rest.split('/').any(|part| {
                let part = part.to_ascii_lowercase().replace("%2e", ".");
                part == ".." || part == "." || part.contains("%2f") || part.contains("%5c")
            })
    })
}

/// One line without control characters, at most `limit` bytes: what outsiders wrote, made fit for a log.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit) + 16);
    for (at, c) in text.char_indices() {
        if line.len() + c.len_utf8() > limit {
            line.push_str(&format!("… ({} bytes more)", text.len() - at));
            break;
        }
        if c.is_control() || is_reordering(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Characters that make a terminal show text in another order, or as nothing.
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_names() {
        for good in ["a", "sd-cpp", "0x", &"a".repeat(64)] {
            assert!(is_plugin_name(good), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a.b", "ä", "a b", &"a".repeat(65)] {
            assert!(!is_plugin_name(bad), "{bad}");
        }
    }

    #[test]
    fn interpreters_are_seen_through_versions_and_case() {
        for name in [
            "sh",
            "python",
            "python3",
            "python3.12",
            "Bash",
            "perl5.36",
            "lua5.4",
            "ld.so",
            "env",
        ] {
            assert!(is_interpreter(name), "{name}");
        }
        for name in ["sd-cli", "ffmpeg", "shard", "pythonic-tool"] {
            assert!(!is_interpreter(name), "{name}");
        }
    }

    #[test]
    fn programs_are_bare() {
        assert!(is_program("sd-cli"));
        for bad in ["", "/bin/x", "../x", "-x", ".x", "x.exe", "a b", "x\0"] {
            assert!(!is_program(bad), "{bad:?}");
        }
    }

    #[test]
    fn variables_that_load_code_are_forbidden() {
        for name in [
            "LD_PRELOAD",
            "ld_preload",
            "DYLD_X",
            "PATH",
            "MYPATH",
            "HTTP_PROXY",
            "https_proxy",
            "PYTHONHOME",
            "HOME",
        ] {
            assert!(is_forbidden_variable(name), "{name}");
        }
        assert!(!is_forbidden_variable("STAND_IN_MODE"));
        assert!(!is_variable("A=B"));
    }

    #[test]
    fn url_prefixes() {
        assert!(is_url_prefix("https://example.org/a/"));
        for bad in [
            "http://example.org/a/",
            "https://example.org",
            "https://example.org/a",
            "https://me@example.org/",
            "https://example.org/../",
            "https://EXAMPLE.org/",
            "https:///a/",
        ] {
            assert!(!is_url_prefix(bad), "{bad}");
        }
        assert!(is_under(
            "https://example.org/a/b.zip",
            "https://example.org/a/"
        ));
        for bad in [
            "https://example.org/a/",
            "https://example.org/a/../b.zip",
            "https://example.org/a/%2e%2E/b.zip",
            "https://example.org/a/..%2fb",
            "https://example.org/b/b.zip",
        ] {
            assert!(!is_under(bad, "https://example.org/a/"), "{bad}");
        }
    }

    #[test]
    fn one_line_escapes_and_cuts() {
        assert_eq!(
            one_line("a\nb\u{1b}[2J\u{202e}", 100),
            "a\\nb\\u{1b}[2J\\u{202e}"
        );
        assert_eq!(one_line("ääää", 5), "ää… (4 bytes more)");
    }
}
