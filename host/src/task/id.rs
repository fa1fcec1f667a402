//! Identities: the grammar of ids, the ids of children, and the hash that tells a repeat from a conflict.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Longest id, step name or key, in bytes. Long enough for a SHA-256 in hex with a prefix.
pub const MAX_ID: usize = 128;

/// Checks an id, tenant, step, function or pipeline name: letters, digits, `.`, `_`, `-`; starts with a letter or digit;
/// at most [`MAX_ID`] bytes. Ids become path segments, hence no other characters.
pub fn check(what: &str, id: &str) -> Result<(), String> {
    let head_ok = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let body_ok = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !head_ok || !body_ok || id.len() > MAX_ID {
        let shown: String = id.chars().take(64).collect();
        return Err(format!(
            "{what} '{}' must be 1 to {MAX_ID} letters, digits, '.', '_' or '-', starting with a letter or digit",
            shown.escape_debug()
        ));
    }
    Ok(())
}

/// A task's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    /// Whose task it is. Ids of two tenants never meet.
    pub tenant: String,
    /// Unique within the tenant.
    pub task_id: String,
}

impl TaskKey {
    /// A key from its parts.
    pub fn new(tenant: impl Into<String>, task_id: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), task_id: task_id.into() }
    }
}

/// A job's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    /// Whose job it is.
    pub tenant: String,
    /// Unique within the tenant.
    pub job_id: String,
}

/// The id of a child: SHA-256 over the length-prefixed parts, lower-case hex. Derived, never drawn, so that a second
/// attempt of the parent names the same children.
pub fn child(tenant: &str, parent: &str, step: &str, key: &str) -> String {
    digest(&[tenant, parent, step, key])
}

/// SHA-256 over `parts`, each preceded by its length as eight big-endian bytes, lower-case hex.
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    format!("{:x}", hash.finalize())
}

/// SHA-256 of bytes, lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Up to here a double holds every whole number.
const EXACT: u64 = 1 << 53;

/// SHA-256 over the canonical JSON (RFC 8785) of `value`. Two messages with the same id and different hashes conflict.
///
/// Canonical JSON writes every number as a double, and so says nothing of whole numbers that no double holds. Where there are such,
/// the hash goes on over them as they are: two that differ are two.
///
/// `is_plain`: the text that serde writes is canonical already; see [`is_plain`]. It is made several times as fast.
pub fn canonical_hash(value: &impl Serialize, is_plain: bool) -> Result<String, String> {
    let unwritten = |e: serde_json::Error| format!("no canonical JSON: {e}");
    if is_plain {
        return Ok(sha256(&serde_json::to_vec(value).map_err(unwritten)?));
    }
    let value = serde_json::to_value(value).map_err(unwritten)?;
    let mut bytes = serde_json_canonicalizer::to_vec(&value).map_err(unwritten)?;
    append_inexact(&value, &mut 0, &mut bytes);
    Ok(sha256(&bytes))
}

/// Whether canonical JSON is what serde writes: all numbers are whole ones that a double holds, and the order of keys by UTF-16 is that
/// of their bytes.
pub fn is_plain(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.as_i64().is_some_and(|whole| whole.unsigned_abs() <= EXACT),
        Value::Array(items) => items.iter().all(is_plain),
        Value::Object(map) => map.iter().all(|(key, item)| key.is_ascii() && is_plain(item)),
    }
}

