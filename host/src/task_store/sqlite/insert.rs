//! New rows of `tasks`, and the tags by which the jobs of a step take turns.

use super::fault::Fault;
use super::transaction::{Tx, array};
use crate::task::children::{Delivery, NewTask};
use crate::task::state::TaskState;
use serde::Serialize;
use std::collections::BTreeMap;

/// Bytes of JSON per insert: keeps one statement's parameter far below SQLite's bound of 1 GB.
const CHUNK: usize = 4 << 20;

/// A row to insert.
#[derive(Debug)]
pub(super) struct NewRow<'a> {
    pub id: i64,
    pub job: i64,
    pub group: i64,
    pub tenant: &'a str,
    pub pipeline: &'a str,
    pub task: &'a NewTask,
    /// QUEUED, WAITING for a group, or CANCELLED where its job is.
    pub state: TaskState,
    pub fair: i64,
    pub parent: Option<i64>,
    pub path: String,
    pub is_input: bool,
    pub waits: Option<i64>,
}

#[derive(Serialize)]
struct Columns<'a> {
    id: i64,
    job: i64,
    grp: i64,
    tenant: &'a str,
    task_id: &'a str,
    pipeline: &'a str,
    step: &'a str,
    key: &'a str,
    payload_hash: &'a str,
    state: &'static str,
    due: bool,
    not_before: i64,
    priority: u8,
    fair: i64,
    max_attempts: u32,
    parent: Option<i64>,
    path: &'a str,
    is_input: bool,
    waits: Option<i64>,
    queue: Option<&'a str>,
    on_failure: Option<String>,
    ended_at: Option<i64>,
    output_prefix: &'a str,
    message: String,
}

const INSERT: &str = "
INSERT INTO tasks (id, job, grp, tenant, task_id, pipeline, step, key, payload_hash, state, due, not_before, priority, fair,
                   max_attempts, parent, path, is_input, waits, queue, sent_at, on_failure, ended_at, output_prefix, created_at)
SELECT value->>'id', value->>'job', value->>'grp', value->>'tenant', value->>'task_id', value->>'pipeline', value->>'step',
       value->>'key', value->>'payload_hash', value->>'state', value->>'due', value->>'not_before', value->>'priority',
       value->>'fair', value->>'max_attempts', value->>'parent', value->>'path', value->>'is_input', value->>'waits',
       value->>'queue', CASE WHEN value->>'queue' IS NOT NULL THEN ?2 END, value->>'on_failure', value->>'ended_at',
       value->>'output_prefix', ?2
FROM json_each(?1)";

const INSERT_MESSAGES: &str = "INSERT INTO messages (task, message) SELECT value->>'id', value->>'message' FROM json_each(?1)";

/// Inserts rows in the order given, their messages apart.
pub(super) async fn rows(tx: &mut Tx<'_>, rows: &[NewRow<'_>]) -> Result<(), Fault> {
    let mut chunk = String::from("[");
    for row in rows {
        let columns = columns(row, tx.now)?;
        tx.enqueued |= row.state == TaskState::Queued && columns.queue.is_none();
        if chunk.len() > 1 {
            chunk.push(',');
        }
        chunk.push_str(&serde_json::to_string(&columns)?);
        if chunk.len() > CHUNK {
            chunk = flush(tx, chunk).await?;
        }
    }
    if chunk.len() > 1 {
        flush(tx, chunk).await?;
    }
    Ok(())
}

async fn flush(tx: &mut Tx<'_>, mut chunk: String) -> Result<String, Fault> {
    chunk.push(']');
    let now = tx.now;
    sqlx::query(INSERT).bind(&chunk).bind(now).execute(tx.on()).await?;
    sqlx::query(INSERT_MESSAGES).bind(&chunk).execute(tx.on()).await?;
    Ok("[".to_owned())
}

