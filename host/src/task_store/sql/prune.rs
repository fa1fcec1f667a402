//! Removing jobs that ended long ago, with everything that belongs to them.

use super::database::args;
use super::dialect::{Statement, sql};
use super::fault::Fault;
use super::rows::array;
use super::run_end::millis;
use super::transaction::Tx;
use crate::task_store::Pruned;
use std::time::Duration;

/// What goes with tasks ($1), the rows that point at them first.
static OF_TASKS: [Statement; 7] = [
    Statement::new(
        "DELETE FROM groups WHERE id IN (SELECT grp FROM tasks WHERE id IN {ints $1} UNION SELECT waits FROM tasks WHERE id IN {ints $1})",
    ),
    // What is still to be sent would come back as a task of a new job.
    Statement::new("DELETE FROM outbox WHERE task IN {ints $1}"),
    Statement::new("DELETE FROM claims WHERE task IN {ints $1}"),
    Statement::new("DELETE FROM logs WHERE task IN {ints $1}"),
    Statement::new("DELETE FROM prefixes WHERE task IN {ints $1}"),
    Statement::new("DELETE FROM messages WHERE task IN {ints $1}"),
    Statement::new("DELETE FROM tasks WHERE id IN {ints $1}"),
];

/// Jobs that ended before $1 and have no dead letters, in two kinds.
macro_rules! old {
    ($select:literal, $swept:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            $select,
            " FROM jobs j WHERE j.state <> 'PROCESSING' AND j.ended_at < $1 \
                AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.tenant = j.tenant AND d.job_id = j.job_id AND d.body_hash IS NULL) AND ",
            $swept,
            " ",
            $rest
        )
    };
}

/// Removes jobs that are old enough, ended, swept and without dead letters, oldest first; or counts them with `dry_run`.
pub(super) async fn prune(tx: &mut Tx<'_>, older_than: Duration, limit: u32, dry_run: bool) -> Result<Pruned, Fault> {
    let before = tx.now - millis(older_than);
    // What is to be swept is little: it is read by its own index, once.
    let swept = sql!(old!(
        "j.id",
        "j.id NOT IN (SELECT t.job FROM tasks t {index tasks_leftover} WHERE t.leftover IS NOT NULL)",
        "ORDER BY j.id {limit $2} {skip locked j}"
    ));
    let unswept = sql!(old!("count(*)", "j.id IN (SELECT t.job FROM tasks t {index tasks_leftover} WHERE t.leftover IS NOT NULL)", ""));
    let (unswept,): (i64,) = tx.db().one(unswept, args![before]).await?;
    let jobs: Vec<(i64,)> = tx.rows(swept, args![before, limit]).await?;
    let jobs: Vec<i64> = jobs.into_iter().map(|(job,)| job).collect();
    let tasks = sql!("SELECT id FROM tasks {index tasks_job} WHERE job IN {ints $1}");
    let tasks: Vec<(i64,)> = tx.rows(tasks, args![array(&jobs)]).await?;
    let tasks: Vec<i64> = tasks.into_iter().map(|(task,)| task).collect();
    if !dry_run && !jobs.is_empty() {
        let ids = array(&tasks);
        for statement in &OF_TASKS {
            tx.execute(statement, args![ids.clone()]).await?;
        }
        tx.execute(sql!("DELETE FROM turns WHERE job IN {ints $1}"), args![array(&jobs)]).await?;
        tx.execute(sql!("DELETE FROM jobs WHERE id IN {ints $1}"), args![array(&jobs)]).await?;
    }
    Ok(Pruned { jobs: jobs.len() as u64, tasks: tasks.len() as u64, unswept: unswept.unsigned_abs() })
}
