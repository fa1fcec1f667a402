//! The relay: sends the messages of the outbox to their queues. A row goes once its broker has confirmed the message; a crash in
//! between sends it again under the same id, and the claim of its task absorbs the second one.

use super::queues::QueueSpec;
use super::receive::dead_letter;
use super::{GATHER, Worker};
use crate::failpoint::{Point, reach};
use crate::queue::{QueueError, ToSend};
use crate::task::children;
use crate::task::hooks::TaskError;
use crate::task::uri::Uri;
use crate::task_store::{Admission, Feed, NewJob, Outgoing, Settlement, StoreError, TaskStore, TaskView};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Most messages taken out of the outbox at once.
const BATCH: u32 = 128;

/// How long a row is left to the relay that took it. Longer than a send may take, and the pause after one that failed.
const LEASE: Duration = Duration::from_secs(30);

/// Longest that sending a batch may take, with all tries.
const SEND: Duration = Duration::from_secs(20);

/// Tries to send a message before its row waits for the end of its lease, and the pause after the first; each is four times the last.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two looks into the outbox: others put rows there too, and rows that failed come back.
const PERIOD: Duration = Duration::from_secs(5);

/// Relays for as long as the worker runs. Woken by ends here, which may have put something in.
pub(super) async fn relay_on(worker: &Worker) {
    let gathers = worker.queues.iter().any(|queue| queue.queue.batch() > 1);
    loop {
        let began = Instant::now();
        match relay(worker).await {
            Ok(taken) if taken >= BATCH as usize => {}
            Ok(_) => {
                if gathers {
                    // The first message after a pause goes at once; those that follow gather meanwhile.
                    sleep_until(began + GATHER).await;
                }
                drop(timeout(PERIOD, worker.ended.notified()).await);
            }
            Err(error) => {
                tracing::warn!(%error, "the outbox could not be read; trying again");
                tokio::time::sleep(PERIOD).await;
            }
        }
    }
}

impl Worker {
    /// Sends what is in the outbox for its queues now.
    pub(super) async fn send_all(&self) -> Result<(), StoreError> {
        while relay(self).await? >= BATCH as usize {}
        Ok(())
    }
}

/// Sends what is in the outbox for these queues, where no worker runs: what was just submitted. What cannot be sent stays there for
/// whoever reads it next. `name` and `lease` are those of a worker, for tasks whose message is refused.
pub async fn send_all(tasks: &dyn TaskStore, queues: &[Arc<QueueSpec>], name: &str, lease: Duration) -> Result<(), StoreError> {
    let sender = Sender { tasks, queues, lease, name, ended: &Notify::new() };
    while send_batch(&sender).await? >= BATCH as usize {}
    Ok(())
}

/// What sending needs.
struct Sender<'a> {
    tasks: &'a dyn TaskStore,
    queues: &'a [Arc<QueueSpec>],
    lease: Duration,
    name: &'a str,
    /// Rung where a task has ended here.
    ended: &'a Notify,
}

async fn relay(worker: &Worker) -> Result<usize, StoreError> {
    // One after the other: who sends the last ones waits for those that are under way.
    let _turn = worker.sending.lock().await;
    let (tasks, settings) = (worker.services.tasks.as_ref(), &worker.settings);
    send_batch(&Sender { tasks, queues: &worker.queues, lease: settings.lease, name: &settings.name, ended: &worker.ended }).await
}

/// Sends one batch. Returns how many rows it took.
async fn send_batch(sender: &Sender<'_>) -> Result<usize, StoreError> {
    let names = sender.queues.iter().map(|queue| queue.name.clone()).collect();
    let rows = sender.tasks.outgoing(Some(names), LEASE, BATCH).await?;
    let taken = rows.len();
    let mut by_queue: BTreeMap<String, Vec<Outgoing>> = BTreeMap::new();
    for row in rows {
        by_queue.entry(row.queue.clone()).or_default().push(row);
    }
    // At once, so that a slow broker holds up no other.
    let sends = by_queue.into_iter().filter_map(|(name, rows)| {
        let queue = sender.queues.iter().find(|queue| queue.name == name)?;
        Some(send(sender, queue, rows))
    });
    let gone: Vec<i64> = futures::future::join_all(sends).await.concat();
    if !gone.is_empty() {
        reach(Point::AfterSend);
        // Lost, it is repeated: the rows are listed again, and sent a second time.
        sender.tasks.sent(gone).await?;
    }
    Ok(taken)
}

