//! Removing jobs that ended long ago, with everything that belongs to them.

use super::fault::Fault;
use super::run_end::millis;
use super::transaction::{Tx, array};
use crate::task_store::Pruned;
use std::time::Duration;

/// Old enough, ended, and without dead letters; oldest first. ?1 ended before, ?2 limit.
const OLD: &str = "
SELECT j.id FROM jobs j
WHERE j.state <> 'PROCESSING' AND j.ended_at < ?1
  AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.tenant = j.tenant AND d.job_id = j.job_id AND d.body_hash IS NULL)
ORDER BY j.id LIMIT ?2";

/// Removes them, or counts them with `dry_run`.
pub(super) async fn prune(tx: &mut Tx<'_>, older_than: Duration, limit: u32, dry_run: bool) -> Result<Pruned, Fault> {
    let before = tx.now - millis(older_than);
    let jobs: Vec<i64> = sqlx::query_scalar(OLD).bind(before).bind(limit).fetch_all(tx.on()).await?;
    let jobs_json = array(&jobs)?;
    let of_jobs = "FROM tasks INDEXED BY tasks_job WHERE job IN (SELECT value FROM json_each(?1))";
    let tasks: Vec<i64> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT id {of_jobs}"))).bind(&jobs_json).fetch_all(tx.on()).await?;
    if !dry_run && !jobs.is_empty() {
        let tasks_json = array(&tasks)?;
        let groups = "DELETE FROM groups WHERE id IN (SELECT grp FROM tasks WHERE id IN (SELECT value FROM json_each(?1)) \
                      UNION SELECT waits FROM tasks WHERE id IN (SELECT value FROM json_each(?1)))";
        for (sql, which) in [
            (groups, &tasks_json),
            ("DELETE FROM claims WHERE task IN (SELECT value FROM json_each(?1))", &tasks_json),
            ("DELETE FROM logs WHERE task IN (SELECT value FROM json_each(?1))", &tasks_json),
            ("DELETE FROM messages WHERE task IN (SELECT value FROM json_each(?1))", &tasks_json),
            ("DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(?1))", &tasks_json),
            ("DELETE FROM turns WHERE job IN (SELECT value FROM json_each(?1))", &jobs_json),
            ("DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?1))", &jobs_json),
        ] {
            sqlx::query(sql).bind(which).execute(tx.on()).await?;
        }
    }
    Ok(Pruned { jobs: jobs.len() as u64, tasks: tasks.len() as u64 })
}
