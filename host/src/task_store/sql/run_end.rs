//! How a run ends that reached no commit, and the claim rows that every end of a run closes.

use super::database::args;
use super::dialect::{Statement, sql};
use super::end::Changes;
use super::fault::Fault;
use super::lapse::give_up;
use super::rows::{array, columns};
use super::transaction::Tx;
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task_store::{Applied, Settlement};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A settlement as it comes in.
pub(super) type Settle<'a> = (&'a Lease, &'a Settlement, &'a str);

columns! {
    struct Columns<'a> {
        tenant: &'a str,
        task_id: &'a str,
        epoch: u64,
        owner: &'a str,
        state: &'static str,
        wait: i64,
        attempts: u8,
        handbacks: u8,
        error: Option<String>,
    }
}

impl<'a> Columns<'a> {
    fn new((lease, how, _): &Settle<'a>) -> Result<Self, Fault> {
        let (state, wait, attempts, handbacks, error) = match how {
            Settlement::Retry(wait, error) => ("QUEUED", *wait, 1, 0, Some(error)),
            Settlement::HandBack(wait, error) => ("QUEUED", *wait, 0, 1, Some(error)),
            Settlement::GiveBack => ("QUEUED", Duration::ZERO, 0, 0, None),
            // The run that ends it is an attempt made.
            Settlement::Dead(error) => ("DEAD", Duration::ZERO, 1, 0, Some(error)),
            Settlement::Cancelled => ("CANCELLED", Duration::ZERO, 0, 0, None),
        };
        Ok(Self {
            tenant: &lease.key.tenant,
            task_id: &lease.key.task_id,
            epoch: lease.epoch,
            owner: &lease.owner,
            state,
            wait: millis(wait),
            attempts,
            handbacks,
            error: error.map(serde_json::to_string).transpose()?,
        })
    }
}

/// A duration for SQL; at most 142,000 years, so that a sum of two stays a whole number.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(1 << 52)
}

/// The name of an end in `claims`.
fn name(how: &Settlement) -> &'static str {
    match how {
        Settlement::Retry(..) => "retried",
        Settlement::HandBack(..) => "handed-back",
        Settlement::GiveBack => "given-back",
        Settlement::Dead(_) => "dead",
        Settlement::Cancelled => "cancelled",
    }
}

#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
struct Settled {
    id: i64,
    job: i64,
    grp: i64,
    tenant: String,
    task_id: String,
    epoch: i64,
    owner: String,
    state: String,
}

/// Whatever a task says that was asked to stop: it ends CANCELLED, and nothing is counted, as its claim says.
pub(super) static SETTLE: Statement = Statement::new(
    "
UPDATE tasks SET
    state = CASE WHEN cancel_at IS NOT NULL THEN 'CANCELLED' ELSE c.state END,
    attempts = tasks.attempts + CASE WHEN cancel_at IS NULL THEN c.attempts ELSE 0 END,
    handbacks = tasks.handbacks + CASE WHEN cancel_at IS NULL THEN c.handbacks ELSE 0 END,
    due = CASE WHEN c.wait <= 0 AND queue IS NULL THEN 1 ELSE 0 END,
    sent_at = $2,
    not_before = $2 + c.wait,
    error = coalesce(c.error, tasks.error),
    ended_at = CASE WHEN cancel_at IS NOT NULL OR c.state <> 'QUEUED' THEN $2 END,
    leftover = CASE WHEN cancel_at IS NOT NULL OR c.state = 'CANCELLED' THEN $2 END
FROM {rows $1 tenant:text task_id:text epoch:int owner:text state:text wait:int attempts:int handbacks:int error:text} c
WHERE tasks.tenant = c.tenant AND tasks.task_id = c.task_id AND tasks.epoch = c.epoch AND tasks.owner = c.owner
  AND tasks.state = 'PROCESSING'
RETURNING id, job, grp, tasks.tenant, tasks.task_id, tasks.epoch, tasks.owner, tasks.state",
);

