//! Messages of a queue, taken in: stored where they are new, leased where they can run now; and the letters of those that cannot be
//! tasks.

use super::claim::{Noted, Pick, Ready, new_owner, note, runs_alone, take};
use super::database::{Asked, args};
use super::dialect::sql;
use super::fault::Fault;
use super::lapse::{self, Lapsed};
use super::rows::{array, columns};
use super::run_end::{lease_of, millis};
use super::submit::{self, Born, Entered, Entering, Met, Way};
use super::transaction::Tx;
use crate::task::children::Delivery;
use crate::task::hooks::TaskError;
use crate::task::id::{TaskKey, sha256};
use crate::task::outcome::Counters;
use crate::task::state::TaskState;
use crate::task_store::{Admission, Claimed, Feed, NewJob, Refused, StoreError, Submitted, Unfinished};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Messages that came together, the length of their leases, and who takes them.
pub(super) type Arrivals<'a> = (&'a [NewJob], Duration, &'a str);

/// How long the others of a call wait for a task that runs alone: by then it has begun, and they wait for its end beside it.
const ALONE_FIRST: Duration = Duration::from_secs(1);

/// A task that is there, column by column.
#[derive(Debug, Deserialize)]
struct Row {
    tenant: String,
    task_id: String,
    pipeline: String,
    step: String,
    queue: Option<String>,
    parent: Option<i64>,
    payload_hash: String,
    state: String,
    not_before: i64,
    lease_until: Option<i64>,
    id: i64,
    crashes: i64,
    priority: i64,
    fair: i64,
}

impl Row {
    /// Whether it may run where the message has arrived: in its own pipeline, or, where a parent made it, wherever the queue is read that
    /// its parent sent it to.
    fn is_for(&self, job: &NewJob) -> bool {
        let comes_by_it = matches!(&job.root.delivery, Delivery::Queue(queue) if self.queue.as_ref() == Some(queue));
        self.pipeline == job.pipeline || (comes_by_it && self.parent.is_some())
    }
}

/// One list of answers per request, in order.
pub(super) async fn admit(tx: &mut Tx<'_>, requests: &[Arrivals<'_>], lapsed: &[Lapsed]) -> Result<Vec<Vec<Admission>>, Fault> {
    lapse::take_back(tx, lapsed).await?;
    let mut all: Vec<Arrival<'_>> = Vec::new();
    for (call, (jobs, lease, worker)) in requests.iter().enumerate() {
        all.extend(jobs.iter().map(|job| Arrival { job, lease: *lease, worker, call }));
    }
    let jobs: Vec<&NewJob> = all.iter().map(|arrival| arrival.job).collect();
    let (rows, met) = submit::meet::<Row>(tx, &jobs, ask_rows(&all)?).await?;
    let known: Rows = rows.into_iter().map(|row| ((row.tenant.clone(), row.task_id.clone()), row)).collect();
    let mut decided = Decided::new(all.len());
    let mut new = Vec::new();
    for (place, arrival) in all.iter().enumerate() {
        match known.get(&key_of(arrival.job)) {
            Some(row) if row.payload_hash == arrival.job.root.payload_hash && row.is_for(arrival.job) => {
                decided.by_row(place, arrival, row, tx.now)?;
            }
            // A message of a task that is there belongs to that task, wherever it came from.
            Some(_) => decided.refuse(place, arrival.job, why_not(Submitted::Conflict))?,
            None => new.push((place, *arrival)),
        }
    }
    let waits = decided.let_one_go_alone(&all);
    enter(tx, &new, met, &waits, &mut decided).await?;
    let Decided { mut answers, picks, unfinished, letters } = decided;
    keep(tx, &letters).await?;
    for (place, task) in take(tx, &picks).await? {
        if let Some(answer) = answers.get_mut(place) {
            *answer = task.map_or_else(Admission::Refused, |task| Admission::Claimed(Box::new(task)));
        }
    }
    for (place, task) in take_unfinished(tx, &unfinished).await? {
        if let Some(answer) = answers.get_mut(place) {
            *answer = Admission::Unfinished(Box::new(task));
        }
    }
    let mut answers = answers.into_iter();
    Ok(requests.iter().map(|(jobs, ..)| answers.by_ref().take(jobs.len()).collect()).collect())
}

