//! The record of a job: what `run --json` and `jobs show --json` print, and the table that people see instead.

use super::failure::Failure;
use super::render::{json, state, table, text, time};
use super::terminal::Terminal;
use crate::app::App;
use crate::task::Millis;
use crate::task::id::TaskKey;
use crate::task::state::{JobState, TaskState};
use crate::task::uri::Uri;
use crate::task_store::{JobView, StoreError, TaskFilter, TaskView};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Most tasks that a record lists. A job may have more; the record says so by `task_count`.
const MAX_TASKS: u32 = 100_000;

/// Largest `result.json` that a record carries; a larger one is named by its address only.
const MAX_RESULT: u64 = 16 << 20;

/// Most lines of a result that are shown on a terminal.
const SHOWN_LINES: usize = 60;

/// A job, its tasks, and what came of it.
#[derive(Debug, Serialize)]
pub struct Record {
    /// The job.
    pub job_id: String,
    /// The pipeline.
    pub pipeline: String,
    /// PROCESSING, DONE, FAILED or CANCELLED.
    pub state: JobState,
    /// The same: what a record of something finished calls it.
    pub status: JobState,
    /// Whether further tasks may join it.
    pub open: bool,
    /// How many it is to be fed, where its feeder said so.
    pub expected: Option<u64>,
    /// The job's final task, where there is one alone.
    pub task_id: Option<String>,
    /// What the final task returned, as an address.
    pub result_uri: Option<String>,
    /// The same, parsed, where it is JSON.
    pub result: Option<Value>,
    /// The final task's `metrics.json`.
    pub metrics_uri: Option<String>,
    /// Where the job's outputs are.
    pub output_prefix: String,
    /// Labels of the job.
    pub metadata: BTreeMap<String, String>,
    /// When what happened.
    pub times: Times,
    /// Why it failed: the first task that did.
    pub error: Option<RecordError>,
    /// Tasks in all.
    pub task_count: u64,
    /// The tasks.
    pub tasks: Vec<TaskLine>,
}

/// Times in Unix milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    /// When it was created.
    pub created_at: Millis,
    /// When it was claimed last; tasks only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// From creation to end; for a task, from claim to end.
    pub duration_ms: Option<Millis>,
}

/// Why a job failed.
#[derive(Debug, Serialize)]
pub struct RecordError {
    /// The task that failed.
    pub task_id: String,
    /// Its step.
    pub step: String,
    /// Short stable name.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// A task in a record.
#[derive(Debug, Serialize)]
pub struct TaskLine {
    /// Its id.
    pub task_id: String,
    /// Its step.
    pub step: String,
    /// Its name among its siblings.
    pub key: String,
    /// The task that created it.
    pub parent: Option<String>,
    /// Where it stands.
    pub state: TaskState,
    /// Claims.
    pub epoch: u64,
    /// Failures.
    pub attempts: u32,
    /// The outcome it named.
    pub outcome: Option<String>,
    /// Addresses of its outputs.
    pub outputs: Vec<String>,
    /// When what happened.
    pub times: Times,
    /// What the host measured.
    pub figures: Option<crate::task::outputs::Figures>,
    /// Why it failed last.
    pub error: Option<crate::task::hooks::TaskError>,
}

impl Record {
    /// Reads it from the stores.
    pub async fn read(app: &App, job: JobView) -> Result<Self, Failure> {
        let filter =
            TaskFilter { tenant: Some(job.tenant.clone()), job_id: Some(job.job_id.clone()), limit: MAX_TASKS, ..TaskFilter::default() };
        let tasks = app.tasks.tasks(filter).await?;
        let last = final_task(app, &tasks).await?;
        let result_uri = last.and_then(|task| task.result_uri.clone());
        let result = match &result_uri {
            Some(uri) if uri.ends_with(".json") => read_json(app, uri).await,
            _ => None,
        };
        let metrics_uri = last.and_then(|task| output(task, crate::task::outputs::METRICS_NAME));
        let root = tasks.iter().find(|task| task.parent.is_none());
        let error = tasks.iter().filter(|task| task.state == TaskState::Dead).min_by_key(|task| task.ended_at);
        Ok(Self {
            state: job.state,
            status: job.state,
            open: job.open,
            expected: job.expected,
            task_id: last.map(|task| task.task_id.clone()),
            result_uri,
            result,
            metrics_uri,
            output_prefix: job.prefix,
            metadata: root.map(|task| task.message.metadata.clone()).unwrap_or_default(),
            times: Times {
                created_at: job.created_at,
                claimed_at: None,
                ended_at: job.ended_at,
                duration_ms: job.ended_at.map(|end| end - job.created_at),
            },
            error: error.map(RecordError::of),
            task_count: job.tasks.values().sum(),
            tasks: tasks.iter().map(TaskLine::of).collect(),
            job_id: job.job_id,
            pipeline: job.pipeline,
        })
    }

