//! Texts of others made fit for one log line.

/// At most `max` characters of `text` on one line: control characters become spaces, and a cut is shown.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let mut line: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(max)
        .collect();
    if text.trim().chars().nth(max).is_some() {
        line.push('…');
    }
    line
}

/// An error with everything below it, since the outermost line alone rarely says why.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        below = cause.source();
    }
    text
}

/// Whether an id can stand in a URL path as it is, and goes nowhere else.
pub(crate) fn is_path_segment(id: &str) -> bool {
    // Longer than any real id, short enough for every URL limit.
    const MAX: usize = 200;
    !id.is_empty()
        && id.len() <= MAX
        && !id.starts_with('.')
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_cut_by_characters() {
        assert_eq!(one_line(" a\nb\u{1b}c ", 10), "a b c");
        assert_eq!(one_line("ééé", 3), "ééé");
        assert_eq!(one_line("éééé", 3), "ééé…");
    }

    #[test]
    fn an_id_that_leaves_its_place_in_the_url_is_refused() {
        for id in ["", "..", "a/b", "a?b", "a#b", "a%2fb", "a b", "é"] {
            assert!(!is_path_segment(id), "{id}");
        }
        assert!(is_path_segment("rr-0f3c.1:2_x~"));
    }
}
