//! Leases that ran out, and the dead letters of whatever is given up.

use super::end::{Changes, Parent};
use super::fault::Fault;
use super::run_end::{Closed, close_claims};
use super::transaction::{Tx, array};
use crate::task::children::{self, Children, FailureRoute, GivenUp, NewTask};
use crate::task::hooks::TaskError;
use crate::task::message::Message;
use crate::task::outcome::MAX_CRASHES;

/// Most lapsed leases that one transaction takes back: more of them wait for the next one.
const LAPSED_AT_ONCE: u32 = 1000;

/// PROCESSING with a lease in the past: a crash is counted, and the task is QUEUED again, or DEAD after too many of them, or
/// CANCELLED if it was asked to stop.
pub(super) const LAPSE: &str = "
UPDATE tasks SET
    state = CASE WHEN cancel_at IS NOT NULL THEN 'CANCELLED' WHEN crashes + 1 >= ?2 THEN 'DEAD' ELSE 'QUEUED' END,
    crashes = crashes + 1,
    due = (queue IS NULL),
    not_before = ?1,
    sent_at = ?1,
    error = ?3,
    ended_at = CASE WHEN cancel_at IS NOT NULL OR crashes + 1 >= ?2 THEN ?1 END,
    leftover = CASE WHEN cancel_at IS NOT NULL THEN ?1 END
WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_running WHERE state = 'PROCESSING' AND lease_until < ?1 ORDER BY lease_until LIMIT ?4)
RETURNING id, job, grp, epoch, state";

#[derive(Debug, sqlx::FromRow)]
struct Lapsed {
    id: i64,
    job: i64,
    grp: i64,
    epoch: i64,
    state: String,
}

/// Takes back what lapsed, of all pipelines. Returns how many tasks were given up.
pub(super) async fn lapse(tx: &mut Tx<'_>, changes: &mut Changes) -> Result<u64, Fault> {
    let error = TaskError::new("crashed", "the lease lapsed: the worker died, hung or could not reach the store");
    let now = tx.now;
    let rows: Vec<Lapsed> = sqlx::query_as(LAPSE)
        .bind(now)
        .bind(MAX_CRASHES)
        .bind(serde_json::to_string(&error)?)
        .bind(LAPSED_AT_ONCE)
        .fetch_all(tx.on())
        .await?;
    let closed: Vec<_> =
        rows.iter().map(|r| Closed { task: r.id, epoch: r.epoch, ended: "lapsed", error: Some(&error), log: "" }).collect();
    close_claims(tx, &closed).await?;
    let mut dead = Vec::new();
    for row in &rows {
        match row.state.as_str() {
            "QUEUED" => tx.enqueued = true,
            _ => changes.live(row.job, row.grp, -1),
        }
        if row.state == "DEAD" {
            dead.push(row.id);
        }
    }
    give_up(tx, &dead, changes).await?;
    Ok(dead.len() as u64)
}

/// DEAD with an error, from any live state; the caller has checked that it is one.
pub(super) async fn bury(tx: &mut Tx<'_>, tasks: &[(i64, TaskError)], changes: &mut Changes) -> Result<(), Fault> {
    let rows: Vec<(i64, String)> =
        tasks.iter().map(|(id, e)| Ok((*id, serde_json::to_string(e)?))).collect::<Result<_, serde_json::Error>>()?;
    let now = tx.now;
    let buried: Vec<(i64, i64, i64)> = sqlx::query_as(
        "UPDATE tasks SET state = 'DEAD', error = c.error, ended_at = ?2, leftover = NULL \
         FROM (SELECT value->>0 AS id, value->>1 AS error FROM json_each(?1)) c WHERE tasks.id = c.id RETURNING id, job, grp",
    )
    .bind(array(&rows)?)
    .bind(now)
    .fetch_all(tx.on())
    .await?;
    for (_, job, group) in &buried {
        changes.live(*job, *group, -1);
    }
    let ids: Vec<i64> = buried.iter().map(|(id, ..)| *id).collect();
    give_up(tx, &ids, changes).await
}

/// What follows for rows that are DEAD now: their letters, and the tasks that their steps name for a failure.
pub(super) async fn give_up(tx: &mut Tx<'_>, tasks: &[i64], changes: &mut Changes) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
    write_letters(tx, tasks).await?;
    let rows: Vec<Dead> = sqlx::query_as(
        "SELECT t.id, t.job, t.grp, t.tenant, t.pipeline, t.path, t.is_input, t.priority, t.on_failure, t.error, m.message, j.prefix \
         FROM json_each(?1) w CROSS JOIN tasks t ON t.id = w.value JOIN jobs j ON j.id = t.job JOIN messages m ON m.task = t.id \
         WHERE t.on_failure IS NOT NULL AND NOT j.stopping",
    )
    .bind(array(tasks)?)
    .fetch_all(tx.on())
    .await?;
    for row in rows {
        match row.follows() {
            Ok(task) => changes.parent(row.parent(task)),
            // A row that something else wrote: its letter says what there is to say.
            Err(error) => tracing::warn!(task = row.id, error, "no failure task could be made"),
        }
    }
    Ok(())
}

/// A task that is DEAD, and has a step for failures.
#[derive(Debug, sqlx::FromRow)]
struct Dead {
    id: i64,
    job: i64,
    grp: i64,
    tenant: String,
    pipeline: String,
    path: String,
    is_input: bool,
    priority: u8,
    on_failure: String,
    error: String,
    message: String,
    prefix: String,
}

impl Dead {
    fn follows(&self) -> Result<NewTask, String> {
        let route: FailureRoute = serde_json::from_str(&self.on_failure).map_err(|e| e.to_string())?;
        let message: Message = serde_json::from_str(&self.message).map_err(|e| e.to_string())?;
        let error: TaskError = serde_json::from_str(&self.error).map_err(|e| e.to_string())?;
        let dead = GivenUp { tenant: &self.tenant, message: &message, priority: self.priority, job_prefix: &self.prefix, error: &error };
        children::failure(&dead, &route)
    }

    fn parent(self, task: NewTask) -> Parent {
        let children = Children { tasks: vec![task], then: None };
        let Self { id, job, grp: group, tenant, pipeline, path, is_input, .. } = self;
        Parent { id, job, group, tenant, pipeline, path, is_input, children }
    }
}

/// The dead letters of rows that are DEAD now.
async fn write_letters(tx: &mut Tx<'_>, tasks: &[i64]) -> Result<(), Fault> {
    let now = tx.now;
    sqlx::query(
        "INSERT INTO dead_letters (tenant, task, task_id, job_id, step, code, error, attempts, message, died_at) \
         SELECT t.tenant, t.id, t.task_id, j.job_id, t.step, t.error->>'code', t.error, t.attempts, m.message, ?2 \
         FROM json_each(?1) w CROSS JOIN tasks t ON t.id = w.value JOIN jobs j ON j.id = t.job JOIN messages m ON m.task = t.id",
    )
    .bind(array(tasks)?)
    .bind(now)
    .execute(tx.on())
    .await?;
    Ok(())
}
