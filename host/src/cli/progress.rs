//! Progress on a terminal: a bar per step of one job, or one bar over many jobs. Reads the task store; never writes.

use super::render::{state, text};
use crate::task::state::{JobState, TaskState};
use crate::task_store::{StoreError, TaskFilter, TaskStore, TaskView};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the store is asked. A question that takes long is asked less often: looking takes a tenth of the time at most.
const LOOK: Duration = Duration::from_millis(100);

/// Most tasks of a job that are looked at for its bars.
const MAX_TASKS: u32 = 20_000;

/// A bar per step, in the order of the pipeline; a step appears with its first task.
pub struct Bars {
    steps: Vec<String>,
    multi: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    /// Bars on standard error for these steps.
    pub fn new(steps: Vec<String>) -> Self {
        Self { steps, multi: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), bars: HashMap::new() }
    }

    /// Shows the job until `over`.
    pub async fn follow(mut self, tasks: Arc<dyn TaskStore>, tenant: String, job_id: String, over: CancellationToken) {
        let mut wait = LOOK;
        loop {
            tokio::select! { () = sleep(wait) => {}, () = over.cancelled() => break }
            let began = Instant::now();
            let filter =
                TaskFilter { tenant: Some(tenant.clone()), job_id: Some(job_id.clone()), limit: MAX_TASKS, ..TaskFilter::default() };
            if let Ok(found) = tasks.tasks(filter).await {
                self.show(&found);
            }
            wait = LOOK.max(began.elapsed() * 9);
        }
        // The table that follows says it all.
        let _ = self.multi.clear();
    }

    fn show(&mut self, tasks: &[TaskView]) {
        let width = self.steps.iter().map(String::len).max().unwrap_or(0);
        for (at, step) in self.steps.iter().enumerate() {
            let of_step: Vec<&TaskView> = tasks.iter().filter(|task| task.step == *step).collect();
            if of_step.is_empty() {
                continue;
            }
            let before = self.steps.iter().take(at).filter(|s| self.bars.contains_key(*s)).count();
            let bar = self.bars.entry(step.clone()).or_insert_with(|| {
                let bar = self.multi.insert(before, ProgressBar::no_length());
                bar.set_style(style());
                bar.set_prefix(format!("{step:<width$}"));
                bar
            });
            bar.set_length(of_step.len() as u64);
            bar.set_position(of_step.iter().filter(|task| task.state.is_ended()).count() as u64);
            bar.set_message(message(&of_step));
        }
    }
}

fn style() -> ProgressStyle {
    let template = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {elapsed} {wide_msg}");
    template.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// What runs, what failed, and what a running guest says of itself.
fn message(tasks: &[&TaskView]) -> String {
    let mut counts: BTreeMap<TaskState, u64> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.state != TaskState::Done) {
        *counts.entry(task.state).or_default() += 1;
    }
    let running = tasks.iter().filter(|task| task.state == TaskState::Processing);
    let told = running.filter_map(|task| told(task.progress.as_ref()?)).next();
    let counts = state::counts(&counts);
    match told {
        Some(told) if !counts.is_empty() => format!("{counts} ({told})"),
        _ => counts,
    }
}

/// `{done, total, phase}` on a line: `reading 3/9`.
fn told(progress: &serde_json::Value) -> Option<String> {
    let phase = progress.get("phase").and_then(|p| p.as_str()).map(|p| text::line(p, 40));
    let done = progress.get("done").and_then(serde_json::Value::as_u64);
    let total = progress.get("total").and_then(serde_json::Value::as_u64);
    let count = match (done, total) {
        (Some(done), Some(total)) => Some(format!("{done}/{total}")),
        (Some(done), None) if done > 0 => Some(done.to_string()),
        _ => None,
    };
    let parts: Vec<String> = phase.into_iter().chain(count).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// Waits until every job has ended, with one bar where `shown`. Others run them. Stops early at `stop`.
pub async fn follow(
    tasks: &dyn TaskStore,
    tenant: &str,
    jobs: &[String],
    shown: bool,
    stop: &CancellationToken,
) -> Result<HashMap<String, JobState>, StoreError> {
    let bar = if shown { ProgressBar::new(jobs.len() as u64) } else { ProgressBar::hidden() };
    bar.set_style(style());
    bar.set_prefix("jobs");
    let mut ended: HashMap<String, JobState> = HashMap::new();
    let mut open: Vec<&String> = jobs.iter().collect();
    while !open.is_empty() && !stop.is_cancelled() {
        let began = Instant::now();
        let mut left = Vec::new();
        for job_id in open {
            let state = tasks.job(tenant, job_id).await?.state;
            if state.is_ended() {
                ended.insert(job_id.clone(), state);
            } else {
                left.push(job_id);
            }
        }
        open = left;
        bar.set_position(ended.len() as u64);
        let failed = ended.values().filter(|state| **state != JobState::Done).count();
        bar.set_message(if failed > 0 { format!("{failed} failed or cancelled") } else { String::new() });
        if !open.is_empty() {
            tokio::select! { () = sleep(LOOK.max(began.elapsed() * 9)) => {}, () = stop.cancelled() => {} }
        }
    }
    bar.finish_and_clear();
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_is_a_few_words() {
        assert_eq!(told(&json!({"done": 3, "total": 9, "phase": "reading\u{1b}[2J"})).unwrap(), "reading\\u{1b}[2J 3/9");
        assert_eq!(told(&json!({"done": 0, "total": null, "phase": null})), None);
        assert_eq!(told(&json!({"done": 5})).unwrap(), "5");
    }
}
