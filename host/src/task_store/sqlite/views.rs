//! Reading: what people and the run loop ask for. Nothing here writes.

use super::fault::Fault;
use super::transaction::array;
use crate::task::hooks::{Input, TaskError};
use crate::task::id::TaskKey;
use crate::task::message::Message;
use crate::task::outputs::Manifest;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{ClaimView, Depth, JobView, StoreError, TaskFilter, TaskView};
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqliteConnection};
use std::collections::{BTreeMap, HashMap};

/// Most rows of one answer, also where a filter says 0: bounds what a list costs in memory.
const MAX_PAGE: u32 = 10_000;

/// Shortest beginning of a task id that stands for it.
const MIN_PREFIX: usize = 6;

/// The number of rows for a filter's `limit`.
pub(super) fn page(limit: u32) -> u32 {
    if limit == 0 { MAX_PAGE } else { limit.min(MAX_PAGE) }
}

fn parsed<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|e| Fault::Store(StoreError::Invalid(e)))
}

/// A page of a group's leaves: ?1 tenant, ?2 the `then`, ?3 limit, ?4 offset.
pub(super) const INPUTS: &str = "
SELECT leaf.key, leaf.task_id, leaf.step, leaf.state, leaf.outcome, leaf.output_prefix,
       CASE WHEN leaf.state = 'DONE' THEN leaf.manifest END
FROM tasks t CROSS JOIN tasks leaf INDEXED BY tasks_inputs ON leaf.grp = t.waits AND leaf.is_input = 1
WHERE t.tenant = ?1 AND t.task_id = ?2 ORDER BY leaf.path LIMIT ?3 OFFSET ?4";

type InputRow = (String, String, String, String, Option<String>, String, Option<String>);

pub(super) async fn inputs(connection: &mut SqliteConnection, key: &TaskKey, offset: u32, limit: u32) -> Result<Vec<Input>, Fault> {
    let rows: Vec<InputRow> =
        sqlx::query_as(INPUTS).bind(&key.tenant).bind(&key.task_id).bind(limit.min(MAX_PAGE)).bind(offset).fetch_all(connection).await?;
    rows.into_iter()
        .map(|(key, task_id, step, state, outcome, output_prefix, manifest)| {
            let manifest: Option<Manifest> = manifest.as_deref().map(serde_json::from_str).transpose()?;
            let outputs = manifest.map(|m| m.entries).unwrap_or_default();
            Ok(Input { key, task_id, step, end: parsed(&state)?, outcome, output_prefix, outputs })
        })
        .collect()
}

/// Counts by index alone; a task whose time has come counts as ready though no claim has seen it yet. ?1 pipeline.
pub(super) const DEPTH: &str = "
WITH clock AS (SELECT CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER) AS now),
     ready AS (SELECT count(*) AS n, min(not_before) AS oldest FROM tasks INDEXED BY tasks_ready
               WHERE state = 'QUEUED' AND due = 1 AND pipeline = ?1),
     later AS (SELECT count(*) AS n, coalesce(sum(not_before <= clock.now), 0) AS due, min(not_before) AS first
               FROM tasks INDEXED BY tasks_later, clock WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND pipeline = ?1),
     broker AS (SELECT count(*) AS n, coalesce(sum(not_before <= clock.now), 0) AS due, min(not_before) AS first
                FROM tasks INDEXED BY tasks_broker, clock WHERE state = 'QUEUED' AND queue IS NOT NULL AND pipeline = ?1)
SELECT ready.n + later.due + broker.due, later.n - later.due + broker.n - broker.due,
       (SELECT count(*) FROM tasks INDEXED BY tasks_waiting WHERE state = 'WAITING' AND pipeline = ?1),
       (SELECT count(*) FROM tasks INDEXED BY tasks_running WHERE state = 'PROCESSING' AND pipeline = ?1)
         + (SELECT count(*) FROM tasks INDEXED BY tasks_committed WHERE state = 'COMMITTED' AND pipeline = ?1),
       max(clock.now - min(coalesce(ready.oldest, clock.now), coalesce(later.first, clock.now), coalesce(broker.first, clock.now)), 0)
FROM clock, ready, later, broker";

pub(super) async fn depth(connection: &mut SqliteConnection, pipeline: &str) -> Result<Depth, Fault> {
    let (ready, later, waiting, running, oldest): (i64, i64, i64, i64, i64) =
        sqlx::query_as(DEPTH).bind(pipeline).fetch_one(connection).await?;
    Ok(Depth {
        ready: ready.unsigned_abs(),
        later: (later + waiting).unsigned_abs(),
        running: running.unsigned_abs(),
        oldest_ms: oldest.unsigned_abs(),
    })
}

/// ?1 pipeline.
pub(super) const NEXT_DUE: &str = "
SELECT CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER),
       (SELECT not_before FROM tasks INDEXED BY tasks_later WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND pipeline = ?1 ORDER BY not_before LIMIT 1),
       (SELECT lease_until FROM tasks INDEXED BY tasks_running WHERE state = 'PROCESSING' AND pipeline = ?1 ORDER BY lease_until LIMIT 1)";

pub(super) async fn next_due(connection: &mut SqliteConnection, pipeline: &str) -> Result<Option<u64>, Fault> {
    let (now, later, lapses): (i64, Option<i64>, Option<i64>) = sqlx::query_as(NEXT_DUE).bind(pipeline).fetch_one(connection).await?;
    // A lease lapses once its last millisecond has passed.
    let first = later.into_iter().chain(lapses.map(|at| at + 1)).min();
    Ok(first.map(|at| (at - now).max(0).unsigned_abs()))
}

