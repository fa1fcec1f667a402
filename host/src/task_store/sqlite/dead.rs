//! Dead letters: listing them, putting their tasks back, and removing them for good.

use super::end::{Changes, finish};
use super::fault::Fault;
use super::outbox;
use super::transaction::{Tx, array};
use super::views::page;
use crate::task::hooks::TaskError;
use crate::task_store::{DeadLetter, DeadLetterFilter};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

#[derive(Debug, sqlx::FromRow)]
struct Letter {
    id: i64,
    task: Option<i64>,
    tenant: String,
    task_id: Option<String>,
    job_id: Option<String>,
    step: Option<String>,
    queue: Option<String>,
    error: String,
    attempts: u32,
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
            attempts: self.attempts,
            message: self.message,
            died_at: self.died_at,
        })
    }
}

/// Letters of DEAD tasks whose job is not just being cancelled: their tasks can be put back.
const CAN_GO_BACK: &str = " AND EXISTS (SELECT 1 FROM tasks t JOIN jobs j ON j.id = t.job WHERE t.id = l.task AND t.state = 'DEAD' \
                           AND NOT (j.state = 'PROCESSING' AND j.stopping))";

async fn select(connection: &mut SqliteConnection, filter: &DeadLetterFilter, only: &str) -> Result<Vec<Letter>, Fault> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT l.id, l.task, l.tenant, l.task_id, l.job_id, l.step, l.queue, l.error, l.attempts, l.message, l.died_at FROM dead_letters l WHERE true",
    );
    let filters = [
        ("tenant", &filter.tenant),
        ("task_id", &filter.task_id),
        ("job_id", &filter.job_id),
        ("step", &filter.step),
        ("code", &filter.code),
    ];
    for (column, value) in filters {
        if let Some(value) = value {
            query.push(format!(" AND l.{column} = ")).push_bind(value.as_str());
        }
    }
    if let Some(id) = filter.id {
        query.push(" AND l.id = ").push_bind(id);
    }
    query.push(only).push(" ORDER BY l.id DESC LIMIT ").push_bind(page(filter.limit));
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// Newest first. With `can_go_back`, only those that a redrive would put back.
pub(super) async fn letters(
    connection: &mut SqliteConnection,
    filter: &DeadLetterFilter,
    can_go_back: bool,
) -> Result<Vec<DeadLetter>, Fault> {
    let only = if can_go_back { CAN_GO_BACK } else { "" };
    select(connection, filter, only).await?.into_iter().map(Letter::into_view).collect()
}

/// One that had committed goes back to COMMITTED, without a lease: the sweeper finalises it again.
const PUT_BACK: &str = "
UPDATE tasks SET
    state = CASE WHEN manifest IS NULL THEN 'QUEUED' ELSE 'COMMITTED' END,
    due = (manifest IS NULL AND queue IS NULL), not_before = ?2, lease_until = 0, sent_at = ?2, sends = 0,
    attempts = 0, handbacks = 0, crashes = 0, cancel_at = NULL, error = NULL, ended_at = NULL
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'DEAD'
RETURNING id, job, grp";

/// Puts tasks back and removes their letters; their jobs reopen.
pub(super) async fn redrive(tx: &mut Tx<'_>, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>, Fault> {
    let letters = select(tx.on(), filter, CAN_GO_BACK).await?;
    let tasks: Vec<i64> = letters.iter().filter_map(|l| l.task).collect();
    let ids: Vec<i64> = letters.iter().map(|l| l.id).collect();
    let now = tx.now;
    let back: Vec<(i64, i64, i64)> = sqlx::query_as(PUT_BACK).bind(array(&tasks)?).bind(now).fetch_all(tx.on()).await?;
    let mut changes = Changes::default();
    for (_, job, group) in &back {
        changes.live(*job, *group, 1);
    }
    let jobs: Vec<i64> = back.iter().map(|(_, job, _)| *job).collect();
    sqlx::query("UPDATE jobs SET stopping = 0 WHERE id IN (SELECT value FROM json_each(?1))").bind(array(&jobs)?).execute(tx.on()).await?;
    sqlx::query("DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?1))").bind(array(&ids)?).execute(tx.on()).await?;
    let back_ids: Vec<i64> = back.iter().map(|(id, ..)| *id).collect();
    outbox::put(tx, &back_ids).await?;
    finish(tx, changes).await?;
    tx.enqueued |= !back.is_empty();
    letters.into_iter().map(Letter::into_view).collect()
}

/// Removes letters for good; what their tasks had staged is left to the sweeper, and their prefixes are free.
pub(super) async fn purge(tx: &mut Tx<'_>, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>, Fault> {
    let letters = select(tx.on(), filter, "").await?;
    let tasks: Vec<i64> = letters.iter().filter_map(|l| l.task).collect();
    let ids: Vec<i64> = letters.iter().map(|l| l.id).collect();
    let now = tx.now;
    sqlx::query(
        "UPDATE tasks SET manifest = NULL, children = NULL, leftover = ?2 \
         WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'DEAD'",
    )
    .bind(array(&tasks)?)
    .bind(now)
    .execute(tx.on())
    .await?;
    sqlx::query("DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?1))").bind(array(&ids)?).execute(tx.on()).await?;
    letters.into_iter().map(Letter::into_view).collect()
}