/// Sends messages to one queue; returns the rows that are to go.
async fn send(sender: &Sender<'_>, spec: &QueueSpec, rows: Vec<Outgoing>) -> Vec<i64> {
    let max = spec.queue.max_body();
    let (rows, large): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.body.len() <= max);
    let mut gone = Vec::new();
    for row in large {
        let text = format!("its message has {} bytes, and queue '{}' takes {max}; put what is large in storage", row.body.len(), spec.name);
        gone.extend(give_up(sender, &row, TaskError::new("message-size", text)).await);
    }
    let (until, mut pause, mut left) = (Instant::now() + SEND, FIRST_PAUSE, rows);
    for attempt in 1..=TRIES {
        if left.is_empty() {
            break;
        }
        if attempt > 1 {
            sleep(pause).await;
            pause *= 4;
        }
        let Some(answers) = confirmed(spec, &left, until).await else { break };
        let (mut again, mut why) = (Vec::new(), None);
        for (row, answer) in left.into_iter().zip(answers) {
            match answer {
                Ok(()) => gone.push(row.id),
                Err(QueueError::Invalid(why)) => {
                    let text = format!("queue '{}' does not take its message: {why}", spec.name);
                    gone.extend(give_up(sender, &row, TaskError::new("message-refused", text)).await);
                }
                // Only these are sent again, and not the whole batch.
                Err(QueueError::Unavailable(error)) => {
                    again.push(row);
                    why = Some(error);
                }
                Err(error) => {
                    tracing::warn!(%error, queue = spec.name, task_id = row.key.task_id, "a message could not be sent; trying again")
                }
            }
        }
        if let Some(error) = why {
            tracing::warn!(error, queue = spec.name, messages = again.len(), attempt, "messages could not be sent; trying again");
        }
        left = again;
    }
    gone
}

/// Asks a queue to take messages: an answer for each. None: it takes none of them now, or did not answer in time.
async fn confirmed(spec: &QueueSpec, rows: &[Outgoing], until: Instant) -> Option<Vec<Result<(), QueueError>>> {
    let messages = rows.iter().map(|row| ToSend {
        body: row.body.clone(),
        deduplication_id: row.key.task_id.clone(),
        group: row.key.tenant.clone(),
        delay: row.delay,
    });
    reach(Point::BeforeSend);
    match timeout_at(until, spec.queue.send(messages.collect())).await {
        Ok(Ok(answers)) => Some(answers),
        Ok(Err(error @ QueueError::Unavailable(_))) => Some(vec![Err(error); rows.len()]),
        Ok(Err(error)) => {
            tracing::warn!(%error, queue = spec.name, messages = rows.len(), "messages could not be sent; trying again");
            None
        }
        Err(_) => {
            tracing::warn!(queue = spec.name, messages = rows.len(), "messages were not confirmed in time; sending them again");
            None
        }
    }
}

/// A message that its queue will never take. Its task, which would wait for it for ever, is claimed as if the message had arrived and
/// ends DEAD; one for another system has no task, and becomes a dead letter itself. Returns the row once that is stored.
async fn give_up(sender: &Sender<'_>, row: &Outgoing, error: TaskError) -> Option<i64> {
    tracing::error!(queue = row.queue, task_id = row.key.task_id, error = error.message, "a message can never be sent");
    match bury(sender, row, error).await {
        Ok(true) => Some(row.id),
        Ok(false) => None,
        Err(error) => {
            tracing::warn!(%error, "could not be stored; trying again");
            None
        }
    }
}

/// Whether the row is done with.
async fn bury(sender: &Sender<'_>, row: &Outgoing, error: TaskError) -> Result<bool, StoreError> {
    let tasks = sender.tasks;
    let task = match tasks.task(&row.key.tenant, &row.key.task_id).await {
        Ok(task) => task,
        Err(StoreError::NotFound(_)) => {
            tasks.refuse(vec![dead_letter(&row.key.tenant, &row.queue, row.body.as_bytes(), error)]).await?;
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    let arrival = arrival(task).map_err(StoreError::Invalid)?;
    match tasks.admit(vec![arrival], sender.lease, sender.name.to_owned()).await?.pop() {
        Some(Admission::Claimed(claimed)) => {
            tasks.settle(claimed.lease.clone(), Settlement::Dead(error), String::new()).await?;
            sender.ended.notify_one();
            Ok(true)
        }
        // Somebody has it, or it is not due yet: the row comes back.
        Some(Admission::Leased(_) | Admission::NotDue(_)) | None => Ok(false),
        Some(Admission::Ended(_) | Admission::Unfinished(_) | Admission::Refused(_)) => Ok(true),
    }
}

/// A task that is there as its message would bring it, had it arrived.
fn arrival(task: TaskView) -> Result<NewJob, String> {
    let prefix = Uri::parse(&task.output_prefix)?;
    let root = children::root(task.message, &task.step, task.max_attempts, &prefix)?;
    let (tenant, job_id, pipeline) = (task.tenant, task.job_id, task.pipeline);
    Ok(NewJob { tenant, job_id, pipeline, prefix: task.output_prefix, root, feed: Feed::Single })
}
