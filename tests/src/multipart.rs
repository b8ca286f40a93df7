//! Reads `multipart/form-data` by hand, so that order, names and bytes are seen as they were sent.

use bytes::Bytes;

/// One field.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its file name.
    pub filename: Option<String>,
    /// Its content type.
    pub content_type: Option<String>,
    /// Its content.
    pub content: Bytes,
}

impl Field {
    /// Its content as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.content).expect("UTF-8")
    }
}

/// The fields of a body, in order. Panics on anything that is not well formed.
pub fn fields(content_type: &str, body: &Bytes) -> Vec<Field> {
    let boundary = content_type
        .strip_prefix("multipart/form-data; boundary=")
        .unwrap_or_else(|| panic!("not a form: {content_type}"))
        .trim_matches('"');
    let delimiter = format!("--{boundary}");
    assert!(
        body.starts_with(delimiter.as_bytes()),
        "the body begins with a delimiter"
    );
    let mut at = delimiter.len();
    let mut fields = Vec::new();
    let between = format!("\r\n{delimiter}");
    while !body[at..].starts_with(b"--") {
        assert!(body[at..].starts_with(b"\r\n"), "a delimiter ends its line");
        let head = at + 2;
        let head_end = head + find(&body[head..], b"\r\n\r\n").expect("a field has a head");
        let start = head_end + 4;
        let end = start + find(&body[start..], between.as_bytes()).expect("a field ends");
        fields.push(field(&body[head..head_end], body.slice(start..end)));
        at = end + between.len();
    }
    assert!(
        matches!(&body[at..], b"--" | b"--\r\n"),
        "nothing follows the last delimiter"
    );
    fields
}

fn field(head: &[u8], content: Bytes) -> Field {
    let head = std::str::from_utf8(head).expect("a head is text");
    let line = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let disposition = line("content-disposition").expect("a field has a name");
    let parameter = |name: &str| {
        let (_, rest) = disposition.split_once(&format!("; {name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    Field {
        name: parameter("name").expect("a field has a name"),
        filename: parameter("filename"),
        content_type: line("content-type"),
        content,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn fields_in_order_with_their_bytes() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na\r\nb\r\n--b\r\n\
                    Content-Disposition: form-data; name=\"image\"; filename=\"j.webp\"\r\nContent-Type: image/webp\r\n\r\n\
                    \r\n--\r\n--b--\r\n";
        let fields = fields(
            "multipart/form-data; boundary=b",
            &body.as_bytes().to_vec().into(),
        );
        assert_eq!(fields.len(), 2);
        assert_eq!(fields[0].text(), "a\r\nb");
        assert_eq!(fields[1].filename.as_deref(), Some("j.webp"));
        assert_eq!(fields[1].content_type.as_deref(), Some("image/webp"));
        assert_eq!(&fields[1].content[..], b"\r\n--");
    }
}
