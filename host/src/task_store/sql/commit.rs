//! COMMITTED and DONE: what a worker fixes, and the end that follows once its outputs have their names.

use super::database::args;
use super::dialect::{Statement, sql};
use super::end::{Changes, Parent};
use super::fault::Fault;
use super::lapse::bury;
use super::rows::{array, columns};
use super::run_end::{Closed, answer, close_claims};
use super::transaction::Tx;
use crate::task::children::Children;
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::outputs::Manifest;
use crate::task_store::{Applied, Commit};
use serde::Deserialize;
use std::collections::HashSet;

columns! {
    /// A row as the commit leaves it.
    struct Columns<'a> {
        id: i64,
        state: &'static str,
        /// Flags are 0 and 1.
        ended: u8,
        leftover: u8,
        manifest: Option<String>,
        children: Option<String>,
        outcome: Option<&'a str>,
        figures: String,
        /// Rows that its children become with this transaction, as far as is known before their ids are looked up.
        counted: usize,
    }
}

impl<'a> Columns<'a> {
    fn new(held: &Held, commit: &'a Commit) -> Result<Self, Fault> {
        let figures = serde_json::to_string(&commit.figures)?;
        let none = Self {
            id: held.id,
            state: "CANCELLED",
            ended: 1,
            leftover: 1,
            manifest: None,
            children: None,
            outcome: None,
            figures,
            counted: 0,
        };
        // A task that was asked to stop ends CANCELLED whatever it returns.
        if held.cancelled == 1 {
            return Ok(none);
        }
        let ends = commit.manifest.is_empty();
        let kept = !ends && !commit.children.is_empty();
        Ok(Self {
            state: if ends { "DONE" } else { "COMMITTED" },
            ended: u8::from(ends),
            // A first run that wrote no byte has left nothing to sweep.
            leftover: u8::from(ends && (commit.lease.epoch > 1 || commit.figures.written_bytes > 0)),
            manifest: Some(serde_json::to_string(&commit.manifest)?),
            children: kept.then(|| serde_json::to_string(&commit.children)).transpose()?,
            outcome: commit.outcome.as_deref(),
            counted: if ends && held.stopping == 0 { commit.children.rows() } else { 0 },
            ..none
        })
    }
}

/// A task whose lease a commit holds.
#[derive(Debug, Deserialize)]
struct Held {
    /// Place among the commits.
    n: usize,
    id: i64,
    job: i64,
    grp: i64,
    pipeline: String,
    path: String,
    /// Flags are 0 and 1.
    is_input: u8,
    cancelled: u8,
    stopping: u8,
}

