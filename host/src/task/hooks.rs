//! What crosses between host and guest, as plain values: the host's own mirror of the contract in `wit/`.
//!
//! The worker speaks only these, so that it can be run with a scripted guest and no wasm at all.

use super::limits::{MAX_ERROR_TEXT, cut};
use super::outputs::ManifestEntry;
use super::pointer::{self, MAX_VIOLATIONS, Violation};
use super::state::TaskState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A small value: JSON, or bytes with their media type.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// JSON text, checked to parse.
    Json(String),
    /// Anything else.
    Body {
        /// Media type.
        content_type: String,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

impl Payload {
    /// Size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Body { bytes, .. } => bytes.len(),
        }
    }

    /// True when it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A task as a hook sees it.
#[derive(Debug, Clone)]
pub struct Work {
    /// Whose task it is.
    pub tenant: String,
    /// Its job.
    pub job_id: String,
    /// Its id.
    pub task_id: String,
    /// The step.
    pub step: String,
    /// The function, where the guest has several.
    pub function: Option<String>,
    /// The object to work on.
    pub input_uri: Option<String>,
    /// The inline value to work on.
    pub input: Option<Payload>,
    /// How many inputs a `then` task has.
    pub input_count: u32,
    /// Where outputs go; ends with `/`.
    pub output_prefix: String,
    /// A JSON object, as text.
    pub params: String,
    /// 0 to 9.
    pub priority: u8,
    /// From 1.
    pub attempt: u32,
    /// Attempts in all.
    pub max_attempts: u32,
    /// Wall time for the two hooks, milliseconds.
    pub deadline_ms: u64,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
}

/// What `process` returned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// None for success.
    pub outcome: Option<String>,
    /// The result, if it is small and there is one.
    pub payload: Option<Payload>,
    /// The guest's figures: a JSON object, as text.
    pub metrics: Option<String>,
    /// Carried to `publish-next` as they are.
    pub extras: Vec<(String, String)>,
}

/// One child the guest asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NextTask {
    /// Unique among its siblings of one step.
    pub key: String,
    /// None: by outcome, else the step's `next` or `then`.
    pub step: Option<String>,
    /// The function, where that step has several.
    pub function: Option<String>,
    /// An object its parent may read or wrote.
    pub input_uri: Option<String>,
    /// An inline value.
    pub input: Option<Payload>,
    /// A JSON object, as text.
    pub params: String,
    /// None: the parent's.
    pub priority: Option<u8>,
    /// Wait before it may run.
    pub delay_ms: Option<u64>,
    /// Labels.
    pub metadata: Vec<(String, String)>,
}

/// What `publish-next` answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FanOut {
    /// The children, in fan-out order.
    pub tasks: Vec<NextTask>,
    /// One task after all of them.
    pub then: Option<NextTask>,
}

/// What one task of a finished fan-out left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its key.
    pub key: String,
    /// Its id.
    pub task_id: String,
    /// Its step.
    pub step: String,
    /// DONE, DEAD or CANCELLED.
    pub end: TaskState,
    /// The outcome it named.
    pub outcome: Option<String>,
    /// Its output prefix.
    pub output_prefix: String,
    /// Its committed outputs.
    pub outputs: Vec<ManifestEntry>,
}

/// How a hook failed, in the guest's own words. Texts are cut to 4 KiB.
#[derive(Debug, Clone, PartialEq)]
pub enum HookError {
    /// Worth another attempt, not before `after_ms`.
    Retryable {
        /// Short stable name.
        code: String,
        /// For a person.
        message: String,
        /// The guest's wish; none leaves it to the backoff.
        after_ms: Option<u64>,
    },
    /// The input can never work.
    Invalid(Vec<Violation>),
    /// Give up.
    Fatal {
        /// Short stable name.
        code: String,
        /// For a person.
        message: String,
    },
    /// The guest stopped because it was asked to.
    Cancelled,
}

impl HookError {
    /// A fatal error.
    pub fn fatal(code: &str, message: &str) -> Self {
        Self::Fatal { code: cut(code, 128), message: cut(message, MAX_ERROR_TEXT) }
    }

    /// A retryable error.
    pub fn retryable(code: &str, message: &str, after_ms: Option<u64>) -> Self {
        Self::Retryable { code: cut(code, 128), message: cut(message, MAX_ERROR_TEXT), after_ms }
    }

    /// Violations of the input; at most 64 are kept.
    pub fn invalid(violations: impl IntoIterator<Item = Violation>) -> Self {
        let kept = violations
            .into_iter()
            .take(MAX_VIOLATIONS)
            .map(|v| Violation::at(pointer::bounded(&v.pointer), cut(&v.message, 512)))
            .collect();
        Self::Invalid(kept)
    }
}

/// Why a task failed, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// Short stable name: the guest's own, or the host's (`wall-limit`, `memory-limit`, `trap`, …).
    pub code: String,
    /// For a person.
    pub message: String,
    /// What is wrong with the input, where that is the fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
}

impl TaskError {
    /// An error with a name and a text, both cut to their bounds.
    pub fn new(code: impl AsRef<str>, message: impl AsRef<str>) -> Self {
        Self { code: cut(code.as_ref(), 128), message: cut(message.as_ref(), MAX_ERROR_TEXT), violations: Vec::new() }
    }

    /// Invalid input.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let message = cut(&pointer::join(&violations), MAX_ERROR_TEXT);
        Self { code: "invalid".into(), message, violations }
    }
}

/// Parses `text` as a JSON object, naming `what` in the error.
pub fn parse_object(what: &str, text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(format!("{what} must be a JSON object, not {}", kind(&other))),
        Err(e) => Err(format!("{what} is no JSON: {e}")),
    }
}

/// The JSON type of a value, for an error text.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
