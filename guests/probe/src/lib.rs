//! One guest for the behaviours that the host's tests need, good and bad, chosen by `params.action` (see `action.rs` for all of them).
//!
//! Where the SDK would check or mend something on the way, the raw bindings are used, so that the host sees what a hostile guest sends.

mod action;
mod burn;
mod children;
mod host;
mod models;
mod objects;
mod sandbox;

use action::{Action, Config, Hook, Load};
use serde_json::{Value, json};
use std::fmt::Display;
use std::time::Duration;
use wasm_worker_guest::{Error, FanOut, Hooks, Output, Setup, Task};

/// The state of one instance.
struct Probe {
    setup: Value,
    begun: u64,
    left: Option<String>,
}

impl Hooks for Probe {
    type Config = Config;
    type Params = Action;
    const NAME: &str = "probe";

    fn load_pipeline(setup: Setup<Config>) -> Result<Self, Error> {
        std::thread::sleep(Duration::from_millis(setup.config.load_sleep_ms));
        match setup.config.load {
            Load::Ok => {}
            Load::Loop => burn::forever(),
            Load::Trap => panic!("probe: asked to trap in load-pipeline"),
            Load::Retry => return Err(Error::retryable("probe-load", "asked to fail to load, for now")),
            Load::Fatal => return Err(Error::fatal("probe-load", "asked to fail to load")),
        }
        let setup = json!({ "step": setup.step, "functions": setup.functions, "models": setup.models });
        Ok(Self { setup, begun: 0, left: None })
    }

    fn process(&mut self, task: &Task<Action>) -> Result<Output, Error> {
        self.begun += 1;
        match &task.params {
            Action::None | Action::WriteLate => Ok(Output::none()),
            Action::Json { value } => Output::json(value),
            Action::Body { content_type, bytes } => Ok(Output::body(content_type, objects::pattern(0, *bytes))),
            Action::Raw { .. } | Action::Metrics { .. } | Action::Echo | Action::Count { .. } => self.answer(task),
            Action::Write { files } => objects::write_all(files),
            Action::WriteName { name } => objects::write_name(name),
            Action::Read { uri } => objects::read(address(task, uri)?),
            Action::Stream { uri, piece } => objects::stream(address(task, uri)?, *piece),
            Action::Open { uri, readers, writers, close } => {
                let uri = if *readers > 0 { address(task, uri)? } else { "" };
                objects::open_many(uri, *readers, *writers, *close)
            }
            Action::FanOut(_) => Output::json(&json!({ "value": 0 })),
            Action::Chain { depth, .. } => Output::json(&json!({ "value": u32::from(*depth == 0) })),
            Action::Sum { read_outputs } => children::sum(*read_outputs),
            Action::Outcome { name, .. } => Ok(Output::json(&json!({ "value": 0 }))?.outcome(name)),
            Action::Trap { hook: Hook::Process } => panic!("probe: asked to trap in process"),
            Action::Loop { hook: Hook::Process } => burn::forever(),
            Action::Trap { .. } | Action::Loop { .. } => Ok(Output::none()),
            Action::Retry { .. } | Action::Invalid { .. } | Action::Fatal { .. } | Action::ErrorText { .. } => fail(task),
            Action::Spin { ms } => Output::json(&json!({ "rounds": burn::spin(Duration::from_millis(*ms)) })),
            Action::Compute { rounds } => Output::json(&json!({ "value": burn::compute(*rounds) })),
            Action::Sleep { ms } => {
                std::thread::sleep(Duration::from_millis(*ms));
                Ok(Output::none())
            }
            Action::Allocate { bytes, polite } => burn::allocate(*bytes, *polite),
            Action::Recurse => Output::json(&json!({ "depth": burn::recurse(0) })),
            Action::Log { lines, bytes, text } => host::log(*lines, *bytes, text.as_deref()),
            Action::Progress { done, total } => host::progress(*done, *total),
            Action::UntilCancelled { poll_ms, answer } => host::until_cancelled(*poll_ms, *answer),
            Action::Emit { chunks, bytes } => host::emit(*chunks, *bytes),
            Action::Secret { name } => host::secret(name),
            Action::Print { stdout, stderr, times } => sandbox::print(stdout, stderr, *times),
            Action::Environment => sandbox::environment(),
            Action::OpenFile { path } => sandbox::open_file(path),
            Action::Connect { address } => sandbox::connect(address),
            Action::LoadModel { name } => models::load(name),
            Action::LoadBytes { uri, target } => models::load_bytes(uri.as_deref(), target.as_deref()),
            Action::Infer { model, inputs, times } => models::infer(model, inputs, *times),
            Action::HoldTensors { count, bytes } => models::hold(*count, *bytes),
        }
    }

