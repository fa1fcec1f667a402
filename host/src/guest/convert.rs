//! Between the contract's types and the task's plain values. What comes from a guest is checked here: sizes, counts, and
//! that JSON is JSON. What a child or an output may *be* is decided by the rules in `task`.

use super::bindings::wasm_worker::pipeline::types;
use crate::task::hooks::{FanOut, HookError, NextTask, Output, Payload, TaskError, Work, parse_object};
use crate::task::id;
use crate::task::limits::Limits;
use crate::task::pointer::Violation;
use serde::de::IgnoredAny;

/// Entries of one list of labels or extras.
const MAX_ENTRIES: usize = 128;

/// Bytes of one list of labels or extras, names and values together: they are kept in the task's row.
const MAX_ENTRY_BYTES: usize = 64 << 10;

/// Pairs as they are lowered.
pub(super) type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// The task as a hook takes it. `left_ms` is what is left of its wall limit.
pub(super) fn task<'a>(work: &'a Work, metadata: &'a [(&'a str, &'a str)], left_ms: u64) -> types::Task<'a> {
    types::Task {
        tenant: &work.tenant,
        job_id: &work.job_id,
        task_id: &work.task_id,
        step: &work.step,
        function: work.function.as_deref(),
        input_uri: work.input_uri.as_deref(),
        input: work.input.as_ref().map(payload_in),
        input_count: work.input_count,
        output_prefix: &work.output_prefix,
        params: &work.params,
        priority: work.priority,
        attempt: work.attempt,
        max_attempts: work.max_attempts,
        deadline_ms: Some(left_ms),
        traceparent: work.traceparent.as_deref(),
        metadata,
        extras: &[],
    }
}

/// A task's labels as they are lowered.
pub(super) fn labels(work: &Work) -> Pairs<'_> {
    work.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// Extras as they are lowered.
pub(super) fn extras(extras: &[(String, String)]) -> Pairs<'_> {
    extras.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// What `process` answered, on its way into `publish-next`.
pub(super) fn output_in<'a>(output: &'a Output, extras: &'a [(&'a str, &'a str)]) -> types::OutputParam<'a> {
    types::OutputParam {
        outcome: output.outcome.as_deref(),
        payload: output.payload.as_ref().map(payload_in),
        metrics: output.metrics.as_deref(),
        extras,
    }
}

fn payload_in(payload: &Payload) -> types::PayloadParam<'_> {
    match payload {
        Payload::Json(text) => types::PayloadParam::Json(text),
        Payload::Body { content_type, bytes } => types::PayloadParam::Body(types::BodyParam { content_type, bytes }),
    }
}

/// A payload as an import answers with it.
pub(super) fn payload_out(payload: Payload) -> types::PayloadResult {
    match payload {
        Payload::Json(text) => types::PayloadResult::Json(text),
        Payload::Body { content_type, bytes } => types::PayloadResult::Body(types::BodyResult { content_type, bytes }),
    }
}

/// A payload of the guest, unchecked.
pub(super) fn payload(payload: types::PayloadResult) -> Payload {
    match payload {
        types::PayloadResult::Json(text) => Payload::Json(text),
        types::PayloadResult::Body(body) => Payload::Body { content_type: body.content_type, bytes: body.bytes },
    }
}

/// What `process` answered, checked.
pub(super) fn output(output: types::OutputResult, limits: &Limits) -> Result<Output, TaskError> {
    if let Some(outcome) = &output.outcome {
        id::check("outcome", outcome).map_err(bad_answer)?;
    }
    if let Some(metrics) = &output.metrics {
        if metrics.len() as u64 > limits.payload {
            return Err(too_large("metrics", metrics.len(), limits));
        }
        parse_object("metrics", metrics).map_err(bad_answer)?;
    }
    check_pairs("extras", &output.extras)?;
    Ok(Output {
        outcome: output.outcome,
        payload: output.payload.map(|p| checked_payload("payload", p, limits)).transpose()?,
        metrics: output.metrics,
        extras: output.extras,
    })
}

/// What `publish-next` answered, checked as far as sizes and counts go; steps, keys and addresses are the plan's affair.
pub(super) fn fan_out(fan_out: types::FanOut, limits: &Limits) -> Result<FanOut, TaskError> {
    if fan_out.tasks.len() > limits.children as usize {
        let text = format!("{} children, over the limit of {} (limits.children)", fan_out.tasks.len(), limits.children);
        return Err(TaskError::new("fan-out-limit", text));
    }
    Ok(FanOut {
        tasks: fan_out.tasks.into_iter().map(|t| next_task(t, limits)).collect::<Result<_, _>>()?,
        then: fan_out.then.map(|t| next_task(t, limits)).transpose()?,
    })
}

