//! Leasing what is due. The `tasks` table is the queue: a claim reads the head of one index per step.

use super::database::{Db, args};
use super::dialect::{Statement, sql};
use super::end::{Changes, finish};
use super::fault::Fault;
use super::lapse::{self, Lapsed};
use super::lock;
use super::rows::array;
use super::run_end::{lease_of, millis};
use super::transaction::Tx;
use crate::task::hooks::TaskError;
use crate::task::id::JobKey;
use crate::task::message::Message;
use crate::task::outcome::{Counters, MAX_CRASHES};
use crate::task_store::{ClaimRequest, Claimed};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Most tasks that one transaction turns from waiting for their time to due.
const PROMOTED_AT_ONCE: u32 = 10_000;

/// Bytes of a message up to which it is read together with its row; a claim of [`CLAIMED_AT_ONCE`] stays far below the 1 GB
/// that a value may have where rows come as one.
const SHORT_MESSAGE: u32 = 64 << 10;

/// Most tasks that one claim leases, whatever it asks for: each is a message in memory.
const CLAIMED_AT_ONCE: u32 = 1000;

/// Whether a claim would find anything, without a write lock: $1 pipeline, $2 steps.
pub(super) static ANYTHING: Statement = Statement::new(
    "
SELECT EXISTS (SELECT 1 FROM {texts $2} s {join} tasks t {index tasks_ready}
               ON t.pipeline = $1 AND t.step = s.value AND t.state = 'QUEUED' AND t.due = 1)
    OR EXISTS (SELECT 1 FROM tasks {index tasks_later} WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND not_before <= {now})
    OR EXISTS (SELECT 1 FROM tasks {index tasks_running} WHERE state = 'PROCESSING' AND lease_until < {now})",
);

/// Waiting for their time no longer, in all pipelines: $1 now, $2 how many.
pub(super) static PROMOTE: Statement = Statement::new(
    "
WITH c AS MATERIALIZED (SELECT id FROM tasks {index tasks_later} WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND not_before <= $1
                        ORDER BY not_before {limit $2} {skip locked tasks})
UPDATE tasks SET due = 1 WHERE id IN (SELECT id FROM c)",
);

/// The head of one step's line: $1 pipeline, $2 step, $3 how many.
pub(super) static HEAD: Statement = Statement::new(
    "
SELECT {json id crashes priority fair} FROM (
    SELECT id, crashes, priority, fair FROM tasks {index tasks_ready}
    WHERE state = 'QUEUED' AND due = 1 AND pipeline = $1 AND step = $2 ORDER BY priority DESC, fair, id {limit $3} {skip locked tasks}) c",
);

/// The same among the tasks of one job, which the index holds too: $4 tenant, $5 job id.
static HEAD_OF_JOB: Statement = Statement::new(
    "
SELECT {json id crashes priority fair} FROM (
    SELECT id, crashes, priority, fair FROM tasks {index tasks_ready}
    WHERE state = 'QUEUED' AND due = 1 AND pipeline = $1 AND step = $2 AND job = (SELECT id FROM jobs WHERE tenant = $4 AND job_id = $5)
    ORDER BY priority DESC, fair, id {limit $3} {skip locked tasks}) c",
);

/// What was picked, as it will be once it is leased: $1 numbers, $2 length up to which a message comes along. The rows are locked, or
/// nobody else writes.
pub(super) static READ: Statement = Statement::new(
    "
SELECT {json id job tenant task_id epoch payload_hash step key priority attempts handbacks crashes max_attempts output_prefix is_root
             not_before cancelled job_prefix input_count message} FROM (
    SELECT t.id, t.job, t.tenant, t.task_id, t.epoch + 1 AS epoch, t.payload_hash, t.step, t.key, t.priority, t.attempts, t.handbacks,
           t.crashes, t.max_attempts, t.output_prefix, CASE WHEN t.parent IS NULL AND j.feed = 'single' THEN 1 ELSE 0 END AS is_root,
           t.not_before, CASE WHEN t.cancel_at IS NOT NULL THEN 1 ELSE 0 END AS cancelled, j.prefix AS job_prefix,
           coalesce(g.leaves, 0) AS input_count, CASE WHEN length(m.message) <= $2 THEN m.message END AS message
    FROM {ints $1} w {join} tasks t ON t.id = w.value {join} jobs j ON j.id = t.job
         LEFT JOIN groups g ON g.id = t.waits LEFT JOIN messages m ON m.task = t.id
    WHERE t.state = 'QUEUED') c",
);

