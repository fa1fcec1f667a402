//! Identities: the grammar of ids, the ids of children, and the hash that tells a repeat from a conflict.

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
    hex::encode(hash.finalize())
}

/// SHA-256 of bytes, lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// SHA-256 over the canonical JSON (RFC 8785) of `value`. Two messages with the same id and different hashes conflict.
pub fn canonical_hash(value: &Value) -> Result<String, String> {
    let bytes = serde_json_canonicalizer::to_vec(value).map_err(|e| format!("no canonical JSON: {e}"))?;
    Ok(sha256(&bytes))
}

/// The first twelve hex digits of a task id's hash: short, and still unique enough to keep prefixes of siblings apart.
pub fn short(task_id: &str) -> String {
    let hex =
        if task_id.len() == 64 && task_id.bytes().all(|b| b.is_ascii_hexdigit()) { task_id.to_owned() } else { sha256(task_id.as_bytes()) };
    hex.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(canonical_hash(&a).unwrap(), canonical_hash(&b).unwrap());
    }
}
