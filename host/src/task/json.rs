//! JSON that strangers wrote, read with bounds: depth, number of values, and no key twice. What is wrong is told with a JSON pointer.
//!
//! Memory is bounded by the text and by the number of values, whatever the text is. What the values mean is decided elsewhere.

use super::limits::cut;
use super::pointer::{MAX_POINTER, MAX_VIOLATIONS, Violation, pointer};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};
use std::fmt;

/// What a text may be like.
#[derive(Debug, Clone, Copy)]
pub struct JsonBounds {
    /// Deepest nesting; the document itself counts as nothing.
    pub depth: usize,
    /// Most values, those inside others included: some hundred bytes of memory each.
    pub values: usize,
}

/// What a text turned out to be.
#[derive(Debug)]
pub struct Read {
    /// The value, as far as the text is JSON at all; of a key that comes twice, the first.
    pub value: Option<Value>,
    /// What is wrong with it.
    pub faults: Vec<Violation>,
}

/// Reads a text to its end. All that is wrong is told, up to where it stops being JSON.
pub fn read(bytes: &[u8], bounds: JsonBounds) -> Read {
    let fault = |text: String| Read { value: None, faults: vec![Violation::at("", text)] };
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return fault("begins with a byte order mark; send plain UTF-8".to_owned());
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return fault(format!("is no UTF-8: byte {} belongs to no character", error.valid_up_to())),
    };
    let mut reading = Reading { bounds, values: 0, faults: Vec::new(), way: Vec::new() };
    let mut from = serde_json::Deserializer::from_str(text);
    let value = Place { reading: &mut reading, depth: 0 }.deserialize(&mut from).and_then(|value| from.end().map(|()| value));
    let mut faults: Vec<Violation> = reading.faults.into_iter().map(Found::into_violation).collect();
    let value = value.map_err(|error| {
        let text = match reading.values > bounds.values {
            true => format!("holds more than {} values; put large values in storage", bounds.values),
            false => format!("no JSON: {error}"),
        };
        faults.push(Found { way: reading.way, text }.into_violation());
    });
    Read { value: value.ok(), faults }
}

/// A fault, and the way to it, innermost segment first.
struct Found {
    way: Vec<String>,
    text: String,
}

impl Found {
    fn into_violation(self) -> Violation {
        Violation::at(pointer(self.way.iter().rev().map(String::as_str)), self.text)
    }
}

struct Reading {
    bounds: JsonBounds,
    values: usize,
    faults: Vec<Found>,
    /// The way to where the text stops being JSON.
    way: Vec<String>,
}

impl Reading {
    fn note(&mut self, way: Vec<String>, text: String) {
        if self.faults.len() < MAX_VIOLATIONS {
            self.faults.push(Found { way, text });
        }
    }

    /// On the way out of a value: what was found since `before` lies below `segment`. Nothing is made where nothing was found.
    fn leave(&mut self, before: usize, failed: bool, segment: impl Fn() -> String) {
        for found in self.faults.iter_mut().skip(before) {
            found.way.push(segment());
        }
        if failed {
            self.way.push(segment());
        }
    }
}

/// The place of one value.
struct Place<'r> {
    reading: &'r mut Reading,
    depth: usize,
}