/// Leases what was picked: $1 picks, $2 now.
pub(super) static LEASE: Statement = Statement::new(
    "
UPDATE tasks SET state = 'PROCESSING', due = 0, epoch = epoch + 1, owner = c.owner, lease_until = $2 + c.lease, claimed_at = $2, progress = NULL,
                 sends = 0
FROM {rows $1 id:int owner:text lease:int} c
WHERE tasks.id = c.id AND tasks.state = 'QUEUED'",
);

/// Moves the virtual time of lanes on: $1 lanes with the highest tags just claimed. It is advisory: with Postgres, lanes that another
/// claim has locked are left as they are, and claims do not wait for each other.
static ADVANCE: Statement = Statement::pair(
    "
INSERT INTO lanes (pipeline, step, priority, clock)
SELECT pipeline, step, priority, clock FROM {rows $1 pipeline:text step:text priority:int clock:int} c WHERE true
ON CONFLICT (pipeline, step, priority) DO UPDATE SET clock = max(clock, excluded.clock)",
    "
WITH c AS MATERIALIZED (SELECT * FROM {rows $1 pipeline:text step:text priority:int clock:int} c),
     free AS MATERIALIZED (SELECT l.pipeline, l.step, l.priority, c.clock FROM lanes l JOIN c USING (pipeline, step, priority)
                           WHERE l.clock < c.clock FOR NO KEY UPDATE OF l SKIP LOCKED),
     fresh AS (INSERT INTO lanes (pipeline, step, priority, clock)
               SELECT * FROM c WHERE NOT EXISTS (SELECT 1 FROM lanes l WHERE (l.pipeline, l.step, l.priority) = (c.pipeline, c.step, c.priority))
               ORDER BY 1, 2, 3 ON CONFLICT (pipeline, step, priority) DO NOTHING)
UPDATE lanes SET clock = greatest(lanes.clock, free.clock) FROM free
WHERE (lanes.pipeline, lanes.step, lanes.priority) = (free.pipeline, free.step, free.priority)",
);

/// A row as [`READ`] answers it, column by column.
#[derive(Debug, Deserialize)]
struct Picked {
    id: i64,
    job: i64,
    tenant: String,
    task_id: String,
    epoch: i64,
    payload_hash: String,
    step: String,
    key: String,
    priority: i64,
    attempts: i64,
    handbacks: i64,
    crashes: i64,
    max_attempts: i64,
    output_prefix: String,
    /// Flags are 0 and 1.
    is_root: u8,
    not_before: i64,
    cancelled: u8,
    job_prefix: String,
    input_count: i64,
    /// None where it is long, or lost.
    message: Option<String>,
}

/// A task in line.
#[derive(Debug, Clone, Deserialize, sqlx::FromRow)]
pub(super) struct Ready {
    pub id: i64,
    pub crashes: i64,
    pub priority: i64,
    pub fair: i64,
}

impl Ready {
    /// One more lapse and it is given up: nothing may run beside it.
    pub fn is_alone(&self) -> bool {
        runs_alone(self.crashes)
    }
}

/// See [`Ready::is_alone`].
pub(super) fn runs_alone(crashes: i64) -> bool {
    crashes + 1 >= i64::from(MAX_CRASHES)
}

/// Where a task stands in line: pipeline, step, and the job where a request asks for one only.
type Line<'a> = (&'a str, &'a str, Option<&'a JobKey>);

