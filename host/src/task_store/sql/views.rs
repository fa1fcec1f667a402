//! Reading: what people and the run loop ask for. Nothing here writes.

use super::claim::{count, priority};
use super::database::{Db, Query, args};
use super::dialect::{Statement, sql};
use super::fault::Fault;
use super::rows::array;
use crate::task::hooks::{Input, TaskError};
use crate::task::id::TaskKey;
use crate::task::message::Message;
use crate::task::outputs::Manifest;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{ClaimView, Depth, JobView, MAX_ANSWER, StoreError, TaskFilter, TaskView};
use std::collections::{BTreeMap, HashMap};

/// Shortest beginning of a task id that stands for it.
const MIN_PREFIX: usize = 6;

/// The number of rows for a filter's `limit`.
pub(super) fn page(limit: u32) -> u32 {
    if limit == 0 { MAX_ANSWER } else { limit.min(MAX_ANSWER) }
}

fn parsed<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|e| Fault::Store(StoreError::Invalid(e)))
}

/// A page of a group's leaves: $1 tenant, $2 the `then`, $3 limit, $4 offset.
pub(super) static INPUTS: Statement = Statement::new(
    "
SELECT leaf.key, leaf.task_id, leaf.step, leaf.state, leaf.outcome, leaf.output_prefix,
       CASE WHEN leaf.state = 'DONE' THEN leaf.manifest END
FROM tasks t {join} tasks leaf {index tasks_inputs} ON leaf.grp = t.waits AND leaf.is_input = 1
WHERE t.tenant = $1 AND t.task_id = $2 ORDER BY leaf.path {limit $3} OFFSET $4 + 0",
);

type InputRow = (String, String, String, String, Option<String>, String, Option<String>);

pub(super) async fn inputs(db: &mut Db<'_>, key: &TaskKey, offset: u32, limit: u32) -> Result<Vec<Input>, Fault> {
    let rows: Vec<InputRow> = db.rows(&INPUTS, args![&key.tenant, &key.task_id, limit.min(MAX_ANSWER), offset]).await?;
    rows.into_iter()
        .map(|(key, task_id, step, state, outcome, output_prefix, manifest)| {
            let manifest: Option<Manifest> = manifest.as_deref().map(serde_json::from_str).transpose()?;
            let outputs = manifest.map(|m| m.entries).unwrap_or_default();
            Ok(Input { key, task_id, step, end: parsed(&state)?, outcome, output_prefix, outputs })
        })
        .collect()
}

/// Counts by index alone; a task whose time has come counts as ready though no claim has seen it yet. $1 pipeline.
static DEPTH: Statement = Statement::new(
    "
WITH clock AS (SELECT {now} AS now),
     ready AS (SELECT count(*) AS n, min(not_before) AS oldest FROM tasks {index tasks_ready}
               WHERE state = 'QUEUED' AND due = 1 AND pipeline = $1),
     later AS (SELECT count(*) AS n, coalesce(sum(CASE WHEN not_before <= clock.now THEN 1 ELSE 0 END), 0) AS due, min(not_before) AS first
               FROM tasks {index tasks_later}, clock WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND pipeline = $1),
     broker AS (SELECT count(*) AS n, coalesce(sum(CASE WHEN not_before <= clock.now THEN 1 ELSE 0 END), 0) AS due, min(not_before) AS first
                FROM tasks {index tasks_broker}, clock WHERE state = 'QUEUED' AND queue IS NOT NULL AND pipeline = $1)
SELECT ready.n + later.due + broker.due, later.n - later.due + broker.n - broker.due,
       (SELECT count(*) FROM tasks {index tasks_waiting} WHERE state = 'WAITING' AND pipeline = $1),
       (SELECT count(*) FROM tasks {index tasks_running} WHERE state = 'PROCESSING' AND pipeline = $1)
         + (SELECT count(*) FROM tasks {index tasks_committed} WHERE state = 'COMMITTED' AND pipeline = $1),
       {max}(clock.now - {min}(coalesce(ready.oldest, clock.now), coalesce(later.first, clock.now), coalesce(broker.first, clock.now)), 0)
FROM clock, ready, later, broker",
);

pub(super) async fn depth(db: &mut Db<'_>, pipeline: &str) -> Result<Depth, Fault> {
    let (ready, later, waiting, running, oldest): (i64, i64, i64, i64, i64) = db.one(&DEPTH, args![pipeline]).await?;
    Ok(Depth {
        ready: ready.unsigned_abs(),
        later: (later + waiting).unsigned_abs(),
        running: running.unsigned_abs(),
        oldest_ms: oldest.unsigned_abs(),
    })
}

/// $1 pipeline.
static NEXT_DUE: Statement = Statement::new(
    "
SELECT {now},
       (SELECT not_before FROM tasks {index tasks_later} WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND pipeline = $1
        ORDER BY not_before LIMIT 1),
       (SELECT lease_until FROM tasks {index tasks_running} WHERE state = 'PROCESSING' AND pipeline = $1 ORDER BY lease_until LIMIT 1)",
);

