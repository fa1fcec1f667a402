//! Fan-outs, and the `then` task that gathers them.

use crate::action::FanOutSpec;
use serde_json::{Value, json};
use std::io;
use std::time::Duration;
use wasm_worker_guest::{End, Error, FanOut, NextTask, Output, context, storage};

pub(crate) fn fan_out(spec: &FanOutSpec, attempt: u32) -> Result<FanOut, Error> {
    let children = (0..spec.n).map(|i| child(spec, i, attempt)).collect::<Result<Vec<_>, _>>()?;
    let all = FanOut::of(children);
    match &spec.then {
        Some(params) => Ok(all.then(stepped(NextTask::new("then"), spec.then_step.as_ref()).params(params)?)),
        None => Ok(all),
    }
}

fn child(spec: &FanOutSpec, i: u32, attempt: u32) -> Result<NextTask, Error> {
    let mut key = format!("c{:04}", if spec.same_key { 0 } else { i });
    if spec.keys_by_attempt {
        key = format!("{key}-{attempt}");
    }
    let answer = json!({ "action": "json", "value": { "value": i } });
    let mut task = stepped(NextTask::new(key), spec.step.as_ref()).params(spec.child.as_ref().unwrap_or(&answer))?;
    task.input_uri = spec.input_uri.clone();
    task.delay = spec.delay_ms.map(Duration::from_millis);
    task.priority = spec.priority;
    task.metadata = (0..spec.labels).map(|l| (format!("l{l}"), "x".repeat(100))).collect();
    Ok(task)
}

/// One level of a tree; nothing below depth 0.
pub(crate) fn chain(depth: u32, width: u32, step: Option<&String>, then_step: Option<&String>) -> Result<FanOut, Error> {
    if depth == 0 {
        return Ok(FanOut::none());
    }
    let params = json!({ "action": "chain", "depth": depth - 1, "width": width, "step": step, "then_step": then_step });
    let child = |i| stepped(NextTask::new(format!("c{i:04}")), step).params(&params);
    let all = FanOut::of((0..width).map(child).collect::<Result<Vec<_>, _>>()?);
    match then_step {
        Some(_) => Ok(all.then(stepped(NextTask::new("then"), then_step).params(&json!({ "action": "sum" }))?)),
        None => Ok(all),
    }
}

/// Children that answer their number, for the step that the pipeline file names.
pub(crate) fn plain(n: u32) -> Result<FanOut, Error> {
    let child = |i| NextTask::new(format!("c{i:04}")).params(&json!({ "action": "json", "value": { "value": i } }));
    Ok(FanOut::of((0..n).map(child).collect::<Result<Vec<_>, _>>()?))
}

fn stepped(task: NextTask, step: Option<&String>) -> NextTask {
    match step {
        Some(step) => task.step(step),
        None => task,
    }
}

/// Gathers the inputs of a `then` task.
pub(crate) fn sum(read_outputs: bool) -> Result<Output, Error> {
    let (mut total, mut bytes) = (0, 0u64);
    let (mut keys, mut ends, mut outcomes, mut files) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for input in context::inputs() {
        let value: Option<Value> = input.payload.as_ref().and_then(|p| p.parse().ok());
        total += value.as_ref().and_then(|v| v.get("sum").or(v.get("value"))?.as_i64()).unwrap_or(0);
        for output in &input.outputs {
            if read_outputs {
                bytes += io::copy(&mut storage::open(&output.uri)?, &mut io::sink())?;
            }
            files.push(output.uri.clone());
        }
        keys.push(input.key);
        outcomes.push(input.outcome);
        ends.push(match input.end {
            End::Done => "done",
            End::Dead => "dead",
            End::Cancelled => "cancelled",
        });
    }
    let count = keys.len();
    Output::json(&json!({
        "sum": total, "count": count, "keys": keys, "ends": ends, "outcomes": outcomes, "files": files, "bytes": bytes,
    }))
}
