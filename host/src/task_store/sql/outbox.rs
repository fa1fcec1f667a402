//! The outbox: messages on their way to brokers. Written in the transaction that makes a task ready, gone once a broker has confirmed.

use super::database::{Db, args};
use super::dialect::sql;
use super::end::Parent;
use super::fault::Fault;
use super::insert::NewRow;
use super::rows::array;
use super::run_end::millis;
use super::transaction::Tx;
use crate::task::children::{Delivery, NewTask};
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::{Outgoing, SweepRequest};
use std::time::Duration;

/// A message for each of these tasks that is QUEUED and whose messages a broker carries.
pub(super) async fn put(tx: &mut Tx<'_>, tasks: &[i64]) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
    let put = sql!(
        "INSERT INTO outbox (task, tenant, task_id, queue, not_before, body) \
         SELECT t.id, t.tenant, t.task_id, t.queue, t.not_before, m.message FROM {ints $1} w \
         {join} tasks t ON t.id = w.value JOIN messages m ON m.task = t.id WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL"
    );
    tx.execute(put, args![array(tasks)]).await
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
    tx.execute(put, args![array(&rows)]).await
}

/// Whether anything is to be sent to these queues, or to any; false spares a transaction.
pub(super) async fn anything(db: &mut Db<'_>, queues: Option<&[String]>) -> Result<bool, Fault> {
    let (anything,) = match queues {
        None => db.one(sql!("SELECT EXISTS (SELECT 1 FROM outbox)"), args![]).await?,
        Some(queues) => {
            let of_these = sql!("SELECT EXISTS (SELECT 1 FROM outbox WHERE queue IN {texts $1})");
            db.one(of_these, args![array(queues)]).await?
        }
    };
    Ok(anything)
}

/// Leases what is nobody's, oldest first: of these queues, or of any.
pub(super) async fn outgoing(tx: &mut Tx<'_>, queues: Option<&[String]>, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, Fault> {
    let (now, any) = (tx.now, i64::from(queues.is_none()));
    let take = sql!(
        "WITH c AS MATERIALIZED (SELECT id FROM outbox WHERE leased_until <= $1 \
                                   AND ($4 = 1 OR queue IN {texts $5}) \
                                 ORDER BY id {limit $3} {skip locked outbox}) \
         UPDATE outbox SET leased_until = $1 + $2 WHERE id IN (SELECT id FROM c) \
         RETURNING id, queue, tenant, task_id, body, not_before"
    );
    let mut rows: Vec<(i64, String, String, String, String, i64)> =
        tx.rows(take, args![now, millis(lease), limit, any, array(queues.unwrap_or_default())]).await?;
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

/// Confirmed by the broker: from now on the messages may be under way. A task that somebody else has locked is his by now.
pub(super) async fn sent(tx: &mut Tx<'_>, ids: &[i64]) -> Result<(), Fault> {
    let under_way = sql!(
        "WITH c AS MATERIALIZED (SELECT t.id FROM tasks t WHERE t.state = 'QUEUED' \
                                   AND t.id IN (SELECT o.task FROM outbox o WHERE o.id IN {ints $1}) ORDER BY t.id {skip locked t}) \
         UPDATE tasks SET sent_at = $2 WHERE id IN (SELECT id FROM c)"
    );
    tx.execute(under_way, args![array(ids), tx.now]).await?;
    tx.execute(sql!("DELETE FROM outbox WHERE id IN {ints $1}"), args![array(ids)]).await
}

/// How long a QUEUED task waits for a message that should be under way, before one is sent again; doubled each time.
const RESEND_AFTER: Duration = Duration::from_secs(3600);

/// Most doublings of it: 32 hours.
const RESEND_DOUBLINGS: i64 = 5;

/// Sends a message again for every task whose own seems lost. Returns how many.
pub(super) async fn resend(tx: &mut Tx<'_>, request: &SweepRequest) -> Result<u64, Fault> {
    let limit = request.limit;
    let old = sql!(
        "SELECT t.id FROM tasks t {index tasks_broker} \
         WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL AND t.sent_at <= $1 - $2 \
           AND {max}(t.sent_at, t.not_before) + ($2 << CAST({min}(t.sends, $3) AS INTEGER)) <= $1 \
           AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.task = t.id) \
         {limit $4} {skip locked t}"
    );
    let old: Vec<(i64,)> = tx.rows(old, args![tx.now, millis(RESEND_AFTER), RESEND_DOUBLINGS, limit]).await?;
    // Its queue was empty for as long as a dead worker may have hidden it: a lease.
    let empty = request.idle_queues.iter().filter(|idle| idle.since >= request.lease);
    let empty: Vec<&str> = empty.map(|idle| idle.queue.as_str()).collect();
    let quiet = sql!(
        "SELECT t.id FROM {texts $2} q {join} tasks t {index tasks_broker} ON t.queue = q.value \
         WHERE t.state = 'QUEUED' AND t.queue IS NOT NULL AND t.sent_at <= $1 - $3 \
           AND {max}(t.sent_at, t.not_before) + ($3 << CAST({min}(t.sends, $4) AS INTEGER)) <= $1 \
           AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.task = t.id) \
         {limit $5} {skip locked t}"
    );
    let args = args![tx.now, array(&empty), millis(request.lease), RESEND_DOUBLINGS, limit];
    let quiet: Vec<(i64,)> = if empty.is_empty() { Vec::new() } else { tx.rows(quiet, args).await? };
    let mut lost: Vec<i64> = old.into_iter().chain(quiet).map(|(id,)| id).collect();
    lost.sort_unstable();
    lost.dedup();
    lost.truncate(limit as usize);
    if !lost.is_empty() {
        put(tx, &lost).await?;
        tx.execute(sql!("UPDATE tasks SET sent_at = $2, sends = sends + 1 WHERE id IN {ints $1}"), args![array(&lost), tx.now]).await?;
    }
    Ok(lost.len() as u64)
}