/// Appends each whole number that no double holds, with its place among all numbers. Neither zero byte nor colon can follow a
/// canonical text, so that no other value has these bytes.
fn append_inexact(value: &Value, place: &mut usize, bytes: &mut Vec<u8>) {
    match value {
        Value::Number(number) => {
            *place += 1;
            if is_inexact(number) {
                bytes.extend(format!("\0{place}:{number}").into_bytes());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| append_inexact(item, place, bytes)),
        // In the order of the keys' bytes: the map is sorted.
        Value::Object(map) => map.values().for_each(|item| append_inexact(item, place, bytes)),
        _ => {}
    }
}

/// Whether the number is whole, and changed by being made a double.
fn is_inexact(number: &serde_json::Number) -> bool {
    // Compared as 128 bits, which hold every double near: at the upper end `as` alone would stop at the largest number.
    let exact = number.as_u64().map(i128::from).or(number.as_i64().map(i128::from));
    exact.is_some_and(|whole| (whole as f64) as i128 != whole)
}

/// The first twelve hex digits of a task id's hash: short, and still unique enough to keep prefixes of siblings apart.
pub fn short(task_id: &str) -> String {
    let is_hash = task_id.len() == 64 && task_id.bytes().all(|b| b.is_ascii_hexdigit());
    let mut hex = if is_hash { task_id.to_owned() } else { sha256(task_id.as_bytes()) };
    hex.truncate(12);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(child("t", "ab", "c", "d"), child("t", "a", "bc", "d"));
        assert_eq!(child("t", "p", "s", "k"), child("t", "p", "s", "k"));
    }

    #[test]
    fn ids_that_could_leave_a_folder_are_refused() {
        for bad in ["", "..", ".hidden", "a/b", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert!(check("id", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "0", "a.b_c-d", &"x".repeat(128)] {
            check("id", good).unwrap();
        }
    }

    #[test]
    fn hash_ignores_key_order() {
        let a = serde_json::json!({"a": 1, "b": [2.0, "x"]});
        let b: Value = serde_json::from_str(r#"{"b": [2, "x"], "a": 1.0}"#).unwrap();
        assert_eq!(canonical_hash(&a, false).unwrap(), canonical_hash(&b, false).unwrap());
    }

    /// From RFC 8785, 3.2.2 and 3.2.3: numbers, escapes, and the order of keys by UTF-16.
    #[test]
    fn the_hash_is_over_canonical_json() {
        let value: Value = serde_json::from_str(
            r#"{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001], "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false], "\ufb33": 1, "\ud83d\ude00": 2}"#,
        )
        .unwrap();
        let canonical = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\",\"\u{1f600}\":2,\"\u{fb33}\":1}";
        assert_eq!(canonical_hash(&value, false).unwrap(), sha256(canonical.as_bytes()));
    }

    #[test]
    fn whole_numbers_that_no_double_holds_are_told_apart() {
        let hash = |text: &str| canonical_hash(&serde_json::from_str::<Value>(text).unwrap(), false).unwrap();
        let differ = [
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("18446744073709551615", "18446744073709551614"),
            ("[9007199254740993, 9007199254740992]", "[9007199254740992, 9007199254740993]"),
            (r#"{"a": 9007199254740993, "b": 1}"#, r#"{"a": 9007199254740992, "b": 1}"#),
        ];
        for (a, b) in differ {
            assert_ne!(hash(a), hash(b), "{a} and {b}");
        }
        for (a, b) in [("9007199254740992", "9007199254740992.0"), ("1e300", "10e299"), ("-0", "0"), ("-0.0", "0")] {
            assert_eq!(hash(a), hash(b), "{a} and {b}");
        }
        assert_eq!(hash("9007199254740992"), sha256(b"9007199254740992"));
    }

    #[test]
    fn a_number_that_can_be_written_otherwise_and_a_key_beyond_ascii_are_not_plain() {
        for (text, plain) in [
            (r#"{"b": 1, "a": [1, -2, "\u001f\u007f\u2028é\"\\/", null, true], "": {}}"#, true),
            ("9007199254740992", true),
            ("9007199254740993", false),
            ("18446744073709551615", false),
            ("-0", false),
            ("[1.0]", false),
            ("1e2", false),
            (r#"{"é": 1}"#, false),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(is_plain(&value), plain, "{text}");
            assert!(!plain || canonical_hash(&value, true) == canonical_hash(&value, false), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_id_is_one_plain_segment(text in prop_oneof!["[-._a-zA-Z0-9]{0,130}", ".*"]) {
            if check("id", &text).is_ok() {
                prop_assert!(!text.is_empty() && text.len() <= MAX_ID && text.is_ascii());
                prop_assert!(!text.starts_with(['.', '-', '_']) && !text.contains(['/', '\\', '%', ' ']));
                let uri = crate::task::uri::Uri::parse("s3://bucket/a/").unwrap().join(&text).unwrap();
                prop_assert_eq!(uri.file_name(), &text);
            }
        }

        #[test]
        fn children_have_ids_of_their_own(a in prop::array::uniform4("[ab]{0,3}"), b in prop::array::uniform4("[ab]{0,3}")) {
            let id = |parts: &[String; 4]| child(&parts[0], &parts[1], &parts[2], &parts[3]);
            prop_assert_eq!(id(&a) == id(&b), a == b);
            prop_assert!(check("id", &id(&a)).is_ok());
        }
    }
}
