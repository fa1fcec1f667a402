//! Jobs that are fed from outside: sealing them, and closing those that nobody has sealed.

use super::database::args;
use super::dialect::sql;
use super::end::{Changes, finish};
use super::fault::Fault;
use super::rows::array;
use super::transaction::Tx;
use crate::task::state::JobState;
use crate::task_store::StoreError;

/// No further root task joins this job. Returns its state then.
pub(super) async fn seal(tx: &mut Tx<'_>, tenant: &str, job_id: &str) -> Result<Result<JobState, StoreError>, Fault> {
    let find = sql!("SELECT id FROM jobs WHERE tenant = $1 AND job_id = $2");
    let Some((job,)) = tx.row::<(i64,)>(find, args![tenant, job_id]).await? else {
        return Ok(Err(StoreError::NotFound(format!("job {job_id} of tenant {tenant}"))));
    };
    close(tx, &[job], "sealed").await?;
    let (state,): (String,) = tx.db().one(sql!("SELECT state FROM jobs WHERE id = $1"), args![job]).await?;
    Ok(state.parse().map_err(StoreError::Invalid))
}

/// Closes open jobs that have had no live task for so long (ms), and whose queues, where they have one, were empty all the time; a task
/// that comes late opens its job again. Returns how many jobs.
pub(super) async fn close_idle(tx: &mut Tx<'_>, fed_idle: i64, idle: &[(&str, i64)], limit: u32) -> Result<u64, Fault> {
    let quiet = sql!(
        "SELECT j.id FROM jobs j {index jobs_idle} \
         WHERE j.idle_since <= $1 - $2 \
           AND (j.queue IS NULL OR EXISTS (SELECT 1 FROM {rows $3 queue:text ms:int} q WHERE q.queue = j.queue AND q.ms >= $2)) \
         ORDER BY j.idle_since {limit $4} {skip locked j}"
    );
    let jobs: Vec<(i64,)> = tx.rows(quiet, args![tx.now, fed_idle, array(idle), limit]).await?;
    if jobs.is_empty() {
        return Ok(0);
    }
    let jobs: Vec<i64> = jobs.into_iter().map(|(job,)| job).collect();
    close(tx, &jobs, "idle").await?;
    Ok(jobs.len() as u64)
}

async fn close(tx: &mut Tx<'_>, jobs: &[i64], feed: &str) -> Result<(), Fault> {
    let close = sql!("UPDATE jobs SET feed = $2 WHERE id IN {ints $1} AND feed IN ('open', 'idle')");
    tx.execute(close, args![array(jobs), feed]).await?;
    let mut changes = Changes::default();
    jobs.iter().for_each(|job| changes.job(*job));
    finish(tx, changes).await
}
