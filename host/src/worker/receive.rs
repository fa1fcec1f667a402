//! A look into a queue, in two phases: receive; then read and admit. While the store admits what came, the next messages may be received.
//! What can never be a task becomes a dead letter; what cannot run now is hidden until it can.
//!
//! A message is acknowledged once the store durably holds all that it asked for, and not before.

use super::Worker;
use super::deliveries::{Delivery, Inbox, Verdict};
use super::queues::{Arrival, Context};
use crate::failpoint::{Point, reach};
use crate::queue::{Delivered, QueueError};
use crate::task::hooks::TaskError;
use crate::task::id::{TaskKey, sha256};
use crate::task::limits::cut;
use crate::task::outcome::MAX_HANDBACKS;
use crate::task::pointer::Violation;
use crate::task_store::{Admission, Claimed, NewJob, Refused, StoreError, Unfinished};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How much longer than the wait for a first message a look may take, before the broker counts as out of reach.
const SLACK: Duration = Duration::from_secs(30);

/// Bytes of a refused message that its dead letter keeps: as much as the largest message of common brokers.
const KEPT_BODY: usize = 256 << 10;

/// Shortest time for which a message is hidden that cannot run now: it does not come round and round.
const SHORTEST_HIDE: Duration = Duration::from_millis(200);

/// How long messages are hidden that were received while the store was out of reach.
const STORE_AWAY: Duration = Duration::from_secs(5);

/// What a look is to bring.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// At most so many messages.
    pub max: u32,
    /// Longest wait for the first.
    pub wait: Duration,
}

/// What a message has to be done for.
pub(super) enum Errand {
    /// Run it. With the time at which its claim was sent.
    Run(Box<Claimed>, Instant),
    /// Finalise and end it.
    Finish(Box<Unfinished>),
}

/// A message as it came, kept hidden from others.
pub(super) type Message = (Delivery, Delivered);

/// What a phase of a look brought.
pub(super) enum Brought {
    /// The first: so many messages, or none.
    Messages(Vec<Message>),
    /// The second: what there is to do.
    Errands(Vec<(Errand, Delivery)>),
    /// It was not begun, or ended early: nothing more is to be received.
    Closed,
}