type Lines<'a> = HashMap<Line<'a>, VecDeque<Ready>>;

/// A task picked for one of the requests of a batch.
pub(super) struct Pick<'a> {
    /// Which of them.
    pub request: usize,
    pub task: Ready,
    pub pipeline: &'a str,
    pub step: &'a str,
    pub worker: &'a str,
    pub lease: Duration,
}

/// Whether a claim would find anything; false spares a transaction.
pub(super) async fn anything(db: &mut Db<'_>, request: &ClaimRequest) -> Result<bool, Fault> {
    let steps: Vec<&str> = request.steps.iter().filter(|(_, room)| *room > 0).map(|(step, _)| step.as_str()).collect();
    if steps.is_empty() || request.limit == 0 {
        return Ok(false);
    }
    let (anything,) = db.one(&ANYTHING, args![&request.pipeline, array(&steps)]).await?;
    Ok(anything)
}

/// Serves all requests of a batch, one after the other, from the same lines.
pub(super) async fn claim(tx: &mut Tx<'_>, requests: &[&ClaimRequest], lapsed: &[Lapsed]) -> Result<Vec<Vec<Claimed>>, Fault> {
    lapse::take_back(tx, lapsed).await?;
    let mut lines = lines(tx, requests).await?;
    let mut picks = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let picked = pick(request, &mut lines);
        picks.extend(picked.into_iter().map(|(step, task)| Pick {
            request: index,
            task,
            pipeline: &request.pipeline,
            step,
            worker: &request.worker,
            lease: request.lease,
        }));
    }
    // What has come to its time is there for everybody; and others skipped what was locked here.
    tx.enqueued |= tx.waits_ended || (tx.has_rivals() && lines.values().any(|line| !line.is_empty()));
    let mut claimed: Vec<Vec<Claimed>> = requests.iter().map(|_| Vec::new()).collect();
    for (request, task) in take(tx, &picks).await? {
        match (claimed.get_mut(request), task) {
            (Some(answer), Ok(task)) => answer.push(task),
            // An answer without it may be empty, though more is in line.
            _ => tx.enqueued = true,
        }
    }
    Ok(claimed)
}

/// Leases what was picked, in order. A row that cannot be read is given up, and its answer says why.
pub(super) async fn take(tx: &mut Tx<'_>, picks: &[Pick<'_>]) -> Result<Vec<(usize, Result<Claimed, TaskError>)>, Fault> {
    if picks.is_empty() {
        return Ok(Vec::new());
    }
    let mut leased = lease(tx, picks).await?;
    let mut taken = Vec::with_capacity(picks.len());
    let (mut unreadable, mut jobs) = (Vec::new(), Vec::new());
    for pick in picks {
        let Some((row, owner)) = leased.remove(&pick.task.id) else { continue };
        let job = row.job;
        let task = claimed_of(row, owner, tx.now);
        if let Err(error) = &task {
            unreadable.push((pick.task.id, error.clone()));
            jobs.push(job);
        }
        taken.push((pick.request, task));
    }
    if !unreadable.is_empty() {
        lock::jobs(tx, &jobs).await?;
        let mut changes = Changes::default();
        lapse::bury(tx, &unreadable, &mut changes).await?;
        finish(tx, changes).await?;
    }
    Ok(taken)
}

