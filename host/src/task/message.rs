//! The message: what a submitter puts on a queue. Decoding reports every violation at once, each with a JSON pointer.
//!
//! What an address may be used for, and whether the step exists, is not decided here.

use super::hooks::{Payload, kind};
use super::id;
use super::pointer::{Violation, segment};
use super::uri::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The version of the message format written here.
pub const SCHEMA_VERSION: u64 = 1;

/// Default priority: the middle.
pub const DEFAULT_PRIORITY: u8 = 5;

/// Bounds checked before and while a message is parsed.
#[derive(Debug, Clone, Copy)]
pub struct MessageBounds {
    /// Largest message in bytes.
    pub bytes: usize,
    /// Deepest nesting. `serde_json` itself stops at 128.
    pub depth: usize,
    /// Most metadata entries, and most characters of a value.
    pub metadata: usize,
}

/// Deepest nesting of JSON that is stored. Far below the 128 at which parsing stops, as rows wrap it in some levels more: what is
/// stored must be readable again.
pub const MAX_DEPTH: usize = 64;

/// Most tasks that a feeder can say a job will get: far more than one job can hold, and far from overflowing a counter.
pub const MAX_JOB_TASKS: u64 = 1_000_000_000;

impl Default for MessageBounds {
    fn default() -> Self {
        Self { bytes: 2 << 20, depth: MAX_DEPTH, metadata: 256 }
    }
}

/// One task as its submitter wrote it. Ids are made by whoever submits, never at receive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The job it belongs to.
    pub job_id: String,
    /// Unique within the tenant.
    pub task_id: String,
    /// Parameters of the guest.
    pub params: Map<String, Value>,
    /// The object to work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_uri: Option<String>,
    /// A small inline value: JSON, or `{"content_type", "base64"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// Where outputs go; derived if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_prefix: Option<String>,
    /// Whose task it is; the queue decides whether it may say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The step; the queue's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The function of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// 0 (last) to 9 (first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Attempts before it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Not before this time, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Version of this format.
    #[serde(default = "current_version")]
    pub schema_version: u64,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// How many tasks the job has in all, where it is fed from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_tasks: Option<u64>,
    /// Steps from the root task.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
}

