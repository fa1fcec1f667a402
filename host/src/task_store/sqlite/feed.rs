//! Jobs that are fed from outside: sealing them, and closing those that nobody has sealed.

use super::end::{Changes, finish};
use super::fault::Fault;
use super::transaction::{Tx, array};
use crate::task::state::JobState;
use crate::task_store::StoreError;

/// No further root task joins this job. Returns its state then.
pub(super) async fn seal(tx: &mut Tx<'_>, tenant: &str, job_id: &str) -> Result<Result<JobState, StoreError>, Fault> {
    let job: Option<i64> = sqlx::query_scalar("SELECT id FROM jobs WHERE tenant = ?1 AND job_id = ?2")
        .bind(tenant)
        .bind(job_id)
        .fetch_optional(tx.on())
        .await?;
    let Some(job) = job else {
        return Ok(Err(StoreError::NotFound(format!("job {job_id} of tenant {tenant}"))));
    };
    close(tx, &[job], "sealed").await?;
    let state: String = sqlx::query_scalar("SELECT state FROM jobs WHERE id = ?1").bind(job).fetch_one(tx.on()).await?;
    Ok(state.parse().map_err(StoreError::Invalid))
}

/// Open, without a live task for so long, and its queue, if it has one, was empty all the time: ?1 now, ?2 ms, ?3 pairs of
/// (queue, ms), ?4 limit.
const IDLE: &str = "
SELECT j.id FROM jobs j INDEXED BY jobs_idle
WHERE j.idle_since <= ?1 - ?2
  AND (j.queue IS NULL OR EXISTS (SELECT 1 FROM json_each(?3) q WHERE q.value->>0 = j.queue AND q.value->>1 >= ?2))
ORDER BY j.idle_since LIMIT ?4";

/// Closes what has gone quiet; a task that comes late opens its job again. Returns how many jobs.
pub(super) async fn close_idle(tx: &mut Tx<'_>, fed_idle: i64, idle: &[(&str, i64)], limit: u32) -> Result<u64, Fault> {
    let now = tx.now;
    let jobs: Vec<i64> = sqlx::query_scalar(IDLE).bind(now).bind(fed_idle).bind(array(idle)?).bind(limit).fetch_all(tx.on()).await?;
    if jobs.is_empty() {
        return Ok(0);
    }
    close(tx, &jobs, "idle").await?;
    Ok(jobs.len() as u64)
}

async fn close(tx: &mut Tx<'_>, jobs: &[i64], feed: &str) -> Result<(), Fault> {
    sqlx::query("UPDATE jobs SET feed = ?2 WHERE id IN (SELECT value FROM json_each(?1)) AND feed IN ('open', 'idle')")
        .bind(array(jobs)?)
        .bind(feed)
        .execute(tx.on())
        .await?;
    let mut changes = Changes::default();
    jobs.iter().for_each(|job| changes.job(*job));
    finish(tx, changes).await
}
