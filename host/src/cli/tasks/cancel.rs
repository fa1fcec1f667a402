//! Asking tasks to stop, one or many, and saying what became of each.

use super::super::failure::Failure;
use super::super::render::text;
use super::super::terminal::{note, print, print_json};
use crate::app::App;
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::{StoreError, TaskView};
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

/// Asks each to stop.
pub(super) async fn cancel(app: &App, tasks: Vec<TaskView>, json: bool) -> Result<(), Failure> {
    let asked = stream::iter(&tasks).map(async |task| {
        let after = app.tasks.cancel_task(TaskKey::new(&task.tenant, &task.task_id)).await?;
        Ok::<_, StoreError>((task, after))
    });
    let asked: Vec<(&TaskView, TaskState)> = asked.buffered(AT_ONCE).try_collect().await?;
    if json {
        let line = |(task, after): &(&TaskView, TaskState)| json!({"task_id": task.task_id, "job_id": task.job_id, "state": after});
        return print_json(&asked.iter().map(line).collect::<Vec<_>>());
    }
    if asked.is_empty() {
        note("no task that has not ended");
        return Ok(());
    }
    if asked.len() <= LINES {
        return print(&asked.iter().map(|(task, after)| line(&task.task_id, *after)).collect::<String>());
    }
    let mut counts: BTreeMap<TaskState, u64> = BTreeMap::new();
    for (_, after) in &asked {
        *counts.entry(*after).or_default() += 1;
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
