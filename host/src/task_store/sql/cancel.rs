//! Asking tasks to stop. What does not run ends at once; what runs is told by its next heartbeat.

use super::database::args;
use super::dialect::sql;
use super::end::{Changes, finish};
use super::fault::Fault;
use super::lock;
use super::transaction::Tx;
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::StoreError;

/// Returns the state after the request.
pub(super) async fn task(tx: &mut Tx<'_>, key: &TaskKey) -> Result<Result<TaskState, StoreError>, Fault> {
    // A task that was claimed before may have left attempts.
    let cancel = sql!(
        "UPDATE tasks SET
             state = CASE WHEN state IN ('WAITING', 'QUEUED') THEN 'CANCELLED' ELSE state END,
             ended_at = CASE WHEN state IN ('WAITING', 'QUEUED') THEN $3 END,
             leftover = CASE WHEN state = 'QUEUED' AND epoch > 0 THEN $3 END,
             cancel_at = coalesce(cancel_at, $3)
         WHERE tenant = $1 AND task_id = $2 AND state IN ('WAITING', 'QUEUED', 'PROCESSING')
         RETURNING job, grp, state"
    );
    let changed: Option<(i64, i64, String)> = tx.rows(cancel, args![&key.tenant, &key.task_id, tx.now]).await?.pop();
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
            let state = sql!("SELECT state FROM tasks WHERE tenant = $1 AND task_id = $2");
            tx.row::<(String,)>(state, args![&key.tenant, &key.task_id]).await?.map(|(state,)| state)
        }
    };
    Ok(match state {
        Some(text) => text.parse().map_err(StoreError::Invalid),
        None => Err(StoreError::NotFound(format!("task {} of tenant {}", key.task_id, key.tenant))),
    })
}

/// Marks the job, so that ends insert no children from here on. Returns how many of its tasks were live.
pub(super) async fn job(tx: &mut Tx<'_>, tenant: &str, job_id: &str) -> Result<Result<u64, StoreError>, Fault> {
    let find = sql!("SELECT id, live FROM jobs WHERE tenant = $1 AND job_id = $2");
    let Some((job, _)) = tx.row::<(i64, i64)>(find, args![tenant, job_id]).await? else {
        return Ok(Err(StoreError::NotFound(format!("job {job_id} of tenant {tenant}"))));
    };
    lock::job_and_tasks(tx, job).await?;
    let mark =
        sql!("UPDATE jobs SET stopping = 1, cancel_at = coalesce(cancel_at, $2) WHERE id = $1 AND state = 'PROCESSING' RETURNING live");
    let Some((live,)) = tx.rows::<(i64,)>(mark, args![job, tx.now]).await?.pop() else {
        return Ok(Ok(0));
    };
    let ending = sql!("SELECT grp, count(*) FROM tasks WHERE job = $1 AND state IN ('WAITING', 'QUEUED') GROUP BY grp");
    let ending: Vec<(i64, i64)> = tx.rows(ending, args![job]).await?;
    let cancel = sql!(
        "UPDATE tasks SET
             state = CASE WHEN state = 'PROCESSING' THEN state ELSE 'CANCELLED' END,
             ended_at = CASE WHEN state = 'PROCESSING' THEN NULL ELSE $2 END,
             leftover = CASE WHEN state = 'QUEUED' AND epoch > 0 THEN $2 END,
             cancel_at = coalesce(cancel_at, $2)
         WHERE job = $1 AND state IN ('WAITING', 'QUEUED', 'PROCESSING')"
    );
    tx.execute(cancel, args![job, tx.now]).await?;
    let mut changes = Changes::default();
    for (group, tasks) in ending {
        changes.live(job, group, -tasks);
    }
    // An open one without a live task ends as well.
    changes.job(job);
    finish(tx, changes).await?;
    Ok(Ok(live.unsigned_abs()))
}
