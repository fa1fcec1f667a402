//! New rows of `tasks`, and the tags by which the jobs of a step take turns.

use super::database::{Asked, args};
use super::dialect::{Statement, sql};
use super::fault::Fault;
use super::rows::{Rows, array, columns};
use super::transaction::Tx;
use crate::task::children::{Delivery, NewTask};
use crate::task::state::TaskState;
use std::collections::{BTreeMap, HashMap};

/// Bytes of rows per insert: keeps what one statement is given far below the 1 GB that a value may have where rows go as one.
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
    /// Owner and end of its first lease, where it begins with one: a root task, PROCESSING.
    pub lease: Option<(&'a str, i64)>,
}

columns! {
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
        /// Flags are 0 and 1.
        due: u8,
        not_before: i64,
        priority: u8,
        fair: i64,
        max_attempts: u32,
        parent: Option<i64>,
        path: &'a str,
        is_input: u8,
        waits: Option<i64>,
        queue: Option<&'a str>,
        on_failure: Option<String>,
        ended_at: Option<i64>,
        output_prefix: &'a str,
    }
}

static INSERT: Statement = Statement::new(
    "
INSERT INTO tasks (id, job, grp, tenant, task_id, pipeline, step, key, payload_hash, state, due, not_before, priority, fair,
                   max_attempts, parent, path, is_input, waits, queue, sent_at, on_failure, ended_at, output_prefix, created_at)
SELECT id, job, grp, tenant, task_id, pipeline, step, key, payload_hash, state, due, not_before, priority, fair,
       max_attempts, parent, path, is_input, waits, queue, CASE WHEN queue IS NOT NULL THEN $2 END, on_failure, ended_at, output_prefix, $2
FROM {rows $1 id:int job:int grp:int tenant:text task_id:text pipeline:text step:text key:text payload_hash:text state:text due:int
      not_before:int priority:int fair:int max_attempts:int parent:int path:text is_input:int waits:int queue:text on_failure:text
      ended_at:int output_prefix:text} c",
);

columns! {
    /// A root task that is leased as it comes. What is the same for all of them is not handed over: the database looks for each value.
    struct LeasedColumns<'a> {
        id: i64,
        job: i64,
        grp: i64,
        tenant: &'a str,
        task_id: &'a str,
        pipeline: &'a str,
        step: &'a str,
        key: &'a str,
        payload_hash: &'a str,
        not_before: i64,
        priority: u8,
        fair: i64,
        max_attempts: u32,
        queue: Option<&'a str>,
        on_failure: Option<String>,
        output_prefix: &'a str,
        owner: &'a str,
        lease_until: i64,
    }
}

static INSERT_LEASED: Statement = Statement::new(
    "
INSERT INTO tasks (id, job, grp, tenant, task_id, pipeline, step, key, payload_hash, state, due, not_before, priority, fair,
                   max_attempts, path, is_input, queue, sent_at, on_failure, output_prefix, created_at, epoch, owner, lease_until,
                   claimed_at)
SELECT id, job, grp, tenant, task_id, pipeline, step, key, payload_hash, 'PROCESSING', 0, not_before, priority, fair,
       max_attempts, '', 0, queue, CASE WHEN queue IS NOT NULL THEN $2 END, on_failure, output_prefix, $2, 1, owner, lease_until, $2
FROM {rows $1 id:int job:int grp:int tenant:text task_id:text pipeline:text step:text key:text payload_hash:text not_before:int
      priority:int fair:int max_attempts:int queue:text on_failure:text output_prefix:text owner:text lease_until:int} c",
);

static INSERT_MESSAGES: Statement =
    Statement::new("INSERT INTO messages (task, message) SELECT task, message FROM {rows $1 task:int message:text} c");

/// Inserts rows, their messages apart; each kind in the order given.
pub(super) async fn rows(tx: &mut Tx<'_>, rows: &[NewRow<'_>]) -> Result<(), Fault> {
    let (mut waiting, mut leased) = (Insert::by(&INSERT), Insert::by(&INSERT_LEASED));
    for row in rows {
        let insert = match row.lease {
            None => {
                let columns = columns(row, tx.now)?;
                tx.enqueued |= row.state == TaskState::Queued && columns.queue.is_none();
                waiting.tasks.push(&columns);
                &mut waiting
            }
            Some(lease) => {
                leased.tasks.push(&leased_columns(row, lease, tx.now)?);
                &mut leased
            }
        };
        insert.messages.push(&(row.id, row.task.message.to_json()));
        if insert.tasks.bytes() + insert.messages.bytes() > CHUNK {
            insert.flush(tx).await?;
        }
    }
    waiting.flush(tx).await?;
    leased.flush(tx).await
}

/// Rows of one kind, until there are enough for a statement.
struct Insert {
    by: &'static Statement,
    tasks: Rows,
    messages: Rows,
}

impl Insert {
    fn by(by: &'static Statement) -> Self {
        Self { by, tasks: Rows::default(), messages: Rows::default() }
    }

    async fn flush(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        if self.tasks.is_empty() {
            return Ok(());
        }
        tx.execute(self.by, args![std::mem::take(&mut self.tasks), tx.now]).await?;
        tx.execute(&INSERT_MESSAGES, args![std::mem::take(&mut self.messages)]).await
    }
}

/// When a new task is ready to run.
pub(super) fn not_before(task: &NewTask, now: i64) -> i64 {
    let delay = i64::try_from(task.delay_ms).unwrap_or(i64::MAX);
    now.saturating_add(delay).max(task.message.not_before.unwrap_or(0))
}

/// The broker's queue that carries a task's message.
fn queue(task: &NewTask) -> Option<&str> {
    match &task.delivery {
        Delivery::Queue(queue) => Some(queue),
        // A foreign task never becomes a row.
        Delivery::Table | Delivery::Foreign(_) => None,
    }
}

