//! Leasing what is due. The `tasks` table is the queue: a claim reads the head of one index per step.

use super::end::{Changes, finish};
use super::fault::Fault;
use super::lapse;
use super::run_end::{lease_of, millis};
use super::transaction::{Tx, array};
use crate::task::hooks::TaskError;
use crate::task::id::JobKey;
use crate::task::message::Message;
use crate::task::outcome::{Counters, MAX_CRASHES};
use crate::task_store::{ClaimRequest, Claimed};
use sqlx::SqliteConnection;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Most tasks that one transaction turns from waiting for their time to due.
const PROMOTED_AT_ONCE: u32 = 10_000;

/// Most tasks that one claim leases, whatever it asks for: each is a message in memory.
const CLAIMED_AT_ONCE: u32 = 1000;

/// Whether a claim or a sweep would find anything, without the write lock: ?1 pipeline, ?2 steps.
pub(super) const ANYTHING: &str = "
SELECT EXISTS (SELECT 1 FROM json_each(?2) s CROSS JOIN tasks t INDEXED BY tasks_ready
               ON t.pipeline = ?1 AND t.step = s.value AND t.state = 'QUEUED' AND t.due = 1)
    OR EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_later
               WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND pipeline = ?1 AND not_before <= CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER))
    OR EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_running
               WHERE state = 'PROCESSING' AND lease_until < CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER))";

/// Waiting for their time no longer: ?1 pipeline, ?2 now, ?3 how many.
pub(super) const PROMOTE: &str = "
UPDATE tasks SET due = 1
WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_later WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND pipeline = ?1 AND not_before <= ?2
             ORDER BY not_before LIMIT ?3)";

/// The head of one step's line: ?1 pipeline, ?2 step, ?3 how many.
pub(super) const HEAD: &str = "
SELECT id, crashes, priority, fair FROM tasks INDEXED BY tasks_ready
WHERE state = 'QUEUED' AND due = 1 AND pipeline = ?1 AND step = ?2 ORDER BY priority DESC, fair, id LIMIT ?3";

/// The same among the tasks of one job: ?4 tenant, ?5 job id.
pub(super) const HEAD_OF_JOB: &str = "
SELECT id, crashes, priority, fair FROM tasks INDEXED BY tasks_job
WHERE job = (SELECT id FROM jobs WHERE tenant = ?4 AND job_id = ?5) AND state = 'QUEUED' AND due = 1 AND pipeline = ?1 AND step = ?2
ORDER BY priority DESC, fair, id LIMIT ?3";

/// Leases what was picked: ?1 picks, ?2 now.
pub(super) const LEASE: &str = "
UPDATE tasks SET state = 'PROCESSING', due = 0, epoch = epoch + 1, owner = c.owner, lease_until = ?2 + c.lease, claimed_at = ?2, progress = NULL
FROM (SELECT value->>0 AS id, value->>1 AS owner, value->>2 AS lease FROM json_each(?1)) c
WHERE tasks.id = c.id
RETURNING id, tenant, task_id, epoch, owner, payload_hash, step, key, priority, attempts, handbacks, crashes, max_attempts, output_prefix,
          parent IS NULL AS is_root, not_before, cancel_at IS NOT NULL AS cancelled,
          (SELECT prefix FROM jobs WHERE jobs.id = tasks.job) AS job_prefix,
          coalesce((SELECT leaves FROM groups WHERE groups.id = tasks.waits), 0) AS input_count,
          (SELECT message FROM messages WHERE messages.task = tasks.id) AS message";

#[derive(Debug, sqlx::FromRow)]
struct Leased {
    id: i64,
    tenant: String,
    task_id: String,
    epoch: i64,
    owner: String,
    payload_hash: String,
    step: String,
    key: String,
    priority: u8,
    attempts: u32,
    handbacks: u32,
    crashes: u32,
    max_attempts: u32,
    output_prefix: String,
    is_root: bool,
    not_before: i64,
    cancelled: bool,
    job_prefix: String,
    input_count: u32,
    message: String,
}

/// A task in line.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Ready {
    pub id: i64,
    pub crashes: u32,
    pub priority: u8,
    pub fair: i64,
}

impl Ready {
    /// One more lapse and it is given up: nothing may run beside it.
    fn is_alone(&self) -> bool {
        runs_alone(self.crashes)
    }
}