    /// What a person sees: a line on the job, a row per step, errors, the result, and where things are.
    pub fn render(&self, terminal: Terminal) -> String {
        let mut out = match self.times.duration_ms {
            Some(ms) => format!("job {} {} in {}", self.job_id, self.state, time::duration(ms as f64)),
            None => format!("job {} {}", self.job_id, self.state),
        };
        if let Some(feeding) = super::jobs::feeding(self.open, self.expected) {
            out.push_str(&format!(" ({feeding})"));
        }
        out.push_str("\n\n");
        out.push_str(&self.steps(terminal));
        if let Some(result) = &self.result {
            out.push_str(&format!("\n{}\n", pretty(result, terminal.shows_results)));
        }
        out.push('\n');
        for (what, uri) in
            [("result", self.result_uri.as_ref()), ("metrics", self.metrics_uri.as_ref()), ("outputs", Some(&self.output_prefix))]
        {
            if let Some(uri) = uri {
                out.push_str(&format!("{what:<8} {}\n", text::plain(uri.strip_prefix("file://").unwrap_or(uri))));
            }
        }
        out
    }

    /// A line on each task that failed, five at most.
    pub fn errors(&self) -> Vec<String> {
        let dead = self.tasks.iter().filter(|task| task.state == TaskState::Dead);
        let told = dead.filter_map(|task| {
            let error = task.error.as_ref()?;
            let why = text::line(&format!("{}: {}", error.code, error.message), 4096);
            Some(format!("step '{}' task {} failed: {why}", task.step, text::short_id(&task.task_id)))
        });
        told.take(5).collect()
    }