#[derive(Debug, sqlx::FromRow)]
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
pub(super) async fn jobs(connection: &mut SqliteConnection, which: Jobs<'_>) -> Result<Vec<JobView>, Fault> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT id, tenant, job_id, pipeline, state, prefix, created_at, ended_at, feed = 'open' AS open, expected FROM jobs WHERE true",
    );
    for (column, value) in [("tenant", which.tenant), ("job_id", which.job_id), ("state", which.state.map(JobState::as_str))] {
        if let Some(value) = value {
            query.push(format!(" AND {column} = ")).push_bind(value.to_owned());
        }
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(page(which.limit));
    let rows: Vec<JobRow> = query.build_query_as().fetch_all(&mut *connection).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let counts: Vec<(i64, String, i64)> = sqlx::query_as(
        "SELECT t.job, t.state, count(*) FROM json_each(?1) w CROSS JOIN tasks t INDEXED BY tasks_job ON t.job = w.value GROUP BY 1, 2",
    )
    .bind(array(&ids)?)
    .fetch_all(connection)
    .await?;
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

#[derive(Debug, sqlx::FromRow)]
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
    attempts: u32,
    handbacks: u32,
    crashes: u32,
    max_attempts: u32,
    priority: u8,
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
            attempts: self.attempts,
            handbacks: self.handbacks,
            crashes: self.crashes,
            max_attempts: self.max_attempts,
            priority: self.priority,
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
pub(super) async fn tasks(connection: &mut SqliteConnection, filter: &TaskFilter) -> Result<Vec<TaskView>, Fault> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(TASK_COLUMNS);
    // Ids first, from the index alone where no other column is asked for; then the rows of one page.
    query.push("WHERE t.id IN (SELECT f.id FROM tasks f WHERE true");
    if let Some(tenant) = &filter.tenant {
        query.push(" AND f.tenant = ").push_bind(tenant.as_str());
    }
    if let Some(job_id) = &filter.job_id {
        query.push(" AND f.job IN (SELECT id FROM jobs WHERE job_id = ").push_bind(job_id.as_str()).push(")");
    }
    if let Some(step) = &filter.step {
        query.push(" AND f.step = ").push_bind(step.as_str());
    }
    if let Some(state) = filter.state {
        query.push(" AND f.state = ").push_bind(state.as_str());
    }
    query.push(" ORDER BY f.job DESC, f.id LIMIT ").push_bind(page(filter.limit)).push(") ORDER BY t.job DESC, t.id");
    let rows: Vec<TaskRow> = query.build_query_as().fetch_all(connection).await?;
    rows.into_iter().map(|row| row.into_view(Vec::new())).collect()
}

/// One task with its claims, by its id or an unambiguous beginning of it.
pub(super) async fn task(connection: &mut SqliteConnection, tenant: &str, id: &str) -> Result<TaskView, Fault> {
    let beginning = id.len() >= MIN_PREFIX;
    // Ids are ASCII, so DEL sorts after everything that may follow. An exact match comes first.
    let sql = format!("{TASK_COLUMNS} WHERE t.tenant = ?1 AND t.task_id >= ?2 AND t.task_id <= ?3 ORDER BY t.task_id LIMIT 2");
    let last = if beginning { format!("{id}\u{7f}") } else { id.to_owned() };
    let mut rows: Vec<TaskRow> = sqlx::query_as(AssertSqlSafe(sql)).bind(tenant).bind(id).bind(last).fetch_all(&mut *connection).await?;
    if rows.len() > 1 && rows.first().is_some_and(|row| row.task_id != id) {
        return Err(StoreError::Conflict(format!("several tasks of tenant {tenant} begin with '{id}'; give more of the id")).into());
    }
    if rows.is_empty() {
        return Err(StoreError::NotFound(format!("task {id} of tenant {tenant}")).into());
    }
    let row = rows.swap_remove(0);
    let claims = claims(connection, row.id).await?;
    row.into_view(claims)
}

type ClaimRow = (i64, String, String, i64, Option<i64>, Option<String>, Option<String>);

async fn claims(connection: &mut SqliteConnection, task: i64) -> Result<Vec<ClaimView>, Fault> {
    let rows: Vec<ClaimRow> =
        sqlx::query_as("SELECT epoch, owner, worker, claimed_at, ended_at, ended, error FROM claims WHERE task = ?1 ORDER BY epoch")
            .bind(task)
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|(epoch, owner, worker, claimed_at, ended_at, ended, error)| {
            let error: Option<TaskError> = error.as_deref().map(serde_json::from_str).transpose()?;
            Ok(ClaimView { epoch: epoch.unsigned_abs(), owner, worker, claimed_at, ended_at, ended, error })
        })
        .collect()
}

/// What the guest logged, attempt by attempt.
pub(super) async fn logs(connection: &mut SqliteConnection, key: &TaskKey) -> Result<Vec<(u64, String)>, Fault> {
    let task: Option<i64> = sqlx::query_scalar("SELECT id FROM tasks WHERE tenant = ?1 AND task_id = ?2")
        .bind(&key.tenant)
        .bind(&key.task_id)
        .fetch_optional(&mut *connection)
        .await?;
    let task = task.ok_or_else(|| StoreError::NotFound(format!("task {} of tenant {}", key.task_id, key.tenant)))?;
    let rows: Vec<(i64, String)> =
        sqlx::query_as("SELECT epoch, text FROM logs WHERE task = ?1 ORDER BY epoch").bind(task).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(epoch, text)| (epoch.unsigned_abs(), text)).collect())
}