fn next_task(next: types::NextTask, limits: &Limits) -> Result<NextTask, TaskError> {
    check_pairs("metadata", &next.metadata)?;
    if next.params.len() as u64 > limits.payload {
        return Err(too_large("params of a child", next.params.len(), limits));
    }
    Ok(NextTask {
        key: next.key,
        step: next.step,
        function: next.function,
        input_uri: next.input_uri,
        input: next.input.map(|p| checked_payload("input of a child", p, limits)).transpose()?,
        params: next.params,
        priority: next.priority,
        delay_ms: next.delay_ms,
        metadata: next.metadata,
    })
}

fn checked_payload(what: &str, given: types::PayloadResult, limits: &Limits) -> Result<Payload, TaskError> {
    let given = payload(given);
    if given.len() as u64 > limits.payload {
        return Err(too_large(what, given.len(), limits));
    }
    if let Payload::Json(text) = &given {
        serde_json::from_str::<IgnoredAny>(text).map_err(|e| bad_answer(format!("{what} is no JSON: {e}")))?;
    }
    Ok(given)
}

fn check_pairs(what: &str, pairs: &[(String, String)]) -> Result<(), TaskError> {
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if pairs.len() > MAX_ENTRIES || bytes > MAX_ENTRY_BYTES {
        let text = format!(
            "{what} of {} entries and {bytes} bytes; at most {MAX_ENTRIES} entries and {MAX_ENTRY_BYTES} bytes are taken",
            pairs.len()
        );
        return Err(bad_answer(text));
    }
    Ok(())
}

fn too_large(what: &str, bytes: usize, limits: &Limits) -> TaskError {
    let text = format!("{what} of {bytes} bytes is over the limit of {} (limits.payload); write it through storage", limits.payload);
    TaskError::new("payload-limit", text)
}

fn bad_answer(text: String) -> TaskError {
    TaskError::new("bad-answer", text)
}

/// A hook's own error, cut to its bounds. `other` counts as fatal.
pub(super) fn hook_error(error: types::Error) -> HookError {
    match error {
        types::Error::Retryable(retry) => HookError::retryable(&retry.detail.code, &retry.detail.message, retry.after_ms),
        types::Error::Invalid(violations) => HookError::invalid(violations.into_iter().map(|v| Violation::at(v.pointer, v.message))),
        types::Error::Fatal(detail) | types::Error::Other(detail) => HookError::fatal(&detail.code, &detail.message),
        types::Error::Cancelled => HookError::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: Option<types::PayloadResult>, metrics: Option<&str>) -> types::OutputResult {
        types::OutputResult { outcome: None, payload, metrics: metrics.map(str::to_owned), extras: Vec::new() }
    }

    fn code(answer: types::OutputResult) -> String {
        output(answer, &Limits { payload: 100, ..Limits::default() }).unwrap_err().code
    }

    #[test]
    fn answers_against_the_contract() {
        assert_eq!(code(answer(Some(types::PayloadResult::Json("{".into())), None)), "bad-answer");
        assert_eq!(code(answer(Some(types::PayloadResult::Json(format!("\"{}\"", "x".repeat(100)))), None)), "payload-limit");
        assert_eq!(code(answer(None, Some("[]"))), "bad-answer");
        assert_eq!(code(answer(None, Some(&"[".repeat(90)))), "bad-answer");
        assert_eq!(code(types::OutputResult { outcome: Some("a/b".into()), ..answer(None, None) }), "bad-answer");
        let extras = vec![(String::new(), String::new()); MAX_ENTRIES + 1];
        assert_eq!(code(types::OutputResult { extras, ..answer(None, None) }), "bad-answer");
    }

    #[test]
    fn too_many_children_are_not_even_looked_at() {
        let child = types::NextTask {
            key: "k".into(),
            step: None,
            function: None,
            input_uri: None,
            input: None,
            params: "{}".into(),
            priority: None,
            delay_ms: None,
            metadata: Vec::new(),
            extras: Vec::new(),
        };
        let limits = Limits { children: 2, ..Limits::default() };
        let fan = |n| types::FanOut { tasks: vec![child.clone(); n], then: Some(child.clone()), extras: Vec::new() };
        assert_eq!(fan_out(fan(3), &limits).unwrap_err().code, "fan-out-limit");
        assert_eq!(fan_out(fan(2), &limits).unwrap().tasks.len(), 2);
    }
}
