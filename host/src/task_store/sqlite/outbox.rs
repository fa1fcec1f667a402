//! The outbox: messages on their way to brokers. Written in the transaction that makes a task ready, gone once a broker has confirmed.

use super::end::Parent;
use super::fault::Fault;
use super::insert::NewRow;
use super::run_end::millis;
use super::transaction::{Tx, array};
use crate::task::children::{Delivery, NewTask};
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::Outgoing;
use sqlx::SqliteConnection;
use std::time::Duration;

/// A message for each of these tasks that is QUEUED and whose messages a broker carries.
pub(super) async fn put(tx: &mut Tx<'_>, tasks: &[i64]) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO outbox (task, tenant, task_id, queue, not_before, body) \
         SELECT t.id, t.tenant, t.task_id, t.queue, t.not_before, m.message FROM json_each(?1) w \
         CROSS JOIN tasks t ON t.id = w.value JOIN messages m ON m.task = t.id WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL",
    )
    .bind(array(tasks)?)
    .execute(tx.on())
    .await?;
    Ok(())
}

/// The same for rows that were just inserted.
pub(super) async fn announce(tx: &mut Tx<'_>, rows: &[NewRow<'_>]) -> Result<(), Fault> {
    let carried = |row: &&NewRow<'_>| row.state == TaskState::Queued && matches!(row.task.delivery, Delivery::Queue(_));
    let ids: Vec<i64> = rows.iter().filter(carried).map(|row| row.id).collect();
    put(tx, &ids).await
}

/// Messages for queues that another system reads: all that is kept of these children.
pub(super) async fn send_foreign(tx: &mut Tx<'_>, children: &[(&Parent, &NewTask)]) -> Result<(), Fault> {
    let now = tx.now;
    let rows: Vec<(&str, &str, &str, i64, String)> = children
        .iter()
        .filter_map(|(parent, task)| match &task.delivery {
            Delivery::Foreign(queue) => {
                let delay = millis(Duration::from_millis(task.delay_ms));
                Some((parent.tenant.as_str(), task.task_id.as_str(), queue.as_str(), now + delay, task.message.to_json()))
            }
            Delivery::Table | Delivery::Queue(_) => None,
        })
        .collect();
    if !rows.is_empty() {
        sqlx::query(
            "INSERT INTO outbox (tenant, task_id, queue, not_before, body) \
             SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?1)",
        )
        .bind(array(&rows)?)
        .execute(tx.on())
        .await?;
    }
    Ok(())
}

/// Whether anything is to be sent; false spares the write lock.
pub(super) async fn anything(connection: &mut SqliteConnection) -> Result<bool, Fault> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM outbox)").fetch_one(connection).await?)
}

/// Leases what is nobody's, oldest first.
pub(super) async fn outgoing(tx: &mut Tx<'_>, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, Fault> {
    let now = tx.now;
    let mut rows: Vec<(i64, String, String, String, String, i64)> = sqlx::query_as(
        "UPDATE outbox SET leased_until = ?1 + ?2 WHERE id IN (SELECT id FROM outbox WHERE leased_until <= ?1 ORDER BY id LIMIT ?3) \
         RETURNING id, queue, tenant, task_id, body, not_before",
    )
    .bind(now)
    .bind(millis(lease))
    .bind(limit)
    .fetch_all(tx.on())
    .await?;
    rows.sort_by_key(|(id, ..)| *id);
    let delay = |not_before: i64| Duration::from_millis((not_before - now).max(0).unsigned_abs());
    Ok(rows
        .into_iter()
        .map(|(id, queue, tenant, task_id, body, not_before)| Outgoing {
            id,
            queue,
            key: TaskKey::new(tenant, task_id),
            body,
            delay: delay(not_before),
        })
        .collect())
}

/// Confirmed by the broker.
pub(super) async fn sent(tx: &mut Tx<'_>, ids: &[i64]) -> Result<(), Fault> {
    sqlx::query("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))").bind(array(ids)?).execute(tx.on()).await?;
    Ok(())
}

/// How long a QUEUED task waits for a message that should be under way, before one is sent again; doubled each time.
const RESEND_AFTER: Duration = Duration::from_secs(3600);

/// Most doublings of it: 32 hours.
const RESEND_DOUBLINGS: i64 = 5;

/// Tasks whose message seems lost: none for long (?1 now, ?2 how long at first, ?3 doublings, ?4 limit).
const LOST: &str = "
SELECT t.id FROM tasks t INDEXED BY tasks_broker
WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL AND t.sent_at <= ?1 - ?2
  AND max(t.sent_at, t.not_before) + (?2 << min(t.sends, ?3)) <= ?1 AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.task = t.id)
LIMIT ?4";

/// The same: their queue was empty ever since (?1 now, ?2 pairs of (queue, ms), ?3 limit).
const LOST_BY_QUEUE: &str = "
SELECT t.id FROM json_each(?2) q CROSS JOIN tasks t INDEXED BY tasks_broker ON t.queue = q.value->>0
WHERE t.state = 'QUEUED' AND t.sent_at < ?1 - (q.value->>1) AND t.not_before < ?1 - (q.value->>1)
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.task = t.id)
LIMIT ?3";

/// Sends a message again for every task whose own seems lost. Returns how many.
pub(super) async fn resend(tx: &mut Tx<'_>, idle: &[(&str, i64)], limit: u32) -> Result<u64, Fault> {
    let now = tx.now;
    let old: Vec<i64> =
        sqlx::query_scalar(LOST).bind(now).bind(millis(RESEND_AFTER)).bind(RESEND_DOUBLINGS).bind(limit).fetch_all(tx.on()).await?;
    let quiet: Vec<i64> = sqlx::query_scalar(LOST_BY_QUEUE).bind(now).bind(array(idle)?).bind(limit).fetch_all(tx.on()).await?;
    let mut lost: Vec<i64> = old.into_iter().chain(quiet).collect();
    lost.sort_unstable();
    lost.dedup();
    if !lost.is_empty() {
        put(tx, &lost).await?;
        sqlx::query("UPDATE tasks SET sent_at = ?2, sends = sends + 1 WHERE id IN (SELECT value FROM json_each(?1))")
            .bind(array(&lost)?)
            .bind(now)
            .execute(tx.on())
            .await?;
    }
    Ok(lost.len() as u64)
}