fn current_version() -> u64 {
    SCHEMA_VERSION
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Message {
    /// A message with ids and parameters and nothing else.
    pub fn new(job_id: impl Into<String>, task_id: impl Into<String>, params: Map<String, Value>) -> Self {
        Self {
            job_id: job_id.into(),
            task_id: task_id.into(),
            params,
            input_uri: None,
            input: None,
            output_prefix: None,
            tenant: None,
            step: None,
            function: None,
            priority: None,
            max_attempts: None,
            not_before: None,
            traceparent: None,
            schema_version: SCHEMA_VERSION,
            metadata: BTreeMap::new(),
            job_tasks: None,
            hops: 0,
        }
    }

    /// Decodes and checks a message. All violations at once; memory stays below a small multiple of the message.
    pub fn decode(bytes: &[u8], bounds: &MessageBounds) -> Result<Self, Vec<Violation>> {
        if bytes.len() > bounds.bytes {
            let text = format!("message has {} bytes, over the limit of {}; put large values in storage", bytes.len(), bounds.bytes);
            return Err(vec![Violation::at("", text)]);
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| vec![Violation::at("", format!("no JSON: {e}"))])?;
        let Value::Object(fields) = value else {
            return Err(vec![Violation::at("", format!("must be a JSON object, not {}", kind(&value)))]);
        };
        Self::from_object(fields, bounds)
    }

    /// The version that a message names, if it is newer than the one known here: a later build of the host may be able to read it.
    pub fn newer_version(bytes: &[u8], bounds: &MessageBounds) -> Option<u64> {
        #[derive(Deserialize)]
        struct Versioned {
            schema_version: u64,
        }
        // Fields by place, `[2]`, are none.
        let is_object = bytes.len() <= bounds.bytes && bytes.trim_ascii_start().starts_with(b"{");
        let version = serde_json::from_slice::<Versioned>(is_object.then_some(bytes)?).ok()?.schema_version;
        (version > SCHEMA_VERSION).then_some(version)
    }

    /// The checks of [`Message::decode`], from parsed fields.
    pub fn from_object(fields: Map<String, Value>, bounds: &MessageBounds) -> Result<Self, Vec<Violation>> {
        let mut faults = Vec::new();
        check_fields(&fields, bounds, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let message: Self = serde_json::from_value(Value::Object(fields)).map_err(|e| vec![Violation::at("", e.to_string())])?;
        if let Some(input) = &message.input {
            payload_of(input).map_err(|e| vec![Violation::at("/input", e)])?;
        }
        Ok(message)
    }

    /// The JSON text, as stored and sent.
    pub fn to_json(&self) -> String {
        // Serialising a struct of strings, numbers and JSON values cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The inline input as a payload.
    pub fn payload(&self) -> Option<Payload> {
        self.input.as_ref().and_then(|value| payload_of(value).ok())
    }

    /// Puts an inline input in.
    pub fn set_payload(&mut self, payload: &Payload) -> Result<(), String> {
        self.input = Some(match payload {
            Payload::Json(text) => serde_json::from_str(text).map_err(|e| format!("input is no JSON: {e}"))?,
            Payload::Body { content_type, bytes } => json!({"content_type": content_type, "base64": STANDARD.encode(bytes)}),
        });
        Ok(())
    }

    /// SHA-256 over what the task *is*: two messages of one id with different hashes conflict. `step` as resolved.
    pub fn payload_hash(&self, step: &str) -> Result<String, String> {
        id::canonical_hash(&json!({
            "job_id": self.job_id,
            "step": step,
            "function": self.function,
            "input": self.input,
            "input_uri": self.input_uri,
            "output_prefix": self.output_prefix,
            "params": self.params,
            "metadata": self.metadata,
        }))
    }
}

fn payload_of(value: &Value) -> Result<Payload, String> {
    if let Value::Object(map) = value
        && map.len() == 2
        && let (Some(Value::String(content_type)), Some(Value::String(text))) = (map.get("content_type"), map.get("base64"))
    {
        let bytes = STANDARD.decode(text).map_err(|e| format!("base64 does not decode: {e}"))?;
        return Ok(Payload::Body { content_type: content_type.clone(), bytes });
    }
    Ok(Payload::Json(value.to_string()))
}

/// Every key a message may have.
const KEYS: &[&str] = &[
    "job_id",
    "task_id",
    "params",
    "input_uri",
    "input",
    "output_prefix",
    "tenant",
    "step",
    "function",
    "priority",
    "max_attempts",
    "not_before",
    "traceparent",
    "schema_version",
    "metadata",
    "job_tasks",
    "hops",
];

fn check_fields(fields: &Map<String, Value>, bounds: &MessageBounds, faults: &mut Vec<Violation>) {
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())).take(16) {
        let near = nearest(key, KEYS).map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
        faults.push(Violation::at(format!("/{}", segment(key)), format!("unknown key{near}")));
    }
    for key in ["job_id", "task_id"] {
        match fields.get(key) {
            Some(Value::String(text)) => push_err(faults, key, id::check(key, text)),
            Some(other) => faults.push(Violation::at(format!("/{key}"), format!("must be a string, not {}", kind(other)))),
            None => faults.push(Violation::at(format!("/{key}"), "is missing")),
        }
    }
    for key in ["tenant", "step", "function"] {
        check_text(fields, key, faults, |text| id::check(key, text));
    }
    for key in ["input_uri", "output_prefix"] {
        check_text(fields, key, faults, |text| Uri::parse(text).map(drop));
    }
    if fields.get("input").is_some_and(|input| depth(input) > bounds.depth) {
        faults.push(Violation::at("/input", format!("is nested deeper than {}", bounds.depth)));
    }
    if let Some(Value::String(prefix)) = fields.get("output_prefix")
        && !prefix.ends_with('/')
    {
        faults.push(Violation::at("/output_prefix", "must end with '/'"));
    }
    check_text(fields, "traceparent", faults, check_traceparent);
    match fields.get("params") {
        Some(params @ Value::Object(_)) => {
            if depth(params) > bounds.depth {
                faults.push(Violation::at("/params", format!("is nested deeper than {}", bounds.depth)));
            }
        }
        Some(other) => faults.push(Violation::at("/params", format!("must be an object, not {}", kind(other)))),
        None => faults.push(Violation::at("/params", "is missing; use {} for none")),
    }
    check_number(fields, "priority", 0, 9, faults);
    check_number(fields, "max_attempts", 1, 1000, faults);
    check_number(fields, "not_before", 0, i64::MAX as u64, faults);
    check_number(fields, "schema_version", SCHEMA_VERSION, SCHEMA_VERSION, faults);
    check_number(fields, "job_tasks", 1, MAX_JOB_TASKS, faults);
    check_number(fields, "hops", 0, u64::from(u32::MAX), faults);
    check_metadata(fields.get("metadata"), bounds, faults);
}

fn push_err(faults: &mut Vec<Violation>, key: &str, result: Result<(), String>) {
    if let Err(message) = result {
        faults.push(Violation::at(format!("/{key}"), message));
    }
}

fn check_text(fields: &Map<String, Value>, key: &str, faults: &mut Vec<Violation>, check: impl Fn(&str) -> Result<(), String>) {
    match fields.get(key) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => push_err(faults, key, check(text)),
        Some(other) => faults.push(Violation::at(format!("/{key}"), format!("must be a string, not {}", kind(other)))),
    }
}