/// Why a phase of a look brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("{0}")]
    Queue(#[from] QueueError),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// A message that can be a task.
struct Candidate {
    job: Box<NewJob>,
    trespass: Vec<Violation>,
    body: Vec<u8>,
    delivery: Delivery,
}

/// The first phase. Once `closing` is cancelled nothing more is received; what was received is still admitted.
pub(super) async fn receive(worker: &Worker, inbox: &Inbox, look: Look, closing: &CancellationToken) -> Result<Brought, LookError> {
    let (queue, longest) = (&inbox.deliveries.spec.queue, look.wait + SLACK);
    let received = tokio::select! {
        biased;
        received = timeout(longest, queue.receive(look.max, look.wait, worker.settings.lease)) => received,
        () = closing.cancelled() => return Ok(Brought::Closed),
    };
    let received = received.map_err(|_| LookError::Late(longest))??;
    if !received.is_empty() {
        reach(Point::AfterReceive);
    }
    Ok(Brought::Messages(received.into_iter().map(|delivered| (inbox.hold(&delivered), delivered)).collect()))
}

/// The second phase. `rooms`: how many tasks of each step may begin.
pub(super) async fn take_in(
    worker: &Worker,
    inbox: &Inbox,
    messages: Vec<Message>,
    rooms: BTreeMap<String, u32>,
) -> Result<Brought, LookError> {
    let mut errands = Vec::new();
    let mut candidates = read(worker, inbox, messages, rooms).await?;
    candidates = known(worker, inbox, candidates).await?;
    if !candidates.is_empty() {
        errands = admit(worker, candidates).await?;
        reach(Point::AfterClaim);
    }
    Ok(Brought::Errands(errands))
}

/// Step 1: decodes and validates. What is no task for sure is answered.
async fn read(worker: &Worker, inbox: &Inbox, held: Vec<Message>, mut rooms: BTreeMap<String, u32>) -> Result<Vec<Candidate>, LookError> {
    let spec = &inbox.deliveries.spec;
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let context = Context { pipeline: &worker.settings.pipeline, steps: &worker.steps, now_ms };
    let (mut candidates, mut refused) = (Vec::new(), Vec::new());
    for (delivery, delivered) in held {
        match spec.read(&delivered.body, &context) {
            Ok(Arrival::Task(job, trespass)) => {
                let room = rooms.entry(job.root.step.clone()).or_default();
                if *room == 0 {
                    // Of several steps that this queue carries, this one is full or rests.
                    let rest =
                        worker.rests_until(&job.root.step, Instant::now()).map(|until| until.saturating_duration_since(Instant::now()));
                    delivery.answer(Verdict::Hide(rest.unwrap_or_default().max(SHORTEST_HIDE))).await;
                    continue;
                }
                *room -= 1;
                candidates.push(Candidate { job, trespass, body: delivered.body, delivery });
            }
            Ok(Arrival::Newer(version)) if delivered.deliveries <= MAX_HANDBACKS => {
                tracing::warn!(queue = spec.name, version, "a message is of a newer schema version; left to a newer worker");
                let wait = worker.settings.retry.wait(delivered.deliveries, fastrand::f64());
                delivery.answer(Verdict::Hide(wait.max(SHORTEST_HIDE))).await;
            }
            Ok(Arrival::Newer(version)) => {
                let text = format!("version {version} is newer than any worker here knows");
                refused.push((TaskError::invalid(vec![Violation::at("/schema_version", text)]), delivered.body, delivery));
            }
            Err(violations) => refused.push((TaskError::invalid(violations), delivered.body, delivery)),
        }
    }
    refuse(worker, inbox, refused).await?;
    Ok(candidates)
}

/// Makes dead letters of messages that are no tasks, then acknowledges them.
async fn refuse(worker: &Worker, inbox: &Inbox, refused: Vec<(TaskError, Vec<u8>, Delivery)>) -> Result<(), LookError> {
    if refused.is_empty() {
        return Ok(());
    }
    let spec = &inbox.deliveries.spec;
    let letter = |(error, body, _): &(TaskError, Vec<u8>, Delivery)| {
        tracing::warn!(queue = spec.name, error = error.message, "a message is no task; kept as a dead letter");
        dead_letter(&spec.tenant, &spec.name, body, error.clone())
    };
    let kept = worker.services.tasks.refuse(refused.iter().map(letter).collect()).await;
    let answer = if kept.is_ok() { Verdict::Acknowledge } else { Verdict::Hide(STORE_AWAY) };
    for (.., delivery) in refused {
        delivery.answer(answer).await;
    }
    Ok(kept?)
}

/// A dead letter for a message that is no task here.
pub(super) fn dead_letter(tenant: &str, queue: &str, body: &[u8], error: TaskError) -> Refused {
    Refused {
        tenant: tenant.to_owned(),
        queue: queue.to_owned(),
        // Cut before it becomes text: of bytes that are none, text is three times as long.
        body: cut(&String::from_utf8_lossy(body.get(..=KEPT_BODY).unwrap_or(body)), KEPT_BODY),
        body_hash: sha256(body),
        error,
    }
}

/// Sorts out messages that ask for what nobody may ask of this queue, unless they are those of a task that is there already.
async fn known(worker: &Worker, inbox: &Inbox, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, LookError> {
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for candidate in candidates {
        if candidate.trespass.is_empty() || is_known(worker, &candidate.job).await? {
            kept.push(candidate);
        } else {
            refused.push((TaskError::invalid(candidate.trespass), candidate.body, candidate.delivery));
        }
    }
    refuse(worker, inbox, refused).await?;
    Ok(kept)
}

async fn is_known(worker: &Worker, job: &NewJob) -> Result<bool, StoreError> {
    match worker.services.tasks.task(&job.tenant, &job.root.task_id).await {
        Ok(task) => Ok(task.task_id == job.root.task_id && task.message.payload_hash(&task.step).is_ok_and(|h| h == job.root.payload_hash)),
        Err(StoreError::NotFound(_) | StoreError::Conflict(_) | StoreError::Invalid(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Step 3, in one batch: the store decides what each message is.
async fn admit(worker: &Worker, candidates: Vec<Candidate>) -> Result<Vec<(Errand, Delivery)>, LookError> {
    let (jobs, deliveries): (Vec<NewJob>, Vec<Delivery>) = candidates.into_iter().map(|c| (*c.job, c.delivery)).unzip();
    let keys: Vec<TaskKey> = jobs.iter().map(|job| TaskKey::new(&job.tenant, &job.root.task_id)).collect();
    let (lease, sent) = (worker.settings.lease, Instant::now());
    let admissions = match worker.services.tasks.admit(jobs, lease, worker.settings.name.clone()).await {
        Ok(admissions) => admissions,
        Err(error) => {
            for delivery in deliveries {
                delivery.answer(Verdict::Hide(STORE_AWAY)).await;
            }
            return Err(error.into());
        }
    };
    let mut errands = Vec::new();
    for ((admission, delivery), key) in admissions.into_iter().zip(deliveries).zip(keys) {
        match admission {
            Admission::Claimed(claimed) => errands.push((Errand::Run(claimed, sent), delivery)),
            Admission::Unfinished(unfinished) => errands.push((Errand::Finish(unfinished), delivery)),
            Admission::Ended(state) => {
                tracing::debug!(task_id = key.task_id, %state, "delivered again after its end");
                delivery.answer(Verdict::Acknowledge).await;
            }
            Admission::Refused(error) => {
                tracing::warn!(
                    task_id = key.task_id,
                    code = error.code,
                    error = error.message,
                    "a message was refused; kept as a dead letter"
                );
                delivery.answer(Verdict::Acknowledge).await;
            }
            Admission::Leased(wait) | Admission::NotDue(wait) => delivery.answer(Verdict::Hide(wait.max(SHORTEST_HIDE))).await,
        }
    }
    Ok(errands)
}
