//! The sweeper: ends what a crash left, and removes the attempts of tasks that have ended.

use super::{Worker, finalise};
use crate::failpoint::{Point, reach};
use crate::task::uri::Uri;
use crate::task_store::SweepRequest;
use std::time::Duration;
use tokio::time::sleep;

/// Most tasks of a kind handled in one sweep.
const BATCH: u32 = 256;

/// Sweeps for as long as the worker runs, every third of a lease but at least every ten seconds.
pub(super) async fn sweep_on(worker: &Worker) {
    let pause = (worker.settings.lease / 3).min(Duration::from_secs(10));
    loop {
        sleep(pause).await;
        sweep(worker).await;
    }
}

/// One sweep. Failures are told and left to the next one.
pub(super) async fn sweep(worker: &Worker) {
    let request = SweepRequest { lease: worker.settings.lease, limit: BATCH, fed_idle: worker.settings.fed_idle, idle_queues: Vec::new() };
    let swept = match worker.services.tasks.sweep(request).await {
        Ok(swept) => swept,
        Err(error) => return tracing::warn!(%error, "sweep failed; trying again later"),
    };
    if swept.buried > 0 {
        tracing::warn!(tasks = swept.buried, "tasks given up: their workers died too often");
    }
    reach(Point::AfterSweep);
    for task in swept.unfinished {
        if let Ok(prefix) = Uri::parse(&task.output_prefix) {
            tracing::info!(task_id = task.key.task_id, "finishing what another worker committed");
            finalise::finish(worker, &task.key, &prefix, &task.manifest).await;
            reach(Point::AfterFinishing);
        }
    }
    let mut gone = Vec::new();
    for leftover in swept.leftovers {
        let Ok(folder) = Uri::parse(&leftover.output_prefix).and_then(|p| p.join("_attempts/")) else { continue };
        match worker.services.objects.delete_prefix(&folder).await {
            Ok(()) => gone.push(leftover.key),
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
