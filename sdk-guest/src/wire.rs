//! Between this crate's types and the contract's: one conversion each way that a value travels.

use crate::bindings::wasm_worker::pipeline::types as wire;
use crate::error::Error;
use crate::json;
use crate::output::{FanOut, NextTask, Output};
use crate::payload::Payload;
use crate::task::{End, Input, Object, Setup, Task};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Whole milliseconds; a time beyond 64 bits is as good as forever.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<C: DeserializeOwned> Setup<C> {
    pub(crate) fn from_wire(setup: wire::Setup) -> Result<Self, Error> {
        let config = json::decode("config", &setup.config)?;
        Ok(Self { step: setup.step, functions: setup.functions, models: setup.models, config, extras: setup.extras })
    }
}

impl<P: DeserializeOwned> Task<P> {
    pub(crate) fn from_wire(task: wire::Task) -> Result<Self, Error> {
        Ok(Self {
            params: json::decode("params", &task.params)?,
            tenant: task.tenant,
            job_id: task.job_id,
            task_id: task.task_id,
            step: task.step,
            function: task.function,
            input_uri: task.input_uri,
            input: task.input.map(Payload::from),
            input_count: task.input_count,
            output_prefix: task.output_prefix,
            priority: task.priority,
            attempt: task.attempt,
            max_attempts: task.max_attempts,
            deadline: task.deadline_ms.map(Duration::from_millis),
            traceparent: task.traceparent,
            metadata: task.metadata,
            extras: task.extras,
        })
    }
}

impl From<wire::Payload> for Payload {
    fn from(payload: wire::Payload) -> Self {
        match payload {
            wire::Payload::Json(text) => Self::Json(text),
            wire::Payload::Body(wire::Body { content_type, bytes }) => Self::Body { content_type, bytes },
        }
    }
}

impl From<Payload> for wire::Payload {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Json(text) => Self::Json(text),
            Payload::Body { content_type, bytes } => Self::Body(wire::Body { content_type, bytes }),
        }
    }
}

impl From<wire::Output> for Output {
    fn from(output: wire::Output) -> Self {
        Self { outcome: output.outcome, payload: output.payload.map(Payload::from), metrics: output.metrics, extras: output.extras }
    }
}

impl From<Output> for wire::Output {
    fn from(output: Output) -> Self {
        Self { outcome: output.outcome, payload: output.payload.map(Into::into), metrics: output.metrics, extras: output.extras }
    }
}

impl From<wire::Input> for Input {
    fn from(input: wire::Input) -> Self {
        Self {
            key: input.key,
            task_id: input.task_id,
            step: input.step,
            end: match input.end {
                wire::End::Done => End::Done,
                wire::End::Dead => End::Dead,
                wire::End::Cancelled => End::Cancelled,
            },
            outcome: input.outcome,
            payload: input.payload.map(Payload::from),
            outputs: input.outputs.into_iter().map(Object::from).collect(),
        }
    }
}

impl From<wire::Object> for Object {
    fn from(object: wire::Object) -> Self {
        Self { name: object.name, uri: object.uri, content_type: object.content_type, size: object.size, sha256: object.sha256 }
    }
}

impl From<NextTask> for wire::NextTask {
    fn from(task: NextTask) -> Self {
        Self {
            key: task.key,
            step: task.step,
            function: task.function,
            input_uri: task.input_uri,
            input: task.input.map(Into::into),
            params: task.params,
            priority: task.priority,
            delay_ms: task.delay.map(millis),
            metadata: task.metadata,
            extras: task.extras,
        }
    }
}

impl From<FanOut> for wire::FanOut {
    fn from(fan_out: FanOut) -> Self {
        Self { tasks: fan_out.tasks.into_iter().map(Into::into).collect(), then: fan_out.then.map(Into::into), extras: fan_out.extras }
    }
}

impl From<Error> for wire::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Retryable { code, message, after } => {
                Self::Retryable(wire::Retry { detail: wire::Detail { code, message }, after_ms: after.map(millis) })
            }
            Error::Invalid(violations) => {
                let wired = violations.into_iter().map(|v| wire::Violation { pointer: v.pointer, message: v.message });
                Self::Invalid(wired.collect())
            }
            Error::Fatal { code, message } => Self::Fatal(wire::Detail { code, message }),
            Error::Cancelled => Self::Cancelled,
        }
    }
}