/// The fence: epoch and owner. The rows are locked, or nobody else writes. $1 commits.
pub(super) static HELD: Statement = Statement::new(
    "
SELECT {json n id job grp pipeline path is_input cancelled stopping} FROM (
    SELECT w.n, t.id, t.job, t.grp, t.pipeline, t.path, t.is_input, CASE WHEN t.cancel_at IS NULL THEN 0 ELSE 1 END AS cancelled, j.stopping
    FROM {rows $1 n:int tenant:text task_id:text epoch:int owner:text} w
         {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id {join} jobs j ON j.id = t.job
    WHERE t.epoch = w.epoch AND t.owner = w.owner AND t.state = 'PROCESSING') c",
);

/// Writes what [`HELD`] let through: $1 rows, $2 now.
pub(super) static COMMIT: Statement = Statement::new(
    "
UPDATE tasks SET state = c.state, manifest = c.manifest, children = c.children, outcome = c.outcome, figures = c.figures, error = NULL,
                 ended_at = CASE WHEN c.ended = 1 THEN $2 END, leftover = CASE WHEN c.leftover = 1 THEN $2 END,
                 child_count = child_count + c.counted, is_input = CASE WHEN c.counted > 0 THEN 0 ELSE is_input END
FROM {rows $1 id:int state:text ended:int leftover:int manifest:text children:text outcome:text figures:text counted:int} c
WHERE tasks.id = c.id",
);

/// Commits all; the tasks without files end as well. The worker of a task that was asked to stop is told `Lost`.
pub(super) async fn commit(tx: &mut Tx<'_>, commits: &[&Commit], changes: &mut Changes) -> Result<Vec<Applied>, Fault> {
    // A lease commits one thing only; a second try in the same batch is a repeat.
    let mut first = HashSet::new();
    let asked = commits.iter().enumerate().filter(|(_, commit)| first.insert(&commit.lease));
    let asked: Vec<(usize, &str, &str, u64, &str)> = asked
        .map(|(n, Commit { lease, .. })| (n, lease.key.tenant.as_str(), lease.key.task_id.as_str(), lease.epoch, lease.owner.as_str()))
        .collect();
    let held: Vec<Held> = tx.json(&HELD, args![array(&asked)]).await?;
    let mut applied = HashSet::new();
    let (mut columns, mut closed) = (Vec::with_capacity(held.len()), Vec::with_capacity(held.len()));
    for held in held {
        let Some(commit) = commits.get(held.n).copied() else { continue };
        let row = Columns::new(&held, commit)?;
        let cancelled = held.cancelled == 1;
        let ended = if cancelled { "cancelled" } else { "committed" };
        closed.push(Closed { task: held.id, epoch: commit.lease.epoch.cast_signed(), ended, error: None, log: &commit.log });
        if !cancelled {
            applied.insert(&commit.lease);
        }
        match (row.ended == 1, held.path.is_empty()) {
            (true, true) => changes.root(held.job, held.grp),
            (true, false) => changes.live(held.job, held.grp, -1),
            (false, _) => {}
        }
        if row.state == "DONE" && held.stopping == 0 && !commit.children.is_empty() {
            changes.parent(parent_of(held, &commit.lease.key.tenant, row.counted, commit.children.clone()));
        }
        columns.push(row);
    }
    if !columns.is_empty() {
        tx.execute(&COMMIT, args![array(&columns), tx.now]).await?;
    }
    close_claims(tx, &closed).await?;
    let leases: Vec<_> = commits.iter().map(|c| (&c.lease, "committed")).collect();
    answer(tx, &leases, &applied).await
}

fn parent_of(row: Held, tenant: &str, counted: usize, children: Children) -> Parent {
    Parent {
        id: row.id,
        job: row.job,
        group: row.grp,
        tenant: tenant.to_owned(),
        pipeline: row.pipeline,
        path: row.path,
        is_input: row.is_input == 1,
        first: 0,
        counted,
        children,
    }
}

#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
struct Finalised {
    id: i64,
    job: i64,
    grp: i64,
    tenant: String,
    pipeline: String,
    path: String,
    is_input: i64,
    stopping: i64,
    manifest: String,
    children: Option<String>,
}

/// DONE, where the task is COMMITTED: its outputs have their names, so the bytes that rode in the manifest go.
pub(super) async fn end(tx: &mut Tx<'_>, keys: &[&TaskKey], changes: &mut Changes) -> Result<(), Fault> {
    let ids: Vec<(&str, &str)> = keys.iter().map(|k| (k.tenant.as_str(), k.task_id.as_str())).collect();
    let committed = sql!(
        "SELECT DISTINCT t.id, t.job, t.grp, t.tenant, t.pipeline, t.path, t.is_input, t.manifest, t.children, \
                (SELECT stopping FROM jobs WHERE jobs.id = t.job) AS stopping \
         FROM {rows $1 tenant:text task_id:text} w {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id \
         WHERE t.state = 'COMMITTED'"
    );
    let rows: Vec<Finalised> = tx.rows(committed, args![array(&ids)]).await?;
    let mut done: Vec<(i64, String)> = Vec::new();
    for row in rows {
        let Finalised { id, job, grp: group, tenant, pipeline, path, is_input, stopping, manifest, children } = row;
        let manifest: Manifest = serde_json::from_str(&manifest)?;
        done.push((id, serde_json::to_string(&manifest.finalised())?));
        changes.live(job, group, -1);
        if let Some(children) = children.filter(|_| stopping == 0) {
            let children = serde_json::from_str(&children)?;
            changes.parent(Parent { id, job, group, tenant, pipeline, path, is_input: is_input == 1, first: 0, counted: 0, children });
        }
    }
    if done.is_empty() {
        return Ok(());
    }
    let end = sql!(
        "UPDATE tasks SET state = 'DONE', manifest = c.manifest, children = NULL, ended_at = $2, leftover = $2 \
         FROM {rows $1 id:int manifest:text} c WHERE tasks.id = c.id"
    );
    tx.execute(end, args![array(&done), tx.now]).await
}

/// DEAD, where the task is COMMITTED; manifest and children stay, for a redrive.
pub(super) async fn bury_committed(tx: &mut Tx<'_>, key: &TaskKey, error: &TaskError, changes: &mut Changes) -> Result<(), Fault> {
    let find = sql!("SELECT id FROM tasks WHERE tenant = $1 AND task_id = $2 AND state = 'COMMITTED'");
    match tx.row(find, args![&key.tenant, &key.task_id]).await? {
        Some((id,)) => bury(tx, &[(id, error.clone())], changes).await,
        None => Ok(()),
    }
}
