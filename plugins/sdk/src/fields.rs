//! Reads a JSON object field by field, with failures that name the field.
//!
//! What is read is taken out; what is left at the end are the fields that the plugin does not
//! know, and it keeps them. Three readings of a field differ in what absence and `null` mean:
//!
//! | | absent | `null` |
//! |---|---|---|
//! | [`Fields::required`] | failure | failure |
//! | [`Fields::given`] | none | failure |
//! | [`Fields::optional`] | none | none |

use serde_json::{Map, Value};

use crate::Failure;

/// Objects and lists inside each other beyond this are refused before they are parsed: a plugin's
/// stack is 64 KiB, and the parser takes a piece of it per level. More would risk the stack;
/// no field that any engine knows needs a tenth.
const DEEPEST: usize = 64;

/// An object being read.
#[derive(Clone, Debug)]
pub struct Fields {
    place: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses an object; `place` is what failures call it (`task`).
    ///
    /// # Errors
    ///
    /// Text that is no JSON, is nested too deep, or is something other than an object.
    pub fn parse(place: &str, text: &str) -> Result<Self, Failure> {
        match parse_value(place, text)? {
            Value::Object(map) => Ok(Self::new(place, map)),
            other => Err(Failure::permanent(format!(
                "{place} must be a JSON object, and is {}; send the job again with one",
                shown(&other)
            ))),
        }
    }

    /// Reads an object that is parsed already.
    pub fn new(place: &str, map: Map<String, Value>) -> Self {
        Self {
            place: place.to_owned(),
            map,
        }
    }

    /// A field that has to be there.
    ///
    /// # Errors
    ///
    /// Absence, `null`, or a value of another type.
    pub fn required<T: FieldValue>(&mut self, name: &str) -> Result<T, Failure> {
        match self.map.shift_remove(name) {
            Some(value) => self.convert(name, value),
            None => Err(Failure::permanent(format!(
                "{}.{name} is missing; it must be {}",
                self.place,
                T::EXPECTED
            ))),
        }
    }

    /// A field that may be absent, but not `null`.
    ///
    /// # Errors
    ///
    /// `null`, or a value of another type.
    pub fn given<T: FieldValue>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        match self.map.shift_remove(name) {
            Some(value) => self.convert(name, value).map(Some),
            None => Ok(None),
        }
    }

    /// A field that may be absent or `null`.
    ///
    /// # Errors
    ///
    /// A value of another type.
    pub fn optional<T: FieldValue>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        match self.map.shift_remove(name) {
            Some(Value::Null) | None => Ok(None),
            Some(value) => self.convert(name, value).map(Some),
        }
    }

    /// What has not been read.
    pub fn rest(self) -> Map<String, Value> {
        self.map
    }

    fn convert<T: FieldValue>(&self, name: &str, value: Value) -> Result<T, Failure> {
        T::read(value).map_err(|value| {
            Failure::permanent(format!(
                "{}.{name} must be {}, and is {}",
                self.place,
                T::EXPECTED,
                shown(&value)
            ))
        })
    }
}

/// Parses JSON that came from outside.
pub(crate) fn parse_value(place: &str, text: &str) -> Result<Value, Failure> {
    if nested_deeper(text, DEEPEST) {
        return Err(Failure::permanent(format!(
            "{place} holds lists or objects nested more than {DEEPEST} deep; flatten it"
        )));
    }
    serde_json::from_str(text)
        .map_err(|error| Failure::permanent(format!("{place} is no valid JSON: {error}")))
}

/// Whether brackets outside of strings are ever open more than `limit` at a time.
fn nested_deeper(text: &str, limit: usize) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A value in a failure's words. Texts are not repeated: they may be long, private, or chosen to
/// make the failure read as something else.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// A type that a field can be read as.
pub trait FieldValue: Sized {
    /// In a failure's words: `a text`.
    const EXPECTED: &'static str;

    /// Converts, or gives the value back when it is of another type.
    ///
    /// # Errors
    ///
    /// The value itself.
    fn read(value: Value) -> Result<Self, Value>;
}

