//! What `process` answers, and what `publish_next` says shall follow.

use crate::error::Error;
use crate::json;
use crate::payload::Payload;
use serde::Serialize;
use std::time::Duration;

/// What `process` made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// None for success, else a name looked up in the step's `transitions`.
    pub outcome: Option<String>,
    /// None when the result was written through storage, or when there is none.
    pub payload: Option<Payload>,
    /// The service's own figures, the text of a JSON object; put under `guest` in `metrics.json`.
    pub metrics: Option<String>,
    /// Named JSON texts for later versions of the host.
    pub extras: Vec<(String, String)>,
}

impl Output {
    /// No result, or one that was written through [`storage`](crate::storage).
    pub fn none() -> Self {
        Self::default()
    }

    /// A value as JSON: `result.json`.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        Payload::json(value).map(Self::from)
    }

    /// Bytes: `result.<extension of the content type>`.
    pub fn body(content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Payload::body(content_type, bytes).into()
    }

    /// Names the outcome, for the step's `transitions`.
    #[must_use]
    pub fn outcome(mut self, name: impl Into<String>) -> Self {
        self.outcome = Some(name.into());
        self
    }

    /// Adds the service's own figures: anything that serialises as a JSON object. They replace earlier ones.
    pub fn metrics<T: Serialize + ?Sized>(mut self, figures: &T) -> Result<Self, Error> {
        self.metrics = Some(json::encode(figures)?);
        Ok(self)
    }
}

impl From<Payload> for Output {
    fn from(payload: Payload) -> Self {
        Self { payload: Some(payload), ..Self::default() }
    }
}

/// One task to create once this one has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextTask {
    /// Names this child among its siblings, unique per step. The host derives the task id from it, so the same input must give the same key.
    pub key: String,
    /// The step to run; none means `transitions[outcome]`, else the step's `next` (for a fan-in: `then`).
    pub step: Option<String>,
    /// The function to run, where that step has several.
    pub function: Option<String>,
    /// An object the parent may read, or one it wrote.
    pub input_uri: Option<String>,
    /// An inline value; at most 1 MiB.
    pub input: Option<Payload>,
    /// Parameters, the text of a JSON object.
    pub params: String,
    /// None: the parent's.
    pub priority: Option<u8>,
    /// Wait this long before it may run, in whole milliseconds.
    pub delay: Option<Duration>,
    /// Labels.
    pub metadata: Vec<(String, String)>,
    /// Named JSON texts for later versions of the host.
    pub extras: Vec<(String, String)>,
}

impl NextTask {
    /// A task with empty params, for the step that the pipeline file names.
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            step: None,
            function: None,
            input_uri: None,
            input: None,
            params: "{}".to_owned(),
            priority: None,
            delay: None,
            metadata: Vec::new(),
            extras: Vec::new(),
        }
    }

    /// The step to run, instead of the one the pipeline file names.
    #[must_use]
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    /// The function to run.
    #[must_use]
    pub fn function(mut self, function: impl Into<String>) -> Self {
        self.function = Some(function.into());
        self
    }

    /// The object to work on: one this task may read, or one it wrote.
    #[must_use]
    pub fn input_uri(mut self, uri: impl Into<String>) -> Self {
        self.input_uri = Some(uri.into());
        self
    }

    /// The inline value to work on.
    #[must_use]
    pub fn input(mut self, payload: Payload) -> Self {
        self.input = Some(payload);
        self
    }

    /// Its parameters: anything that serialises as a JSON object.
    pub fn params<T: Serialize + ?Sized>(mut self, params: &T) -> Result<Self, Error> {
        self.params = json::encode(params)?;
        Ok(self)
    }

    /// 0 (last) to 9 (first), instead of this task's own.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Not before this long after this task has ended.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((name.into(), value.into()));
        self
    }
}

/// All that follows a task. An answer, not an action: the host creates the tasks once this one has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FanOut {
    /// The children, in fan-out order.
    pub tasks: Vec<NextTask>,
    /// One task to run when every child, and all that follows from them, has ended.
    pub then: Option<NextTask>,
    /// Named JSON texts for later versions of the host.
    pub extras: Vec<(String, String)>,
}

impl FanOut {
    /// Nothing follows.
    pub fn none() -> Self {
        Self::default()
    }

    /// These tasks, in this order.
    pub fn of(tasks: impl IntoIterator<Item = NextTask>) -> Self {
        Self { tasks: tasks.into_iter().collect(), ..Self::default() }
    }

    /// One task once all the others, and what follows from them, have ended; at once where there are none.
    #[must_use]
    pub fn then(mut self, task: NextTask) -> Self {
        self.then = Some(task);
        self
    }
}
