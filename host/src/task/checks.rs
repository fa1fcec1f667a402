//! What each field of a message may hold: one check per field, every violation told.
//!
//! The reading itself (depth, keys that come twice) stands in `json.rs`; what queue and step allow is decided where messages arrive.

use super::hooks::kind;
use super::id;
use super::json::extent;
use super::limits::cut;
use super::message::{MAX_DEPTH, MAX_JOB_TASKS, MAX_VALUES, Message, SCHEMA_VERSION, nearest};
use super::outputs::MAX_NAME;
use super::pointer::{Violation, pointer};
use super::uri::Uri;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::fmt::Display;

/// Every key a message may have.
pub const KEYS: &[&str] = &[
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

/// Most unknown keys told.
const MAX_UNKNOWN: usize = 16;

/// Most entries of `metadata`.
pub const MAX_METADATA: usize = 256;

/// Longest key of `metadata`, in bytes.
pub const MAX_METADATA_KEY: usize = 128;

/// Longest value of `metadata`, in bytes. These are labels; what is longer belongs into params or storage.
pub const MAX_METADATA_VALUE: usize = 1024;

/// Longest content type, in bytes. RFC 6838 allows 127 on either side of the slash.
pub const MAX_CONTENT_TYPE: usize = 255;

/// Most attempts that a message may ask for.
pub const MAX_ATTEMPTS: u64 = 1000;

/// Checks the fields of a message; adds all that is wrong.
pub(super) fn fields(fields: &Map<String, Value>, faults: &mut Vec<Violation>) {
    let mut checked = Checked { fields, faults };
    checked.keys();
    for key in ["job_id", "task_id"] {
        checked.present(key);
        checked.text(key, |text| id::check(key, text));
    }
    for key in ["tenant", "step", "function"] {
        checked.text(key, |text| id::check(key, text));
    }
    checked.text("input_uri", |text| Uri::parse(text).and_then(|uri| input_uri(&uri)));
    checked.text("output_prefix", |text| Uri::parse(text).and_then(|uri| output_prefix(&uri)));
    checked.text("traceparent", traceparent);
    checked.params();
    checked.number("priority", 0, 9);
    checked.number("max_attempts", 1, MAX_ATTEMPTS);
    checked.number("not_before", 0, i64::MAX.unsigned_abs());
    checked.number("schema_version", SCHEMA_VERSION, SCHEMA_VERSION);
    checked.number("job_tasks", 1, MAX_JOB_TASKS);
    checked.number("hops", 0, u64::from(u32::MAX));
    checked.metadata();
    checked.input();
}

/// Checks a message made here from what a guest asked for, as far as the guest has a say: it must be one that can be read again.
pub fn made(message: &Message) -> Result<(), String> {
    let (depth, values) = extent(message.input.as_ref().unwrap_or(&Value::Null));
    let params = message.params.values().map(extent);
    let (depth, values) = params.fold((depth, values), |(depth, values), (deep, more)| (depth.max(deep + 1), values + more));
    if depth > MAX_DEPTH {
        return Err(format!("params or input are nested {depth} deep, over {MAX_DEPTH}"));
    }
    let most = MAX_VALUES.saturating_sub(KEYS.len() + MAX_METADATA);
    if values > most {
        return Err(format!("params and input hold {values} values, over {most}; put large values in storage"));
    }
    if message.metadata.len() > MAX_METADATA {
        return Err(format!("metadata has {} entries, over {MAX_METADATA}", message.metadata.len()));
    }
    for (key, value) in &message.metadata {
        metadata_key(key).and_then(|()| metadata_value(value)).map_err(|e| format!("metadata '{}' {e}", cut(key, 64).escape_debug()))?;
    }
    let Some((content_type, base64)) = message.input.as_ref().and_then(as_body) else { return Ok(()) };
    body_part(content_type, check_content_type).map_err(|e| format!("input's content_type {e}"))?;
    body_part(base64, check_base64).map_err(|e| format!("input's base64 {e}"))
}

/// The two parts of an inline input that is no JSON: `content_type` and `base64`.
pub(super) fn as_body(value: &Value) -> Option<(&Value, &Value)> {
    let map = value.as_object().filter(|map| map.len() == 2)?;
    map.get("content_type").zip(map.get("base64"))
}

/// An input is one object.
pub fn input_uri(uri: &Uri) -> Result<(), String> {
    if uri.is_prefix() { Err(format!("'{}' names no object: it ends with '/'", uri.shown())) } else { Ok(()) }
}

fn output_prefix(uri: &Uri) -> Result<(), String> {
    if !uri.is_prefix() {
        return Err("must end with '/'".to_owned());
    }
    if uri.room() < MAX_NAME {
        return Err(format!("is too long: it leaves {} bytes for names below it, and outputs may need {MAX_NAME}", uri.room()));
    }
    Ok(())
}

/// `<version>-<32 hex>-<16 hex>-<2 hex>`, as W3C Trace Context writes it: lower case, no id of zeros only, not version ff.
fn traceparent(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split('-').take(5).collect();
    let is_hex = |part: &&str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    match parts.as_slice() {
        [version, trace, span, flags]
            if (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2)
                && parts.iter().all(is_hex)
                && *version != "ff"
                && !is_zero(trace)
                && !is_zero(span) =>
        {
            Ok(())
        }
        _ => Err("is no W3C traceparent (00-<32 hex>-<16 hex>-<2 hex>, lower case, neither id all zeros)".to_owned()),
    }
}

fn metadata_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > MAX_METADATA_KEY || key.chars().any(char::is_control) {
        return Err(format!("has a key that is not 1 to {MAX_METADATA_KEY} bytes without control characters"));
    }
    Ok(())
}