impl Place<'_> {
    fn inner(&mut self) -> Place<'_> {
        Place { reading: &mut *self.reading, depth: self.depth + 1 }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.reading.values += 1;
        if self.reading.values > self.reading.bounds.values {
            return Err(de::Error::custom("too many values"));
        }
        if self.depth > self.reading.bounds.depth {
            let text = format!("is nested deeper than {}", self.reading.bounds.depth);
            self.reading.note(Vec::new(), text);
            // Skipped without recursion, however deep it is.
            return IgnoredAny::deserialize(from).map(|_| Value::Null);
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        loop {
            let before = self.reading.faults.len();
            let item = items.next_element_seed(self.inner());
            self.reading.leave(before, item.is_err(), || kept.len().to_string());
            match item? {
                Some(item) => kept.push(item),
                None => return Ok(Value::Array(kept)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let before = self.reading.faults.len();
            let value = fields.next_value_seed(self.inner());
            self.reading.leave(before, value.is_err(), || kept_key(&key));
            let value = value?;
            match kept.entry(key) {
                Entry::Vacant(place) => drop(place.insert(value)),
                Entry::Occupied(place) => {
                    let text = format!("key '{}' comes twice", cut(place.key(), 64).escape_debug());
                    self.reading.note(vec![kept_key(place.key())], text);
                }
            }
        }
        Ok(Value::Object(kept))
    }
}

/// A key as a segment of a way. What is longer than any pointer is cut: it is left out of the pointer just the same.
fn kept_key(key: &str) -> String {
    cut(key, 2 * MAX_POINTER)
}

/// How deep a value is nested, and how many values it holds, itself included. A scalar is 1 deep. Values were parsed, and so are at
/// most 128 deep: recursion is bounded.
pub fn extent(value: &Value) -> (usize, usize) {
    let inner = |all: &mut dyn Iterator<Item = &Value>| {
        all.map(extent).fold((0, 0), |(depth, values), (deep, more)| (depth.max(deep), values + more))
    };
    let (depth, values) = match value {
        Value::Array(items) => inner(&mut items.iter()),
        Value::Object(map) => inner(&mut map.values()),
        _ => (0, 0),
    };
    (depth + 1, values + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: JsonBounds = JsonBounds { depth: 4, values: 20 };

    fn faults(text: &[u8]) -> Vec<(String, String)> {
        read(text, BOUNDS).faults.into_iter().map(|f| (f.pointer, f.message)).collect()
    }

    #[test]
    fn every_fault_is_where_its_pointer_says() {
        let cases: &[(&[u8], &str, &str)] = &[
            (br#"{"a": {"b/c": [1, 1e400]}}"#, "/a/b~1c/1", "out of range"),
            (br#"{"a": ["\ud800"]}"#, "/a/0", "hex escape"),
            (br#"{"a": ["\ud800\u0041"]}"#, "/a/0", "surrogate"),
            (br#"{"a": 1, "b": {"x": 1, "x": 2}}"#, "/b/x", "key 'x' comes twice"),
            (br#"{"a": 1, "\u0061": 2}"#, "/a", "comes twice"),
            (br#"{"a": [[[[1]]]]}"#, "/a/0/0/0/0", "nested deeper than 4"),
            (br#"{"a": 1} x"#, "", "trailing"),
            (br#"{"a": nan}"#, "/a", "no JSON"),
            (br#"{"a": 01}"#, "/a", "no JSON"),
            (b"", "", "no JSON"),
            (b"\xef\xbb\xbf{}", "", "byte order mark"),
            (b"{\"a\": \"\xff\"}", "", "byte 7"),
            (b"{\"a\": \"\n\"}", "/a", "control character"),
            (b"[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "/19", "more than 20 values"),
        ];
        for (text, place, why) in cases {
            let found = faults(text);
            let shown = String::from_utf8_lossy(text);
            assert!(matches!(found.as_slice(), [(at, said)] if at == place && said.contains(why)), "{shown}: {found:?}");
        }
        assert_eq!(faults(br#"{"a": [[[1]]]}"#), []);
    }

    #[test]
    fn all_is_told_up_to_where_it_is_no_json() {
        let found = faults(br#"{"a": {"x": 1, "x": 2}, "b": [[[[[1]]]]], "a": 3, "c": tru}"#);
        assert_eq!(found.iter().map(|(at, _)| at.as_str()).collect::<Vec<_>>(), ["/a/x", "/b/0/0/0/0", "/a", "/c"]);
    }

    #[test]
    fn depth_costs_no_stack() {
        let text = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(faults(text.as_bytes()), [("/0/0/0/0/0".to_owned(), "is nested deeper than 4".to_owned())]);
        let read = read(text.get(..1_000_000).unwrap().as_bytes(), BOUNDS);
        assert!(read.value.is_none() && read.faults.len() == 2, "{:?}", read.faults);
    }

    #[test]
    fn what_is_good_is_read_as_it_is() {
        let text = r#"{"a": [1, -2, 1.5, 18446744073709551615, "ä\u0000\ud83d\ude00", null, true], "b": {}}"#;
        let read = read(text.as_bytes(), BOUNDS);
        assert!(read.faults.is_empty(), "{:?}", read.faults);
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(extent(&value), (3, 10));
        assert_eq!(read.value, Some(value));
    }
}