/// The head of every line that some request asks for, in the order they ask, and no more of them than all requests together take.
async fn lines<'a>(tx: &mut Tx<'_>, requests: &[&'a ClaimRequest]) -> Result<Lines<'a>, Fault> {
    let mut order: Vec<Line<'a>> = Vec::new();
    let mut rooms: HashMap<Line<'a>, u32> = HashMap::new();
    let mut wanted = 0_u32;
    for request in requests {
        wanted = wanted.saturating_add(request.limit.min(CLAIMED_AT_ONCE));
        for (step, room) in request.steps.iter().filter(|(_, room)| *room > 0) {
            let line = (request.pipeline.as_str(), step.as_str(), request.job.as_ref());
            let place = rooms.entry(line).or_insert_with(|| {
                order.push(line);
                0
            });
            *place = place.saturating_add((*room).min(request.limit)).min(CLAIMED_AT_ONCE);
        }
    }
    if tx.waits_ended {
        tx.execute(&PROMOTE, args![tx.now, PROMOTED_AT_ONCE]).await?;
    }
    let mut lines = HashMap::new();
    for line in order {
        let (pipeline, step, job) = line;
        let room = rooms.get(&line).copied().unwrap_or_default().min(wanted);
        if room == 0 {
            continue;
        }
        let head: Vec<Ready> = match job {
            None => tx.json(&HEAD, args![pipeline, step, room]).await?,
            Some(job) => tx.json(&HEAD_OF_JOB, args![pipeline, step, room, &job.tenant, &job.job_id]).await?,
        };
        wanted = wanted.saturating_sub(u32::try_from(head.len()).unwrap_or(u32::MAX));
        lines.insert(line, VecDeque::from(head));
    }
    Ok(lines)
}

/// What one request gets: a task that runs alone where one is at the head of a line, else tasks that do not.
fn pick<'a>(request: &'a ClaimRequest, lines: &mut Lines<'a>) -> Vec<(&'a str, Ready)> {
    let line_of = |step: &'a str| (request.pipeline.as_str(), step, request.job.as_ref());
    let limit = request.limit.min(CLAIMED_AT_ONCE) as usize;
    let with_room = || request.steps.iter().filter(|(_, room)| *room > 0);
    for (step, _) in with_room().filter(|_| limit > 0) {
        if let Some(line) = lines.get_mut(&line_of(step))
            && line.front().is_some_and(Ready::is_alone)
        {
            return line.pop_front().map(|task| (step.as_str(), task)).into_iter().collect();
        }
    }
    let mut picked = Vec::new();
    for (step, room) in with_room() {
        let Some(line) = lines.get_mut(&line_of(step)) else { continue };
        let mut left = (*room as usize).min(limit - picked.len());
        let mut passed = VecDeque::new();
        while left > 0
            && let Some(task) = line.pop_front()
        {
            if task.is_alone() {
                passed.push_back(task);
            } else {
                picked.push((step.as_str(), task));
                left -= 1;
            }
        }
        // Those that run alone keep their place; they are served once they are first.
        passed.append(line);
        *line = passed;
    }
    picked
}

/// Rows by number, each with the owner of its lease.
type Leased = HashMap<i64, (Picked, String)>;

async fn lease(tx: &mut Tx<'_>, picks: &[Pick<'_>]) -> Result<Leased, Fault> {
    let ids: Vec<i64> = picks.iter().map(|pick| pick.task.id).collect();
    let mut read: Vec<Picked> = tx.json(&READ, args![array(&ids), SHORT_MESSAGE]).await?;
    read_long_messages(tx, &mut read).await?;
    let mut read: HashMap<i64, Picked> = read.into_iter().map(|row| (row.id, row)).collect();
    let (mut rows, mut noted) = (Vec::with_capacity(picks.len()), Vec::with_capacity(picks.len()));
    let mut leased = HashMap::with_capacity(picks.len());
    for pick in picks {
        let Some(row) = read.remove(&pick.task.id) else { continue };
        let owner = new_owner();
        rows.push((row.id, owner.clone(), millis(pick.lease)));
        noted.push(Noted {
            task: row.id,
            epoch: row.epoch,
            owner: owner.clone(),
            worker: pick.worker,
            lane: (pick.pipeline, pick.step, pick.task.priority),
            fair: pick.task.fair,
        });
        leased.insert(row.id, (row, owner));
    }
    tx.execute(&LEASE, args![array(&rows), tx.now]).await?;
    note(tx, &noted).await?;
    Ok(leased)
}