fn metadata_value(value: &str) -> Result<(), String> {
    let size = value.len();
    if size > MAX_METADATA_VALUE { Err(format!("has {size} bytes, over {MAX_METADATA_VALUE}")) } else { Ok(()) }
}

/// `type/subtype`, with parameters or without, as RFC 6838 restricts it.
pub fn check_content_type(text: &str) -> Result<(), String> {
    let (bare, parameters) = text.split_once(';').unwrap_or((text, ""));
    let is_name = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let named = bare.trim_end().split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype));
    if !named || text.len() > MAX_CONTENT_TYPE || !parameters.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(format!("'{}' is no content type such as image/png", cut(text, 64).escape_debug()));
    }
    Ok(())
}

fn body_part(value: &Value, check: fn(&str) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::String(text) => check(text),
        other => Err(format!("must be a string, not {}", kind(other))),
    }
}

/// Whether base64 decodes, without keeping what it decodes to.
fn check_base64(text: &str) -> Result<(), String> {
    let mut decoder = base64::read::DecoderReader::new(text.as_bytes(), &STANDARD);
    std::io::copy(&mut decoder, &mut std::io::sink()).map(drop).map_err(|e| format!("does not decode: {e}"))
}

struct Checked<'a> {
    fields: &'a Map<String, Value>,
    faults: &'a mut Vec<Violation>,
}

impl Checked<'_> {
    fn fault(&mut self, way: &[&str], text: impl Display) {
        self.faults.push(Violation::at(pointer(way.iter().copied()), text.to_string()));
    }

    fn keys(&mut self) {
        for key in self.fields.keys().filter(|key| !KEYS.contains(&key.as_str())).take(MAX_UNKNOWN) {
            let near = nearest(key, KEYS).map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
            self.fault(&[key], format!("unknown key '{}'{near}", cut(key, 64).escape_debug()));
        }
    }

    fn present(&mut self, key: &str) {
        if matches!(self.fields.get(key), None | Some(Value::Null)) {
            self.fault(&[key], "is missing");
        }
    }

    fn params(&mut self) {
        match self.fields.get("params") {
            Some(Value::Object(_)) => {}
            None | Some(Value::Null) => self.fault(&["params"], "is missing; use {} for none"),
            Some(other) => self.fault(&["params"], format!("must be an object, not {}", kind(other))),
        }
    }

    fn text(&mut self, key: &str, check: impl Fn(&str) -> Result<(), String>) {
        match self.fields.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => {
                if let Err(why) = check(text) {
                    self.fault(&[key], why);
                }
            }
            Some(other) => self.fault(&[key], format!("must be a string, not {}", kind(other))),
        }
    }

    fn number(&mut self, key: &str, low: u64, high: u64) {
        let expected = if low == high { format!("{low}") } else { format!("a whole number from {low} to {high}") };
        match self.fields.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Number(number)) => {
                if !number.as_u64().is_some_and(|n| (low..=high).contains(&n)) {
                    self.fault(&[key], format!("must be {expected}, not {number}"));
                }
            }
            Some(other) => self.fault(&[key], format!("must be {expected}, not {}", kind(other))),
        }
    }

    fn metadata(&mut self) {
        let map = match self.fields.get("metadata") {
            None | Some(Value::Null) => return,
            Some(Value::Object(map)) => map,
            Some(other) => return self.fault(&["metadata"], format!("must be an object, not {}", kind(other))),
        };
        if map.len() > MAX_METADATA {
            self.fault(&["metadata"], format!("has {} entries, over {MAX_METADATA}", map.len()));
        }
        for (key, value) in map.iter().take(MAX_METADATA) {
            let checked = match value {
                Value::String(text) => metadata_key(key).and_then(|()| metadata_value(text)),
                other => Err(format!("must be a string, not {}", kind(other))),
            };
            if let Err(why) = checked {
                self.fault(&["metadata", key], why);
            }
        }
    }

    fn input(&mut self) {
        let Some((content_type, base64)) = self.fields.get("input").and_then(as_body) else { return };
        for (key, checked) in [("content_type", body_part(content_type, check_content_type)), ("base64", body_part(base64, check_base64))] {
            if let Err(why) = checked {
                self.fault(&["input", key], why);
            }
        }
    }
}
