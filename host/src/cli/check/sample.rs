//! A sample of params, made from the JSON Schema that a guest describes: examples and defaults first, else the least that fits.

use crate::task::schema::ParamsSchema;
use serde_json::{Map, Value, json};

/// Deepest nesting followed; a schema may refer to itself.
const MAX_DEPTH: usize = 16;

/// Most items put into an array that asks for them.
const MAX_ITEMS: u64 = 64;

/// An object that fits the schema, if one is found.
pub(super) fn params_of(schema: &Value) -> Option<Map<String, Value>> {
    let compiled = ParamsSchema::compile(schema).ok()?;
    let candidates = [Some(json!({})), Sampler { root: schema }.value(schema, 0)];
    candidates.into_iter().flatten().find_map(|candidate| match candidate {
        Value::Object(map) if compiled.check(&Value::Object(map.clone())).is_empty() => Some(map),
        _ => None,
    })
}

struct Sampler<'a> {
    root: &'a Value,
}

impl Sampler<'_> {
    fn value(&self, schema: &Value, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        let schema = match schema {
            Value::Object(schema) => schema,
            // `true` takes anything.
            _ => return Some(json!({})),
        };
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            return self.value(self.root.pointer(target.strip_prefix('#')?)?, depth + 1);
        }
        let first = |key: &str| schema.get(key).and_then(Value::as_array).and_then(|all| all.first()).cloned();
        if let Some(given) = first("examples").or_else(|| schema.get("default").cloned()).or_else(|| schema.get("const").cloned()) {
            return Some(given);
        }
        if let Some(one) = first("enum") {
            return Some(one);
        }
        let variants = ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(*key)?.as_array()).flatten();
        let variant = variants.filter_map(|variant| self.value(variant, depth + 1)).next();
        match (kind(schema), variant) {
            (Some("object") | None, variant) => self.object(schema, variant, depth),
            (Some(_), Some(variant)) => Some(variant),
            (Some("string"), None) => {
                Some("x".repeat(schema.get("minLength").and_then(Value::as_u64).unwrap_or(1).min(1 << 16) as usize).into())
            }
            (Some("integer"), None) => Some(least(schema).ceil().into_integer()),
            (Some("number"), None) => Some(json!(least(schema))),
            (Some("boolean"), None) => Some(json!(false)),
            (Some("array"), None) => self.array(schema, depth),
            (Some(_), None) => Some(Value::Null),
        }
    }

    /// What is required, together with a variant's own.
    fn object(&self, schema: &Map<String, Value>, variant: Option<Value>, depth: usize) -> Option<Value> {
        let mut made = match variant {
            Some(Value::Object(map)) => map,
            Some(other) => return Some(other),
            None => Map::new(),
        };
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            if let Some(Value::Object(map)) = self.value(part, depth + 1) {
                made.extend(map);
            }
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if made.contains_key(name) {
                continue;
            }
            let value = match schema.get("properties").and_then(|p| p.get(name)) {
                Some(property) => self.value(property, depth + 1)?,
                None => json!({}),
            };
            made.insert(name.to_owned(), value);
        }
        Some(Value::Object(made))
    }

    fn array(&self, schema: &Map<String, Value>, depth: usize) -> Option<Value> {
        let count = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(MAX_ITEMS);
        let mut items: Vec<Value> = Vec::new();
        for index in 0..count as usize {
            let prefix = schema.get("prefixItems").and_then(|p| p.get(index));
            let item = prefix.or_else(|| schema.get("items"));
            items.push(item.map_or(Some(Value::Null), |item| self.value(item, depth + 1))?);
        }
        Some(Value::Array(items))
    }
}

/// The type a schema names; the first that is not null, where it names several.
fn kind(schema: &Map<String, Value>) -> Option<&str> {
    match schema.get("type")? {
        Value::String(kind) => Some(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        _ => None,
    }
}

/// The number nearest to 0 that the bounds allow.
fn least(schema: &Map<String, Value>) -> f64 {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let low = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|n| n + 1.0)).unwrap_or(f64::NEG_INFINITY);
    let high = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|n| n - 1.0)).unwrap_or(f64::INFINITY);
    0.0_f64.max(low).min(high)
}

trait IntoInteger {
    fn into_integer(self) -> Value;
}

impl IntoInteger for f64 {
    /// JSON has one kind of number, but a schema's `integer` reads best as one.
    fn into_integer(self) -> Value {
        json!(self as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_fits() {
        let schema = json!({
            "type": "object",
            "required": ["n", "s", "list", "kind", "inner", "opt"],
            "properties": {
                "n": {"type": "integer", "minimum": 3},
                "s": {"type": "string", "minLength": 2},
                "list": {"type": "array", "minItems": 2, "items": {"type": "number", "exclusiveMaximum": 0}},
                "kind": {"enum": ["a", "b"]},
                "inner": {"$ref": "#/$defs/Inner"},
                "opt": {"type": ["null", "boolean"]},
                "unasked": {"type": "string"},
            },
            "$defs": {"Inner": {"type": "object", "required": ["x"], "properties": {"x": {"type": "string", "default": "d"}}}},
        });
        let made = Value::Object(params_of(&schema).unwrap());
        assert_eq!(made, json!({"n": 3, "s": "xx", "list": [-1.0, -1.0], "kind": "a", "inner": {"x": "d"}, "opt": false}));
    }

    #[test]
    fn variants_and_endless_schemas() {
        let tagged = json!({"oneOf": [{"type": "object", "properties": {"action": {"const": "noop"}}, "required": ["action"]}]});
        assert_eq!(Value::Object(params_of(&tagged).unwrap()), json!({"action": "noop"}));
        let endless =
            json!({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/A"}}}}});
        assert_eq!(params_of(&endless), None);
        assert_eq!(params_of(&json!({"type": "object", "examples": [{"a": 1}], "required": ["a"]})).unwrap()["a"], 1);
        assert_eq!(params_of(&json!({"type": 7})), None);
    }
}
