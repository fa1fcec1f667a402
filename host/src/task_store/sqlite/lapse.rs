//! Leases that ran out, and the dead letters of whatever is given up.

use super::end::Changes;
use super::fault::Fault;
use super::run_end::{Closed, close_claims};
use super::transaction::{Tx, array};
use crate::task::hooks::TaskError;
use crate::task::outcome::MAX_CRASHES;

/// Most lapsed leases that one transaction takes back: more of them wait for the next one.
const LAPSED_AT_ONCE: u32 = 1000;

/// PROCESSING with a lease in the past: a crash is counted, and the task is QUEUED again, or DEAD after too many of them, or
/// CANCELLED if it was asked to stop.
pub(super) const LAPSE: &str = "
UPDATE tasks SET
    state = CASE WHEN cancel_at IS NOT NULL THEN 'CANCELLED' WHEN crashes + 1 >= ?2 THEN 'DEAD' ELSE 'QUEUED' END,
    crashes = crashes + 1,
    due = 1,
    not_before = ?1,
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
    write_letters(tx, &dead).await?;
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
    write_letters(tx, &ids).await
}

/// The dead letters of rows that are DEAD now.
pub(super) async fn write_letters(tx: &mut Tx<'_>, tasks: &[i64]) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
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
