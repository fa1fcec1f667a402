//! The outbox: messages on their way to brokers. Written in the transaction that makes a task ready, gone once a broker has confirmed.

use super::database::{Db, args, array};
use super::dialect::{Statement, sql};
use super::end::Parent;
use super::fault::Fault;
use super::insert::NewRow;
use super::run_end::millis;
use super::transaction::Tx;
use crate::task::children::{Delivery, NewTask};
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::Outgoing;
use std::time::Duration;

/// A message for each of these tasks that is QUEUED and whose messages a broker carries.
pub(super) async fn put(tx: &mut Tx<'_>, tasks: &[i64]) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
    let put = sql!(
        "INSERT INTO outbox (task, tenant, task_id, queue, not_before, body) \
         SELECT t.id, t.tenant, t.task_id, t.queue, t.not_before, m.message FROM {ints $1} w \
         {join} tasks t ON t.id = w.value JOIN messages m ON m.task = t.id WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL ORDER BY t.id"
    );
    tx.execute(put, args![array(tasks)?]).await
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
    if rows.is_empty() {
        return Ok(());
    }
    let put = sql!(
        "INSERT INTO outbox (tenant, task_id, queue, not_before, body) \
         SELECT tenant, task_id, queue, not_before, body FROM {rows $1 tenant:text task_id:text queue:text not_before:int body:text} c"
    );
    tx.execute(put, args![array(&rows)?]).await
}

/// Whether anything is to be sent; false spares a transaction.
pub(super) async fn anything(db: &mut Db<'_>) -> Result<bool, Fault> {
    let (anything,) = db.one(sql!("SELECT EXISTS (SELECT 1 FROM outbox)"), args![]).await?;
    Ok(anything)
}

/// Leases what is nobody's, oldest first.
pub(super) async fn outgoing(tx: &mut Tx<'_>, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, Fault> {
    let now = tx.now;
    let lease_rows = sql!(
        "WITH c AS MATERIALIZED (SELECT id FROM outbox WHERE leased_until <= $1 ORDER BY id LIMIT $3 {skip locked}) \
         UPDATE outbox SET leased_until = $1 + $2 WHERE id IN (SELECT id FROM c) RETURNING id, queue, tenant, task_id, body, not_before"
    );
    let mut rows: Vec<(i64, String, String, String, String, i64)> = tx.rows(lease_rows, args![now, millis(lease), limit]).await?;
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
    tx.execute(sql!("DELETE FROM outbox WHERE id IN {ints $1}"), args![array(ids)?]).await
}

/// How long a QUEUED task waits for a message that should be under way, before one is sent again; doubled each time.
const RESEND_AFTER: Duration = Duration::from_secs(3600);

/// Most doublings of it: 32 hours.
const RESEND_DOUBLINGS: i64 = 5;

/// Tasks whose message seems lost: none was under way for long ($1 now, $2 how long at first, $3 doublings, $4 limit).
static LOST: Statement = Statement::new(
    "
SELECT t.id FROM tasks t {index tasks_broker}
WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL AND t.sent_at <= $1 - $2
  AND {max}(t.sent_at, t.not_before) + $2 * (1 << CAST({min}(t.sends, $3) AS INTEGER)) <= $1
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.task = t.id)
ORDER BY t.id LIMIT $4 {skip locked}",
);

/// The same: their queue was empty ever since ($1 now, $2 pairs of (queue, ms), $3 limit).
static LOST_BY_QUEUE: Statement = Statement::new(
    "
SELECT t.id FROM tasks t {index tasks_broker}
WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.task = t.id)
  AND EXISTS (SELECT 1 FROM {rows $2 queue:text ms:int} q WHERE q.queue = t.queue AND t.sent_at < $1 - q.ms AND t.not_before < $1 - q.ms)
ORDER BY t.id LIMIT $3 {skip locked}",
);

/// Sends a message again for every task whose own seems lost. Returns how many.
pub(super) async fn resend(tx: &mut Tx<'_>, idle: &[(&str, i64)], limit: u32) -> Result<u64, Fault> {
    let now = tx.now;
    let mut lost: Vec<(i64,)> = tx.rows(&LOST, args![now, millis(RESEND_AFTER), RESEND_DOUBLINGS, limit]).await?;
    if !idle.is_empty() {
        lost.extend(tx.rows::<(i64,)>(&LOST_BY_QUEUE, args![now, array(idle)?, limit]).await?);
    }
    let mut lost: Vec<i64> = lost.into_iter().map(|(id,)| id).collect();
    lost.sort_unstable();
    lost.dedup();
    if !lost.is_empty() {
        put(tx, &lost).await?;
        tx.execute(sql!("UPDATE tasks SET sent_at = $2, sends = sends + 1 WHERE id IN {ints $1}"), args![array(&lost)?, now]).await?;
    }
    Ok(lost.len() as u64)
}
