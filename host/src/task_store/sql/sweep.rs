//! What a crash left: lapsed leases end here, the rest is listed for whoever can reach the objects.

use super::database::{Db, args};
use super::dialect::{Statement, sql};
use super::fault::Fault;
use super::feed;
use super::lapse::{self, Lapsed};
use super::outbox;
use super::rows::array;
use super::run_end::millis;
use super::transaction::Tx;
use crate::task::id::TaskKey;
use crate::task::lease::attempt_folder;
use crate::task_store::{LAPSED_LATELY, Leftover, SweepRequest, Swept, Unfinished};
use std::collections::HashMap;

/// Whether a sweep would find anything, without a write lock: $1 length of a lease, $2 how long fed jobs may be idle, ms.
pub(super) static ANYTHING: Statement = Statement::new(
    "
SELECT EXISTS (SELECT 1 FROM tasks {index tasks_running} WHERE state = 'PROCESSING' AND lease_until < {now})
    OR EXISTS (SELECT 1 FROM tasks {index tasks_committed} WHERE state = 'COMMITTED' AND lease_until < {now})
    OR EXISTS (SELECT 1 FROM tasks {index tasks_leftover} WHERE leftover IS NOT NULL AND leftover <= {now} - 2 * $1)
    OR EXISTS (SELECT 1 FROM tasks {index tasks_broker} WHERE state = 'QUEUED' AND queue IS NOT NULL)
    OR EXISTS (SELECT 1 FROM jobs {index jobs_idle} WHERE idle_since IS NOT NULL AND idle_since <= {now} - $2)",
);

/// COMMITTED, and nobody has held a lease on it since: leased once more, so that two sweepers share the work. $1 now, $2 lease, $3 limit.
pub(super) static UNFINISHED: Statement = Statement::new(
    "
WITH c AS MATERIALIZED (SELECT id FROM tasks {index tasks_committed} WHERE state = 'COMMITTED' AND lease_until < $1
                        ORDER BY lease_until {limit $3} {skip locked tasks})
UPDATE tasks SET lease_until = $1 + $2 WHERE id IN (SELECT id FROM c)
RETURNING tenant, task_id, output_prefix, manifest",
);

/// Ended two leases ago. Listed again a lease later unless somebody says that they are gone. $1 now, $2 lease, $3 limit.
pub(super) static LEFTOVERS: Statement = Statement::new(
    "
WITH c AS MATERIALIZED (SELECT id FROM tasks {index tasks_leftover} WHERE leftover IS NOT NULL AND leftover <= $1 - 2 * $2
                        ORDER BY leftover {limit $3} {skip locked tasks})
UPDATE tasks SET leftover = $1 - $2 WHERE id IN (SELECT id FROM c)
RETURNING id, tenant, task_id, output_prefix",
);

/// The claims of tasks, $1; and whether their leases have lapsed since $2.
pub(super) static CLAIMS: Statement = Statement::new(
    "
SELECT c.task, c.epoch, c.owner, CASE WHEN c.ended = 'lapsed' AND c.ended_at > $2 THEN 1 ELSE 0 END
FROM {ints $1} w {join} claims c ON c.task = w.value",
);

/// Whether a sweep would find anything; false spares a transaction.
pub(super) async fn anything(db: &mut Db<'_>, request: &SweepRequest) -> Result<bool, Fault> {
    let (anything,) = db.one(&ANYTHING, args![millis(request.lease), millis(request.fed_idle)]).await?;
    Ok(anything)
}

pub(super) async fn sweep(tx: &mut Tx<'_>, request: &SweepRequest, lapsed: &[Lapsed]) -> Result<Swept, Fault> {
    let buried = lapse::take_back(tx, lapsed).await?;
    let idle: Vec<(&str, i64)> = request.idle_queues.iter().map(|q| (q.queue.as_str(), millis(q.since))).collect();
    let resent = outbox::resend(tx, request).await?;
    let closed = feed::close_idle(tx, millis(request.fed_idle), &idle, request.limit).await?;
    let (lease, limit) = (millis(request.lease), request.limit);
    let unfinished: Vec<(String, String, String, String)> = tx.rows(&UNFINISHED, args![tx.now, lease, limit]).await?;
    let leftovers = leftovers(tx, lease, limit).await?;
    let unfinished = unfinished
        .into_iter()
        .map(|(tenant, id, output_prefix, manifest)| {
            Ok(Unfinished { key: TaskKey::new(tenant, id), output_prefix, manifest: serde_json::from_str(&manifest)? })
        })
        .collect::<Result<_, serde_json::Error>>()?;
    Ok(Swept { unfinished, leftovers, buried, resent, closed })
}

async fn leftovers(tx: &mut Tx<'_>, lease: i64, limit: u32) -> Result<Vec<Leftover>, Fault> {
    let rows: Vec<(i64, String, String, String)> = tx.rows(&LEFTOVERS, args![tx.now, lease, limit]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = rows.iter().map(|(id, ..)| *id).collect();
    let mut folders: HashMap<i64, (Vec<String>, bool)> = HashMap::new();
    let mut claims: Vec<(i64, i64, String, i32)> = tx.rows(&CLAIMS, args![array(&ids), tx.now - millis(LAPSED_LATELY)]).await?;
    claims.sort();
    for (task, epoch, owner, is_lapsed) in claims {
        let (folders, lapsed) = folders.entry(task).or_default();
        folders.push(attempt_folder(epoch.unsigned_abs(), &owner));
        *lapsed |= is_lapsed == 1;
    }
    let leftover = |(id, tenant, task_id, output_prefix): (i64, String, String, String)| {
        let (folders, lapsed) = folders.remove(&id).unwrap_or_default();
        Leftover { key: TaskKey::new(tenant, task_id), output_prefix, folders, lapsed }
    };
    Ok(rows.into_iter().map(leftover).collect())
}

/// The attempts of these tasks are gone.
pub(super) async fn swept(tx: &mut Tx<'_>, keys: &[TaskKey]) -> Result<(), Fault> {
    let keys: Vec<(&str, &str)> = keys.iter().map(|k| (k.tenant.as_str(), k.task_id.as_str())).collect();
    let gone = sql!(
        "UPDATE tasks SET leftover = NULL FROM {rows $1 tenant:text task_id:text} c \
         WHERE tasks.tenant = c.tenant AND tasks.task_id = c.task_id AND tasks.leftover IS NOT NULL"
    );
    tx.execute(gone, args![array(&keys)]).await
}