fn on_failure(task: &NewTask) -> Result<Option<String>, Fault> {
    Ok(task.on_failure.as_ref().map(serde_json::to_string).transpose()?)
}

fn columns<'a>(row: &'a NewRow<'a>, now: i64) -> Result<Columns<'a>, Fault> {
    let task = row.task;
    let (not_before, queue) = (not_before(task, now), queue(task));
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
        due: u8::from(row.state == TaskState::Queued && queue.is_none() && not_before <= now),
        not_before,
        priority: task.priority.min(9),
        fair: row.fair,
        max_attempts: task.max_attempts,
        parent: row.parent,
        path: &row.path,
        is_input: u8::from(row.is_input),
        waits: row.waits,
        queue,
        on_failure: on_failure(task)?,
        ended_at: row.state.is_ended().then_some(now),
        output_prefix: &task.output_prefix,
    })
}

fn leased_columns<'a>(row: &'a NewRow<'a>, (owner, lease_until): (&'a str, i64), now: i64) -> Result<LeasedColumns<'a>, Fault> {
    let task = row.task;
    Ok(LeasedColumns {
        id: row.id,
        job: row.job,
        grp: row.group,
        tenant: row.tenant,
        task_id: &task.task_id,
        pipeline: row.pipeline,
        step: &task.step,
        key: &task.key,
        payload_hash: &task.payload_hash,
        not_before: not_before(task, now),
        priority: task.priority.min(9),
        fair: row.fair,
        max_attempts: task.max_attempts,
        queue: queue(task),
        on_failure: on_failure(task)?,
        output_prefix: &task.output_prefix,
        owner,
        lease_until,
    })
}

/// Where a job stands in line: one step, one priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    job: i64,
    pipeline: String,
    step: String,
    priority: u8,
}

/// Start tags (start-time fair queueing): a job's next task begins where its last one ended, but never before the lane's virtual
/// time, which is the highest tag claimed so far. So a job that comes late stands beside the head of one that came with many.
pub(super) async fn assign_turns(tx: &mut Tx<'_>, rows: &mut [NewRow<'_>]) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let turn_of = |row: &NewRow<'_>| Turn {
        job: row.job,
        pipeline: row.pipeline.to_owned(),
        step: row.task.step.clone(),
        priority: row.task.priority.min(9),
    };
    let mut wanted: Vec<Turn> = rows.iter().map(turn_of).collect();
    wanted.sort();
    wanted.dedup();
    let numbered: Vec<(usize, i64, &str, &str, u8)> =
        wanted.iter().enumerate().map(|(n, t)| (n, t.job, t.pipeline.as_str(), t.step.as_str(), t.priority)).collect();
    let bases = sql!(
        "SELECT {json n base} FROM (\
            SELECT w.n, {max}(coalesce((SELECT l.clock FROM lanes l \
                                        WHERE l.pipeline = w.pipeline AND l.step = w.step AND l.priority = w.priority), 0), \
                              coalesce((SELECT t.next FROM turns t \
                                        WHERE t.job = w.job AND t.step = w.step AND t.priority = w.priority), 0)) AS base \
            FROM {rows $1 n:int job:int pipeline:text step:text priority:int} w) c"
    );
    let bases: Vec<(usize, i64)> = tx.json(bases, args![array(&numbered)]).await?;
    let bases: HashMap<usize, i64> = bases.into_iter().collect();
    let mut next: BTreeMap<Turn, i64> =
        wanted.into_iter().enumerate().map(|(n, turn)| (turn, bases.get(&n).copied().unwrap_or_default())).collect();
    for row in rows.iter_mut() {
        if let Some(tag) = next.get_mut(&turn_of(row)) {
            row.fair = *tag;
            *tag += 1;
        }
    }
    // A step of that name in another pipeline shares the tag: a job has few of those, and loses a turn at most.
    let mut furthest: BTreeMap<(i64, String, u8), i64> = BTreeMap::new();
    for (turn, tag) in next {
        let kept = furthest.entry((turn.job, turn.step, turn.priority)).or_insert(tag);
        *kept = tag.max(*kept);
    }
    let kept: Vec<(i64, String, u8, i64)> = furthest.into_iter().map(|((job, step, priority), tag)| (job, step, priority, tag)).collect();
    let keep = sql!(
        "INSERT INTO turns (job, step, priority, next) \
         SELECT job, step, priority, next FROM {rows $1 job:int step:text priority:int next:int} c WHERE true \
         ON CONFLICT (job, step, priority) DO UPDATE SET next = excluded.next"
    );
    tx.execute(keep, args![array(&kept)]).await
}

/// Pipeline, step and priority.
pub(super) type Lane<'a> = (&'a str, &'a str, u8);

/// The lane that a task stands in.
pub(super) fn lane<'a>(pipeline: &'a str, task: &'a NewTask) -> Lane<'a> {
    (pipeline, &task.step, task.priority.min(9))
}

/// Asks for the virtual time of lanes, as pairs of a lane's place and its time.
pub(super) fn ask_clocks(lanes: &[Lane<'_>]) -> Result<Asked, Fault> {
    let numbered: Vec<_> = lanes.iter().enumerate().map(|(n, (pipeline, step, priority))| (n, pipeline, step, priority)).collect();
    let clocks = sql!(
        "SELECT {json n clock} FROM (\
            SELECT w.n, coalesce((SELECT l.clock FROM lanes l \
                                  WHERE l.pipeline = w.pipeline AND l.step = w.step AND l.priority = w.priority), 0) AS clock \
            FROM {rows $1 n:int pipeline:text step:text priority:int} w) c"
    );
    Ok((clocks, args![array(&numbered)].into()))
}
