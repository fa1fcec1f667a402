//! The task store in memory: every rule of the port, and nothing that outlives the process. For tests and simulations.
//!
//! The state machine is plain synchronous code over ordered maps ([`Tx`]), with the time passed in; around it stand a mutex, a clock and a
//! wake-up. The clock is tokio's, so that a test may pause it, and may run apart from the workers' ([`MemoryTaskStore::skew`]).
//! The same calls at the same times give the same answers, owners of leases included, where [`fastrand`] was given a seed.

mod claim;
mod end;
mod entry;
mod index;
mod insert;
mod rows;
mod run_end;
#[cfg(test)]
mod tests;
mod upkeep;
mod views;

use crate::task::Millis;
use crate::task::hooks::{Input, TaskError};
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{
    Admission, Applied, Beat, ClaimRequest, Claimed, Commit, DeadLetter, DeadLetterFilter, Depth, Heartbeat, JobView, NewJob, Outgoing,
    Pruned, Refused, Settlement, StoreError, Submitted, SweepRequest, Swept, TaskFilter, TaskStore, TaskView,
};
use async_trait::async_trait;
use rows::Rows;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The store's clock when it is made: the first of January 2026. A fixed one, so that runs repeat to the millisecond.
const BEGIN: Millis = 1_767_225_600_000;

/// A task store in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryTaskStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    skew: AtomicI64,
    machine: Mutex<Machine>,
    /// Rises when there may be new work; whoever waits is told then. Not a `watch` channel: that wakes its waiters in an order drawn anew
    /// in every run.
    version: AtomicU64,
    news: Notify,
}

#[derive(Debug)]
struct Machine {
    rows: Rows,
    /// Where owners of leases are drawn from.
    owners: fastrand::Rng,
}

/// One call of the port: all of it, or where it refuses, nothing.
struct Tx<'a> {
    rows: &'a mut Rows,
    owners: &'a mut fastrand::Rng,
    /// The store's clock.
    now: Millis,
    /// Something was put where a claim may find it.
    enqueued: bool,
}