/// One message, and who takes it for how long.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    job: &'a NewJob,
    lease: Duration,
    worker: &'a str,
    /// Which of the requests it came with.
    call: usize,
}

type Rows = HashMap<(String, String), Row>;

fn key_of(job: &NewJob) -> (String, String) {
    (job.tenant.clone(), job.root.task_id.clone())
}

/// Stores what is new, each with its place among the answers, and leased where it can run now: nothing of it need be read again.
/// `waits`: calls in which something else goes alone.
async fn enter<'a>(
    tx: &mut Tx<'_>,
    new: &[(usize, Arrival<'a>)],
    met: Met<'_>,
    waits: &HashSet<usize>,
    decided: &mut Decided<'a>,
) -> Result<(), Fault> {
    let lease = |arrival: &Arrival<'_>| (!waits.contains(&arrival.call)).then(|| (new_owner(), arrival.lease));
    let entering: Vec<Entering<'_>> = new.iter().map(|(_, arrival)| Entering { job: arrival.job, lease: lease(arrival) }).collect();
    if entering.is_empty() {
        return Ok(());
    }
    let entered = submit::enter(tx, &entering, met, Way::Broker).await?;
    let mut first: HashMap<(String, String), Born> = HashMap::new();
    let mut noted = Vec::new();
    for (((place, arrival), entering), Entered { answer, born }) in new.iter().zip(&entering).zip(entered) {
        let key = key_of(arrival.job);
        match (answer, born, first.get(&key)) {
            (Submitted::Created, Some(born), _) => {
                first.insert(key, born);
                let lease = entering.lease.as_ref().filter(|_| born.state == TaskState::Processing);
                match lease {
                    Some((owner, _)) => {
                        noted.push(noted_of(arrival, born, owner));
                        decided.set(*place, Admission::Claimed(Box::new(claimed_of(arrival.job, born, owner, tx.now))));
                    }
                    None => decided.by_birth(*place, arrival, born, tx.now),
                }
            }
            // A second message with the same id finds the task with the first one.
            (Submitted::Repeated, _, Some(born)) => decided.by_birth(*place, arrival, *born, tx.now),
            _ => decided.refuse(*place, arrival.job, why_not(answer))?,
        }
    }
    note(tx, &noted).await
}

fn noted_of<'a>(arrival: &Arrival<'a>, born: Born, owner: &str) -> Noted<'a> {
    let job = arrival.job;
    let lane = (job.pipeline.as_str(), job.root.step.as_str(), i64::from(job.root.priority.min(9)));
    Noted { task: born.id, epoch: 1, owner: owner.to_owned(), worker: arrival.worker, lane, fair: born.fair }
}

/// A row that was inserted with its first lease, as the worker gets it.
fn claimed_of(job: &NewJob, born: Born, owner: &str, now: i64) -> Claimed {
    let root = &job.root;
    Claimed {
        lease: lease_of(&job.tenant, &root.task_id, 1, owner),
        message: root.message.clone(),
        payload_hash: root.payload_hash.clone(),
        step: root.step.clone(),
        key: root.key.clone(),
        priority: root.priority.min(9),
        counters: Counters { attempts: 0, handbacks: 0, crashes: 0, max_attempts: root.max_attempts },
        output_prefix: root.output_prefix.clone(),
        job_prefix: job.prefix.clone(),
        is_root: job.feed == Feed::Single,
        input_count: 0,
        queue_wait: Duration::from_millis((now - born.not_before).max(0).unsigned_abs()),
        cancelled: false,
        alone: runs_alone(0),
    }
}

