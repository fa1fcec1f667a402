//! Heartbeats: renewing leases, and telling who was asked to stop.

use super::fault::Fault;
use super::run_end::{lease_of, millis};
use super::transaction::{Tx, array};
use crate::task::lease::Lease;
use crate::task_store::{Beat, Heartbeat};
use std::collections::HashMap;
use std::time::Duration;

/// ?1 beats, ?2 now. Progress that is no JSON is dropped: it is a guest's text, and the lease is worth more.
pub(super) const RENEW: &str = "
UPDATE tasks SET lease_until = ?2 + c.lease, progress = CASE WHEN json_valid(c.progress) THEN c.progress ELSE tasks.progress END
FROM (SELECT value->>0 AS tenant, value->>1 AS task_id, value->>2 AS epoch, value->>3 AS owner, value->>4 AS lease,
             value->>5 AS progress FROM json_each(?1)) c
WHERE tasks.tenant = c.tenant AND tasks.task_id = c.task_id AND tasks.epoch = c.epoch AND tasks.owner = c.owner
  AND tasks.state = 'PROCESSING'
RETURNING tenant, task_id, epoch, owner, cancel_at IS NOT NULL";

/// Tenant, task id, epoch, owner, lease in milliseconds, progress.
type Row<'a> = (&'a str, &'a str, u64, &'a str, i64, Option<&'a str>);

/// Renews all; one list of answers per request.
pub(super) async fn renew(tx: &mut Tx<'_>, requests: &[(&[Heartbeat], Duration)]) -> Result<Vec<Vec<Beat>>, Fault> {
    let rows: Vec<Row<'_>> = requests
        .iter()
        .flat_map(|(beats, lease)| {
            beats.iter().map(|b| {
                let key = &b.lease.key;
                (key.tenant.as_str(), key.task_id.as_str(), b.lease.epoch, b.lease.owner.as_str(), millis(*lease), b.progress.as_deref())
            })
        })
        .collect();
    let now = tx.now;
    let held: Vec<(String, String, i64, String, bool)> = sqlx::query_as(RENEW).bind(array(&rows)?).bind(now).fetch_all(tx.on()).await?;
    let held: HashMap<Lease, bool> =
        held.into_iter().map(|(tenant, id, epoch, owner, cancel)| (lease_of(&tenant, &id, epoch, &owner), cancel)).collect();
    let answer = |beat: &Heartbeat| held.get(&beat.lease).map_or(Beat::Lost, |cancel| Beat::Held { cancel: *cancel });
    Ok(requests.iter().map(|(beats, _)| beats.iter().map(answer).collect()).collect())
}
