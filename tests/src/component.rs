//! Components changed by hand, section by section, so that they can be what no build command would write.

use serde_json::Value;

/// Where a plugin says what it asks for.
const GRANTS: &str = "studio-worker:grants";

/// The bytes without custom sections of this name. What lies within modules stays.
pub fn without_section(bytes: &[u8], name: &str) -> Vec<u8> {
    let mut all = bytes[..8].to_vec();
    let mut rest = &bytes[8..];
    while !rest.is_empty() {
        let (length, width) = read_number(&rest[1..]);
        let end = 1 + width + length;
        let is_it = rest[0] == 0 && {
            let (size, at) = read_number(&rest[1 + width..]);
            let from = 1 + width + at;
            &rest[from..from + size] == name.as_bytes()
        };
        if !is_it {
            all.extend(&rest[..end]);
        }
        rest = &rest[end..];
    }
    all
}

/// The bytes with one more custom section at their end.
pub fn with_section(bytes: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let mut body = number(name.len());
    body.extend(name.as_bytes());
    body.extend(content);
    let mut all = bytes.to_vec();
    all.extend(section(0, body));
    all
}

/// The same plugin asking for other things.
pub fn asking(bytes: &[u8], grants: &Value) -> Vec<u8> {
    let bare = without_section(bytes, GRANTS);
    with_section(&bare, GRANTS, grants.to_string().as_bytes())
}

/// A section of any kind.
pub fn section(id: u8, content: Vec<u8>) -> Vec<u8> {
    let mut all = vec![id];
    all.extend(number(content.len()));
    all.extend(content);
    all
}

/// A length as the format has it, LEB128.
pub fn number(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

fn read_number(bytes: &[u8]) -> (usize, usize) {
    let (mut value, mut width) = (0, 0);
    loop {
        let byte = usize::from(bytes[width]);
        value |= (byte & 0x7f) << (7 * width);
        width += 1;
        if byte & 0x80 == 0 {
            return (value, width);
        }
    }
}