pub(super) async fn next_due(db: &mut Db<'_>, pipeline: &str) -> Result<Option<u64>, Fault> {
    let (now, later, lapses): (i64, Option<i64>, Option<i64>) = db.one(&NEXT_DUE, args![pipeline]).await?;
    // A lease lapses once its last millisecond has passed.
    let first = later.into_iter().chain(lapses.map(|at| at + 1)).min();
    Ok(first.map(|at| (at - now).max(0).unsigned_abs()))
}

#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
struct JobRow {
    id: i64,
    tenant: String,
    job_id: String,
    pipeline: String,
    state: String,
    prefix: String,
    created_at: i64,
    ended_at: Option<i64>,
    open: bool,
    expected: Option<i64>,
}

/// Which jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs<'a> {
    pub tenant: Option<&'a str>,
    pub job_id: Option<&'a str>,
    pub state: Option<JobState>,
    pub limit: u32,
}

/// Jobs, newest first, with their tasks counted by state.
pub(super) async fn jobs(db: &mut Db<'_>, which: Jobs<'_>) -> Result<Vec<JobView>, Fault> {
    let mut query = Query::new(
        "SELECT id, tenant, job_id, pipeline, state, prefix, created_at, ended_at, feed IN ('open', 'idle') AS open, expected FROM jobs WHERE true",
    );
    for (column, value) in [("tenant", which.tenant), ("job_id", which.job_id), ("state", which.state.map(JobState::as_str))] {
        if let Some(value) = value {
            query.push(" AND ").push(column).push(" = ").bind(value);
        }
    }
    query.push(" ORDER BY id DESC LIMIT ").bind(page(which.limit));
    let rows: Vec<JobRow> = db.select(query).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let counts = sql!(
        "SELECT t.job, t.state, count(*) FROM {ints $1} w {join} tasks t {index tasks_job} ON t.job = w.value GROUP BY t.job, t.state"
    );
    let counts: Vec<(i64, String, i64)> = db.rows(counts, args![array(&ids)]).await?;
    let mut tasks: HashMap<i64, BTreeMap<TaskState, u64>> = HashMap::new();
    for (job, state, count) in counts {
        tasks.entry(job).or_default().insert(parsed(&state)?, count.unsigned_abs());
    }
    rows.into_iter()
        .map(|row| {
            Ok(JobView {
                tasks: tasks.remove(&row.id).unwrap_or_default(),
                tenant: row.tenant,
                job_id: row.job_id,
                pipeline: row.pipeline,
                state: parsed(&row.state)?,
                prefix: row.prefix,
                created_at: row.created_at,
                ended_at: row.ended_at,
                open: row.open,
                expected: row.expected.map(i64::unsigned_abs),
            })
        })
        .collect()
}

#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
struct TaskRow {
    id: i64,
    tenant: String,
    task_id: String,
    job_id: String,
    pipeline: String,
    step: String,
    key: String,
    state: String,
    epoch: i64,
    attempts: i64,
    handbacks: i64,
    crashes: i64,
    max_attempts: i64,
    priority: i64,
    cancel_requested: bool,
    parent: Option<String>,
    child_count: i64,
    outcome: Option<String>,
    error: Option<String>,
    queue: Option<String>,
    output_prefix: String,
    manifest: Option<String>,
    figures: Option<String>,
    progress: Option<String>,
    message: String,
    created_at: i64,
    not_before: i64,
    claimed_at: Option<i64>,
    ended_at: Option<i64>,
}

const TASK_COLUMNS: &str = "
SELECT t.id, t.tenant, t.task_id, j.job_id, t.pipeline, t.step, t.key, t.state, t.epoch, t.attempts, t.handbacks, t.crashes,
       t.max_attempts, t.priority, t.cancel_at IS NOT NULL AS cancel_requested,
       (SELECT p.task_id FROM tasks p WHERE p.id = t.parent) AS parent, t.child_count, t.outcome, t.error, t.queue, t.output_prefix,
       t.manifest, t.figures, t.progress, m.message, t.created_at, t.not_before, t.claimed_at, t.ended_at
FROM tasks t JOIN jobs j ON j.id = t.job JOIN messages m ON m.task = t.id ";

impl TaskRow {
    fn into_view(self, claims: Vec<ClaimView>) -> Result<TaskView, Fault> {
        let message =
            serde_json::from_str(&self.message).unwrap_or_else(|_| Message::new(&self.job_id, &self.task_id, serde_json::Map::new()));
        // The manifest is shown without its bytes, wherever they are.
        let manifest: Option<Manifest> = self.manifest.as_deref().map(serde_json::from_str).transpose()?;
        let state: TaskState = parsed(&self.state)?;
        // Of a task that died between commit and end, outputs may be missing: none are shown.
        let manifest = manifest.map(|m| m.finalised()).filter(|_| matches!(state, TaskState::Done | TaskState::Committed));
        let result = manifest.as_ref().and_then(|m| m.result()).map(|entry| format!("{}{}", self.output_prefix, entry.name));
        Ok(TaskView {
            tenant: self.tenant,
            task_id: self.task_id,
            job_id: self.job_id,
            pipeline: self.pipeline,
            step: self.step,
            key: self.key,
            state,
            epoch: self.epoch.unsigned_abs(),
            attempts: count(self.attempts),
            handbacks: count(self.handbacks),
            crashes: count(self.crashes),
            max_attempts: count(self.max_attempts),
            priority: priority(self.priority),
            cancel_requested: self.cancel_requested,
            parent: self.parent,
            children: self.child_count.unsigned_abs(),
            outcome: self.outcome,
            error: self.error.as_deref().map(serde_json::from_str).transpose()?,
            queue: self.queue,
            output_prefix: self.output_prefix,
            result_uri: result,
            manifest,
            figures: self.figures.as_deref().map(serde_json::from_str).transpose()?,
            // One unreadable row must not hide the others.
            progress: self.progress.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            message,
            created_at: self.created_at,
            not_before: self.not_before,
            claimed_at: self.claimed_at,
            ended_at: self.ended_at,
            claims,
        })
    }
}

