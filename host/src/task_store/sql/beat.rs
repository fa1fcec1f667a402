//! Heartbeats: renewing leases, and telling who was asked to stop.

use super::database::args;
use super::dialect::Statement;
use super::fault::Fault;
use super::rows::array;
use super::run_end::{lease_of, millis};
use super::transaction::Tx;
use crate::task::lease::Lease;
use crate::task_store::{Beat, Heartbeat};
use std::collections::HashMap;
use std::time::Duration;

/// $1 beats, $2 now.
pub(super) static RENEW: Statement = Statement::new(
    "
UPDATE tasks SET lease_until = $2 + c.lease, progress = coalesce(c.progress, tasks.progress)
FROM {rows $1 tenant:text task_id:text epoch:int owner:text lease:int progress:text} c
WHERE tasks.tenant = c.tenant AND tasks.task_id = c.task_id AND tasks.epoch = c.epoch AND tasks.owner = c.owner
  AND tasks.state = 'PROCESSING'
RETURNING tasks.tenant, tasks.task_id, tasks.epoch, tasks.owner, tasks.cancel_at IS NOT NULL",
);

/// Tenant, task id, epoch, owner, lease in milliseconds, progress.
type Row<'a> = (&'a str, &'a str, u64, &'a str, i64, Option<&'a str>);

/// Renews all; one list of answers per request.
pub(super) async fn renew(tx: &mut Tx<'_>, requests: &[(&[Heartbeat], Duration)]) -> Result<Vec<Vec<Beat>>, Fault> {
    let rows: Vec<Row<'_>> = requests
        .iter()
        .flat_map(|(beats, lease)| {
            beats.iter().map(|b| {
                let key = &b.lease.key;
                (key.tenant.as_str(), key.task_id.as_str(), b.lease.epoch, b.lease.owner.as_str(), millis(*lease), progress(b))
            })
        })
        .collect();
    let held: Vec<(String, String, i64, String, bool)> = tx.rows(&RENEW, args![array(&rows), tx.now]).await?;
    let held: HashMap<Lease, bool> =
        held.into_iter().map(|(tenant, id, epoch, owner, cancel)| (lease_of(&tenant, &id, epoch, &owner), cancel)).collect();
    let answer = |beat: &Heartbeat| held.get(&beat.lease).map_or(Beat::Lost, |cancel| Beat::Held { cancel: *cancel });
    Ok(requests.iter().map(|(beats, _)| beats.iter().map(answer).collect()).collect())
}

/// Progress that is no JSON is dropped: it is a guest's text, and the lease is worth more.
fn progress(beat: &Heartbeat) -> Option<&str> {
    beat.progress.as_deref().filter(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}
