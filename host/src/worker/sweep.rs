//! The sweeper: ends what a crash left, and removes the attempts of tasks that have ended.

use super::deliveries::Deliveries;
use super::{Settings, Worker, finalise};
use crate::failpoint::{Point, reach};
use crate::object_store::ObjectError;
use crate::task::uri::Uri;
use crate::task_store::{IdleQueue, Leftover, SweepRequest};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Most tasks of a kind handled in one sweep.
const BATCH: u32 = 256;

/// Most tasks of which it is remembered when their attempts were first removed. Beyond that all are removed once more.
const MOST_REMEMBERED: usize = 10_000;

/// Sweeps for as long as the worker runs: as it begins, so that one that only ever runs for a moment leaves nothing behind for good, and
/// every third of a lease, but at least every ten seconds.
/// Cancels `first` once it has swept for the first time.
pub(super) async fn sweep_on(worker: &Worker, queues: Vec<Arc<Deliveries>>, first: CancellationToken) {
    let pause = (worker.settings.lease / 3).min(Duration::from_secs(10));
    loop {
        let idle = queues.iter().filter_map(|of| Some(IdleQueue { queue: of.spec.name.clone(), since: of.idle()? }));
        sweep(worker, idle.collect()).await;
        first.cancel();
        sleep(pause).await;
    }
}

/// One sweep. Failures are told and left to the next one.
pub(super) async fn sweep(worker: &Worker, idle_queues: Vec<IdleQueue>) {
    let Settings { lease, fed_idle, .. } = worker.settings;
    let swept = match worker.services.tasks.sweep(SweepRequest { lease, limit: BATCH, fed_idle, idle_queues }).await {
        Ok(swept) => swept,
        Err(error) => return tracing::warn!(%error, "sweep failed; trying again later"),
    };
    if swept.buried > 0 {
        tracing::warn!(tasks = swept.buried, "tasks given up: their workers died too often");
    }
    if swept.resent > 0 {
        tracing::warn!(tasks = swept.resent, "messages seem lost; sending them again");
    }
    if swept.closed > 0 {
        tracing::info!(jobs = swept.closed, "fed jobs closed: nothing came for them any more");
    }
    reach(Point::AfterSweep);
    for task in swept.unfinished {
        tracing::info!(task_id = task.key.task_id, "finishing what another worker committed");
        if let Err(error) = finalise::try_finish(worker, &task).await {
            tracing::warn!(error, task_id = task.key.task_id, "outputs are committed and not in place yet; trying again later");
        }
        reach(Point::AfterFinishing);
    }
    // Whatever ended or is to be sent again may be in the outbox.
    worker.ended.notify_one();
    remove(worker, swept.leftovers).await;
}

/// Removes what the task's own claims may have made, and nothing beside it: another task may have the prefix by now.
async fn remove_folders(worker: &Worker, leftover: &Leftover) -> Result<(), ObjectError> {
    let prefix = Uri::parse(&leftover.output_prefix).map_err(ObjectError::Invalid)?;
    for folder in &leftover.folders {
        let folder = prefix.join(folder).map_err(ObjectError::Invalid)?;
        worker.services.objects.delete_prefix(&folder).await?;
    }
    Ok(())
}

/// Whether nothing can come after what was just removed. Where a lease lapsed, its worker may go on until its own clock stops it, and the
/// store's clock tells nothing of that: it may have been moved. So what is removed of such a task counts once a lease has passed since the
/// first time, by the clock here; until then it is listed again.
fn is_final(worker: &Worker, leftover: &Leftover) -> bool {
    if !leftover.lapsed {
        return true;
    }
    let mut removed = worker.removed.lock().unwrap_or_else(PoisonError::into_inner);
    if removed.len() >= MOST_REMEMBERED {
        removed.clear();
    }
    let first = *removed.entry(leftover.key.clone()).or_insert_with(Instant::now);
    let is_final = first.elapsed() > worker.settings.lease;
    if is_final {
        removed.remove(&leftover.key);
    }
    is_final
}

/// Removes attempts of tasks that have ended.
async fn remove(worker: &Worker, leftovers: Vec<Leftover>) {
    let mut gone = Vec::new();
    for leftover in leftovers {
        match remove_folders(worker, &leftover).await {
            Ok(()) if is_final(worker, &leftover) => gone.push(leftover.key),
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "old attempts could not be removed; trying again later"),
        }
    }
    if gone.is_empty() {
        return;
    }
    reach(Point::BeforeSwept);
    if let Err(error) = worker.services.tasks.swept(gone).await {
        tracing::warn!(%error, "sweep could not be noted; it will be repeated");
    }
}
