//! Names that come from outside and become part of a path.

use crate::sniff::extension_of;

/// The longest name, in bytes. File systems take 255; the rest is for what is put before and after it.
const NAME_BYTES: usize = 200;
/// The longest extension, in bytes. No format in use has a longer one.
const EXTENSION_BYTES: usize = 16;

/// Why a name or an extension is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadName {
    /// Nothing at all.
    #[error("the name is empty")]
    Empty,
    /// Too long for a file system.
    #[error("the name has {bytes} bytes, more than the {limit} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// `/` or `\`, which would lead into another directory on some system.
    #[error("the name holds a slash or backslash; only a bare name is allowed")]
    Separator,
    /// A control character, such as an escape sequence for the operator's terminal.
    #[error("the name holds a control character")]
    Control,
    /// A leading dot (hidden, `.` and `..`) or dash (an option to the program that gets it).
    #[error("the name begins with {0:?}")]
    Leading(char),
    /// `:`, which names a drive or a stream on Windows.
    #[error("the name holds a colon")]
    Colon,
    /// An extension with anything but letters and digits.
    #[error("the extension holds {0:?}; only letters and digits are allowed")]
    Character(char),
}

/// Whether `name` is one normal component of a path: it can be created in a directory, and nowhere else.
///
/// # Errors
/// The rule that it breaks.
pub fn check_bare_name(name: &str) -> Result<(), BadName> {
    let first = name.chars().next().ok_or(BadName::Empty)?;
    if name.len() > NAME_BYTES {
        return Err(BadName::TooLong {
            bytes: name.len(),
            limit: NAME_BYTES,
        });
    }
    if name.contains(['/', '\\']) {
        return Err(BadName::Separator);
    }
    if name.chars().any(is_control) {
        return Err(BadName::Control);
    }
    if name.contains(':') {
        return Err(BadName::Colon);
    }
    if matches!(first, '.' | '-') {
        return Err(BadName::Leading(first));
    }
    Ok(())
}

/// Whether `extension`, without its dot, can be put behind a name: 1 to 16 ASCII letters and digits.
///
/// # Errors
/// The rule that it breaks.
pub fn check_extension(extension: &str) -> Result<(), BadName> {
    if extension.is_empty() {
        return Err(BadName::Empty);
    }
    if extension.len() > EXTENSION_BYTES {
        return Err(BadName::TooLong {
            bytes: extension.len(),
            limit: EXTENSION_BYTES,
        });
    }
    match extension.chars().find(|c| !c.is_ascii_alphanumeric()) {
        Some('/' | '\\') => Err(BadName::Separator),
        Some(other) => Err(BadName::Character(other)),
        None => Ok(()),
    }
}

/// A name whose extension says what the content is, since programs choose their decoder by it and URLs lie. `hint` is any
/// text (the last segment of a URL, say): what a name may not hold is left out of it. Without a known media type the
/// hint's own extension stays, if it is one.
#[must_use]
pub fn name_by_content(hint: &str, media_type: Option<&str>) -> String {
    let kept: String = hint
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        .collect();
    let kept = kept.trim_start_matches(['.', '-']);
    let (stem, own) = kept.rsplit_once('.').unwrap_or((kept, ""));
    let stem: String = stem.chars().take(100).collect();
    let stem = if stem.is_empty() { "file" } else { &stem };
    let sniffed = media_type.and_then(extension_of);
    match sniffed.unwrap_or(own) {
        extension if check_extension(extension).is_ok() => format!("{stem}.{extension}"),
        _ => stem.to_owned(),
    }
}

/// Control characters, and those that turn the direction of the text around them.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass() {
        for name in [
            "model.gguf",
            "a",
            "Ünïcode name.png",
            "x..y",
            "flux1-dev-Q4_0.gguf",
            "~",
        ] {
            assert_eq!(check_bare_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_bare_name(&"x".repeat(200)), Ok(()));
    }

    #[test]
    fn names_that_lead_elsewhere_do_not() {
        let cases = [
            ("", BadName::Empty),
            (".", BadName::Leading('.')),
            ("..", BadName::Leading('.')),
            (".hidden", BadName::Leading('.')),
            ("-rf", BadName::Leading('-')),
            ("a/b", BadName::Separator),
            ("/etc/passwd", BadName::Separator),
            ("../x", BadName::Separator),
            ("a\\b", BadName::Separator),
            ("a\0b", BadName::Control),
            ("a\nb", BadName::Control),
            ("\u{1b}[2J", BadName::Control),
            ("gpj.\u{202e}exe", BadName::Control),
            ("c:x", BadName::Colon),
        ];
        for (name, why) in cases {
            assert_eq!(check_bare_name(name), Err(why), "{name:?}");
        }
        assert_eq!(
            check_bare_name(&"x".repeat(201)),
            Err(BadName::TooLong {
                bytes: 201,
                limit: 200
            })
        );
    }

    #[test]
    fn extensions() {
        for extension in ["webp", "7z", "GGUF", "abcdefghijklmnop"] {
            assert_eq!(check_extension(extension), Ok(()), "{extension}");
        }
        assert_eq!(check_extension(""), Err(BadName::Empty));
        assert_eq!(check_extension("a/b"), Err(BadName::Separator));
        assert_eq!(check_extension("tar.gz"), Err(BadName::Character('.')));
        assert_eq!(check_extension("é"), Err(BadName::Character('é')));
        assert_eq!(
            check_extension("abcdefghijklmnopq"),
            Err(BadName::TooLong {
                bytes: 17,
                limit: 16
            })
        );
    }

    #[test]
    fn a_name_follows_the_content() {
        assert_eq!(
            name_by_content("latest.webp", Some("image/jpeg")),
            "latest.jpg"
        );
        assert_eq!(name_by_content("latest", Some("image/png")), "latest.png");
        assert_eq!(name_by_content("notes.txt", None), "notes.txt");
        assert_eq!(name_by_content("../../x y.png", None), "xy.png");
        assert_eq!(name_by_content("", Some("image/png")), "file.png");
        assert_eq!(name_by_content("-rf", None), "rf");
        assert_eq!(name_by_content("a.b/c", None), "a.bc");
        for hint in ["..", "\u{1b}[0m", "/", "a.", ".png", &"x".repeat(500)] {
            let name = name_by_content(hint, None);
            assert_eq!(check_bare_name(&name), Ok(()), "{hint:?} became {name:?}");
        }
    }
}