/// Settles all. Two settlements of one lease in a batch: the second is a repeat or finds it lost.
pub(super) async fn settle(tx: &mut Tx<'_>, settles: &[Settle<'_>], changes: &mut Changes) -> Result<Vec<Applied>, Fault> {
    // Of two with one lease the earlier counts, as it would have one transaction earlier.
    let mut first: HashMap<&Lease, &Settle<'_>> = HashMap::new();
    let mut columns = Vec::with_capacity(settles.len());
    for settle in settles {
        if let Entry::Vacant(place) = first.entry(settle.0) {
            place.insert(settle);
            columns.push(Columns::new(settle)?);
        }
    }
    let rows: Vec<Settled> = tx.rows(&SETTLE, args![array(&columns), tx.now]).await?;
    let mut applied = HashSet::new();
    let mut closed = Vec::new();
    let mut dead = Vec::new();
    for row in &rows {
        let lease = lease_of(&row.tenant, &row.task_id, row.epoch, &row.owner);
        let Some((lease, how, log)) = first.get(&lease).copied() else { continue };
        applied.insert(*lease);
        let error = match how {
            Settlement::Retry(_, e) | Settlement::HandBack(_, e) | Settlement::Dead(e) => Some(e),
            Settlement::GiveBack | Settlement::Cancelled => None,
        };
        let ended = if row.state == "CANCELLED" { "cancelled" } else { name(how) };
        closed.push(Closed { task: row.id, epoch: row.epoch, ended, error, log });
        match row.state.as_str() {
            "QUEUED" => tx.enqueued = true,
            _ => changes.live(row.job, row.grp, -1),
        }
        if let ("DEAD", Some(error)) = (row.state.as_str(), error) {
            dead.push((row.id, error.code.as_str()));
        }
    }
    close_claims(tx, &closed).await?;
    give_up(tx, &dead, changes).await?;
    let leases: Vec<_> = settles.iter().map(|(lease, how, _)| (*lease, name(how))).collect();
    answer(tx, &leases, &applied).await
}

/// The end of a run, for its row in `claims`.
#[derive(Debug)]
pub(super) struct Closed<'a> {
    pub task: i64,
    pub epoch: i64,
    pub ended: &'static str,
    pub error: Option<&'a TaskError>,
    pub log: &'a str,
}

/// $1 rows, $2 now.
pub(super) static CLOSE_CLAIMS: Statement = Statement::new(
    "
UPDATE claims SET ended_at = $2, ended = c.ended, error = c.error
FROM {rows $1 task:int epoch:int ended:text error:text} c WHERE claims.task = c.task AND claims.epoch = c.epoch",
);

/// Notes how runs ended, and what their guests logged.
pub(super) async fn close_claims(tx: &mut Tx<'_>, closed: &[Closed<'_>]) -> Result<(), Fault> {
    if closed.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, i64, &str, Option<String>)> = closed
        .iter()
        .map(|c| Ok((c.task, c.epoch, c.ended, c.error.map(serde_json::to_string).transpose()?)))
        .collect::<Result<_, serde_json::Error>>()?;
    tx.execute(&CLOSE_CLAIMS, args![array(&rows), tx.now]).await?;
    let logs: Vec<(i64, i64, &str)> = closed.iter().filter(|c| !c.log.is_empty()).map(|c| (c.task, c.epoch, c.log)).collect();
    if !logs.is_empty() {
        let keep = sql!(
            "INSERT INTO logs (task, epoch, text) SELECT task, epoch, text FROM {rows $1 task:int epoch:int text:text} c WHERE true \
             ON CONFLICT (task, epoch) DO NOTHING"
        );
        tx.execute(keep, args![array(&logs)]).await?;
    }
    Ok(())
}

/// The lease in a returned row.
pub(super) fn lease_of(tenant: &str, task_id: &str, epoch: i64, owner: &str) -> Lease {
    Lease { key: TaskKey::new(tenant, task_id), epoch: epoch.unsigned_abs(), owner: owner.to_owned() }
}

/// One answer per lease and the end it asked for: `Yes` where it was applied just now, or where `claims` says that it was in an
/// earlier try. A settlement of a task that was asked to stop took effect as a cancellation; a commit did not take effect then.
pub(super) async fn answer(tx: &mut Tx<'_>, leases: &[(&Lease, &str)], applied: &HashSet<&Lease>) -> Result<Vec<Applied>, Fault> {
    let open: Vec<(usize, &str, &str, u64, &str, &str)> = leases
        .iter()
        .enumerate()
        .filter(|(_, (lease, _))| !applied.contains(lease))
        .map(|(i, (l, ended))| (i, l.key.tenant.as_str(), l.key.task_id.as_str(), l.epoch, l.owner.as_str(), *ended))
        .collect();
    let mut answers = vec![Applied::Yes; leases.len()];
    if open.is_empty() {
        return Ok(answers);
    }
    let repeats = sql!(
        "SELECT w.n FROM {rows $1 n:int tenant:text task_id:text epoch:int owner:text ended:text} w \
         {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id {join} claims c ON c.task = t.id AND c.epoch = w.epoch \
         WHERE c.owner = w.owner AND (c.ended = w.ended OR (c.ended = 'cancelled' AND w.ended <> 'committed'))"
    );
    let repeats: HashSet<i64> = tx.rows::<(i64,)>(repeats, args![array(&open)]).await?.into_iter().map(|(n,)| n).collect();
    for (index, ..) in open {
        if let Some(answer) = answers.get_mut(index).filter(|_| !repeats.contains(&(index as i64))) {
            *answer = Applied::Lost;
        }
    }
    Ok(answers)
}
