//! What a guest's own manifest must hold.

use crate::task::limits::cut;
use crate::task::schema::ParamsSchema;
use serde_json::{Map, Value};

/// The version of the manifest's shape that is read here.
const SCHEMA_VERSION: u64 = 1;

/// Everything wrong with a manifest; `config` and `models` are what the step gives.
pub(super) fn faults(manifest: &Value, config: &Map<String, Value>, models: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    if manifest.get("schema_version").and_then(Value::as_u64) != Some(SCHEMA_VERSION) {
        faults.push(format!("schema_version must be {SCHEMA_VERSION}, not {}", shown(manifest.get("schema_version"))));
    }
    for key in ["name", "version"] {
        if manifest.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
            faults.push(format!("{key} must be a text, not {}", shown(manifest.get(key))));
        }
    }
    if let Some(schema) = manifest.get("config") {
        match ParamsSchema::compile(schema) {
            Err(e) => faults.push(format!("config is no JSON Schema: {}", cut(&e, 300))),
            Ok(schema) => {
                let wrong = schema.check(&Value::Object(config.clone()));
                faults.extend(wrong.iter().map(|v| format!("the step's config{} {}", below_params(&v.pointer), v.message)));
            }
        }
    }
    for model in texts(manifest.get("models")).filter(|model| !models.iter().any(|known| known == model)) {
        faults.push(format!(
            "wants model '{}', which the step does not declare; add it with --model {}=FILE, or in the pipeline file",
            cut(model, 128),
            cut(model, 128)
        ));
    }
    match functions(manifest) {
        [] => faults.push("functions must be a list of at least one".to_owned()),
        all => all.iter().for_each(|function| check_function(function, &mut faults)),
    }
    faults
}

fn check_function(function: &Value, faults: &mut Vec<String>) {
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    if let Err(e) = crate::task::id::check("function", name) {
        faults.push(e);
    }
    let shown = cut(name, 128);
    match function.get("params") {
        None => faults.push(format!("function '{shown}' has no schema of params")),
        Some(schema) => {
            if let Err(e) = ParamsSchema::compile(schema) {
                faults.push(format!("function '{shown}': params is no JSON Schema: {}", cut(&e, 300)));
            }
        }
    }
    if let Some(Err(e)) = function.get("output").map(ParamsSchema::compile) {
        faults.push(format!("function '{shown}': output is no JSON Schema: {}", cut(&e, 300)));
    }
}

/// The functions it lists.
pub(super) fn functions(manifest: &Value) -> &[Value] {
    manifest.get("functions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The function of that name; the first for none.
pub(super) fn function<'a>(manifest: Option<&'a Value>, name: Option<&str>) -> Option<&'a Value> {
    let all = functions(manifest?);
    match name {
        Some(name) => all.iter().find(|f| f.get("name").and_then(Value::as_str) == Some(name)),
        None => all.first(),
    }
}

/// A pointer without the `/params` that [`ParamsSchema`] puts before it.
pub(super) fn below_params(pointer: &str) -> &str {
    pointer.strip_prefix("/params").unwrap_or(pointer)
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "missing".to_owned(), |value| cut(&value.to_string(), 80))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_manifest_is_checked_as_a_whole() {
        let good = json!({"schema_version": 1, "name": "a", "version": "1.0.0", "functions": [{"name": "a", "params": {"type": "object"}}], "models": ["det"]});
        assert_eq!(faults(&good, &Map::new(), &["det".into()]), Vec::<String>::new());
        let bad = json!({
            "schema_version": 2, "name": "", "config": {"type": "object", "required": ["k"]}, "models": ["det"],
            "functions": [{"name": "a/b", "params": {"type": 7}, "output": {"type": 7}}, {"name": "c"}],
        });
        let found = faults(&bad, &Map::new(), &[]).join("\n");
        for part in [
            "schema_version",
            "name must be",
            "version must be, not missing",
            "config",
            "--model det=FILE",
            "a/b",
            "output is no",
            "'c' has no schema",
        ] {
            let part = part.replace("must be,", "must be a text,");
            assert!(found.contains(&part), "{part} in {found}");
        }
    }
}