fn columns<'a>(row: &'a NewRow<'a>, now: i64) -> Result<Columns<'a>, Fault> {
    let task = row.task;
    let delay = i64::try_from(task.delay_ms).unwrap_or(i64::MAX);
    let not_before = now.saturating_add(delay).max(task.message.not_before.unwrap_or(0));
    let queue = match &task.delivery {
        Delivery::Queue(queue) => Some(queue.as_str()),
        // A foreign task never becomes a row.
        Delivery::Table | Delivery::Foreign(_) => None,
    };
    Ok(Columns {
        id: row.id,
        job: row.job,
        grp: row.group,
        tenant: row.tenant,
        task_id: &task.task_id,
        pipeline: row.pipeline,
        step: &task.step,
        key: &task.key,
        payload_hash: &task.payload_hash,
        state: row.state.as_str(),
        due: row.state == TaskState::Queued && queue.is_none() && not_before <= now,
        not_before,
        priority: task.priority.min(9),
        fair: row.fair,
        max_attempts: task.max_attempts,
        parent: row.parent,
        path: &row.path,
        is_input: row.is_input,
        waits: row.waits,
        queue,
        on_failure: task.on_failure.as_ref().map(serde_json::to_string).transpose()?,
        ended_at: row.state.is_ended().then_some(now),
        output_prefix: &task.output_prefix,
        message: task.message.to_json(),
    })
}

/// Where a job stands in line: one step, one priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Turn {
    job: i64,
    pipeline: String,
    step: String,
    priority: u8,
}

/// Start tags (start-time fair queueing): a job's next task begins where its last one ended, but never before the lane's virtual
/// time, which is the highest tag claimed so far. So a job that comes late stands beside the head of one that came with many.
pub(super) async fn assign_turns(tx: &mut Tx<'_>, rows: &mut [NewRow<'_>]) -> Result<(), Fault> {
    let turn_of = |row: &NewRow<'_>| Turn {
        job: row.job,
        pipeline: row.pipeline.to_owned(),
        step: row.task.step.clone(),
        priority: row.task.priority.min(9),
    };
    let mut wanted: Vec<Turn> = rows.iter().map(turn_of).collect();
    wanted.sort();
    wanted.dedup();
    let bases: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT w.key, max(coalesce((SELECT clock FROM lanes WHERE pipeline = w.value->>'pipeline' AND step = w.value->>'step' \
                                     AND priority = w.value->>'priority'), 0), \
                           coalesce((SELECT next FROM turns WHERE job = w.value->>'job' AND step = w.value->>'step' \
                                     AND priority = w.value->>'priority'), 0)) \
         FROM json_each(?1) w",
    )
    .bind(array(&wanted)?)
    .fetch_all(tx.on())
    .await?;
    let mut next: BTreeMap<Turn, i64> = wanted.into_iter().zip(bases.into_iter().map(|(_, base)| base)).collect();
    for row in rows.iter_mut() {
        if let Some(tag) = next.get_mut(&turn_of(row)) {
            row.fair = *tag;
            *tag += 1;
        }
    }
    let kept: Vec<(i64, String, u8, i64)> = next.into_iter().map(|(turn, tag)| (turn.job, turn.step, turn.priority, tag)).collect();
    sqlx::query(
        "INSERT INTO turns (job, step, priority, next) SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1) WHERE true \
         ON CONFLICT DO UPDATE SET next = excluded.next",
    )
    .bind(array(&kept)?)
    .execute(tx.on())
    .await?;
    Ok(())
}

/// The virtual time of lanes, for tasks that begin a job: one task is not worth a turn of its own.
pub(super) async fn assign_first(tx: &mut Tx<'_>, rows: &mut [NewRow<'_>]) -> Result<(), Fault> {
    let lane_of = |row: &NewRow<'_>| (row.pipeline.to_owned(), row.task.step.clone(), row.task.priority.min(9));
    let mut lanes: Vec<(String, String, u8)> = rows.iter().map(lane_of).collect();
    lanes.sort();
    lanes.dedup();
    let clocks: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT w.key, coalesce((SELECT clock FROM lanes WHERE pipeline = w.value->>0 AND step = w.value->>1 \
                                 AND priority = w.value->>2), 0) FROM json_each(?1) w",
    )
    .bind(array(&lanes)?)
    .fetch_all(tx.on())
    .await?;
    let clocks: BTreeMap<_, _> = lanes.into_iter().zip(clocks.into_iter().map(|(_, clock)| clock)).collect();
    for row in rows.iter_mut() {
        row.fair = clocks.get(&lane_of(row)).copied().unwrap_or_default();
    }
    Ok(())
}
