//! Violations: what is wrong with an input, and where, by JSON pointer (RFC 6901).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Most violations told of one document: enough to mend it, few enough to read.
pub const MAX_VIOLATIONS: usize = 64;

/// Longest pointer told, in bytes.
pub const MAX_POINTER: usize = 512;

/// One thing wrong with a message, a configuration or a guest's parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// JSON pointer to the offending value; empty for the whole document.
    pub pointer: String,
    /// What is wrong and what is expected, lower case.
    pub message: String,
}

impl Violation {
    /// A violation at `pointer`.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.pointer, self.message) }
    }
}

/// All violations on one line, for an error text.
pub fn join(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
}

/// The pointer to what lies this way from the document. Where it would be too long, its last segments are left out: it points to what
/// holds the offending value, and stays a pointer.
pub fn pointer<'a>(way: impl IntoIterator<Item = &'a str>) -> String {
    let mut pointer = String::new();
    for key in way {
        let segment = segment(key);
        if pointer.len() + 1 + segment.len() > MAX_POINTER {
            break;
        }
        pointer.push('/');
        pointer.push_str(&segment);
    }
    pointer
}

/// A pointer that somebody else wrote, no longer than [`pointer`] makes them.
pub fn bounded(pointer: &str) -> &str {
    if pointer.len() <= MAX_POINTER {
        return pointer;
    }
    // One byte further: where a segment ends just at the bound, it stays.
    let ends = pointer.bytes().take(MAX_POINTER + 1).rposition(|b| b == b'/');
    pointer.get(..ends.unwrap_or(0)).unwrap_or_default()
}

/// `key` as one segment of a JSON pointer (`~` and `/` escaped).
pub fn segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_cut_between_segments() {
        assert_eq!(pointer([]), "");
        assert_eq!(pointer(["a", "b/c", "~", ""]), "/a/b~1c/~0/");
        let (long, fits) = ("x".repeat(MAX_POINTER), "x".repeat(MAX_POINTER - 3));
        assert_eq!(pointer(["a", &long, "b"]), "/a");
        assert_eq!(pointer(["a", &fits, "b"]), format!("/a/{fits}"));
        assert_eq!(bounded(&format!("/a/{long}/b")), "/a");
        assert_eq!(bounded(&format!("/a/{fits}/b")), format!("/a/{fits}"));
        assert_eq!(bounded(&format!("/{long}")), "");
    }
}
