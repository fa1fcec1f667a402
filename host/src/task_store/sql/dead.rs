//! Dead letters: listing them, putting their tasks back, and removing them for good.

use super::claim::count;
use super::database::{Db, Query, args};
use super::dialect::sql;
use super::end::{Changes, finish};
use super::fault::Fault;
use super::lock;
use super::outbox;
use super::rows::array;
use super::transaction::Tx;
use super::views::page;
use crate::task::hooks::TaskError;
use crate::task_store::{DeadLetter, DeadLetterFilter};
use std::collections::HashSet;

#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
struct Letter {
    id: i64,
    task: Option<i64>,
    tenant: String,
    task_id: Option<String>,
    job_id: Option<String>,
    step: Option<String>,
    queue: Option<String>,
    error: String,
    attempts: i64,
    message: String,
    died_at: i64,
}

impl Letter {
    fn into_view(self) -> Result<DeadLetter, Fault> {
        Ok(DeadLetter {
            id: self.id,
            tenant: self.tenant,
            task_id: self.task_id,
            job_id: self.job_id,
            step: self.step,
            queue: self.queue,
            error: serde_json::from_str::<TaskError>(&self.error)?,
            attempts: count(self.attempts),
            message: self.message,
            died_at: self.died_at,
        })
    }
}

/// Letters of DEAD tasks whose job is not just being cancelled: their tasks can be put back.
const CAN_GO_BACK: &str = " AND EXISTS (SELECT 1 FROM tasks t JOIN jobs j ON j.id = t.job WHERE t.id = l.task AND t.state = 'DEAD' \
                           AND NOT (j.state = 'PROCESSING' AND j.stopping = 1))";

async fn select(db: &mut Db<'_>, filter: &DeadLetterFilter, only: &str) -> Result<Vec<Letter>, Fault> {
    let mut query = Query::new(
        "SELECT l.id, l.task, l.tenant, l.task_id, l.job_id, l.step, l.queue, l.error, l.attempts, l.message, l.died_at \
         FROM dead_letters l WHERE true",
    );
    if let Some(id) = filter.id {
        query.push(" AND l.id = ").bind(id);
    }
    let filters = [
        ("tenant", &filter.tenant),
        ("task_id", &filter.task_id),
        ("job_id", &filter.job_id),
        ("step", &filter.step),
        ("code", &filter.code),
    ];
    for (column, value) in filters {
        if let Some(value) = value {
            query.push(" AND l.").push(column).push(" = ").bind(value);
        }
    }
    query.push(only).push(" ORDER BY l.id DESC LIMIT ").bind(page(filter.limit));
    db.select(query).await
}

/// Newest first. With `can_go_back`, only those that a redrive would put back.
pub(super) async fn letters(db: &mut Db<'_>, filter: &DeadLetterFilter, can_go_back: bool) -> Result<Vec<DeadLetter>, Fault> {
    let only = if can_go_back { CAN_GO_BACK } else { "" };
    select(db, filter, only).await?.into_iter().map(Letter::into_view).collect()
}

/// Puts tasks back and removes their letters; their jobs reopen.
pub(super) async fn redrive(tx: &mut Tx<'_>, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>, Fault> {
    let letters = select(&mut tx.db(), filter, CAN_GO_BACK).await?;
    let tasks: Vec<i64> = letters.iter().filter_map(|l| l.task).collect();
    lock::jobs_of(tx, &tasks).await?;
    // One that had committed goes back to COMMITTED, without a lease: the sweeper finalises it again. What can go back is asked once
    // more: somebody may have been faster.
    let put_back = sql!(
        "UPDATE tasks SET
             state = CASE WHEN manifest IS NULL THEN 'QUEUED' ELSE 'COMMITTED' END,
             due = CASE WHEN manifest IS NULL AND queue IS NULL THEN 1 ELSE 0 END, not_before = $2, lease_until = 0, sent_at = $2, sends = 0,
             attempts = 0, handbacks = 0, crashes = 0, cancel_at = NULL, error = NULL, ended_at = NULL
         WHERE id IN {ints $1} AND state = 'DEAD'
           AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = tasks.job AND j.state = 'PROCESSING' AND j.stopping = 1)
         RETURNING id, job, grp"
    );
    let back: Vec<(i64, i64, i64)> = tx.rows(put_back, args![array(&tasks), tx.now]).await?;
    let mut changes = Changes::default();
    for (_, job, group) in &back {
        changes.live(*job, *group, 1);
    }
    let ids: Vec<i64> = back.iter().map(|(id, ..)| *id).collect();
    // A failure task took their place among the inputs of a `then`; now both are.
    let inputs = sql!(
        "UPDATE tasks SET is_input = 1 WHERE id IN {ints $1} AND is_input = 0 \
           AND EXISTS (SELECT 1 FROM groups g WHERE g.id = tasks.grp AND g.then_task IS NOT NULL) RETURNING job, grp"
    );
    for (job, group) in tx.rows::<(i64, i64)>(inputs, args![array(&ids)]).await? {
        changes.leaf(job, group);
    }
    let jobs: Vec<i64> = back.iter().map(|(_, job, _)| *job).collect();
    tx.execute(sql!("UPDATE jobs SET stopping = 0 WHERE id IN {ints $1}"), args![array(&jobs)]).await?;
    let back: Vec<i64> = back.into_iter().map(|(task, ..)| task).collect();
    outbox::put(tx, &back).await?;
    let back: HashSet<i64> = back.into_iter().collect();
    let letters: Vec<Letter> = letters.into_iter().filter(|l| l.task.is_some_and(|task| back.contains(&task))).collect();
    let ids: Vec<i64> = letters.iter().map(|l| l.id).collect();
    tx.execute(sql!("DELETE FROM dead_letters WHERE id IN {ints $1}"), args![array(&ids)]).await?;
    finish(tx, changes).await?;
    tx.enqueued |= !back.is_empty();
    letters.into_iter().map(Letter::into_view).collect()
}

/// Removes letters for good; what their tasks had staged is left to the sweeper, and their prefixes are free.
pub(super) async fn purge(tx: &mut Tx<'_>, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>, Fault> {
    let letters = select(&mut tx.db(), filter, "").await?;
    let tasks: Vec<i64> = letters.iter().filter_map(|l| l.task).collect();
    lock::jobs_of(tx, &tasks).await?;
    // One that was put back meanwhile has no letter any more.
    let ids: Vec<i64> = letters.iter().map(|l| l.id).collect();
    let gone: Vec<(i64,)> = tx.rows(sql!("DELETE FROM dead_letters WHERE id IN {ints $1} RETURNING id"), args![array(&ids)]).await?;
    let gone: HashSet<i64> = gone.into_iter().map(|(id,)| id).collect();
    let letters: Vec<Letter> = letters.into_iter().filter(|l| gone.contains(&l.id)).collect();
    let tasks: Vec<i64> = letters.iter().filter_map(|l| l.task).collect();
    let forget = sql!("UPDATE tasks SET manifest = NULL, children = NULL, leftover = $2 WHERE id IN {ints $1} AND state = 'DEAD'");
    tx.execute(forget, args![array(&tasks), tx.now]).await?;
    letters.into_iter().map(Letter::into_view).collect()
}
