//! Asking tasks to stop. What does not run ends at once; what runs is told by its next heartbeat.

use super::end::{Changes, finish};
use super::fault::Fault;
use super::transaction::Tx;
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::StoreError;

/// A task that was claimed before may have left attempts.
const CANCEL_TASK: &str = "
UPDATE tasks SET
    state = CASE WHEN state IN ('WAITING', 'QUEUED') THEN 'CANCELLED' ELSE state END,
    ended_at = CASE WHEN state IN ('WAITING', 'QUEUED') THEN ?3 END,
    leftover = CASE WHEN state = 'QUEUED' AND epoch > 0 THEN ?3 END,
    cancel_at = coalesce(cancel_at, ?3)
WHERE tenant = ?1 AND task_id = ?2 AND state IN ('WAITING', 'QUEUED', 'PROCESSING')
RETURNING job, grp, state";

/// Returns the state after the request.
pub(super) async fn task(tx: &mut Tx<'_>, key: &TaskKey) -> Result<Result<TaskState, StoreError>, Fault> {
    let now = tx.now;
    let changed: Option<(i64, i64, String)> =
        sqlx::query_as(CANCEL_TASK).bind(&key.tenant).bind(&key.task_id).bind(now).fetch_optional(tx.on()).await?;
    let state = match changed {
        Some((job, group, state)) => {
            if state == "CANCELLED" {
                let mut changes = Changes::default();
                changes.live(job, group, -1);
                finish(tx, changes).await?;
            }
            Some(state)
        }
        None => {
            sqlx::query_scalar("SELECT state FROM tasks WHERE tenant = ?1 AND task_id = ?2")
                .bind(&key.tenant)
                .bind(&key.task_id)
                .fetch_optional(tx.on())
                .await?
        }
    };
    Ok(match state {
        Some(text) => text.parse().map_err(StoreError::Invalid),
        None => Err(StoreError::NotFound(format!("task {} of tenant {}", key.task_id, key.tenant))),
    })
}

const CANCEL_TASKS: &str = "
UPDATE tasks SET
    state = CASE WHEN state = 'PROCESSING' THEN state ELSE 'CANCELLED' END,
    ended_at = CASE WHEN state = 'PROCESSING' THEN NULL ELSE ?2 END,
    leftover = CASE WHEN state = 'QUEUED' AND epoch > 0 THEN ?2 END,
    cancel_at = coalesce(cancel_at, ?2)
WHERE job = ?1 AND state IN ('WAITING', 'QUEUED', 'PROCESSING')";

/// Marks the job, so that ends insert no children from here on. Returns how many of its tasks were live.
pub(super) async fn job(tx: &mut Tx<'_>, tenant: &str, job_id: &str) -> Result<Result<u64, StoreError>, Fault> {
    let found: Option<(i64, i64)> = sqlx::query_as("SELECT id, live FROM jobs WHERE tenant = ?1 AND job_id = ?2")
        .bind(tenant)
        .bind(job_id)
        .fetch_optional(tx.on())
        .await?;
    let Some((job, live)) = found else {
        return Ok(Err(StoreError::NotFound(format!("job {job_id} of tenant {tenant}"))));
    };
    if live == 0 {
        return Ok(Ok(0));
    }
    let now = tx.now;
    sqlx::query("UPDATE jobs SET stopping = 1, cancel_at = coalesce(cancel_at, ?2) WHERE id = ?1")
        .bind(job)
        .bind(now)
        .execute(tx.on())
        .await?;
    let ending: Vec<(i64, i64)> =
        sqlx::query_as("SELECT grp, count(*) FROM tasks WHERE job = ?1 AND state IN ('WAITING', 'QUEUED') GROUP BY grp")
            .bind(job)
            .fetch_all(tx.on())
            .await?;
    sqlx::query(CANCEL_TASKS).bind(job).bind(now).execute(tx.on()).await?;
    let mut changes = Changes::default();
    for (group, tasks) in ending {
        changes.live(job, group, -tasks);
    }
    finish(tx, changes).await?;
    Ok(Ok(live.unsigned_abs()))
}
