//! What the guest tells the host about its task, and asks about it.

use crate::report;
use serde_json::json;
use std::time::Duration;
use wasm_worker_guest::context::{self, Level, Progress};
use wasm_worker_guest::{Error, Output, Payload};

pub(crate) fn log(lines: u32, bytes: usize, text: Option<&str>) -> Result<Output, Error> {
    let filled = "x".repeat(bytes);
    for line in 0..lines {
        context::log_with(Level::Info, text.unwrap_or(&filled), &json!({ "line": line }));
    }
    Ok(Output::none())
}

pub(crate) fn progress(done: u64, total: u64) -> Result<Output, Error> {
    Progress::new(done).of(total).phase("probe").metrics(&json!({ "done": done }))?.send();
    Ok(Output::none())
}

pub(crate) fn until_cancelled(poll_ms: u64, answer: bool) -> Result<Output, Error> {
    let mut polls = 1;
    while !context::is_cancelled() {
        std::thread::sleep(Duration::from_millis(poll_ms));
        polls += 1;
    }
    if answer { Output::json(&json!({ "polls": polls })) } else { Err(Error::cancelled()) }
}

pub(crate) fn emit(chunks: u32, bytes: usize) -> Result<Output, Error> {
    let text = "x".repeat(bytes);
    for index in 0..chunks {
        if let Err(failure) = context::emit(Payload::json(&json!({ "index": index, "text": text }))?) {
            return report(Err((failure.code, failure.message)));
        }
    }
    Output::json(&json!({ "emitted": chunks }))
}

pub(crate) fn secret(name: &str) -> Result<Output, Error> {
    Output::json(&json!({ "secret": context::secret(name) }))
}
