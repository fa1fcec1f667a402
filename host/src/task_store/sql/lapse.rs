//! Leases that ran out, and the dead letters of whatever is given up.

use super::claim::priority;
use super::database::args;
use super::dialect::{Statement, sql};
use super::end::{Changes, LAST, Parent, finish};
use super::fault::Fault;
use super::rows::array;
use super::run_end::{Closed, close_claims};
use super::transaction::Tx;
use crate::task::children::{self, Children, FailureRoute, GivenUp, NewTask};
use crate::task::hooks::TaskError;
use crate::task::message::Message;
use crate::task::outcome::MAX_CRASHES;
use std::collections::HashSet;

/// Most lapsed leases that one transaction takes back: more of them wait for the next one.
const LAPSED_AT_ONCE: u32 = 1000;

/// A task whose lease ran out.
#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
pub(super) struct Lapsed {
    pub id: i64,
    pub job: i64,
}

/// $1 now, $2 how many.
pub(super) static FIND: Statement = Statement::new(
    "
SELECT id, job FROM tasks {index tasks_running} WHERE state = 'PROCESSING' AND lease_until < $1 ORDER BY lease_until {limit $2}",
);

/// What lapsed, of all pipelines.
pub(super) async fn find(tx: &mut Tx<'_>) -> Result<Vec<Lapsed>, Fault> {
    tx.rows(&FIND, args![tx.now, LAPSED_AT_ONCE]).await
}

/// A crash is counted, and the task is QUEUED again, or DEAD after too many of them, or CANCELLED if it was asked to stop. Whether
/// it has lapsed is asked once more: its worker may have come back to it in this very transaction.
pub(super) static LAPSE: Statement = Statement::new(
    "
UPDATE tasks SET
    state = CASE WHEN cancel_at IS NOT NULL THEN 'CANCELLED' WHEN crashes + 1 >= $2 THEN 'DEAD' ELSE 'QUEUED' END,
    crashes = crashes + 1,
    due = CASE WHEN queue IS NULL THEN 1 ELSE 0 END,
    not_before = $1,
    sent_at = $1,
    error = $3,
    ended_at = CASE WHEN cancel_at IS NOT NULL OR crashes + 1 >= $2 THEN $1 END,
    leftover = CASE WHEN cancel_at IS NOT NULL THEN $1 END
WHERE id IN {ints $4} AND state = 'PROCESSING' AND lease_until < $1
RETURNING id, job, grp, epoch, state",
);

#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
struct TakenBack {
    id: i64,
    job: i64,
    grp: i64,
    epoch: i64,
    state: String,
}

/// Takes back what lapsed. Returns how many tasks were given up.
pub(super) async fn take_back(tx: &mut Tx<'_>, lapsed: &[Lapsed]) -> Result<u64, Fault> {
    if lapsed.is_empty() {
        return Ok(0);
    }
    let error = TaskError::new("crashed", "the lease lapsed: the worker died, hung or could not reach the store");
    let ids: Vec<i64> = lapsed.iter().map(|l| l.id).collect();
    let args = args![tx.now, MAX_CRASHES, serde_json::to_string(&error)?, array(&ids)];
    let rows: Vec<TakenBack> = tx.rows(&LAPSE, args).await?;
    let closed: Vec<_> =
        rows.iter().map(|r| Closed { task: r.id, epoch: r.epoch, ended: "lapsed", error: Some(&error), log: "" }).collect();
    close_claims(tx, &closed).await?;
    let mut changes = Changes::default();
    let mut dead = Vec::new();
    for row in &rows {
        match row.state.as_str() {
            "QUEUED" => tx.enqueued = true,
            _ => changes.live(row.job, row.grp, -1),
        }
        if row.state == "DEAD" {
            dead.push((row.id, error.code.as_str()));
        }
    }
    give_up(tx, &dead, &mut changes).await?;
    let buried = dead.len() as u64;
    finish(tx, changes).await?;
    Ok(buried)
}

/// DEAD with an error, from any live state; the caller has checked that it is one.
pub(super) async fn bury(tx: &mut Tx<'_>, tasks: &[(i64, TaskError)], changes: &mut Changes) -> Result<(), Fault> {
    let rows: Vec<(i64, String)> =
        tasks.iter().map(|(id, e)| Ok((*id, serde_json::to_string(e)?))).collect::<Result<_, serde_json::Error>>()?;
    let bury = sql!(
        "UPDATE tasks SET state = 'DEAD', error = c.error, ended_at = $2, leftover = NULL \
         FROM {rows $1 id:int error:text} c WHERE tasks.id = c.id RETURNING tasks.id, job, grp"
    );
    let buried: Vec<(i64, i64, i64)> = tx.rows(bury, args![array(&rows), tx.now]).await?;
    for (_, job, group) in &buried {
        changes.live(*job, *group, -1);
    }
    let letters: Vec<(i64, &str)> = tasks.iter().map(|(id, error)| (*id, error.code.as_str())).collect();
    give_up(tx, &letters, changes).await
}

