//! Asking tasks to stop, one or many, and saying what became of each.

use super::super::failure::Failure;
use super::super::render::text;
use super::super::terminal::{note, print, print_json};
use crate::app::App;
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::{StoreError, TaskFilter, TaskView};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) const EXAMPLES: &str = "\
What waits or is queued is cancelled at once. What runs is told by its worker's next heartbeat (`is-cancelled`), and is stopped after its
step's `cancel_grace`. What has committed its result ends DONE.

Examples:
  wasm-worker tasks cancel 3f9a02c17b55 91bd04aa2f10
  wasm-worker tasks cancel --job 0193b6 --step recognize
  wasm-worker tasks cancel --state queued";

/// Requests on their way at once: the store takes many in one transaction.
const AT_ONCE: usize = 64;

/// Most tasks that a line is printed for; more are counted.
const LINES: usize = 20;

/// A task, and its state after it was asked.
pub(super) struct Asked {
    task_id: String,
    job_id: String,
    after: TaskState,
}

/// Asks each of these to stop.
pub(super) async fn each(app: &App, tasks: Vec<TaskView>) -> Result<Vec<Asked>, Failure> {
    let asked = stream::iter(tasks).map(async |task| {
        let after = app.tasks.cancel_task(TaskKey::new(&task.tenant, &task.task_id)).await?;
        Ok::<_, StoreError>(Asked { task_id: task.task_id, job_id: task.job_id, after })
    });
    Ok(asked.buffered(AT_ONCE).try_collect().await?)
}

/// Asks every live task that fits. What waits leaves the list as it is cancelled, so the list is read until it comes to an end; what runs
/// stays in it, and is read once.
pub(super) async fn all(app: &App, filter: TaskFilter) -> Result<Vec<Asked>, Failure> {
    let live = TaskState::ALL.iter().filter(|state| !state.is_ended());
    let wanted = live.filter(|state| filter.state.is_none_or(|only| only == **state));
    let mut asked = Vec::new();
    for state in wanted {
        let waits = matches!(state, TaskState::Waiting | TaskState::Queued);
        loop {
            let tasks = app.tasks.tasks(TaskFilter { state: Some(*state), ..filter.clone() }).await?;
            let full = tasks.len() >= filter.limit as usize;
            asked.extend(each(app, tasks).await?);
            if !waits || !full {
                break;
            }
        }
    }
    Ok(asked)
}

/// Says what became of each.
pub(super) fn tell(asked: &[Asked], json: bool) -> Result<(), Failure> {
    if json {
        let line = |asked: &Asked| json!({"task_id": asked.task_id, "job_id": asked.job_id, "state": asked.after});
        return print_json(&asked.iter().map(line).collect::<Vec<_>>());
    }
    if asked.is_empty() {
        note("no task that has not ended");
        return Ok(());
    }
    if asked.len() <= LINES {
        return print(&asked.iter().map(|asked| line(&asked.task_id, asked.after)).collect::<String>());
    }
    let mut counts: BTreeMap<TaskState, u64> = BTreeMap::new();
    for asked in asked {
        *counts.entry(asked.after).or_default() += 1;
    }
    let each = counts.iter().map(|(after, n)| format!("{n} {}", in_short(*after)));
    print(&format!("{}: {}", text::count(asked.len() as u64, "task"), each.collect::<Vec<_>>().join(", ")))
}

fn line(id: &str, after: TaskState) -> String {
    match after {
        TaskState::Cancelled => format!("task {id} is CANCELLED\n"),
        TaskState::Processing => format!("task {id} is running; its worker stops it at its next heartbeat\n"),
        TaskState::Committed => format!("task {id} has committed its result; it ends DONE\n"),
        ended => format!("task {id} had ended already: {ended}\n"),
    }
}

fn in_short(after: TaskState) -> String {
    match after {
        TaskState::Processing => "running, asked to stop".to_owned(),
        TaskState::Committed => "committed, will end DONE".to_owned(),
        ended => ended.to_string(),
    }
}
