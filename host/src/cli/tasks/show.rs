//! Tasks as people see them: lists, one task with its claims.

use super::super::render::{state, table, text, time};
use super::super::terminal::Terminal;
use crate::task_store::TaskView;

/// A row per task.
pub(super) fn list(tasks: &[TaskView], terminal: Terminal) -> String {
    let now = time::now();
    let mut rows = table::Rows::new(terminal, &["TASK", "STEP", "KEY", "STATE", "#RUNS", "CREATED", "#TOOK", "ERROR"]);
    for task in tasks {
        let took = task.claimed_at.and_then(|claimed| Some(task.ended_at? - claimed));
        rows.row(vec![
            table::cell(text::short_id(&task.task_id)),
            table::cell(&task.step),
            table::cell(&task.key),
            state::task(task.state),
            table::cell(task.epoch.to_string()),
            table::cell(time::when(task.created_at, now, terminal.shows_results)),
            table::cell(took.map_or_else(|| "-".to_owned(), |ms| time::duration(ms as f64))),
            table::cell(task.error.as_ref().map(|e| text::line(&format!("{}: {}", e.code, e.message), 100)).unwrap_or_default()),
        ]);
    }
    rows.render()
}

/// One task, with every claim of it.
pub(super) fn show(task: &TaskView, terminal: Terminal) -> String {
    let now = time::now();
    let when = |at| time::when(at, now, terminal.shows_results);
    let mut out = String::new();
    let mut line = |name: &str, value: String| out.push_str(&format!("{name:<10} {}\n", text::plain(&value)));
    line("task", task.task_id.clone());
    line("job", task.job_id.clone());
    line("step", format!("{} (pipeline {}, key {})", task.step, task.pipeline, task.key));
    line("state", format!("{}{}", task.state, if task.cancel_requested { ", asked to stop" } else { "" }));
    line(
        "attempts",
        format!("{} of {} failed; {} handed back, {} crashed", task.attempts, task.max_attempts, task.handbacks, task.crashes),
    );
    line("created", when(task.created_at));
    if let Some(at) = task.ended_at {
        line("ended", when(at));
    }
    for (name, value) in
        [("parent", &task.parent), ("outcome", &task.outcome), ("input", &task.message.input_uri), ("result", &task.result_uri)]
    {
        if let Some(value) = value {
            line(name, value.clone());
        }
    }
    line("params", serde_json::Value::Object(task.message.params.clone()).to_string());
    line("outputs", task.output_prefix.clone());
    for entry in task.manifest.iter().flat_map(|m| &m.entries) {
        line("", format!("{}  {}  {}", entry.name, text::size(entry.size), entry.content_type));
    }
    if let Some(f) = &task.figures {
        let (took, cpu, inference) = (time::duration(f.latency_ms), time::duration(f.cpu_ms), time::duration(f.inference_ms));
        line("took", format!("{took} ({cpu} of guest, {inference} of models), {} of memory", text::size(f.peak_memory)));
    }
    if let Some(error) = &task.error {
        line("error", format!("{}: {}", error.code, error.message));
        for violation in &error.violations {
            line("", violation.to_string());
        }
    }
    out.push('\n');
    out.push_str(&claims(task, terminal));
    out
}

fn claims(task: &TaskView, terminal: Terminal) -> String {
    let now = time::now();
    let mut rows = table::Rows::new(terminal, &["#RUN", "WORKER", "BEGAN", "#TOOK", "ENDED", "ERROR"]);
    for claim in &task.claims {
        rows.row(vec![
            table::cell(claim.epoch.to_string()),
            table::cell(text::line(&claim.worker, 60)),
            table::cell(time::when(claim.claimed_at, now, terminal.shows_results)),
            table::cell(claim.ended_at.map_or_else(|| "-".to_owned(), |end| time::duration((end - claim.claimed_at) as f64))),
            table::cell(claim.ended.clone().unwrap_or_else(|| "runs".to_owned())),
            table::cell(claim.error.as_ref().map(|e| text::line(&format!("{}: {}", e.code, e.message), 100)).unwrap_or_default()),
        ]);
    }
    rows.render()
}
