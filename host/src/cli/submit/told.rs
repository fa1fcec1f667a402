//! What became of a submission: the answers, what was refused and why, and the wait for the end.

use super::super::failure::{Exit, Failure};
use super::super::render::text;
use super::super::terminal::{Terminal, note, print, print_json};
use super::super::{progress, signals};
use crate::app::{App, Receipt};
use crate::task::state::JobState;
use crate::task_store::Submitted;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// The error for receipts of jobs that were not taken, if there are any.
pub fn refused(receipts: &[Receipt]) -> Option<Failure> {
    let ids = |what: Submitted| {
        let ids: BTreeSet<&str> = receipts.iter().filter(|r| r.submitted == what).map(|r| r.job_id.as_str()).collect();
        (!ids.is_empty()).then(|| text::line(&ids.into_iter().collect::<Vec<_>>().join(", "), 400))
    };
    if let Some(ids) = ids(Submitted::Conflict) {
        let failure = Failure::failed(format!("taken by another job, or by another content: {ids}"));
        return Some(failure.help("choose another id; the other jobs, if any, were submitted"));
    }
    if let Some(ids) = ids(Submitted::Sealed) {
        let failure = Failure::failed(format!("takes no further tasks, as it was sealed or never fed: {ids}"));
        return Some(
            failure.help("submit to a new job; `wasm-worker jobs show` tells of this one; the other tasks, if any, were submitted"),
        );
    }
    let ids = ids(Submitted::Occupied)?;
    let failure = Failure::failed(format!("the outputs would mix with those of a job that still runs: {ids}"));
    Some(failure.help("name another --output, or wait for that job; the other jobs, if any, were submitted"))
}

/// Job ids, one per line, or what became of each task.
pub(super) fn tell(receipts: &[Receipt], ended: &HashMap<String, JobState>, json: bool) -> Result<(), Failure> {
    if json {
        let each = |r: &Receipt| {
            let submitted = match r.submitted {
                Submitted::Created => "created",
                Submitted::Repeated => "repeated",
                Submitted::Conflict => "conflict",
                Submitted::Occupied => "occupied",
                Submitted::Sealed => "sealed",
            };
            let mut line = json!({"job_id": r.job_id, "task_id": r.task_id, "submitted": submitted});
            if let (Some(state), Some(object)) = (ended.get(&r.job_id), line.as_object_mut()) {
                object.insert("state".to_owned(), json!(state));
            }
            line
        };
        return print_json(&receipts.iter().map(each).collect::<Vec<_>>());
    }
    // A line per job: one that was fed has several receipts.
    let mut told: BTreeSet<&str> = BTreeSet::new();
    let mut lines = String::new();
    for receipt in receipts {
        let refused = matches!(receipt.submitted, Submitted::Conflict | Submitted::Occupied | Submitted::Sealed);
        if refused || !told.insert(&receipt.job_id) {
            continue;
        }
        lines.push_str(&receipt.job_id);
        if let Some(state) = ended.get(&receipt.job_id) {
            lines.push_str(&format!(" {state}"));
        }
        lines.push('\n');
    }
    if lines.is_empty() { Ok(()) } else { print(&lines) }
}

/// Waits until every job has ended.
pub(super) async fn wait(app: &App, receipts: &[Receipt], json: bool) -> Result<Exit, Failure> {
    let terminal = Terminal::detect();
    let stop = signals::listen("no longer waiting; the jobs go on")?;
    let ids: Vec<String> = receipts.iter().map(|r| r.job_id.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    for id in &ids {
        let job = app.tasks.job(&app.config.tenant, id).await?;
        if job.open {
            note(&format!("job {id} is open: it ends once it is sealed (`wasm-worker jobs seal {id}`) and has no live task"));
        }
    }
    note(&format!(
        "submitted {}; waiting for a worker to run {}",
        text::count(ids.len() as u64, "job"),
        if ids.len() == 1 { "it" } else { "them" }
    ));
    let ended = progress::follow(app.tasks.as_ref(), &app.config.tenant, &ids, terminal.shows_progress && !json, &stop).await?;
    tell(receipts, &ended, json)?;
    if stop.is_cancelled() && ended.len() < ids.len() {
        return Ok(Exit::Interrupted);
    }
    let all_well = ended.values().all(|state| *state == JobState::Done);
    Ok(if all_well { Exit::Done } else { Exit::Failed })
}
