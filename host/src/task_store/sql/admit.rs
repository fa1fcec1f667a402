//! Messages of a queue, taken in: stored where they are new, leased where they can run now; and the letters of those that cannot be
//! tasks.

use super::claim::{Pick, Ready, take};
use super::database::{args, array, columns};
use super::dialect::sql;
use super::fault::Fault;
use super::lapse::Lapsed;
use super::run_end::millis;
use super::transaction::Tx;
use super::{lapse, submit};
use crate::task::children::Delivery;
use crate::task::hooks::TaskError;
use crate::task::id::{TaskKey, sha256};
use crate::task::state::TaskState;
use crate::task_store::{Admission, Feed, NewJob, Refused, StoreError, Submitted, Unfinished};
use std::collections::HashMap;
use std::time::Duration;

/// Messages that came together, the length of their leases, and who takes them.
pub(super) type Arrivals<'a> = (&'a [NewJob], Duration, &'a str);

/// How long the others of a call wait for a task that runs alone: by then it has begun, and they wait for its end beside it.
const ALONE_FIRST: Duration = Duration::from_secs(1);

#[derive(Debug, sqlx::FromRow)]
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
    #[sqlx(flatten)]
    ready: Ready,
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
    let all: Vec<Arrival<'_>> =
        requests.iter().flat_map(|(jobs, lease, worker)| jobs.iter().map(|job| Arrival { job, lease: *lease, worker })).collect();
    let (entries, rows) = enter(tx, &all).await?;
    let mut decided = Decided::default();
    for (arrival, entry) in all.iter().zip(entries) {
        let is_it = |row: &&Row| row.payload_hash == arrival.job.root.payload_hash && row.is_for(arrival.job);
        let row = rows.get(&key_of(arrival.job)).filter(is_it);
        match row.filter(|_| matches!(entry, Submitted::Created | Submitted::Repeated)) {
            Some(row) => decided.by_row(arrival, row, tx.now)?,
            None => decided.refuse(arrival.job, why_not(entry))?,
        }
    }
    let calls = requests.iter().enumerate().flat_map(|(call, (jobs, ..))| std::iter::repeat_n(call, jobs.len()));
    decided.let_one_go_alone(&calls.collect::<Vec<_>>());
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
}

type Rows = HashMap<(String, String), Row>;

fn key_of(job: &NewJob) -> (String, String) {
    (job.tenant.clone(), job.root.task_id.clone())
}

/// Stores what is new. A message of a task that is there belongs to that task, wherever it came from.
async fn enter(tx: &mut Tx<'_>, all: &[Arrival<'_>]) -> Result<(Vec<Submitted>, Rows), Fault> {
    let known = rows(tx, all).await?;
    let is_new = |arrival: &&Arrival<'_>| !known.contains_key(&key_of(arrival.job));
    let new: Vec<&NewJob> = all.iter().filter(is_new).map(|arrival| arrival.job).collect();
    if new.is_empty() {
        return Ok((vec![Submitted::Repeated; all.len()], known));
    }
    let mut submitted = submit::submit(tx, &new, false).await?.into_iter();
    let entry =
        |arrival: &Arrival<'_>| if is_new(&arrival) { submitted.next().unwrap_or(Submitted::Conflict) } else { Submitted::Repeated };
    let entries = all.iter().map(entry).collect();
    Ok((entries, rows(tx, all).await?))
}

async fn rows(tx: &mut Tx<'_>, all: &[Arrival<'_>]) -> Result<Rows, Fault> {
    let ids: Vec<(&str, &str)> = all.iter().map(|a| (a.job.tenant.as_str(), a.job.root.task_id.as_str())).collect();
    let find = sql!(
        "SELECT DISTINCT t.id, t.crashes, t.priority, t.fair, t.tenant, t.task_id, t.pipeline, t.step, t.queue, t.parent, t.payload_hash, t.state, t.not_before, \
                t.lease_until \
         FROM {rows $1 tenant:text task_id:text} w {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id"
    );
    let rows: Vec<Row> = tx.rows(find, args![array(&ids)?]).await?;
    Ok(rows.into_iter().map(|row| ((row.tenant.clone(), row.task_id.clone()), row)).collect())
}

/// What is to become of each message, by its place.
#[derive(Default)]
struct Decided<'a> {
    answers: Vec<Admission>,
    picks: Vec<Pick<'a>>,
    /// Number of the row, its place, and until when it is leased.
    unfinished: Vec<(i64, usize, i64)>,
    letters: Vec<Letter<'a>>,
}

impl<'a> Decided<'a> {
    fn by_row(&mut self, arrival: &Arrival<'a>, row: &'a Row, now: i64) -> Result<(), Fault> {
        let Arrival { lease, worker, .. } = *arrival;
        let (place, id) = (self.answers.len(), row.ready.id);
        // A second message with the same id finds the task with the first one.
        let first = !self.picks.iter().any(|p| p.task.id == id) && !self.unfinished.iter().any(|(other, ..)| *other == id);
        let wait = |until: i64| Duration::from_millis((until - now).max(0).unsigned_abs());
        let state: TaskState = row.state.parse().map_err(StoreError::Invalid)?;
        self.answers.push(match state {
            TaskState::Queued if row.not_before > now => Admission::NotDue(wait(row.not_before)),
            TaskState::Queued if first => {
                let (pipeline, step) = (row.pipeline.as_str(), row.step.as_str());
                self.picks.push(Pick { request: place, task: row.ready.clone(), pipeline, step, worker, lease });
                Admission::Leased(lease)
            }
            TaskState::Committed if first && row.lease_until.is_none_or(|until| until < now) => {
                self.unfinished.push((id, place, now + millis(lease)));
                Admission::Leased(lease)
            }
            TaskState::Queued | TaskState::Waiting => Admission::Leased(lease),
            // A lease lapses once its last millisecond has passed.
            TaskState::Processing | TaskState::Committed => Admission::Leased(wait(row.lease_until.unwrap_or(now) + 1)),
            TaskState::Done | TaskState::Dead | TaskState::Cancelled => Admission::Ended(state),
        });
        Ok(())
    }

    /// What runs alone is the only task of its call. `calls`: which call each place belongs to.
    fn let_one_go_alone(&mut self, calls: &[usize]) {
        let mut alone: HashMap<Option<&usize>, usize> = HashMap::new();
        for pick in self.picks.iter().filter(|pick| pick.task.is_alone()) {
            alone.entry(calls.get(pick.request)).or_insert(pick.request);
        }
        let answers = &mut self.answers;
        self.picks.retain(|pick| {
            let goes = alone.get(&calls.get(pick.request)).is_none_or(|place| *place == pick.request);
            if let Some(answer) = answers.get_mut(pick.request).filter(|_| !goes) {
                *answer = Admission::NotDue(ALONE_FIRST);
            }
            goes
        });
    }

    fn refuse(&mut self, job: &'a NewJob, error: TaskError) -> Result<(), Fault> {
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
        self.answers.push(Admission::Refused(error));
        Ok(())
    }
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
    let rows: Vec<(i64, String, String, String, String)> = tx.rows(take, args![array(unfinished)?]).await?;
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
    tx.execute(keep, args![array(letters)?, tx.now]).await
}
