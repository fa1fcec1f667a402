//! COMMITTED and DONE: what a worker fixes, and the end that follows once its outputs have their names.

use super::database::{args, array};
use super::dialect::{Statement, sql};
use super::end::{Changes, Parent};
use super::fault::Fault;
use super::lapse::bury;
use super::run_end::{Closed, answer, close_claims, lease_of};
use super::transaction::Tx;
use crate::task::children::Children;
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task::outputs::Manifest;
use crate::task_store::{Applied, Commit};
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

#[derive(Serialize)]
struct Columns<'a> {
    tenant: &'a str,
    task_id: &'a str,
    epoch: u64,
    owner: &'a str,
    /// Flags are 0 and 1.
    ends: u8,
    leftover: u8,
    manifest: String,
    children: Option<String>,
    outcome: Option<&'a str>,
    figures: String,
}

impl<'a> Columns<'a> {
    fn new(commit: &'a Commit) -> Result<Self, Fault> {
        let lease = &commit.lease;
        let ends = commit.manifest.is_empty();
        let kept = !ends && !commit.children.is_empty();
        Ok(Self {
            tenant: &lease.key.tenant,
            task_id: &lease.key.task_id,
            epoch: lease.epoch,
            owner: &lease.owner,
            ends: u8::from(ends),
            // A first run that wrote no byte has left nothing to sweep.
            leftover: u8::from(!ends || lease.epoch > 1 || commit.figures.written_bytes > 0),
            manifest: serde_json::to_string(&commit.manifest)?,
            children: kept.then(|| serde_json::to_string(&commit.children)).transpose()?,
            outcome: commit.outcome.as_deref(),
            figures: serde_json::to_string(&commit.figures)?,
        })
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Committed {
    id: i64,
    job: i64,
    grp: i64,
    tenant: String,
    task_id: String,
    epoch: i64,
    owner: String,
    pipeline: String,
    path: String,
    is_input: i64,
    state: String,
    stopping: i64,
}

/// Fenced by epoch and owner. A task that was asked to stop ends CANCELLED whatever it returns, and its worker is told `Lost`.
pub(super) static COMMIT: Statement = Statement::new(
    "
UPDATE tasks SET
    state = CASE WHEN cancel_at IS NOT NULL THEN 'CANCELLED' WHEN c.ends = 1 THEN 'DONE' ELSE 'COMMITTED' END,
    manifest = CASE WHEN cancel_at IS NULL THEN c.manifest END,
    children = CASE WHEN cancel_at IS NULL THEN c.children END,
    outcome = CASE WHEN cancel_at IS NULL THEN c.outcome END,
    figures = c.figures,
    error = NULL,
    ended_at = CASE WHEN c.ends = 1 OR cancel_at IS NOT NULL THEN $2 END,
    leftover = CASE WHEN cancel_at IS NOT NULL OR (c.ends = 1 AND c.leftover = 1) THEN $2 END
FROM {objects $1 tenant:text task_id:text epoch:int owner:text ends:int leftover:int manifest:text children:text outcome:text figures:text} c
WHERE tasks.tenant = c.tenant AND tasks.task_id = c.task_id AND tasks.epoch = c.epoch AND tasks.owner = c.owner
  AND tasks.state = 'PROCESSING'
RETURNING id, job, grp, tasks.tenant, tasks.task_id, tasks.epoch, tasks.owner, pipeline, path, is_input, state,
          (SELECT stopping FROM jobs WHERE jobs.id = tasks.job) AS stopping",
);

/// Commits all; the tasks without files end as well.
pub(super) async fn commit(tx: &mut Tx<'_>, commits: &[&Commit], changes: &mut Changes) -> Result<Vec<Applied>, Fault> {
    // A lease commits one thing only; a second try in the same batch is a repeat.
    let mut first: HashMap<&Lease, &Commit> = HashMap::new();
    let mut columns = Vec::with_capacity(commits.len());
    for commit in commits {
        if let Entry::Vacant(place) = first.entry(&commit.lease) {
            place.insert(commit);
            columns.push(Columns::new(commit)?);
        }
    }
    let rows: Vec<Committed> = tx.rows(&COMMIT, args![array(&columns)?, tx.now]).await?;
    let mut applied = HashSet::new();
    let mut closed = Vec::new();
    for row in rows {
        let lease = lease_of(&row.tenant, &row.task_id, row.epoch, &row.owner);
        let Some(commit) = first.get(&lease).copied() else { continue };
        let cancelled = row.state == "CANCELLED";
        let ended = if cancelled { "cancelled" } else { "committed" };
        closed.push(Closed { task: row.id, epoch: row.epoch, ended, error: None, log: &commit.log });
        if !cancelled {
            applied.insert(lease);
        }
        if row.state != "COMMITTED" {
            changes.live(row.job, row.grp, -1);
        }
        if row.state == "DONE" && row.stopping == 0 {
            changes.parent(parent_of(row, commit.children.clone()));
        }
    }
    close_claims(tx, &closed).await?;
    let leases: Vec<_> = commits.iter().map(|c| (&c.lease, "committed")).collect();
    answer(tx, &leases, &applied).await
}

fn parent_of(row: Committed, children: Children) -> Parent {
    Parent {
        id: row.id,
        job: row.job,
        group: row.grp,
        tenant: row.tenant,
        pipeline: row.pipeline,
        path: row.path,
        is_input: row.is_input == 1,
        first: 0,
        children,
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Finalised {
    #[sqlx(flatten)]
    row: Committed,
    manifest: String,
    children: Option<String>,
}

/// DONE, where the task is COMMITTED: its outputs have their names, so the bytes that rode in the manifest go.
pub(super) async fn end(tx: &mut Tx<'_>, keys: &[&TaskKey], changes: &mut Changes) -> Result<(), Fault> {
    let ids: Vec<(&str, &str)> = keys.iter().map(|k| (k.tenant.as_str(), k.task_id.as_str())).collect();
    let committed = sql!(
        "SELECT DISTINCT t.id, t.job, t.grp, t.tenant, t.task_id, t.epoch, t.owner, t.pipeline, t.path, t.is_input, t.state, t.manifest, \
                t.children, (SELECT stopping FROM jobs WHERE jobs.id = t.job) AS stopping \
         FROM {rows $1 tenant:text task_id:text} w {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id \
         WHERE t.state = 'COMMITTED'"
    );
    let rows: Vec<Finalised> = tx.rows(committed, args![array(&ids)?]).await?;
    let mut done: Vec<(i64, String)> = Vec::new();
    for Finalised { row, manifest, children } in rows {
        let manifest: Manifest = serde_json::from_str(&manifest)?;
        done.push((row.id, serde_json::to_string(&manifest.finalised())?));
        changes.live(row.job, row.grp, -1);
        if let Some(children) = children.filter(|_| row.stopping == 0) {
            changes.parent(parent_of(row, serde_json::from_str(&children)?));
        }
    }
    if done.is_empty() {
        return Ok(());
    }
    let end = sql!(
        "UPDATE tasks SET state = 'DONE', manifest = c.manifest, children = NULL, ended_at = $2, leftover = $2 \
         FROM {rows $1 id:int manifest:text} c WHERE tasks.id = c.id"
    );
    tx.execute(end, args![array(&done)?, tx.now]).await
}

/// DEAD, where the task is COMMITTED; manifest and children stay, for a redrive.
pub(super) async fn bury_committed(tx: &mut Tx<'_>, key: &TaskKey, error: &TaskError, changes: &mut Changes) -> Result<(), Fault> {
    let find = sql!("SELECT id FROM tasks WHERE tenant = $1 AND task_id = $2 AND state = 'COMMITTED'");
    match tx.row(find, args![&key.tenant, &key.task_id]).await? {
        Some((id,)) => bury(tx, &[(id, error.clone())], changes).await,
        None => Ok(()),
    }
}
