//! The guest's own JSON Schema for `params`, compiled once and checked before a task costs anything.

use super::pointer::Violation;
use serde_json::Value;
use std::fmt;

/// Most violations reported of one document.
const MAX_VIOLATIONS: usize = 64;

/// A compiled schema.
pub struct ParamsSchema(jsonschema::Validator);

impl fmt::Debug for ParamsSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ParamsSchema")
    }
}

impl ParamsSchema {
    /// Compiles a schema; the error says what is wrong with it. References to other documents are not followed.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        jsonschema::validator_for(schema).map(Self).map_err(|e| e.to_string())
    }

    /// Every violation, with pointers below `/params`.
    pub fn check(&self, params: &Value) -> Vec<Violation> {
        self.0
            .iter_errors(params)
            .take(MAX_VIOLATIONS)
            .map(|e| Violation::at(format!("/params{}", e.instance_path()), super::limits::cut(&e.to_string(), 512)))
            .collect()
    }
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
