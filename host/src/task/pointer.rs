//! Violations: what is wrong with an input, and where, by JSON pointer (RFC 6901).

use serde::{Deserialize, Serialize};
use std::fmt;

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

/// `key` as one segment of a JSON pointer (`~` and `/` escaped).
pub fn segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