fn runs_alone(crashes: u32) -> bool {
    crashes + 1 >= MAX_CRASHES
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

/// Whether a claim would find anything; false spares the write lock.
pub(super) async fn anything(connection: &mut SqliteConnection, request: &ClaimRequest) -> Result<bool, Fault> {
    let steps: Vec<&str> = request.steps.iter().filter(|(_, room)| *room > 0).map(|(step, _)| step.as_str()).collect();
    if steps.is_empty() || request.limit == 0 {
        return Ok(false);
    }
    Ok(sqlx::query_scalar(ANYTHING).bind(&request.pipeline).bind(array(&steps)?).fetch_one(connection).await?)
}

/// Serves all requests of a batch, one after the other, from the same lines.
pub(super) async fn claim(tx: &mut Tx<'_>, requests: &[&ClaimRequest]) -> Result<Vec<Vec<Claimed>>, Fault> {
    let mut changes = Changes::default();
    lapse::lapse(tx, &mut changes).await?;
    finish(tx, changes).await?;
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
    let mut claimed: Vec<Vec<Claimed>> = requests.iter().map(|_| Vec::new()).collect();
    for (request, task) in take(tx, &picks).await? {
        if let (Some(answer), Ok(task)) = (claimed.get_mut(request), task) {
            answer.push(task);
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
    let mut unreadable = Vec::new();
    for pick in picks {
        let Some(row) = leased.remove(&pick.task.id) else { continue };
        let task = claimed_of(row, tx.now);
        if let Err(error) = &task {
            unreadable.push((pick.task.id, error.clone()));
        }
        taken.push((pick.request, task));
    }
    if !unreadable.is_empty() {
        let mut changes = Changes::default();
        lapse::bury(tx, &unreadable, &mut changes).await?;
        finish(tx, changes).await?;
    }
    Ok(taken)
}

/// The head of every line that some request asks for, long enough for all of them.
async fn lines<'a>(tx: &mut Tx<'_>, requests: &[&'a ClaimRequest]) -> Result<Lines<'a>, Fault> {
    let mut room: BTreeMap<Line<'a>, u32> = BTreeMap::new();
    for request in requests {
        for (step, step_room) in &request.steps {
            let place = room.entry((request.pipeline.as_str(), step.as_str(), request.job.as_ref())).or_default();
            *place = place.saturating_add((*step_room).min(request.limit)).min(CLAIMED_AT_ONCE);
        }
    }
    let now = tx.now;
    let mut promoted = None;
    let mut lines = HashMap::new();
    for ((pipeline, step, job), room) in room {
        if promoted != Some(pipeline) {
            sqlx::query(PROMOTE).bind(pipeline).bind(now).bind(PROMOTED_AT_ONCE).execute(tx.on()).await?;
            promoted = Some(pipeline);
        }
        let mut head = sqlx::query_as(if job.is_some() { HEAD_OF_JOB } else { HEAD }).bind(pipeline).bind(step).bind(room);
        if let Some(job) = job {
            head = head.bind(&job.tenant).bind(&job.job_id);
        }
        let line: Vec<Ready> = head.fetch_all(tx.on()).await?;
        lines.insert((pipeline, step, job), VecDeque::from(line));
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

async fn lease(tx: &mut Tx<'_>, picks: &[Pick<'_>]) -> Result<HashMap<i64, Leased>, Fault> {
    let mut rows = Vec::with_capacity(picks.len());
    let mut clocks: BTreeMap<(&str, &str, u8), i64> = BTreeMap::new();
    let mut workers: HashMap<i64, &str> = HashMap::new();
    for pick in picks {
        rows.push((pick.task.id, uuid::Uuid::new_v4().to_string(), millis(pick.lease)));
        workers.insert(pick.task.id, pick.worker);
        let clock = clocks.entry((pick.pipeline, pick.step, pick.task.priority)).or_default();
        *clock = (*clock).max(pick.task.fair);
    }
    let now = tx.now;
    let leased: Vec<Leased> = sqlx::query_as(LEASE).bind(array(&rows)?).bind(now).fetch_all(tx.on()).await?;
    let claims: Vec<(i64, i64, &str, &str)> =
        leased.iter().map(|row| (row.id, row.epoch, row.owner.as_str(), workers.get(&row.id).copied().unwrap_or_default())).collect();
    sqlx::query(
        "INSERT INTO claims (task, epoch, owner, worker, claimed_at) \
         SELECT value->>0, value->>1, value->>2, value->>3, ?2 FROM json_each(?1)",
    )
    .bind(array(&claims)?)
    .bind(now)
    .execute(tx.on())
    .await?;
    let clocks: Vec<(&str, &str, u8, i64)> = clocks.into_iter().map(|((p, s, priority), clock)| (p, s, priority, clock)).collect();
    sqlx::query(
        "INSERT INTO lanes (pipeline, step, priority, clock) \
         SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1) WHERE true \
         ON CONFLICT DO UPDATE SET clock = max(clock, excluded.clock)",
    )
    .bind(array(&clocks)?)
    .execute(tx.on())
    .await?;
    Ok(leased.into_iter().map(|row| (row.id, row)).collect())
}

/// The row as the worker gets it. A message that does not parse was written by something else: it can never run.
fn claimed_of(row: Leased, now: i64) -> Result<Claimed, TaskError> {
    let message: Message =
        serde_json::from_str(&row.message).map_err(|e| TaskError::new("unreadable", format!("stored message does not parse: {e}")))?;
    Ok(Claimed {
        lease: lease_of(&row.tenant, &row.task_id, row.epoch, &row.owner),
        message,
        payload_hash: row.payload_hash,
        step: row.step,
        key: row.key,
        priority: row.priority,
        counters: Counters { attempts: row.attempts, handbacks: row.handbacks, crashes: row.crashes, max_attempts: row.max_attempts },
        output_prefix: row.output_prefix,
        job_prefix: row.job_prefix,
        is_root: row.is_root,
        input_count: row.input_count,
        queue_wait: Duration::from_millis((now - row.not_before).max(0).unsigned_abs()),
        cancelled: row.cancelled,
        alone: runs_alone(row.crashes),
    })
}
