//! The sweeper: ends what a crash left, and removes the attempts of tasks that have ended.

use super::deliveries::Deliveries;
use super::{Settings, Worker, finalise};
use crate::failpoint::{Point, reach};
use crate::object_store::ObjectError;
use crate::task::id::TaskKey;
use crate::task::uri::Uri;
use crate::task_store::{IdleQueue, LAPSED_LATELY, Leftover, SweepRequest, Unfinished};
use futures::stream::{self, StreamExt};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Most tasks of a kind handled in one sweep.
const BATCH: u32 = 256;

/// Most of them at once: each waits for its storage.
const AT_ONCE: usize = 16;

/// So many removals are noted together: a worker that only runs for a moment is to have noted some.
const NOTED: usize = 64;

/// Most tasks of which it is remembered when their attempts were first removed. Those beyond are removed once only.
const MOST_REMEMBERED: usize = 10_000;

/// Sweeps for as long as the worker runs: as it begins, so that one that only ever runs for a moment leaves nothing behind for good, and
/// every third of a lease, but at least every ten seconds; at once where there was more than one sweep takes.
/// Cancels `first` once it has swept for the first time.
pub(super) async fn sweep_on(worker: &Worker, queues: Vec<Arc<Deliveries>>, first: CancellationToken) {
    let pause = (worker.settings.lease / 3).min(Duration::from_secs(10));
    loop {
        let idle = queues.iter().filter_map(|of| Some(IdleQueue { queue: of.spec.name.clone(), since: of.idle()? }));
        let is_full = sweep(worker, idle.collect()).await;
        first.cancel();
        // What was listed is not listed again for a lease, so this comes to an end, whatever becomes of it.
        sleep(if is_full { Duration::ZERO } else { pause }).await;
    }
}

/// One sweep. Failures are told and left to the next one. Returns whether there may be more to sweep already.
pub(super) async fn sweep(worker: &Worker, idle_queues: Vec<IdleQueue>) -> bool {
    let Settings { lease, fed_idle, .. } = worker.settings;
    let swept = match worker.services.tasks.sweep(SweepRequest { lease, limit: BATCH, fed_idle, idle_queues }).await {
        Ok(swept) => swept,
        Err(error) => {
            tracing::warn!(%error, "sweep failed; trying again later");
            return false;
        }
    };
    let is_full = swept.unfinished.len().max(swept.leftovers.len()) >= BATCH as usize;
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
    let finish = async |task: Unfinished| {
        tracing::info!(task_id = task.key.task_id, "finishing what another worker committed");
        if let Err(error) = finalise::try_finish(worker, &task).await {
            tracing::warn!(error, task_id = task.key.task_id, "outputs are committed and not in place yet; trying again later");
        }
        reach(Point::AfterFinishing);
    };
    stream::iter(swept.unfinished).for_each_concurrent(AT_ONCE, finish).await;
    // Whatever ended or is to be sent again may be in the outbox.
    worker.ended.notify_one();
    for leftovers in swept.leftovers.chunks(NOTED) {
        remove(worker, leftovers).await;
    }
    is_full
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

/// Whether nothing can come after what was removed from `began` on. Where a lease lapsed, its worker may go on until its own clock stops
/// it, and the store's clock tells nothing of that: it may have been moved. So what is removed of such a task counts where that began a
/// lease after the first time, by the clock here; until then it is listed again.
fn is_final(worker: &Worker, leftover: &Leftover, began: Instant) -> bool {
    if !leftover.lapsed {
        return true;
    }
    let mut removed = worker.removed.lock().unwrap_or_else(PoisonError::into_inner);
    if removed.len() >= MOST_REMEMBERED {
        removed.retain(|_, first| first.elapsed() < LAPSED_LATELY);
    }
    match removed.get(&leftover.key) {
        Some(first) => began.duration_since(*first) > worker.settings.lease,
        None if removed.len() >= MOST_REMEMBERED => true,
        None => {
            removed.insert(leftover.key.clone(), began);
            false
        }
    }
}

/// Removes attempts of tasks that have ended.
async fn remove(worker: &Worker, leftovers: &[Leftover]) {
    let remove = async |leftover: &Leftover| {
        let began = Instant::now();
        match remove_folders(worker, leftover).await {
            Ok(()) => is_final(worker, leftover, began).then(|| leftover.key.clone()),
            Err(error) => {
                tracing::warn!(%error, "old attempts could not be removed; trying again later");
                None
            }
        }
    };
    let removing = stream::iter(leftovers).map(remove).buffer_unordered(AT_ONCE);
    let gone: Vec<TaskKey> = removing.filter_map(std::future::ready).collect().await;
    if gone.is_empty() {
        return;
    }
    reach(Point::BeforeSwept);
    match worker.services.tasks.swept(gone.clone()).await {
        Ok(()) => {
            let mut removed = worker.removed.lock().unwrap_or_else(PoisonError::into_inner);
            for key in &gone {
                removed.remove(key);
            }
        }
        Err(error) => tracing::warn!(%error, "sweep could not be noted; it will be repeated"),
    }
}