fn check_number(fields: &Map<String, Value>, key: &str, low: u64, high: u64, faults: &mut Vec<Violation>) {
    match fields.get(key) {
        None | Some(Value::Null) => {}
        Some(value) => {
            if !value.as_u64().is_some_and(|n| (low..=high).contains(&n)) {
                faults.push(Violation::at(format!("/{key}"), format!("must be a whole number from {low} to {high}, not {value}")));
            }
        }
    }
}

fn check_metadata(metadata: Option<&Value>, bounds: &MessageBounds, faults: &mut Vec<Violation>) {
    let map = match metadata {
        None => return,
        Some(Value::Object(map)) => map,
        Some(other) => {
            faults.push(Violation::at("/metadata", format!("must be an object, not {}", kind(other))));
            return;
        }
    };
    if map.len() > bounds.metadata {
        faults.push(Violation::at("/metadata", format!("has {} entries, over {}", map.len(), bounds.metadata)));
    }
    for (key, value) in map.iter().take(bounds.metadata) {
        if !value.is_string() {
            faults.push(Violation::at(format!("/metadata/{}", segment(key)), format!("must be a string, not {}", kind(value))));
        }
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, as W3C Trace Context writes it.
fn check_traceparent(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|p| p.len()).collect();
    if lengths != [2, 32, 16, 2] || !parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err("is no W3C traceparent (00-<32 hex>-<16 hex>-<2 hex>)".to_owned());
    }
    Ok(())
}

/// Nesting depth of a value; a scalar has 1. Parsed values are at most 128 deep, so recursion is bounded.
pub fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The known name most like `name`, if one is near enough to be a slip.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), *k))
        .filter(|(distance, k)| *distance <= 1.max(k.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Message, Vec<Violation>> {
        Message::decode(text.as_bytes(), &MessageBounds::default())
    }

    #[test]
    fn all_violations_at_once() {
        let faults =
            decode(r#"{"job_id": "a/b", "params": [], "priority": 10, "prority": 1, "input_uri": "x", "metadata": {"k": 1}}"#).unwrap_err();
        let places: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(places, ["/prority", "/job_id", "/task_id", "/input_uri", "/params", "/priority", "/metadata/k"]);
        assert!(faults[0].message.contains("priority"), "{}", faults[0]);
    }

    #[test]
    fn hostile_text_is_refused_without_a_panic() {
        let deep = format!(r#"{{"job_id":"a","task_id":"b","params":{{"x":{}1{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for bad in ["", "nul", "[]", r#"{"job_id":"\ud800"}"#, r#"{"params":{"x":1e400}}"#, &deep] {
            assert!(decode(bad).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        let long = Message::decode(&vec![b' '; (2 << 20) + 1], &MessageBounds::default()).unwrap_err();
        assert!(long[0].message.contains("over the limit"));
    }

    #[test]
    fn a_newer_version_is_told_from_a_senseless_one() {
        let newer = |text: &str| Message::newer_version(text.as_bytes(), &MessageBounds::default());
        assert_eq!(newer(r#"{"schema_version": 2, "shape": {"unknown": [1]}}"#), Some(2));
        for bad in [r#"{"schema_version": 1}"#, r#"{"schema_version": 0}"#, r#"{"schema_version": "2"}"#, "{}", "[2]", ""] {
            assert_eq!(newer(bad), None, "{bad}");
        }
    }

    #[test]
    fn round_trip_keeps_the_hash() {
        let message =
            decode(r#"{"job_id":"j","task_id":"t","params":{"b":1,"a":2},"input":{"content_type":"image/png","base64":"AAEC"}}"#).unwrap();
        assert_eq!(message.payload(), Some(Payload::Body { content_type: "image/png".into(), bytes: vec![0, 1, 2] }));
        let again = decode(&message.to_json()).unwrap();
        assert_eq!(again, message);
        assert_eq!(again.payload_hash("s").unwrap(), message.payload_hash("s").unwrap());
        assert_ne!(again.payload_hash("s").unwrap(), message.payload_hash("other").unwrap());
    }
}
