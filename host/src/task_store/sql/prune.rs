//! Removing jobs that ended long ago, with everything that belongs to them.

use super::database::{args, array};
use super::dialect::{Statement, sql};
use super::fault::Fault;
use super::run_end::millis;
use super::transaction::Tx;
use crate::task_store::Pruned;
use std::time::Duration;

/// Old enough, ended, and without dead letters of its tasks; oldest first. $1 ended before, $2 limit.
static OLD: Statement = Statement::new(
    "
SELECT j.id FROM jobs j
WHERE j.state <> 'PROCESSING' AND j.ended_at < $1
  AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.tenant = j.tenant AND d.job_id = j.job_id AND d.body_hash IS NULL)
ORDER BY j.id LIMIT $2 {skip locked}",
);

/// Removes them, or counts them with `dry_run`.
pub(super) async fn prune(tx: &mut Tx<'_>, older_than: Duration, limit: u32, dry_run: bool) -> Result<Pruned, Fault> {
    let before = tx.now - millis(older_than);
    let jobs: Vec<(i64,)> = tx.rows(&OLD, args![before, limit]).await?;
    let jobs: Vec<i64> = jobs.into_iter().map(|(id,)| id).collect();
    let of_jobs = sql!("SELECT id FROM tasks {index tasks_job} WHERE job IN {ints $1}");
    let tasks: Vec<(i64,)> = tx.rows(of_jobs, args![array(&jobs)?]).await?;
    let tasks: Vec<i64> = tasks.into_iter().map(|(id,)| id).collect();
    if !dry_run && !jobs.is_empty() {
        let (of_jobs, of_tasks) = (array(&jobs)?, array(&tasks)?);
        let groups = sql!(
            "DELETE FROM groups WHERE id IN (SELECT grp FROM tasks WHERE id IN {ints $1} UNION SELECT waits FROM tasks WHERE id IN {ints $1})"
        );
        for (delete, which) in [
            (groups, &of_tasks),
            (sql!("DELETE FROM claims WHERE task IN {ints $1}"), &of_tasks),
            (sql!("DELETE FROM logs WHERE task IN {ints $1}"), &of_tasks),
            (sql!("DELETE FROM messages WHERE task IN {ints $1}"), &of_tasks),
            (sql!("DELETE FROM tasks WHERE id IN {ints $1}"), &of_tasks),
            (sql!("DELETE FROM turns WHERE job IN {ints $1}"), &of_jobs),
            (sql!("DELETE FROM jobs WHERE id IN {ints $1}"), &of_jobs),
        ] {
            tx.execute(delete, args![which]).await?;
        }
    }
    Ok(Pruned { jobs: jobs.len() as u64, tasks: tasks.len() as u64 })
}
