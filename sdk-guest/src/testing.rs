//! A host in memory, for native unit tests of a service: objects, models as closures, inputs; and what the service made of them.
//!
//! It follows the contract where a service could lean on it by mistake: reads only what was put there or written, writes only
//! from `process` and only under decent names, keys unique. It knows no limits, no time and no pipeline: those are the real host's.

use crate::bindings::wasm_worker::pipeline::types as wire;
use crate::context::{Level, Progress};
use crate::error::{Error, Failure};
use crate::export;
use crate::hooks::Hooks;
use crate::inference::{InferenceError, Tensor};
use crate::output::{FanOut, Output};
use crate::payload::Payload;
use crate::task::Input;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::rc::Rc;

/// A model as a test gives it: all inputs by name to all outputs by name.
pub(crate) type Model = Rc<dyn Fn(&[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, InferenceError>>;

thread_local! {
    static ENTERED: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// The host that this thread is inside of.
pub(crate) fn entered() -> Option<Host> {
    ENTERED.with_borrow(Clone::clone)
}

/// A host in memory. A clone is the same host.
#[derive(Clone, Default)]
pub struct Host {
    pub(crate) state: Rc<RefCell<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) models: BTreeMap<String, Model>,
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) cancelled: bool,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) progress: Option<Progress>,
    pub(crate) chunks: Vec<Payload>,
    files: BTreeMap<String, File>,
    /// The running task's output prefix, while `process` runs.
    writable: Option<String>,
}

impl fmt::Debug for Host {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        to.debug_struct("Host").field("objects", &state.objects.keys()).field("models", &state.models.keys()).finish_non_exhaustive()
    }
}

/// A file that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Media type.
    pub content_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A line of the task's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Severity.
    pub level: Level,
    /// The text.
    pub message: String,
    /// Fields: JSON text, or empty.
    pub fields: String,
}

/// What the three hooks made of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What `process` answered.
    pub output: Output,
    /// What `publish_next` answered.
    pub next: FanOut,
    /// The files written, by name.
    pub files: BTreeMap<String, File>,
}

impl Run {
    /// The payload as JSON; null where there is none, or where it is no JSON.
    pub fn json(&self) -> Value {
        self.output.payload.as_ref().and_then(|p| serde_json::from_slice(p.bytes()).ok()).unwrap_or(Value::Null)
    }
}

impl Host {
    /// An empty host.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an object where the service may read it.
    pub fn put(&self, uri: impl Into<String>, bytes: impl Into<Vec<u8>>) -> &Self {
        self.state.borrow_mut().objects.insert(uri.into(), bytes.into());
        self
    }

    /// Adds what a finished task left, for a `then` task.
    pub fn input(&self, input: Input) -> &Self {
        self.state.borrow_mut().inputs.push(input);
        self
    }

    /// Registers a model under its short name.
    pub fn model<F>(&self, name: impl Into<String>, run: F) -> &Self
    where
        F: Fn(&[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, InferenceError> + 'static,
    {
        self.state.borrow_mut().models.insert(name.into(), Rc::new(run));
        self
    }

    /// Grants a secret.
    pub fn secret(&self, name: impl Into<String>, value: impl Into<String>) -> &Self {
        self.state.borrow_mut().secrets.insert(name.into(), value.into());
        self
    }

    /// Asks the task to stop: `is_cancelled` is true from now on.
    pub fn cancel(&self) -> &Self {
        self.state.borrow_mut().cancelled = true;
        self
    }

    /// The log so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.state.borrow().logs.clone()
    }

    /// The last progress told.
    pub fn progress(&self) -> Option<Progress> {
        self.state.borrow().progress.clone()
    }

    /// The chunks emitted so far.
    pub fn chunks(&self) -> Vec<Payload> {
        self.state.borrow().chunks.clone()
    }

    /// Runs `inside` on this host: calls to storage, context and inference on this thread are answered here. Files cannot be written,
    /// as there is no task; [`run`](Self::run) has one.
    pub fn enter<T>(&self, inside: impl FnOnce() -> T) -> T {
        /// Puts the former host back, also when a test fails inside.
        struct Leave(Option<Host>);
        impl Drop for Leave {
            fn drop(&mut self) {
                ENTERED.set(self.0.take());
            }
        }
        let _leave = Leave(ENTERED.replace(Some(self.clone())));
        inside()
    }

    /// Loads a service with a config and runs one task through it. `config` is the step's table, a JSON object.
    pub fn run<S: Hooks>(&self, config: Value, message: Message) -> Result<Run, Error> {
        self.load::<S>(config)?.run(message)
    }

    /// Loads a service, for several tasks in one instance.
    pub fn load<S: Hooks>(&self, config: Value) -> Result<Instance<S>, Error> {
        let setup = wire::Setup {
            step: "test".to_owned(),
            functions: Vec::new(),
            models: self.state.borrow().models.keys().cloned().collect(),
            config: config.to_string(),
            extras: Vec::new(),
        };
        let service = self.enter(|| export::load_pipeline::<S>(setup))?;
        Ok(Instance { host: self.clone(), service })
    }

    pub(crate) fn read(&self, uri: &str) -> Result<Vec<u8>, Failure> {
        let found = self.state.borrow().objects.get(uri).cloned();
        found.ok_or_else(|| Failure::new("not-found", format!("no object at '{uri}'")))
    }

    pub(crate) fn write(&self, name: &str, content_type: &str, bytes: Vec<u8>) -> Result<String, Failure> {
        let prefix = self.check_write(name)?;
        let uri = format!("{prefix}{name}");
        let mut state = self.state.borrow_mut();
        state.objects.insert(uri.clone(), bytes.clone());
        state.files.insert(name.to_owned(), File { content_type: content_type.to_owned(), bytes });
        Ok(uri)
    }

    /// The prefix to write under, if a write of that name is allowed now. The real host refuses more names than this.
    pub(crate) fn check_write(&self, name: &str) -> Result<String, Failure> {
        let Some(prefix) = self.state.borrow().writable.clone() else {
            return Err(Failure::new("denied", format!("'{name}' cannot be written: outputs are written from process only")));
        };
        let kept = name.starts_with('_') || name == "metrics.json" || (name.starts_with("result.") && !name.contains('/'));
        if kept || name.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(Failure::new("invalid", format!("'{name}' is not a name an output may have")));
        }
        Ok(prefix)
    }
}

