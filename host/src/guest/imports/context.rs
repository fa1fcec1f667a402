//! `context`: what a guest may ask and tell about the task it runs.

use super::HostFault;
use crate::guest::bindings::wasm_worker::pipeline::{context, types};
use crate::guest::convert;
use crate::guest::scope::Progress;
use crate::guest::state::State;
use crate::task::hooks::{Input, parse_object};
use crate::task::limits::cut;
use crate::task::state::TaskState;
use serde_json::Value;
use std::sync::Arc;

/// Longest phase kept of a progress, bytes.
const MAX_PHASE: usize = 256;

/// Largest metrics kept of a progress, bytes: they are stored at every heartbeat.
const MAX_PROGRESS_METRICS: usize = 4 << 10;

/// Payload bytes after which a page of inputs ends early; the guest asks on where the page ended.
const MAX_PAGE_BYTES: usize = 16 << 20;

impl context::Host for State {
    fn log(&mut self, level: context::Level, message: String, fields: String) -> wasmtime::Result<()> {
        let level = match level {
            context::Level::Trace => "trace",
            context::Level::Debug => "debug",
            context::Level::Info => "info",
            context::Level::Warn => "warn",
            context::Level::Error => "error",
        };
        if matches!(fields.as_str(), "" | "{}") {
            self.scope.log(level, &message);
        } else {
            self.scope.log(level, &format!("{message} {fields}"));
        }
        Ok(())
    }

    fn progress(&mut self, done: u64, total: Option<u64>, phase: Option<String>, metrics: Option<String>) -> wasmtime::Result<()> {
        let metrics = metrics.filter(|text| text.len() <= MAX_PROGRESS_METRICS);
        self.scope.set_progress(Progress {
            done,
            total,
            phase: phase.map(|phase| cut(&phase, MAX_PHASE)),
            metrics: metrics.and_then(|text| parse_object("metrics", &text).ok()).map(Value::Object),
        });
        Ok(())
    }

    fn is_cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.scope.is_cancel_requested())
    }

    fn emit(&mut self, chunk: types::PayloadResult) -> wasmtime::Result<Result<(), types::Failure>> {
        Ok(self.scope.emit(&convert::payload(chunk)).map_err(Into::into))
    }

    async fn inputs(&mut self, offset: u32, limit: u32) -> wasmtime::Result<Vec<types::Input>> {
        let scope = Arc::clone(&self.scope);
        let listed = scope.inputs(offset, limit).await.map_err(HostFault)?;
        let mut page = Vec::with_capacity(listed.len());
        let mut bytes = 0;
        for input in listed {
            let payload = scope.input_payload(&input).await.map_err(HostFault)?;
            bytes += payload.as_ref().map_or(0, crate::task::hooks::Payload::len);
            page.push(lowered(input, payload.map(convert::payload_out)));
            if bytes > MAX_PAGE_BYTES {
                break;
            }
        }
        Ok(page)
    }

    fn secret(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.scope.secret(&name))
    }
}

fn lowered(input: Input, payload: Option<types::PayloadResult>) -> types::Input {
    let prefix = input.output_prefix;
    let outputs = input.outputs.into_iter().map(|entry| types::Object {
        uri: format!("{prefix}{}", entry.name),
        name: entry.name,
        content_type: entry.content_type,
        size: entry.size,
        sha256: entry.sha256,
    });
    types::Input {
        key: input.key,
        task_id: input.task_id,
        step: input.step,
        end: match input.end {
            TaskState::Done => types::End::Done,
            TaskState::Cancelled => types::End::Cancelled,
            _ => types::End::Dead,
        },
        outcome: input.outcome,
        payload,
        outputs: outputs.collect(),
    }
}

// The interfaces of shared types alone have no functions.
impl types::Host for State {}
