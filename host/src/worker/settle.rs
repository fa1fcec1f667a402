//! How a run is left: the end of one that reached no commit, the answer to its message, and its line in the log.

use super::Worker;
use super::deliveries::{Delivery, Verdict};
use crate::failpoint::{Point, reach};
use crate::task::hooks::TaskError;
use crate::task::outcome::{Disposition, Fault, dispose};
use crate::task::state::TaskState;
use crate::task_store::{Applied, Claimed, Settlement};
use std::time::Duration;
use tokio::time::sleep;

/// How a run left its task.
pub(super) struct Left {
    pub state: TaskState,
    /// QUEUED: not due before so long.
    pub wait: Duration,
}

impl Left {
    /// In this state, with nothing to wait for.
    pub fn at(state: TaskState) -> Self {
        Self { state, wait: Duration::ZERO }
    }
}

/// The end of a run that reached no commit: decide, write it down, and let others go on.
pub(super) async fn settle(worker: &Worker, claimed: &Claimed, log: String, fault: Fault) -> Left {
    let settings = &worker.settings;
    let retry = worker.steps.get(&claimed.step).and_then(|step| step.retry).unwrap_or(settings.retry);
    let disposition = dispose(fault, claimed.counters, &retry, fastrand::f64(), settings.patient);
    let mut wait = Duration::ZERO;
    let (how, state, error) = match disposition {
        Disposition::Leave => {
            tell(worker, claimed, TaskState::Processing, None, None);
            return Left::at(TaskState::Processing);
        }
        Disposition::Retry { after, error } => {
            wait = after;
            (Settlement::Retry(after, error.clone()), TaskState::Queued, Some(error))
        }
        Disposition::HandBack { after, error } => {
            wait = after;
            (Settlement::HandBack(after, error.clone()), TaskState::Queued, Some(error))
        }
        Disposition::GiveBack => (Settlement::GiveBack, TaskState::Queued, None),
        Disposition::Dead(error) => (Settlement::Dead(error.clone()), TaskState::Dead, Some(error)),
        Disposition::Cancelled => (Settlement::Cancelled, TaskState::Cancelled, None),
    };
    reach(Point::BeforeSettle);
    for pause in SETTLE_PAUSES {
        match worker.services.tasks.settle(claimed.lease.clone(), how.clone(), log.clone()).await {
            Ok(Applied::Yes) => {
                reach(Point::AfterSettle);
                tell(worker, claimed, state, error.as_ref(), None);
                return Left { state, wait };
            }
            Ok(Applied::Lost) => return Left::at(TaskState::Processing),
            Err(error) => {
                tracing::warn!(%error, task_id = claimed.message.task_id, "the end of a run could not be stored");
                sleep(Duration::from_millis(pause)).await;
            }
        }
    }
    Left::at(TaskState::Processing)
}

/// Pauses after each try to store how a run ended, milliseconds. If the store stays away, the lease lapses and the task is found by
/// the next claim.
const SETTLE_PAUSES: [u64; 4] = [50, 200, 1000, 0];

/// Steps 10 and 11: the relay looks for what the end has put into the outbox, and the message is answered. What was lost or could not
/// be stored is answered with nothing: the message comes again, and so does the task.
pub(super) async fn close(worker: &Worker, left: Left, delivery: Option<Delivery>) -> TaskState {
    if left.state.is_ended() {
        worker.ended.notify_one();
    }
    let answer = match left.state {
        state if state.is_ended() => Some(Verdict::Acknowledge),
        TaskState::Queued => Some(Verdict::Hide(left.wait)),
        // Its end is left to others: the sooner they see the message the better.
        TaskState::Committed => Some(Verdict::Hide(Duration::ZERO)),
        _ => None,
    };
    if let (Some(answer), Some(delivery)) = (answer, delivery) {
        delivery.answer(answer).await;
    }
    left.state
}

/// One log line per run.
pub(super) fn tell(worker: &Worker, claimed: &Claimed, state: TaskState, error: Option<&TaskError>, took: Option<Duration>) {
    let (key, message) = (&claimed.lease.key, &claimed.message);
    let release = worker.guests.release(&claimed.step);
    let trace_id = message.traceparent.as_deref().and_then(|t| t.split('-').nth(1));
    let latency_ms = took.map(|t| t.as_millis() as u64);
    let attempt = claimed.counters.attempts + 1;
    // Models run on the processor: no graphics memory is taken.
    let gpu_mem_gb = 0.0;
    let (job_id, task_id, step, tenant, epoch) = (&message.job_id, &key.task_id, &claimed.step, &key.tenant, claimed.lease.epoch);
    match error {
        Some(error) => tracing::warn!(
            job_id, task_id, step, tenant, release, attempt, epoch, trace_id, state = %state,
            code = error.code, error = error.message, "task failed"
        ),
        None => tracing::info!(
            job_id, task_id, step, tenant, release, attempt, epoch, trace_id, state = %state, latency_ms, gpu_mem_gb, "task ran"
        ),
    }
}