impl Default for MemoryTaskStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTaskStore {
    /// An empty store; its clock begins with the year 2026, whatever the machine's says.
    pub fn new() -> Self {
        let machine = Machine { rows: Rows::default(), owners: fastrand::Rng::new() };
        let shared = Shared {
            began: Instant::now(),
            skew: AtomicI64::new(0),
            machine: Mutex::new(machine),
            version: AtomicU64::new(0),
            news: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets how far the store's clock is ahead of the workers', in milliseconds; behind it, where negative. 0 at first.
    pub fn skew(&self, ms: i64) {
        self.shared.skew.store(ms, Ordering::Relaxed);
    }

    /// The store's clock.
    pub fn now(&self) -> Millis {
        let passed = i64::try_from(self.shared.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        BEGIN.saturating_add(passed).saturating_add(self.shared.skew.load(Ordering::Relaxed))
    }

    /// A change is never left half done, so a test that panicked while it looked on is no reason to stop.
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(&self, work: impl FnOnce(&mut Tx<'_>) -> R) -> R {
        let mut machine = self.machine();
        let Machine { rows, owners } = &mut *machine;
        let mut tx = Tx { rows, owners, now: self.now(), enqueued: false };
        let result = work(&mut tx);
        if tx.enqueued {
            self.shared.version.fetch_add(1, Ordering::AcqRel);
            self.shared.news.notify_waiters();
        }
        result
    }

    fn read<R>(&self, look: impl FnOnce(&Rows) -> R) -> R {
        look(&self.machine().rows)
    }
}

#[async_trait]
impl TaskStore for MemoryTaskStore {
    async fn submit(&self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError> {
        self.with(|tx| tx.submit(jobs))
    }

    async fn admit(&self, arrivals: Vec<NewJob>, lease: Duration, worker: String) -> Result<Vec<Admission>, StoreError> {
        Ok(self.with(|tx| tx.admit(arrivals, lease, &worker)))
    }

    async fn refuse(&self, refused: Vec<Refused>) -> Result<(), StoreError> {
        self.with(|tx| tx.refuse(refused));
        Ok(())
    }

    async fn outgoing(&self, queues: Option<Vec<String>>, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, StoreError> {
        Ok(self.with(|tx| tx.outgoing(queues.as_deref(), lease, limit)))
    }

    async fn sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        self.with(|tx| tx.sent(&ids));
        Ok(())
    }

    async fn claim_next(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        Ok(self.with(|tx| tx.claim(&request)))
    }

    async fn heartbeat(&self, beats: Vec<Heartbeat>, lease: Duration) -> Result<Vec<Beat>, StoreError> {
        Ok(self.with(|tx| tx.heartbeat(beats, lease)))
    }

    async fn commit(&self, commit: Commit) -> Result<Applied, StoreError> {
        Ok(self.with(|tx| tx.commit(commit)))
    }

    async fn end(&self, key: TaskKey) -> Result<(), StoreError> {
        self.with(|tx| tx.end(&key));
        Ok(())
    }

    async fn settle(&self, lease: Lease, how: Settlement, log: String) -> Result<Applied, StoreError> {
        Ok(self.with(|tx| tx.settle(&lease, how, log)))
    }

    async fn inputs(&self, key: TaskKey, offset: u32, limit: u32) -> Result<Vec<Input>, StoreError> {
        Ok(self.read(|rows| rows.inputs(&key, offset, limit)))
    }

    async fn sweep(&self, request: SweepRequest) -> Result<Swept, StoreError> {
        Ok(self.with(|tx| tx.sweep(&request)))
    }

    async fn swept(&self, keys: Vec<TaskKey>) -> Result<(), StoreError> {
        self.with(|tx| tx.swept(&keys));
        Ok(())
    }

    async fn bury_committed(&self, key: TaskKey, error: TaskError) -> Result<(), StoreError> {
        self.with(|tx| tx.bury_committed(&key, error));
        Ok(())
    }

    async fn wait_for_work(&self, seen: u64, at_most: Duration) -> u64 {
        let mut news = pin!(self.shared.news.notified());
        news.as_mut().enable();
        if self.shared.version.load(Ordering::Acquire) == seen {
            // A timeout is an answer too.
            tokio::time::timeout(at_most, news).await.ok();
        }
        self.shared.version.load(Ordering::Acquire)
    }

    async fn depth(&self, pipeline: &str) -> Result<Depth, StoreError> {
        let now = self.now();
        Ok(self.read(|rows| rows.depth(pipeline, now)))
    }

    async fn next_due(&self, pipeline: &str) -> Result<Option<u64>, StoreError> {
        let now = self.now();
        Ok(self.read(|rows| rows.next_due(pipeline, now)))
    }

    async fn job(&self, tenant: &str, job_id: &str) -> Result<JobView, StoreError> {
        let found = self.read(|rows| rows.job_of(tenant, job_id).map(|job| rows.job_view(job)));
        found.ok_or_else(|| StoreError::NotFound(format!("job {job_id} of tenant {tenant}")))
    }

    async fn jobs(&self, tenant: Option<&str>, state: Option<JobState>, limit: u32) -> Result<Vec<JobView>, StoreError> {
        Ok(self.read(|rows| rows.job_views(tenant, state, limit)))
    }

    async fn task(&self, tenant: &str, task_id: &str) -> Result<TaskView, StoreError> {
        self.read(|rows| rows.find(tenant, task_id))
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        Ok(self.read(|rows| rows.task_views(&filter)))
    }

    async fn logs(&self, key: TaskKey) -> Result<Vec<(u64, String)>, StoreError> {
        let found = self.read(|rows| rows.tasks.by_key(&key).map(|task| task.logs.clone()));
        found.ok_or_else(|| StoreError::NotFound(format!("task {} of tenant {}", key.task_id, key.tenant)))
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(self.with(|tx| tx.dead_letters(&filter)))
    }

    async fn redrive(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(self.with(|tx| tx.redrive(&filter, dry_run)))
    }

    async fn purge(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(self.with(|tx| tx.purge(&filter, dry_run)))
    }

    async fn seal(&self, tenant: &str, job_id: &str) -> Result<JobState, StoreError> {
        self.with(|tx| tx.seal(tenant, job_id))
    }

    async fn prune(&self, older_than: Duration, limit: u32, dry_run: bool) -> Result<Pruned, StoreError> {
        Ok(self.with(|tx| tx.prune(older_than, limit, dry_run)))
    }

    async fn cancel_task(&self, key: TaskKey) -> Result<TaskState, StoreError> {
        self.with(|tx| tx.cancel_task(&key))
    }

    async fn cancel_job(&self, tenant: &str, job_id: &str) -> Result<u64, StoreError> {
        self.with(|tx| tx.cancel_job(tenant, job_id))
    }
}
