//! The guest's own JSON Schema for `params`, compiled once and checked before a task costs anything.

use super::json::extent;
use super::limits::cut;
use super::pointer::{MAX_VIOLATIONS, Violation, bounded};
use jsonschema::PatternOptions;
use serde_json::Value;
use std::fmt;
use std::sync::{Mutex, PoisonError, Weak};

/// Largest schema, bytes of JSON.
const MAX_SCHEMA: usize = 256 << 10;

/// Most patterns in a schema: each is a program of its own.
const MAX_PATTERNS: usize = 256;

/// Largest compiled pattern, bytes; all together stay below some dozen megabytes.
const MAX_PATTERN: usize = 256 << 10;

/// A check of more steps than this, keywords times values, is costly: some milliseconds' worth.
const CHEAP: usize = 1 << 20;

/// Longest text of one violation, bytes.
const MAX_TEXT: usize = 512;

/// A compiled schema.
pub struct ParamsSchema {
    validator: jsonschema::Validator,
    has_references: bool,
    keywords: usize,
    given_up: Mutex<Weak<()>>,
}

impl fmt::Debug for ParamsSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ParamsSchema")
    }
}

impl ParamsSchema {
    /// Compiles a schema; the error says what is wrong with it. References to other documents are not followed, and patterns are those
    /// that can be matched in linear time: without look-around and back-references.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        let text = schema.to_string();
        if text.len() > MAX_SCHEMA {
            return Err(format!("it has {} bytes, over {MAX_SCHEMA}", text.len()));
        }
        let patterns = patterns(schema);
        if patterns > MAX_PATTERNS {
            return Err(format!("it has {patterns} patterns, over {MAX_PATTERNS}"));
        }
        let has_references = text.contains("\"$ref\"") || text.contains("\"$dynamicRef\"") || text.contains("\"$recursiveRef\"");
        let linear = PatternOptions::regex().size_limit(MAX_PATTERN);
        let validator = jsonschema::options().with_pattern_options(linear).build(schema).map_err(|e| cut(&e.to_string(), MAX_TEXT))?;
        Ok(Self { validator, has_references, keywords: extent(schema).1, given_up: Mutex::default() })
    }

    /// Whether a check may take long: references can fan out, so that a small schema means exponential work, and much of both schema
    /// and params means much work too. Such a check belongs on a thread of its own, under a deadline.
    pub fn is_costly(&self, params: &Value) -> bool {
        self.has_references || self.keywords.saturating_mul(extent(params).1) > CHEAP
    }

    /// Notes that a check did not end in time. It cannot be stopped, so no other is begun for as long as it goes on, holding what `check`
    /// points to.
    pub fn give_up(&self, check: Weak<()>) {
        *self.given_up.lock().unwrap_or_else(PoisonError::into_inner) = check;
    }

    /// Whether a check that did not end in time goes on.
    pub fn is_given_up(&self) -> bool {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }

    /// Every violation, with pointers below `/params`.
    pub fn check(&self, params: &Value) -> Vec<Violation> {
        self.validator.iter_errors(params).take(MAX_VIOLATIONS).map(|e| violation(&e)).collect()
    }
}

/// How many patterns a schema holds, wherever they stand.
fn patterns(schema: &Value) -> usize {
    match schema {
        Value::Array(items) => items.iter().map(patterns).sum(),
        Value::Object(map) => {
            let by_key = map.get("patternProperties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
            by_key + usize::from(map.contains_key("pattern")) + map.values().map(patterns).sum::<usize>()
        }
        _ => 0,
    }
}

/// In the words of the message's author: a key that the schema has no place for is an unknown parameter.
fn violation(error: &jsonschema::ValidationError<'_>) -> Violation {
    let pointer = format!("/params{}", error.instance_path());
    let pointer = bounded(&pointer);
    let text = error.to_string();
    let text = if text.starts_with("False schema") { "is no parameter of this function".to_owned() } else { text };
    Violation::at(pointer, cut(&text, MAX_TEXT))
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

    #[test]
    fn other_documents_are_not_fetched() {
        for other in ["http://169.254.169.254/schema.json", "https://example.com/s", "file:///etc/passwd", "other.json"] {
            let error = ParamsSchema::compile(&json!({"$ref": other})).unwrap_err();
            assert!(!error.is_empty() && !error.contains("root:"), "{other}: {error}");
        }
        let own = json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "maxProperties": 0}}});
        assert_eq!(ParamsSchema::compile(&own).unwrap().check(&json!({"a": 1})).len(), 1);
    }

    #[test]
    fn patterns_take_linear_time() {
        let schema = ParamsSchema::compile(&json!({"properties": {"x": {"pattern": "^(a+)+$"}}})).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(schema.check(&json!({"x": format!("{}b", "a".repeat(1 << 20))})).len(), 1);
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
        for bad in ["(?=a)b", "(a)\\1", "((a{1000}){1000}){1000}", "("] {
            assert!(ParamsSchema::compile(&json!({"properties": {"x": {"pattern": bad}}})).is_err(), "{bad}");
        }
        let many: serde_json::Map<_, _> = (0..257).map(|i| (format!("^{i}$"), json!({}))).collect();
        assert!(ParamsSchema::compile(&json!({"patternProperties": many})).unwrap_err().contains("257 patterns"));
    }

    #[test]
    fn what_may_take_long_is_known_beforehand() {
        let any_of: Vec<_> = (0..1000).map(|n| json!({"const": n})).collect();
        let schema = ParamsSchema::compile(&json!({"additionalProperties": {"items": {"anyOf": any_of}}})).unwrap();
        assert!(!schema.is_costly(&json!({"x": [1, 2, 3]})));
        assert!(schema.is_costly(&json!({"x": vec![-1; 10_000]})));
        assert!(ParamsSchema::compile(&json!({"$ref": "#/$defs/a", "$defs": {"a": {}}})).unwrap().is_costly(&json!({})));
    }

    #[test]
    fn violations_are_bounded() {
        let schema = ParamsSchema::compile(&json!({"additionalProperties": {"additionalProperties": {"type": "integer"}}})).unwrap();
        let many: serde_json::Map<_, _> = (0..1000).map(|i| (format!("{i}/~{}", "k".repeat(400)), json!("x".repeat(1000)))).collect();
        let faults = schema.check(&json!({"outer".repeat(30): many}));
        assert_eq!(faults.len(), MAX_VIOLATIONS);
        assert!(faults.iter().all(|f| f.pointer == format!("/params/{}", "outer".repeat(30)) && f.message.len() <= 512), "{}", faults[0]);
    }
}