/// Tasks, newest jobs first, within a job in the order of creation.
pub(super) async fn tasks(db: &mut Db<'_>, filter: &TaskFilter) -> Result<Vec<TaskView>, Fault> {
    let mut query = Query::new(TASK_COLUMNS);
    // Ids first, from the index alone where no other column is asked for; then the rows of one page.
    query.push("WHERE t.id IN (SELECT f.id FROM tasks f WHERE true");
    if let Some(tenant) = &filter.tenant {
        query.push(" AND f.tenant = ").bind(tenant.as_str());
    }
    if let Some(job_id) = &filter.job_id {
        query.push(" AND f.job IN (SELECT id FROM jobs WHERE job_id = ").bind(job_id.as_str()).push(")");
    }
    if let Some(step) = &filter.step {
        query.push(" AND f.step = ").bind(step.as_str());
    }
    if let Some(state) = filter.state {
        query.push(" AND f.state = ").bind(state.as_str());
    }
    query.push(" ORDER BY f.job DESC, f.id LIMIT ").bind(page(filter.limit)).push(") ORDER BY t.job DESC, t.id");
    let rows: Vec<TaskRow> = db.select(query).await?;
    rows.into_iter().map(|row| row.into_view(Vec::new())).collect()
}

/// One task with its claims, by its id or an unambiguous beginning of it.
pub(super) async fn task(db: &mut Db<'_>, tenant: &str, id: &str) -> Result<TaskView, Fault> {
    let beginning = id.len() >= MIN_PREFIX;
    // Ids are ASCII, so DEL sorts after everything that may follow. An exact match comes first.
    let last = if beginning { format!("{id}\u{7f}") } else { id.to_owned() };
    let mut query = Query::new(TASK_COLUMNS);
    query.push("WHERE t.tenant = ").bind(tenant).push(" AND t.task_id >= ").bind(id).push(" AND t.task_id <= ").bind(last);
    query.push(" ORDER BY t.task_id LIMIT 2");
    let mut rows: Vec<TaskRow> = db.select(query).await?;
    if rows.len() > 1 && rows.first().is_some_and(|row| row.task_id != id) {
        return Err(StoreError::Conflict(format!("several tasks of tenant {tenant} begin with '{id}'; give more of the id")).into());
    }
    if rows.is_empty() {
        return Err(StoreError::NotFound(format!("task {id} of tenant {tenant}")).into());
    }
    let row = rows.swap_remove(0);
    let claims = claims(db, row.id).await?;
    row.into_view(claims)
}

type ClaimRow = (i64, String, String, i64, Option<i64>, Option<String>, Option<String>);

async fn claims(db: &mut Db<'_>, task: i64) -> Result<Vec<ClaimView>, Fault> {
    let find = sql!("SELECT epoch, owner, worker, claimed_at, ended_at, ended, error FROM claims WHERE task = $1 ORDER BY epoch");
    let rows: Vec<ClaimRow> = db.rows(find, args![task]).await?;
    rows.into_iter()
        .map(|(epoch, owner, worker, claimed_at, ended_at, ended, error)| {
            let error: Option<TaskError> = error.as_deref().map(serde_json::from_str).transpose()?;
            Ok(ClaimView { epoch: epoch.unsigned_abs(), owner, worker, claimed_at, ended_at, ended, error })
        })
        .collect()
}

/// What the guest logged, attempt by attempt.
pub(super) async fn logs(db: &mut Db<'_>, key: &TaskKey) -> Result<Vec<(u64, String)>, Fault> {
    let find = sql!("SELECT id FROM tasks WHERE tenant = $1 AND task_id = $2");
    let Some((task,)) = db.row::<(i64,)>(find, args![&key.tenant, &key.task_id]).await? else {
        return Err(StoreError::NotFound(format!("task {} of tenant {}", key.task_id, key.tenant)).into());
    };
    let logs = sql!("SELECT epoch, text FROM logs WHERE task = $1 ORDER BY epoch");
    let rows: Vec<(i64, String)> = db.rows(logs, args![task]).await?;
    Ok(rows.into_iter().map(|(epoch, text)| (epoch.unsigned_abs(), text)).collect())
}