fn ask_rows(all: &[Arrival<'_>]) -> Result<Asked, Fault> {
    let ids: Vec<(&str, &str)> = all.iter().map(|a| (a.job.tenant.as_str(), a.job.root.task_id.as_str())).collect();
    let find = sql!(
        "SELECT {json tenant task_id pipeline step queue parent payload_hash state not_before lease_until id crashes priority fair} FROM (\
            SELECT DISTINCT t.tenant, t.task_id, t.pipeline, t.step, t.queue, t.parent, t.payload_hash, t.state, t.not_before, \
                   t.lease_until, t.id, t.crashes, t.priority, t.fair \
            FROM {rows $1 tenant:text task_id:text} w {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id) c"
    );
    Ok((find, args![array(&ids)].into()))
}

/// What is to become of each message, by its place.
struct Decided<'a> {
    answers: Vec<Admission>,
    picks: Vec<Pick<'a>>,
    /// Number of the row, its place, and until when it is leased.
    unfinished: Vec<(i64, usize, i64)>,
    letters: Vec<Letter<'a>>,
}

impl<'a> Decided<'a> {
    fn new(places: usize) -> Self {
        let answers = vec![Admission::NotDue(Duration::ZERO); places];
        Self { answers, picks: Vec::new(), unfinished: Vec::new(), letters: Vec::new() }
    }

    fn set(&mut self, place: usize, answer: Admission) {
        if let Some(there) = self.answers.get_mut(place) {
            *there = answer;
        }
    }

    fn by_row(&mut self, place: usize, arrival: &Arrival<'a>, row: &'a Row, now: i64) -> Result<(), Fault> {
        let Arrival { lease, worker, .. } = *arrival;
        // A second message with the same id finds the task with the first one.
        let first = !self.picks.iter().any(|p| p.task.id == row.id) && !self.unfinished.iter().any(|(other, ..)| *other == row.id);
        let state: TaskState = row.state.parse().map_err(StoreError::Invalid)?;
        let answer = match state {
            TaskState::Queued if row.not_before > now => Admission::NotDue(until(row.not_before, now)),
            TaskState::Queued if first => {
                let (pipeline, step) = (row.pipeline.as_str(), row.step.as_str());
                let task = Ready { id: row.id, crashes: row.crashes, priority: row.priority, fair: row.fair };
                self.picks.push(Pick { request: place, task, pipeline, step, worker, lease });
                Admission::Leased(lease)
            }
            TaskState::Committed if first && row.lease_until.is_none_or(|until| until < now) => {
                self.unfinished.push((row.id, place, now + millis(lease)));
                Admission::Leased(lease)
            }
            TaskState::Queued | TaskState::Waiting => Admission::Leased(lease),
            // A lease lapses once its last millisecond has passed.
            TaskState::Processing | TaskState::Committed => Admission::Leased(until(row.lease_until.unwrap_or(now) + 1, now)),
            TaskState::Done | TaskState::Dead | TaskState::Cancelled => Admission::Ended(state),
        };
        self.set(place, answer);
        Ok(())
    }

    /// By a row that was inserted just now, and is not this message's to run.
    fn by_birth(&mut self, place: usize, arrival: &Arrival<'a>, born: Born, now: i64) {
        let answer = match born.state {
            TaskState::Cancelled => Admission::Ended(born.state),
            TaskState::Queued if born.not_before > now => Admission::NotDue(until(born.not_before, now)),
            TaskState::Queued => Admission::NotDue(ALONE_FIRST),
            _ => Admission::Leased(arrival.lease),
        };
        self.set(place, answer);
    }

