//! What the probe, which is deterministic, must make of a task: its end, its files, its children. Written from `guests/probe`'s own
//! reference, so that what is found in the store can be compared with what should be there.

use serde_json::{Value, json};

/// A task that must follow another.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    pub step: String,
    pub key: String,
    pub params: Value,
    /// Waits for the others.
    pub is_then: bool,
}

/// How a task ends that nobody kills or cancels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// DONE, after so many failed attempts.
    Done { failures: i64 },
    /// DEAD, with this code, at its last attempt of so many.
    Dead { code: String, attempts: i64 },
    /// Only by request.
    Cancelled,
}

/// Names of the files that a DONE task has, each with its size where the guest fixes it; bytes follow the probe's pattern then.
pub type Files = Vec<(String, Option<u64>)>;

fn number(params: &Value, name: &str) -> i64 {
    params[name].as_i64().unwrap_or_default()
}

/// Byte `i` of everything the probe writes.
pub fn pattern(index: usize) -> u8 {
    (index % 251) as u8
}

/// How a task with these params ends.
pub fn end(params: &Value, max_attempts: i64) -> End {
    let text = |name: &str| params[name].as_str().unwrap_or_default().to_owned();
    match params["action"].as_str().unwrap_or_default() {
        "retry" if number(params, "times") < max_attempts => End::Done { failures: number(params, "times") },
        "retry" => End::Dead { code: "probe-retry".to_owned(), attempts: max_attempts },
        "trap" => End::Dead { code: "trap".to_owned(), attempts: max_attempts },
        "fatal" => End::Dead { code: text("code"), attempts: 1 },
        "until_cancelled" => End::Cancelled,
        _ => End::Done { failures: 0 },
    }
}

/// The files of a DONE task, `metrics.json` included.
pub fn files(params: &Value) -> Files {
    let mut files: Files = Vec::new();
    match params["action"].as_str().unwrap_or_default() {
        "none" | "sleep" | "log" => {}
        "metrics" => files.push(("metrics.json".to_owned(), None)),
        "body" => files.push(("result.bin".to_owned(), params["bytes"].as_u64())),
        "write" => {
            let written = params["files"].as_array().unwrap().iter();
            files.extend(written.map(|f| (f["name"].as_str().unwrap().to_owned(), f["bytes"].as_u64())));
            files.push(("result.json".to_owned(), None));
        }
        _ => files.push(("result.json".to_owned(), None)),
    }
    if !files.is_empty() && !files.iter().any(|(name, _)| name == "metrics.json") {
        files.push(("metrics.json".to_owned(), None));
    }
    files
}

/// The tasks that follow a DONE task, in fan-out order.
pub fn children(params: &Value) -> Vec<Child> {
    let child = |step: &str, key: String, params: Value| Child { step: step.to_owned(), key, params, is_then: false };
    let then =
        |step: &Value, params: Value| Child { step: step.as_str().unwrap().to_owned(), key: "then".to_owned(), params, is_then: true };
    let answer = |i: i64| json!({"action": "json", "value": {"value": i}});
    match params["action"].as_str().unwrap_or_default() {
        "fan_out" => {
            let step = params["step"].as_str().unwrap();
            let of = |i| child(step, format!("c{i:04}"), params.get("child").cloned().unwrap_or_else(|| answer(i)));
            let all = (0..number(params, "n")).map(of);
            all.chain(params.get("then").map(|own| then(&params["then_step"], own.clone()))).collect()
        }
        "chain" if number(params, "depth") > 0 => {
            let mut below = params.clone();
            below["depth"] = (number(params, "depth") - 1).into();
            for absent in ["step", "then_step"] {
                below[absent] = params.get(absent).cloned().unwrap_or_default();
            }
            let all = (0..number(params, "width")).map(|i| child(params["step"].as_str().unwrap(), format!("c{i:04}"), below.clone()));
            let then_step = params.get("then_step").filter(|step| !step.is_null());
            all.chain(then_step.map(|step| then(step, json!({"action": "sum"})))).collect()
        }
        // The pipeline's transitions send them there.
        "outcome" => (0..number(params, "n")).map(|i| child("review", format!("c{i:04}"), answer(i))).collect(),
        _ => Vec::new(),
    }
}
