//! The message: what a submitter puts on a queue. Decoding reports every violation at once, each with a JSON pointer.
//!
//! What each field may hold stands in `checks.rs`. What an address may be used for, and whether the step exists, is not decided here.

use super::checks;
use super::hooks::{Payload, kind};
use super::id;
use super::json::{self, JsonBounds};
use super::pointer::Violation;
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
    /// Deepest nesting of a field.
    pub depth: usize,
    /// Most JSON values, those inside others included.
    pub values: usize,
}

/// Largest message, bytes: an inline input of the largest default size in base64, and as much again around it.
pub const MAX_MESSAGE: usize = 2 << 20;

/// Deepest nesting of JSON that is stored. Far below the 128 at which parsing stops, as rows wrap it in some levels more: what is
/// stored must be readable again.
pub const MAX_DEPTH: usize = 64;

/// Most JSON values in a message. A short text can hold many, and an object takes hundreds of bytes: all together they take a few
/// dozen megabytes at most.
pub const MAX_VALUES: usize = 100_000;

/// Most tasks that a feeder can say a job will get: far more than one job can hold, and far from overflowing a counter.
pub const MAX_JOB_TASKS: u64 = 1_000_000_000;

impl Default for MessageBounds {
    fn default() -> Self {
        Self { bytes: MAX_MESSAGE, depth: MAX_DEPTH, values: MAX_VALUES }
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

    /// Decodes and checks a message. All violations at once; memory is bounded by the message and by its number of values.
    pub fn decode(bytes: &[u8], bounds: &MessageBounds) -> Result<Self, Vec<Violation>> {
        if bytes.len() > bounds.bytes {
            let text = format!("message has {} bytes, over the limit of {}; put large values in storage", bytes.len(), bounds.bytes);
            return Err(vec![Violation::at("", text)]);
        }
        let json::Read { value, mut faults } = json::read(bytes, JsonBounds { depth: bounds.depth, values: bounds.values });
        let mut fields = match value {
            Some(Value::Object(fields)) => fields,
            other => {
                faults.extend(other.map(|other| Violation::at("", format!("must be a JSON object, not {}", kind(&other)))));
                return Err(faults);
            }
        };
        checks::fields(&fields, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        // What is null is as good as absent, for every field that may be absent.
        fields.retain(|_, value| !value.is_null());
        serde_json::from_value(Value::Object(fields)).map_err(|e| vec![Violation::at("", e.to_string())])
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
        let hashed = Hashed {
            function: self.function.as_deref(),
            input: self.input.as_ref(),
            input_uri: self.input_uri.as_deref(),
            job_id: &self.job_id,
            metadata: &self.metadata,
            output_prefix: self.output_prefix.as_deref(),
            params: &self.params,
            step,
        };
        let mut values = self.params.values().chain(&self.input);
        let is_plain = self.params.keys().chain(self.metadata.keys()).all(|key| key.is_ascii()) && values.all(id::is_plain);
        id::canonical_hash(&hashed, is_plain)
    }
}

/// What the hash of a message is over; by name, as canonical JSON has it.
#[derive(Serialize)]
struct Hashed<'a> {
    function: Option<&'a str>,
    input: Option<&'a Value>,
    input_uri: Option<&'a str>,
    job_id: &'a str,
    metadata: &'a BTreeMap<String, String>,
    output_prefix: Option<&'a str>,
    params: &'a Map<String, Value>,
    step: &'a str,
}

fn payload_of(value: &Value) -> Result<Payload, String> {
    match checks::as_body(value) {
        Some((Value::String(content_type), Value::String(text))) => {
            let bytes = STANDARD.decode(text).map_err(|e| format!("base64 does not decode: {e}"))?;
            Ok(Payload::Body { content_type: content_type.clone(), bytes })
        }
        Some(_) => Err("content_type and base64 must be strings".to_owned()),
        None => Ok(Payload::Json(value.to_string())),
    }
}

/// Longest name that is compared with the known ones: a slip is not far longer than what was meant, and comparing costs its length.
const MAX_SLIP: usize = 64;

/// The known name most like `name`, if one is near enough to be a slip.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > MAX_SLIP {
        return None;
    }
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), *k))
        .filter(|(distance, k)| *distance <= 1.max(k.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::super::checks::KEYS;
    use super::super::uri::MAX_KEY;
    use super::*;
    use proptest::prelude::*;

    fn decode(text: &str) -> Result<Message, Vec<Violation>> {
        Message::decode(text.as_bytes(), &MessageBounds::default())
    }

    /// A message with one more field, or with another value of a required one.
    fn with(key: &str, value: Value) -> Result<Message, Vec<Violation>> {
        let mut fields = json!({"job_id": "j", "task_id": "t", "params": {}});
        fields[key] = value;
        decode(&fields.to_string())
    }

    #[test]
    fn all_violations_at_once() {
        let faults = decode(
            r#"{"job_id": "a/b", "params": [], "priority": 10, "prority": 1, "input_uri": "x", "metadata": {"k": 1, "": "x", "k": "twice"},
                "input": {"content_type": "png", "base64": "A"}, "output_prefix": "s3://bucket/t", "traceparent": "00-0", "hops": -1}"#,
        )
        .unwrap_err();
        let places: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
        let expected = [
            "/metadata/k",
            "/prority",
            "/job_id",
            "/task_id",
            "/input_uri",
            "/output_prefix",
            "/traceparent",
            "/params",
            "/priority",
            "/hops",
            "/metadata/",
            "/metadata/k",
            "/input/content_type",
            "/input/base64",
        ];
        assert_eq!(places, expected, "{faults:?}");
        assert!(faults[1].message.contains("did you mean 'priority'?"), "{}", faults[1]);
    }

    #[test]
    fn each_field_has_its_bounds() {
        let long = |n: usize| "x".repeat(n);
        let zeros = "0".repeat(32);
        let good = [
            ("input_uri", json!("s3://bucket/a")),
            ("output_prefix", json!("s3://bucket/a/")),
            ("output_prefix", json!(format!("s3://bucket/{}/", long(MAX_KEY - 513)))),
            ("priority", json!(0)),
            ("priority", json!(9)),
            ("max_attempts", json!(1000)),
            ("not_before", json!(i64::MAX)),
            ("schema_version", json!(1)),
            ("job_tasks", json!(MAX_JOB_TASKS)),
            ("hops", json!(u32::MAX)),
            ("traceparent", json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
            ("metadata", json!({long(128): long(1024), "b": "\u{0}"})),
            ("input", json!([1])),
            ("input", json!({"content_type": "application/x; charset=\"a b\"", "base64": "AA=="})),
            ("input", json!({"content_type": 5, "base64": "AA==", "more": 1})),
            ("params", json!({"seed": u64::MAX})),
        ];
        for (key, value) in good {
            with(key, value.clone()).unwrap_or_else(|e| panic!("{key}: {value}: {e:?}"));
        }
        for key in KEYS.iter().filter(|key| !["job_id", "task_id", "params"].contains(key)) {
            assert_eq!(
                with(key, Value::Null).unwrap(),
                decode(r#"{"job_id":"j","task_id":"t","params":{}}"#).unwrap(),
                "{key} null is none"
            );
        }
        let bad = [
            ("job_id", json!("..")),
            ("job_id", json!(7)),
            ("job_id", Value::Null),
            ("task_id", json!(long(129))),
            ("params", Value::Null),
            ("params", json!("{}")),
            ("tenant", json!("a/b")),
            ("step", json!("a b")),
            ("function", json!("é")),
            ("input_uri", json!("s3://bucket/folder/")),
            ("input_uri", json!("http://169.254.169.254/latest/meta-data/iam")),
            ("input_uri", json!(["s3://bucket/a"])),
            ("output_prefix", json!("s3://bucket/a")),
            ("output_prefix", json!(format!("s3://bucket/{}/", long(MAX_KEY - 512)))),
            ("priority", json!(10)),
            ("priority", json!(-1)),
            ("priority", json!(5.0)),
            ("priority", json!("5")),
            ("max_attempts", json!(0)),
            ("max_attempts", json!(1001)),
            ("not_before", json!(-1)),
            ("not_before", json!(u64::MAX)),
            ("not_before", json!("tomorrow")),
            ("schema_version", json!(0)),
            ("schema_version", json!(1.5)),
            ("schema_version", json!("1")),
            ("job_tasks", json!(0)),
            ("job_tasks", json!(MAX_JOB_TASKS + 1)),
            ("hops", json!(u64::from(u32::MAX) + 1)),
            ("traceparent", json!("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01")),
            ("traceparent", json!("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
            ("traceparent", json!(format!("00-{zeros}-00f067aa0ba902b7-01"))),
            ("traceparent", json!("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01")),
            ("traceparent", json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-")),
            ("metadata", json!([])),
            ("metadata", (0..257).map(|i| (i.to_string(), json!("x"))).collect::<Map<_, _>>().into()),
            ("surprise", json!(1)),
        ];
        for (key, value) in bad {
            let faults = with(key, value.clone()).expect_err(&format!("{key}: {value}"));
            assert!(faults.len() == 1 && faults[0].pointer == format!("/{key}"), "{key}: {value}: {faults:?}");
        }
        let deeper = [
            ("metadata", json!({"k": long(1025)}), "/metadata/k"),
            ("metadata", json!({"a\nb": "x"}), "/metadata/a\nb"),
            ("metadata", json!({"a/b": 7}), "/metadata/a~1b"),
            ("input", json!({"content_type": "image/png\r\nX: y", "base64": ""}), "/input/content_type"),
            ("input", json!({"content_type": 5, "base64": ""}), "/input/content_type"),
            ("input", json!({"content_type": "image/png", "base64": "AA"}), "/input/base64"),
            ("input", json!({"content_type": "image/png", "base64": "A_-="}), "/input/base64"),
            ("input", json!({"content_type": "image/png", "base64": ["A"]}), "/input/base64"),
        ];
        for (key, value, place) in deeper {
            let faults = with(key, value.clone()).expect_err(&format!("{key}: {value}"));
            assert!(faults.len() == 1 && faults[0].pointer == place, "{key}: {value}: {faults:?}");
        }
    }

    #[test]
    fn hostile_text_is_refused_without_a_panic() {
        let deep = format!(r#"{{"job_id":"a","task_id":"b","params":{{"x":{}1{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let bom = "\u{feff}{}";
        for bad in
            ["", "nul", "[]", "{", r#"{"job_id":"\ud800"}"#, r#"{"params":{"x":1e400}}"#, r#"{"job_id":"a","job_id":"a"}"#, bom, &deep]
        {
            assert!(!decode(bad).unwrap_err().is_empty(), "{}", &bad[..bad.len().min(40)]);
        }
        let long = Message::decode(&vec![b' '; MAX_MESSAGE + 1], &MessageBounds::default()).unwrap_err();
        assert!(long[0].message.contains("over the limit"));
        let many = format!(r#"{{"job_id":"a","task_id":"b","params":{{"x":[{}1]}}}}"#, "1,".repeat(MAX_VALUES));
        assert!(decode(&many).unwrap_err()[0].message.contains("values"));
        // A long unknown key is neither compared with the known ones nor repeated.
        let long_key = format!(r#"{{"{}": 1}}"#, "k".repeat(1 << 20));
        let faults = decode(&long_key).unwrap_err();
        assert!(faults.iter().all(|f| f.pointer.len() <= 512 && f.message.len() < 256), "{}", faults[0].message.len());
        // Nor is a long address.
        let long_prefix = format!(r#"{{"job_id":"a","task_id":"b","params":{{}},"input_uri":"s3://pictures/{}/"}}"#, "k".repeat(1000));
        let faults = decode(&long_prefix).unwrap_err();
        assert!(faults.len() == 1 && faults[0].message.contains("names no object") && faults[0].message.len() < 256, "{faults:?}");
    }

    #[test]
    fn a_newer_version_is_told_from_a_senseless_one() {
        let newer = |text: &str| Message::newer_version(text.as_bytes(), &MessageBounds::default());
        assert_eq!(newer(r#"{"schema_version": 2, "shape": {"unknown": [1]}}"#), Some(2));
        let bad = [
            r#"{"schema_version": 1}"#,
            r#"{"schema_version": 0}"#,
            r#"{"schema_version": -2}"#,
            r#"{"schema_version": 2.5}"#,
            r#"{"schema_version": 1e400}"#,
            r#"{"schema_version": 18446744073709551616}"#,
            r#"{"schema_version": "2"}"#,
            r#"{"schema_version": null}"#,
            r#"{"schema_version": 2, "schema_version": 2}"#,
            "{}",
            "[2]",
            "",
        ];
        for bad in bad {
            assert_eq!(newer(bad), None, "{bad}");
            assert!(decode(bad).is_err(), "{bad}");
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

    /// JSON of every kind, with numbers that are hard to write and to read.
    fn value() -> impl Strategy<Value = Value> {
        let number = prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Value::Number)),
            (-9i64..9).prop_map(Value::from),
        ];
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, ".{0,6}".prop_map(Value::from)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let name = || "[a-z0-9][-._a-z0-9]{0,8}";
        let ids = (name(), name(), prop::option::of(name()), prop::option::of(name()));
        let content = (
            prop::collection::btree_map(".{0,4}", value(), 0..4),
            prop::option::of(value().prop_filter("null is none", |v| !v.is_null() && checks::as_body(v).is_none())),
            prop::option::of("s3://bucket/[a-z]{1,5}(/[a-zé]{1,3}){0,2}"),
            prop::collection::btree_map("[^\\pC]{1,5}", ".{0,9}", 0..3),
        );
        let numbers = (prop::option::of(0..=9u8), prop::option::of(1..=1000u32), prop::option::of(0..=i64::MAX), 0..99u32);
        (ids, content, numbers).prop_map(
            |((job, task, tenant, function), (params, input, uri, metadata), (priority, attempts, due, hops))| {
                let mut message = Message::new(job, task, params.into_iter().collect());
                message.output_prefix = uri.as_ref().map(|uri| format!("{uri}/"));
                (message.tenant, message.function, message.input, message.input_uri) = (tenant, function, input, uri);
                (message.metadata, message.priority, message.max_attempts, message.not_before) = (metadata, priority, attempts, due);
                message.hops = hops;
                message
            },
        )
    }

    /// The same JSON with its keys the other way round and space wherever it may stand.
    fn otherwise_written(value: &Value) -> String {
        match value {
            Value::Array(items) => format!("[ {}\n]", items.iter().map(otherwise_written).collect::<Vec<_>>().join(" ,\t")),
            Value::Object(map) => {
                let field = |(key, value): (&String, &Value)| format!("{} :\r\n{}", escaped(key), otherwise_written(value));
                format!("{{\n{} }}", map.iter().rev().map(field).collect::<Vec<_>>().join("\n, "))
            }
            Value::String(text) => escaped(text),
            other => format!(" {other} "),
        }
    }

    /// A text with every character escaped.
    fn escaped(text: &str) -> String {
        format!("\"{}\"", text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect::<String>())
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(faults) = Message::decode(&bytes, &MessageBounds::default()) {
                prop_assert!(!faults.is_empty());
            }
        }

        #[test]
        fn torn_messages_are_refused(message in message(), at in any::<prop::sample::Index>()) {
            let text = message.to_json();
            let torn = &text.as_bytes()[..at.index(text.len())];
            prop_assert!(!Message::decode(torn, &MessageBounds::default()).unwrap_err().is_empty());
        }

        #[test]
        fn a_message_is_itself_again(message in message()) {
            let again = decode(&message.to_json());
            prop_assert_eq!(again.as_ref(), Ok(&message));
            prop_assert_eq!(again.unwrap().payload_hash("s"), message.payload_hash("s"));
        }

        #[test]
        fn the_hash_is_over_canonical_json(message in message(), plain in prop::collection::btree_map("[ -~]{0,3}", -9i64..9, 0..4)) {
            let plain = Message { params: plain.into_iter().map(|(key, n)| (key, n.into())).collect(), input: None, ..message.clone() };
            for m in [&message, &plain] {
                let hashed = json!({"job_id": m.job_id, "step": "s", "function": m.function, "input": m.input, "input_uri": m.input_uri,
                                    "output_prefix": m.output_prefix, "params": m.params, "metadata": m.metadata});
                prop_assert_eq!(m.payload_hash("s"), id::canonical_hash(&hashed, false));
            }
        }

        #[test]
        fn how_it_is_written_does_not_change_the_hash(message in message()) {
            let text = otherwise_written(&serde_json::from_str(&message.to_json()).unwrap());
            let again = decode(&text);
            prop_assert_eq!(again.as_ref(), Ok(&message), "{}", text);
            prop_assert_eq!(again.unwrap().payload_hash("s"), message.payload_hash("s"));
        }

        /// The fields that make a task what it is change the hash, and the others do not.
        #[test]
        fn what_it_is_changes_the_hash(message in message(), other in message(), mask in 0..4096u32) {
            let mut changed = message.clone();
            let takes = |bit: u32| mask & (1 << bit) != 0;
            if takes(0) { changed.job_id = other.job_id.clone() }
            if takes(1) { changed.function = other.function.clone() }
            if takes(2) { changed.input = other.input.clone() }
            if takes(3) { changed.input_uri = other.input_uri.clone() }
            if takes(4) { changed.output_prefix = other.output_prefix.clone() }
            if takes(5) { changed.params = other.params.clone() }
            if takes(6) { changed.metadata = other.metadata.clone() }
            if takes(7) { changed.task_id = other.task_id.clone() }
            if takes(8) { changed.tenant = other.tenant.clone() }
            if takes(9) { changed.priority = other.priority }
            if takes(10) { changed.max_attempts = other.max_attempts }
            if takes(11) { changed.not_before = other.not_before }
            let what = |m: &Message| {
                let texts = (m.job_id.clone(), m.function.clone(), m.input_uri.clone(), m.output_prefix.clone(), m.metadata.clone());
                (texts, m.params.clone(), m.input.clone())
            };
            prop_assert_eq!(message.payload_hash("s") == changed.payload_hash("s"), what(&message) == what(&changed));
            prop_assert_ne!(message.payload_hash("s"), message.payload_hash("t"));
        }
    }
}