    /// What runs alone is the only task of its call. Returns the calls in which the others wait.
    fn let_one_go_alone(&mut self, all: &[Arrival<'a>]) -> HashSet<usize> {
        let call = |pick: &Pick<'_>| all.get(pick.request).map_or(0, |arrival| arrival.call);
        let mut alone: HashMap<usize, usize> = HashMap::new();
        for pick in self.picks.iter().filter(|pick| pick.task.is_alone()) {
            alone.entry(call(pick)).or_insert(pick.request);
        }
        let answers = &mut self.answers;
        self.picks.retain(|pick| {
            let goes = alone.get(&call(pick)).is_none_or(|place| *place == pick.request);
            if let Some(answer) = answers.get_mut(pick.request).filter(|_| !goes) {
                *answer = Admission::NotDue(ALONE_FIRST);
            }
            goes
        });
        alone.into_keys().collect()
    }

    fn refuse(&mut self, place: usize, job: &'a NewJob, error: TaskError) -> Result<(), Fault> {
        let body = job.root.message.to_json();
        let queue = if let Feed::Open { queue: Some(queue), .. } = &job.feed { queue } else { "" };
        self.letters.push(Letter {
            tenant: &job.tenant,
            task_id: Some(&job.root.task_id),
            job_id: Some(&job.job_id),
            step: Some(&job.root.step),
            queue,
            body_hash: sha256(body.as_bytes()),
            code: error.code.clone(),
            error: serde_json::to_string(&error)?,
            message: body,
        });
        self.set(place, Admission::Refused(error));
        Ok(())
    }
}

fn until(time: i64, now: i64) -> Duration {
    Duration::from_millis((time - now).max(0).unsigned_abs())
}

/// Why a message cannot be a task. Nothing of what stands in its way is told.
fn why_not(entry: Submitted) -> TaskError {
    match entry {
        Submitted::Occupied => TaskError::new("occupied", "its outputs would mix with those of a job or task that has not ended"),
        Submitted::Sealed => TaskError::new("sealed", "its job takes no further tasks"),
        Submitted::Conflict | Submitted::Created | Submitted::Repeated => {
            TaskError::new("conflict", "a task or job with this id and another content exists")
        }
    }
}

/// COMMITTED and abandoned: leased to whoever holds the message now.
async fn take_unfinished(tx: &mut Tx<'_>, unfinished: &[(i64, usize, i64)]) -> Result<Vec<(usize, Unfinished)>, Fault> {
    if unfinished.is_empty() {
        return Ok(Vec::new());
    }
    let take = sql!(
        "UPDATE tasks SET lease_until = c.until FROM {rows $1 id:int place:int until:int} c \
         WHERE tasks.id = c.id AND tasks.state = 'COMMITTED' RETURNING tasks.id, tenant, task_id, output_prefix, manifest"
    );
    let places: HashMap<i64, usize> = unfinished.iter().map(|(id, place, _)| (*id, *place)).collect();
    let rows: Vec<(i64, String, String, String, String)> = tx.rows(take, args![array(unfinished)]).await?;
    let mut taken = Vec::with_capacity(rows.len());
    for (id, tenant, task_id, output_prefix, manifest) in rows {
        let Some(place) = places.get(&id) else { continue };
        taken.push((*place, Unfinished { key: TaskKey::new(tenant, task_id), output_prefix, manifest: serde_json::from_str(&manifest)? }));
    }
    Ok(taken)
}

columns! {
    /// The dead letter of a message that is no task.
    #[derive(Debug)]
    pub(super) struct Letter<'a> {
        tenant: &'a str,
        task_id: Option<&'a str>,
        job_id: Option<&'a str>,
        step: Option<&'a str>,
        queue: &'a str,
        body_hash: String,
        code: String,
        error: String,
        message: String,
    }
}

impl<'a> Letter<'a> {
    /// Of a message that is not even valid.
    pub fn of(refused: &'a Refused) -> Result<Self, Fault> {
        Ok(Self {
            tenant: &refused.tenant,
            task_id: None,
            job_id: None,
            step: None,
            queue: &refused.queue,
            body_hash: refused.body_hash.clone(),
            code: refused.error.code.clone(),
            error: serde_json::to_string(&refused.error)?,
            message: refused.body.clone(),
        })
    }
}

/// Keeps letters, each once.
pub(super) async fn keep(tx: &mut Tx<'_>, letters: &[Letter<'_>]) -> Result<(), Fault> {
    if letters.is_empty() {
        return Ok(());
    }
    let keep = sql!(
        "INSERT INTO dead_letters (tenant, task_id, job_id, step, queue, body_hash, code, error, attempts, message, died_at) \
         SELECT tenant, task_id, job_id, step, queue, body_hash, code, error, 0, message, $2 \
         FROM {rows $1 tenant:text task_id:text job_id:text step:text queue:text body_hash:text code:text error:text message:text} c \
         WHERE true ON CONFLICT DO NOTHING"
    );
    tx.execute(keep, args![array(letters), tx.now]).await
}
