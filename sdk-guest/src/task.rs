//! What the hooks are given: the setup of an instance, a task, and what a finished fan-out left behind.

use crate::error::Error;
use crate::payload::Payload;
use crate::storage;
use std::borrow::Cow;
use std::time::Duration;

/// What an instance is set up for. `C` is the service's `Config`.
#[derive(Debug, Clone)]
pub struct Setup<C> {
    /// The step this instance serves.
    pub step: String,
    /// The functions it may be asked for; empty when the step has only one.
    pub functions: Vec<String>,
    /// Short names of the models the step declares, for [`Graph::load`](crate::inference::Graph::load).
    pub models: Vec<String>,
    /// The step's own `config` table.
    pub config: C,
    /// Named JSON texts that later versions of the host add.
    pub extras: Vec<(String, String)>,
}

/// A validated task. `P` is the service's `Params`.
#[derive(Debug, Clone)]
pub struct Task<P> {
    /// Whose task it is.
    pub tenant: String,
    /// The job it belongs to.
    pub job_id: String,
    /// Unique within the tenant.
    pub task_id: String,
    /// The step that runs it.
    pub step: String,
    /// The function to run, where the service has several.
    pub function: Option<String>,
    /// The object to work on, if it is one.
    pub input_uri: Option<String>,
    /// The inline value to work on, if there is one.
    pub input: Option<Payload>,
    /// How many inputs [`context::inputs`](crate::context::inputs) yields; above 0 only in a `then` task.
    pub input_count: u32,
    /// Where its outputs go; ends with `/`.
    pub output_prefix: String,
    /// The parameters, typed.
    pub params: P,
    /// 0 (last) to 9 (first).
    pub priority: u8,
    /// 1 at the first run; rises with every retry of a failed run.
    pub attempt: u32,
    /// The task is given up after this many attempts.
    pub max_attempts: u32,
    /// Wall time left for `process` and `publish_next` together, counted from the call of the hook.
    pub deadline: Option<Duration>,
    /// W3C trace context of the submitter.
    pub traceparent: Option<String>,
    /// Labels of the message.
    pub metadata: Vec<(String, String)>,
    /// Named JSON texts that later versions of the host add.
    pub extras: Vec<(String, String)>,
}

impl<P> Task<P> {
    /// The address of the object to work on; invalid where the task has none.
    pub fn require_input_uri(&self) -> Result<&str, Error> {
        self.input_uri.as_deref().ok_or_else(|| Error::invalid("", "this step needs a task with an input_uri"))
    }

    /// The bytes to work on: the inline value where there is one, else the whole object at `input_uri`
    /// (up to the host's limit, 50 MiB by default). Invalid where the task has neither.
    pub fn read_input(&self) -> Result<Cow<'_, [u8]>, Error> {
        match &self.input {
            Some(payload) => Ok(Cow::Borrowed(payload.bytes())),
            None => match &self.input_uri {
                Some(uri) => Ok(Cow::Owned(storage::read(uri)?)),
                None => Err(Error::invalid("", "this step needs a task with an input_uri or an inline input")),
            },
        }
    }

    /// The first label of that name.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its outputs are committed.
    Done,
    /// It failed for good.
    Dead,
    /// It was cancelled.
    Cancelled,
}

/// A committed output of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Name below the task's output prefix, such as `annotated.png`.
    pub name: String,
    /// Where it can be read with [`storage::read`](crate::storage::read).
    pub uri: String,
    /// Media type.
    pub content_type: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

/// What one task of a finished fan-out left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The key its parent gave it.
    pub key: String,
    /// Its id.
    pub task_id: String,
    /// The step that ran it.
    pub step: String,
    /// How it ended.
    pub end: End,
    /// The outcome it named; none for plain success.
    pub outcome: Option<String>,
    /// The payload it returned, if any.
    pub payload: Option<Payload>,
    /// The files it left.
    pub outputs: Vec<Object>,
}

impl Input {
    /// What a task named `key` left that ended well with `payload`; a start for tests of `then` tasks.
    pub fn done(key: impl Into<String>, payload: Option<Payload>) -> Self {
        let key = key.into();
        Self { task_id: format!("task-{key}"), key, step: "test".to_owned(), end: End::Done, outcome: None, payload, outputs: Vec::new() }
    }

    /// The file of that name.
    pub fn output(&self, name: &str) -> Option<&Object> {
        self.outputs.iter().find(|o| o.name == name)
    }
}