    fn publish_next(&mut self, task: &Task<Action>, _: &Output) -> Result<FanOut, Error> {
        match &task.params {
            Action::FanOut(spec) => children::fan_out(spec, task.attempt),
            Action::Chain { depth, width, step, then_step } => children::chain(*depth, *width, step.as_ref(), then_step.as_ref()),
            Action::Outcome { n, .. } => children::plain(*n),
            Action::WriteLate => Err(objects::write_late()),
            Action::Trap { hook: Hook::PublishNext } => panic!("probe: asked to trap in publish-next"),
            Action::Loop { hook: Hook::PublishNext } => burn::forever(),
            _ => Ok(FanOut::none()),
        }
    }

    fn outcomes() -> &'static [&'static str] {
        &["needs_review"]
    }
}

impl Probe {
    /// The actions that answer from the task or from the instance itself.
    fn answer(&mut self, task: &Task<Action>) -> Result<Output, Error> {
        match &task.params {
            Action::Raw { payload, metrics, outcome } => Ok(Output {
                payload: payload.clone().map(wasm_worker_guest::Payload::Json),
                metrics: metrics.clone(),
                outcome: outcome.clone(),
                ..Output::none()
            }),
            Action::Metrics { figures } => Output::none().metrics(figures),
            Action::Count { leave } => {
                let before = std::mem::replace(&mut self.left, leave.clone());
                Output::json(&json!({ "begun": self.begun, "before": before }))
            }
            _ => Output::json(&json!({
                "setup": self.setup,
                "tenant": task.tenant,
                "job_id": task.job_id,
                "task_id": task.task_id,
                "step": task.step,
                "function": task.function,
                "input_uri": task.input_uri,
                "input": task.input.as_ref().map(|p| json!({ "content_type": p.content_type(), "bytes": p.bytes().len() })),
                "input_count": task.input_count,
                "output_prefix": task.output_prefix,
                "priority": task.priority,
                "attempt": task.attempt,
                "max_attempts": task.max_attempts,
                "deadline_ms": task.deadline.map(|d| d.as_millis() as u64),
                "traceparent": task.traceparent,
                "metadata": task.metadata,
            })),
        }
    }
}

/// The actions that end in an error of the contract.
fn fail(task: &Task<Action>) -> Result<Output, Error> {
    match &task.params {
        Action::Retry { times, after_ms } if task.attempt <= *times => {
            let error = Error::retryable("probe-retry", format!("attempt {} of {times} to fail", task.attempt));
            Err(after_ms.map_or(error.clone(), |ms| error.after(Duration::from_millis(ms))))
        }
        Action::Invalid { n } => {
            let none = Error::Invalid(Vec::new());
            Err((0..*n).fold(none, |error, i| error.and_invalid(format!("/probe/{i}"), format!("violation {i}"))))
        }
        Action::Fatal { code, message } => Err(Error::fatal(code, message)),
        Action::ErrorText { bytes } => Err(Error::fatal("probe-text", "x".repeat(*bytes))),
        _ => Output::json(&json!({ "attempt": task.attempt })),
    }
}

/// The address that an action names, else the task's input.
fn address<'a>(task: &'a Task<Action>, uri: &'a Option<String>) -> Result<&'a str, Error> {
    uri.as_deref().map_or_else(|| task.require_input_uri(), Ok)
}

/// The answer of an action that reports what a call said instead of failing with it.
fn report(result: Result<Value, (impl Display, impl Display)>) -> Result<Output, Error> {
    match result {
        Ok(value) => Output::json(&value),
        Err((code, message)) => Output::json(&json!({ "error": { "code": code.to_string(), "message": message.to_string() } })),
    }
}

wasm_worker_guest::export!(Probe);

#[cfg(test)]
mod tests;