    fn steps(&self, terminal: Terminal) -> String {
        let mut order: Vec<&str> = Vec::new();
        let mut by_step: HashMap<&str, Vec<&TaskLine>> = HashMap::new();
        for task in &self.tasks {
            let tasks = by_step.entry(&task.step).or_default();
            if tasks.is_empty() {
                order.push(&task.step);
            }
            tasks.push(task);
        }
        let mut rows =
            table::Rows::new(terminal, &["STEP", "#TASKS", "STATE", "#TIME", "#LONGEST", "#INFERENCE", "#PEAK MEMORY", "#FILES"]);
        for step in order {
            let Some(tasks) = by_step.get(step) else { continue };
            let figures = || tasks.iter().filter_map(|task| task.figures.as_ref());
            let longest = figures().map(|f| f.latency_ms).fold(0.0, f64::max);
            // A task that never came to its commit was not measured.
            let measured = |text: String| table::cell(if figures().next().is_some() { text } else { "-".to_owned() });
            rows.row(vec![
                table::cell(step),
                table::cell(tasks.len().to_string()),
                states(tasks),
                measured(time::duration(figures().map(|f| f.latency_ms).sum())),
                measured(time::duration(longest)),
                measured(time::duration(figures().map(|f| f.inference_ms).sum())),
                measured(text::size(figures().map(|f| f.peak_memory).max().unwrap_or(0))),
                table::cell(tasks.iter().map(|task| task.outputs.len()).sum::<usize>().to_string()),
            ]);
        }
        rows.render()
    }
}

/// One state for all, or a count of each.
fn states(tasks: &[&TaskLine]) -> (String, Option<comfy_table::Color>) {
    let mut counts: BTreeMap<TaskState, u64> = BTreeMap::new();
    for task in tasks {
        *counts.entry(task.state).or_default() += 1;
    }
    match counts.first_key_value() {
        Some((state, _)) if counts.len() == 1 => state::task(*state),
        _ => table::cell(state::counts(&counts)),
    }
}

fn pretty(result: &Value, cut: bool) -> String {
    let whole = text::plain(&json::pretty(result));
    let lines = whole.lines().count();
    if !cut || lines <= SHOWN_LINES {
        return whole;
    }
    let shown: Vec<&str> = whole.lines().take(SHOWN_LINES).collect();
    format!("{}\n… {} more lines in the result file", shown.join("\n"), lines - SHOWN_LINES)
}

impl RecordError {
    fn of(task: &TaskView) -> Self {
        let (code, message) = task.error.as_ref().map_or_else(Default::default, |e| (e.code.clone(), e.message.clone()));
        Self { task_id: task.task_id.clone(), step: task.step.clone(), code, message }
    }
}

impl TaskLine {
    fn of(task: &TaskView) -> Self {
        let names = task.manifest.iter().flat_map(|m| &m.entries).map(|entry| &entry.name);
        Self {
            outputs: names.map(|name| format!("{}{name}", task.output_prefix)).collect(),
            task_id: task.task_id.clone(),
            step: task.step.clone(),
            key: task.key.clone(),
            parent: task.parent.clone(),
            state: task.state,
            epoch: task.epoch,
            attempts: task.attempts,
            outcome: task.outcome.clone(),
            times: Times {
                created_at: task.created_at,
                claimed_at: task.claimed_at,
                ended_at: task.ended_at,
                duration_ms: task.claimed_at.and_then(|claimed| Some(task.ended_at? - claimed)),
            },
            figures: task.figures.clone(),
            error: task.error.clone(),
        }
    }
}

/// The address of a committed output.
fn output(task: &TaskView, name: &str) -> Option<String> {
    let entry = task.manifest.as_ref()?.entries.iter().find(|entry| entry.name == name)?;
    Some(format!("{}{}", task.output_prefix, entry.name))
}

/// The only leaf of the root group, where there is one: from the root task on, a `then` stands for the fan-out before it. A job that
/// was fed several root tasks has none.
async fn final_task<'a>(app: &App, tasks: &'a [TaskView]) -> Result<Option<&'a TaskView>, StoreError> {
    let mut children: HashMap<&str, Vec<&TaskView>> = HashMap::new();
    for task in tasks {
        if let Some(parent) = &task.parent {
            children.entry(parent).or_default().push(task);
        }
    }
    let mut roots = tasks.iter().filter(|task| task.parent.is_none());
    let (mut at, None) = (roots.next(), roots.next()) else { return Ok(None) };
    let mut seen = HashSet::new();
    while let Some(task) = at {
        if !seen.insert(&task.task_id) {
            return Ok(None);
        }
        at = match children.get(task.task_id.as_str()).map(Vec::as_slice) {
            None | Some([]) => return Ok(Some(task)),
            Some([only]) => Some(only),
            // Only a `then` has inputs, and it is created last.
            Some([.., last]) => {
                let inputs = app.tasks.inputs(TaskKey::new(&last.tenant, &last.task_id), 0, 1).await?;
                (!inputs.is_empty()).then_some(*last)
            }
        };
    }
    Ok(None)
}

async fn read_json(app: &App, uri: &str) -> Option<Value> {
    let uri = Uri::parse(uri).ok()?;
    match app.objects.get(&uri, MAX_RESULT).await {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(error) => {
            tracing::warn!(%uri, %error, "the result cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_result_is_cut_for_people_only() {
        let long: Value = (0..100).collect();
        assert!(pretty(&long, true).ends_with("… 42 more lines in the result file"));
        assert_eq!(pretty(&long, false).lines().count(), 102);
        assert_eq!(pretty(&Value::from("\u{202e}x"), true), "\"\\u{202e}x\"");
    }
}