/// A name that no lease of the same task and epoch had before, even where a database was set back: it is a part of the fence, and of the
/// name of the attempt's folder. It is no secret, so the system is not asked for it, which would be a call for each task.
pub(super) fn new_owner() -> String {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid().to_string()
}

/// A lease as the other tables are told of it.
pub(super) struct Noted<'a> {
    pub task: i64,
    pub epoch: i64,
    pub owner: String,
    /// The worker's name.
    pub worker: &'a str,
    /// Pipeline, step and priority.
    pub lane: (&'a str, &'a str, i64),
    /// The tag with which it stood in line.
    pub fair: i64,
}

/// Notes leases that were just given, and moves the virtual time of their lanes on.
pub(super) async fn note(tx: &mut Tx<'_>, leases: &[Noted<'_>]) -> Result<(), Fault> {
    if leases.is_empty() {
        return Ok(());
    }
    let claims: Vec<(i64, i64, &str, &str)> = leases.iter().map(|l| (l.task, l.epoch, l.owner.as_str(), l.worker)).collect();
    let insert = sql!(
        "INSERT INTO claims (task, epoch, owner, worker, claimed_at) \
         SELECT task, epoch, owner, worker, $2 FROM {rows $1 task:int epoch:int owner:text worker:text} c"
    );
    tx.execute(insert, args![array(&claims), tx.now]).await?;
    let mut clocks: BTreeMap<(&str, &str, i64), i64> = BTreeMap::new();
    for lease in leases {
        let clock = clocks.entry(lease.lane).or_default();
        *clock = (*clock).max(lease.fair);
    }
    let clocks: Vec<(&str, &str, i64, i64)> = clocks.into_iter().map(|((p, s, priority), clock)| (p, s, priority, clock)).collect();
    tx.execute(&ADVANCE, args![array(&clocks)]).await
}

/// Fills in the messages that [`READ`] left out: the answer of one statement has a bound.
async fn read_long_messages(tx: &mut Tx<'_>, read: &mut [Picked]) -> Result<(), Fault> {
    let long: Vec<i64> = read.iter().filter(|row| row.message.is_none()).map(|row| row.id).collect();
    if long.is_empty() {
        return Ok(());
    }
    let messages = sql!("SELECT m.task, m.message FROM {ints $1} w {join} messages m ON m.task = w.value");
    let mut messages: HashMap<i64, String> = tx.rows::<(i64, String)>(messages, args![array(&long)]).await?.into_iter().collect();
    for row in read.iter_mut().filter(|row| row.message.is_none()) {
        row.message = messages.remove(&row.id);
    }
    Ok(())
}

/// The row as the worker gets it. A message that does not parse was written by something else: it can never run.
fn claimed_of(row: Picked, owner: String, now: i64) -> Result<Claimed, TaskError> {
    let message: Message = serde_json::from_str(row.message.as_deref().unwrap_or_default())
        .map_err(|e| TaskError::new("unreadable", format!("stored message does not parse: {e}")))?;
    Ok(Claimed {
        lease: lease_of(&row.tenant, &row.task_id, row.epoch, &owner),
        message: Arc::new(message),
        payload_hash: row.payload_hash,
        step: row.step,
        key: row.key,
        priority: priority(row.priority),
        counters: Counters {
            attempts: count(row.attempts),
            handbacks: count(row.handbacks),
            crashes: count(row.crashes),
            max_attempts: count(row.max_attempts),
        },
        output_prefix: row.output_prefix,
        job_prefix: row.job_prefix,
        is_root: row.is_root == 1,
        input_count: count(row.input_count),
        queue_wait: Duration::from_millis((now - row.not_before).max(0).unsigned_abs()),
        cancelled: row.cancelled == 1,
        alone: runs_alone(row.crashes),
    })
}

/// A count as a row holds it.
pub(super) fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

/// A priority as a row holds it.
pub(super) fn priority(value: i64) -> u8 {
    u8::try_from(value).unwrap_or_default()
}