/// What follows for rows that are DEAD now, each with the code of its error: their letters, and the tasks that their steps name for a
/// failure.
pub(super) async fn give_up(tx: &mut Tx<'_>, tasks: &[(i64, &str)], changes: &mut Changes) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
    write_letters(tx, tasks).await?;
    let follow = sql!(
        "SELECT t.id, t.job, t.grp, t.tenant, t.pipeline, t.path, t.is_input, t.priority, t.on_failure, t.error, m.message, j.prefix \
         FROM {rows $1 id:int code:text} w {join} tasks t ON t.id = w.id JOIN jobs j ON j.id = t.job JOIN messages m ON m.task = t.id \
         WHERE t.on_failure IS NOT NULL AND j.stopping = 0"
    );
    let rows: Vec<Dead> = tx.rows(follow, args![array(tasks)]).await?;
    let mut failures = Vec::with_capacity(rows.len());
    for row in rows {
        match row.follows() {
            Ok(task) => failures.push((row, task)),
            // A row that something else wrote: its letter says what there is to say.
            Err(error) => tracing::warn!(task = row.id, error, "no failure task could be made"),
        }
    }
    let followed = followed(tx, &failures).await?;
    for (row, task) in failures.into_iter().filter(|(row, _)| !followed.contains(&row.id)) {
        changes.parent(row.parent(task));
    }
    Ok(())
}

/// Those that died before: what followed then is there already, whatever the first death said.
async fn followed(tx: &mut Tx<'_>, failures: &[(Dead, NewTask)]) -> Result<HashSet<i64>, Fault> {
    if failures.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<(i64, &str, &str)> = failures.iter().map(|(row, task)| (row.id, row.tenant.as_str(), task.task_id.as_str())).collect();
    let find = sql!(
        "SELECT w.id FROM {rows $1 id:int tenant:text task_id:text} w {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id \
         WHERE t.parent = w.id"
    );
    Ok(tx.rows::<(i64,)>(find, args![array(&ids)]).await?.into_iter().map(|(id,)| id).collect())
}

/// A task that is DEAD, and has a step for failures.
#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
struct Dead {
    id: i64,
    job: i64,
    grp: i64,
    tenant: String,
    pipeline: String,
    path: String,
    is_input: i64,
    priority: i64,
    on_failure: String,
    error: String,
    message: String,
    prefix: String,
}

impl Dead {
    fn follows(&self) -> Result<NewTask, String> {
        let route: FailureRoute = serde_json::from_str(&self.on_failure).map_err(|e| e.to_string())?;
        let message: Message = serde_json::from_str(&self.message).map_err(|e| e.to_string())?;
        let error: TaskError = serde_json::from_str(&self.error).map_err(|e| e.to_string())?;
        let (tenant, job_prefix) = (&self.tenant, &self.prefix);
        let dead = GivenUp { tenant, message: &message, priority: priority(self.priority), job_prefix, error: &error };
        children::failure(&dead, &route)
    }

    fn parent(self, task: NewTask) -> Parent {
        let children = Children { tasks: vec![task], then: None };
        let Self { id, job, grp: group, tenant, pipeline, path, is_input, .. } = self;
        Parent { id, job, group, tenant, pipeline, path, is_input: is_input == 1, first: LAST, counted: 0, children }
    }
}

/// The dead letters of rows that are DEAD now, each with the code of its error.
async fn write_letters(tx: &mut Tx<'_>, tasks: &[(i64, &str)]) -> Result<(), Fault> {
    let write = sql!(
        "INSERT INTO dead_letters (tenant, task, task_id, job_id, step, code, error, attempts, message, died_at) \
         SELECT t.tenant, t.id, t.task_id, j.job_id, t.step, w.code, t.error, t.attempts, m.message, $2 \
         FROM {rows $1 id:int code:text} w {join} tasks t ON t.id = w.id JOIN jobs j ON j.id = t.job JOIN messages m ON m.task = t.id"
    );
    tx.execute(write, args![array(tasks), tx.now]).await
}
