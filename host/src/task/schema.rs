//! The guest's own JSON Schema for `params`, compiled once and checked before a task costs anything.

use super::pointer::Violation;
use serde_json::Value;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Largest schema, bytes of JSON.
const MAX_SCHEMA: usize = 256 << 10;

/// Most violations reported of one document.
const MAX_VIOLATIONS: usize = 64;

/// A compiled schema.
pub struct ParamsSchema {
    validator: jsonschema::Validator,
    costly: bool,
    given_up: AtomicBool,
}

impl fmt::Debug for ParamsSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ParamsSchema")
    }
}

impl ParamsSchema {
    /// Compiles a schema; the error says what is wrong with it. References to other documents are not followed.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        let text = schema.to_string();
        if text.len() > MAX_SCHEMA {
            return Err(format!("it has {} bytes, over {MAX_SCHEMA}", text.len()));
        }
        let costly = text.contains("\"$ref\"") || text.contains("\"$dynamicRef\"") || text.contains("\"$recursiveRef\"");
        let validator = jsonschema::validator_for(schema).map_err(|e| e.to_string())?;
        Ok(Self { validator, costly, given_up: AtomicBool::new(false) })
    }

    /// Whether a check may take long: references can fan out, so that a small schema means exponential work. Such a check belongs on a
    /// thread of its own, under a deadline.
    pub fn is_costly(&self) -> bool {
        self.costly
    }

    /// Notes that a check did not end in time. It cannot be stopped, so no other is begun.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether a check did not end in time.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Every violation, with pointers below `/params`.
    pub fn check(&self, params: &Value) -> Vec<Violation> {
        self.validator.iter_errors(params).take(MAX_VIOLATIONS).map(|e| violation(&e)).collect()
    }
}

/// In the words of the message's author: a key that the schema has no place for is an unknown parameter.
fn violation(error: &jsonschema::ValidationError<'_>) -> Violation {
    let pointer = format!("/params{}", error.instance_path());
    let text = error.to_string();
    let text = if text.starts_with("False schema") { "is no parameter of this function".to_owned() } else { text };
    Violation::at(pointer, super::limits::cut(&text, 512))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn violations_point_into_params() {
        let schema =
            ParamsSchema::compile(&json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["m"]})).unwrap();
        assert!(schema.check(&json!({"n": 1, "m": 2})).is_empty());
        let faults = schema.check(&json!({"n": "x"}));
        assert!(faults.iter().any(|f| f.pointer == "/params/n"), "{faults:?}");
        assert_eq!(faults.len(), 2);
        assert!(ParamsSchema::compile(&json!({"type": 7})).is_err());
    }
}