/// A loaded service on its host.
pub struct Instance<S> {
    host: Host,
    service: S,
}

impl<S> fmt::Debug for Instance<S> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Instance").field("host", &self.host).finish_non_exhaustive()
    }
}

impl<S: Hooks> Instance<S> {
    /// Runs one task. Files of the tasks before it stay readable by their URIs.
    pub fn run(&mut self, message: Message) -> Result<Run, Error> {
        let task = message.task(u32::try_from(self.host.state.borrow().inputs.len()).unwrap_or(u32::MAX));
        self.host.state.borrow_mut().files.clear();
        self.host.state.borrow_mut().writable = Some(task.output_prefix.clone());
        let output = self.host.clone().enter(|| export::process(Some(&mut self.service), task.clone()));
        self.host.state.borrow_mut().writable = None;
        let output = wire::Output::from(output?);
        let next = self.host.clone().enter(|| export::publish_next(Some(&mut self.service), task, output.clone()))?;
        check_keys(&next)?;
        Ok(Run { output: output.into(), next, files: self.host.state.borrow().files.clone() })
    }

    /// The service itself, to look at its state.
    pub fn service(&self) -> &S {
        &self.service
    }
}

fn check_keys(next: &FanOut) -> Result<(), Error> {
    let mut seen = HashSet::new();
    match next.tasks.iter().find(|task| !seen.insert((&task.step, &task.key))) {
        Some(twice) => Err(Error::fatal("duplicate-child", format!("two children have key '{}'; keys are unique per step", twice.key))),
        None => Ok(()),
    }
}

/// A task to run, as somebody would submit it.
#[derive(Debug, Clone)]
pub struct Message {
    task: wire::Task,
}

impl Default for Message {
    fn default() -> Self {
        Self::new()
    }
}

impl Message {
    /// A task with empty params and no input; first attempt of five.
    pub fn new() -> Self {
        Self {
            task: wire::Task {
                tenant: "test".to_owned(),
                job_id: "job".to_owned(),
                task_id: "task".to_owned(),
                step: "test".to_owned(),
                function: None,
                input_uri: None,
                input: None,
                input_count: 0,
                output_prefix: "mem://test/jobs/job/".to_owned(),
                params: json!({}).to_string(),
                priority: 5,
                attempt: 1,
                max_attempts: 5,
                deadline_ms: Some(60_000),
                traceparent: None,
                metadata: Vec::new(),
                extras: Vec::new(),
            },
        }
    }

    /// The params, a JSON object.
    #[must_use]
    pub fn params(mut self, params: Value) -> Self {
        self.task.params = params.to_string();
        self
    }

    /// The object to work on; put it there with [`Host::put`].
    #[must_use]
    pub fn input_uri(mut self, uri: impl Into<String>) -> Self {
        self.task.input_uri = Some(uri.into());
        self
    }

    /// The inline value to work on.
    #[must_use]
    pub fn input(mut self, payload: Payload) -> Self {
        self.task.input = Some(payload.into());
        self
    }

    /// The function to run.
    #[must_use]
    pub fn function(mut self, function: impl Into<String>) -> Self {
        self.task.function = Some(function.into());
        self
    }

    /// Which attempt it is, from 1.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.task.attempt = attempt;
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.task.metadata.push((name.into(), value.into()));
        self
    }

    fn task(self, input_count: u32) -> wire::Task {
        wire::Task { input_count, ..self.task }
    }
}
