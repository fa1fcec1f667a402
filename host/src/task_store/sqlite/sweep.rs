//! What a crash left: lapsed leases end here, the rest is listed for whoever can reach the objects.

use super::end::{Changes, finish};
use super::fault::Fault;
use super::feed;
use super::lapse;
use super::outbox;
use super::run_end::millis;
use super::transaction::{Tx, array};
use crate::task::id::TaskKey;
use crate::task_store::{Leftover, SweepRequest, Swept, Unfinished};
use sqlx::SqliteConnection;

/// Whether a sweep would find anything, without the write lock: ?1 length of a lease, ?2 how long fed jobs may be idle, ms.
pub(super) const ANYTHING: &str = "
SELECT EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_running
               WHERE state = 'PROCESSING' AND lease_until < CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER))
    OR EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_committed
               WHERE state = 'COMMITTED' AND lease_until < CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER))
    OR EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_leftover
               WHERE leftover IS NOT NULL AND leftover <= CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER) - 2 * ?1)
    OR EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_broker WHERE state = 'QUEUED' AND queue IS NOT NULL)
    OR EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_idle
               WHERE idle_since IS NOT NULL AND idle_since <= CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER) - ?2)";

/// COMMITTED, and nobody has held a lease on it since: leased once more, so that two sweepers share the work. ?1 now, ?2 lease, ?3 limit.
pub(super) const UNFINISHED: &str = "
UPDATE tasks SET lease_until = ?1 + ?2
WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_committed WHERE state = 'COMMITTED' AND lease_until < ?1 ORDER BY lease_until LIMIT ?3)
RETURNING tenant, task_id, output_prefix, manifest";

/// Ended two leases ago. Listed again a lease later unless somebody says that they are gone. ?1 now, ?2 lease, ?3 limit.
pub(super) const LEFTOVERS: &str = "
UPDATE tasks SET leftover = ?1 - ?2
WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_leftover WHERE leftover IS NOT NULL AND leftover <= ?1 - 2 * ?2 ORDER BY leftover LIMIT ?3)
RETURNING tenant, task_id, output_prefix";

/// Whether a sweep would find anything; false spares the write lock.
pub(super) async fn anything(connection: &mut SqliteConnection, request: &SweepRequest) -> Result<bool, Fault> {
    Ok(sqlx::query_scalar(ANYTHING).bind(millis(request.lease)).bind(millis(request.fed_idle)).fetch_one(connection).await?)
}

pub(super) async fn sweep(tx: &mut Tx<'_>, request: &SweepRequest) -> Result<Swept, Fault> {
    let mut changes = Changes::default();
    let buried = lapse::lapse(tx, &mut changes).await?;
    finish(tx, changes).await?;
    let idle: Vec<(&str, i64)> = request.idle_queues.iter().map(|q| (q.queue.as_str(), millis(q.since))).collect();
    let resent = outbox::resend(tx, &idle, request.limit).await?;
    let closed = feed::close_idle(tx, millis(request.fed_idle), &idle, request.limit).await?;
    let (now, lease, limit) = (tx.now, millis(request.lease), request.limit);
    let unfinished: Vec<(String, String, String, String)> =
        sqlx::query_as(UNFINISHED).bind(now).bind(lease).bind(limit).fetch_all(tx.on()).await?;
    let leftovers: Vec<(String, String, String)> = sqlx::query_as(LEFTOVERS).bind(now).bind(lease).bind(limit).fetch_all(tx.on()).await?;
    let unfinished = unfinished
        .into_iter()
        .map(|(tenant, id, output_prefix, manifest)| {
            Ok(Unfinished { key: TaskKey::new(tenant, id), output_prefix, manifest: serde_json::from_str(&manifest)? })
        })
        .collect::<Result<_, serde_json::Error>>()?;
    let leftovers =
        leftovers.into_iter().map(|(tenant, id, output_prefix)| Leftover { key: TaskKey::new(tenant, id), output_prefix }).collect();
    Ok(Swept { unfinished, leftovers, buried, resent, closed })
}

/// The attempts of these tasks are gone.
pub(super) async fn swept(tx: &mut Tx<'_>, keys: &[TaskKey]) -> Result<(), Fault> {
    let keys: Vec<(&str, &str)> = keys.iter().map(|k| (k.tenant.as_str(), k.task_id.as_str())).collect();
    sqlx::query(
        "UPDATE tasks SET leftover = NULL FROM (SELECT value->>0 AS tenant, value->>1 AS task_id FROM json_each(?1)) c \
         WHERE tasks.tenant = c.tenant AND tasks.task_id = c.task_id AND tasks.leftover IS NOT NULL",
    )
    .bind(array(&keys)?)
    .execute(tx.on())
    .await?;
    Ok(())
}