impl FieldValue for String {
    const EXPECTED: &'static str = "a text";

    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        }
    }
}

impl FieldValue for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: Value) -> Result<Self, Value> {
        value.as_bool().ok_or(value)
    }
}

impl FieldValue for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn read(value: Value) -> Result<Self, Value> {
        value
            .as_u64()
            .and_then(|number| Self::try_from(number).ok())
            .ok_or(value)
    }
}

impl FieldValue for u64 {
    const EXPECTED: &'static str = "a whole number from 0 to 18446744073709551615";

    fn read(value: Value) -> Result<Self, Value> {
        value.as_u64().ok_or(value)
    }
}

impl FieldValue for f32 {
    const EXPECTED: &'static str = "a number that fits 32 bits";

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the wire's floats are 32 bits wide; infinity is refused below"
    )]
    fn read(value: Value) -> Result<Self, Value> {
        match value.as_f64().map(|number| number as Self) {
            Some(number) if number.is_finite() => Ok(number),
            _ => Err(value),
        }
    }
}

impl FieldValue for Vec<String> {
    const EXPECTED: &'static str = "a list of texts";

    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::Array(items) if items.iter().all(Value::is_string) => Ok(items
                .into_iter()
                .filter_map(|item| String::read(item).ok())
                .collect()),
            other => Err(other),
        }
    }
}

impl FieldValue for Vec<Value> {
    const EXPECTED: &'static str = "a list";

    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::Array(items) => Ok(items),
            other => Err(other),
        }
    }
}

impl FieldValue for Map<String, Value> {
    const EXPECTED: &'static str = "an object";

    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::Object(map) => Ok(map),
            other => Err(other),
        }
    }
}

impl FieldValue for Value {
    const EXPECTED: &'static str = "any JSON";

    fn read(value: Value) -> Result<Self, Value> {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse("task", text).unwrap()
    }

    #[test]
    fn null_is_refused_where_a_number_is_expected_and_the_field_named() {
        let failure = fields(r#"{"width":null}"#)
            .given::<u32>("width")
            .unwrap_err();
        assert_eq!(
            failure.message,
            "task.width must be a whole number from 0 to 4294967295, and is null"
        );
        assert!(!failure.retryable);
    }

    #[test]
    fn null_is_as_good_as_absent_where_the_field_is_optional() {
        let mut fields = fields(r#"{"seed":null}"#);
        assert_eq!(fields.optional::<u64>("seed").unwrap(), None);
        assert_eq!(fields.optional::<u64>("seed").unwrap(), None);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in ["-1", "1.0", "4294967296", "\"1\"", "1e3"] {
            let text = format!("{{\"n\":{text}}}");
            assert!(fields(&text).required::<u32>("n").is_err(), "{text}");
        }
        assert!(fields(r#"{"n":1e39}"#).required::<f32>("n").is_err());
        assert_eq!(fields(r#"{"n":3}"#).required::<f32>("n").unwrap(), 3.0);
    }

    #[test]
    fn what_is_not_read_is_kept_in_order() {
        let mut fields = fields(r#"{"z":1,"a":2,"m":3}"#);
        assert_eq!(fields.required::<u32>("a").unwrap(), 2);
        let rest: Vec<_> = fields.rest().into_iter().map(|(name, _)| name).collect();
        assert_eq!(rest, ["z", "m"]);
    }

    #[test]
    fn deep_nesting_is_refused_and_brackets_in_texts_are_not_counted() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
        assert!(
            Fields::parse("task", &deep)
                .unwrap_err()
                .message
                .contains("64 deep")
        );
        let text = format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(100));
        assert!(Fields::parse("task", &text).is_ok());
        let most = format!("{{\"a\":{}{}}}", "[".repeat(63), "]".repeat(63));
        assert!(Fields::parse("task", &most).is_ok());
    }

    #[test]
    fn something_other_than_an_object_is_refused() {
        for text in ["null", "[]", "3", "", "{"] {
            assert!(Fields::parse("modelSource", text).is_err(), "{text}");
        }
    }
}
