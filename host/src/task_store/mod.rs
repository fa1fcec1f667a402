//! The task store: the only authority on what state a task is in. The port; its types stand in the files beside this one, by
//! what they are for, and the adapters in folders.
//!
//! With SQLite and Postgres the `tasks` table is the queue as well: [`TaskStore::claim_next`] leases what is due, and an
//! end marks DONE and creates the children in one transaction. What comes over a broker is taken in by [`TaskStore::admit`], and
//! leaves through the outbox. Every effect on a running task names its [`Lease`]; an adapter applies it only where epoch and
//! owner still match.

#[cfg(test)]
mod conformance;
mod entry;
mod memory;
mod run;
mod sql;
mod upkeep;
mod views;

pub use entry::{Admission, Feed, NewJob, Refused, Submitted};
pub use memory::MemoryTaskStore;
pub use run::{Applied, Beat, ClaimRequest, Claimed, Commit, Heartbeat, Settlement};
pub use sql::{Durability, PostgresTaskStore, SqlTaskStore, SqliteTaskStore};
pub use upkeep::{IdleQueue, LAPSED_LATELY, Leftover, Outgoing, Pruned, SweepRequest, Swept, Unfinished};
pub use views::{ClaimView, DeadLetter, DeadLetterFilter, Depth, JobView, TaskFilter, TaskView};

use crate::task::hooks::{Input, TaskError};
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task::state::{JobState, TaskState};
use async_trait::async_trait;
use std::time::Duration;

/// Most rows of one answer, whatever a filter asks for: bounds what a list costs in memory. Who wants more asks again.
pub const MAX_ANSWER: u32 = 10_000;

/// Why the store did not do it, classed by what the caller does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No such task or job.
    #[error("{0} not found")]
    NotFound(String),
    /// The same id with another content, or a state that does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Not allowed: a read-only folder, a wrong password.
    #[error("task store refuses: {0}")]
    Denied(String),
    /// Something in the request or in the store makes no sense; trying again will not help.
    #[error("task store: {0}")]
    Invalid(String),
    /// Busy, full, or out of reach: try again.
    #[error("task store unavailable: {0}")]
    Unavailable(String),
}

/// The port. Times are the store's own clock throughout.
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// Creates jobs with their root tasks; one transaction for all that are new. One answer per job, in order. Where one of them would
    /// begin in a queue that another system reads, nothing is done: [`StoreError::Invalid`].
    async fn submit(&self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError>;

    /// Takes in messages of a queue: stores what is new, as [`submit`](Self::submit) would, and leases every task that can run now, as
    /// [`claim_next`](Self::claim_next) would. A message that can never be a task becomes a dead letter. One answer each, in order;
    /// of two with one id in one call, the second finds the first leased. One that runs alone ([`Claimed::alone`]) is the only one leased
    /// by its call: what could run beside it is [`Admission::NotDue`] for a moment.
    async fn admit(&self, arrivals: Vec<NewJob>, lease: Duration, worker: String) -> Result<Vec<Admission>, StoreError>;

    /// Keeps messages that are no valid task as dead letters, each once.
    async fn refuse(&self, refused: Vec<Refused>) -> Result<(), StoreError>;

    /// Leases messages of the outbox to whoever sends them next, oldest first: they are listed again once `lease` is over, unless
    /// [`sent`](Self::sent) was called. Of these queues only: who cannot send a message would keep others from it. None: of every queue.
    async fn outgoing(&self, queues: Option<Vec<String>>, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, StoreError>;

    /// The broker has confirmed these: their rows go.
    async fn sent(&self, ids: Vec<i64>) -> Result<(), StoreError>;

    /// Leases what is due, best priority first, jobs taking turns: `epoch + 1`, a fresh owner. Lapsed leases count as crashes.
    async fn claim_next(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError>;

    /// Renews leases, one answer each, in order. Never waits behind claims or commits longer than one transaction.
    async fn heartbeat(&self, beats: Vec<Heartbeat>, lease: Duration) -> Result<Vec<Beat>, StoreError>;

    /// COMMITTED, fenced by epoch and owner. With an empty manifest the end is part of the same transaction.
    /// A repeat by the same lease answers [`Applied::Yes`]. A task that was asked to stop ends CANCELLED instead, and the answer is
    /// [`Applied::Lost`]: nothing it made is to be put in place.
    async fn commit(&self, commit: Commit) -> Result<Applied, StoreError>;

    /// DONE: children, groups, counters, in one transaction, where the task is COMMITTED. Without effect otherwise.
    async fn end(&self, key: TaskKey) -> Result<(), StoreError>;

    /// Ends a run that reached no commit; a repeat of the same answers [`Applied::Yes`]. Whatever it asks for, a task that was asked
    /// to stop ends CANCELLED, and the run counts as nothing: a failure then may be no more than the request to stop. Else
    /// [`Settlement::Dead`] counts as an attempt.
    async fn settle(&self, lease: Lease, how: Settlement, log: String) -> Result<Applied, StoreError>;

    /// A page of the inputs of a `then` task, in fan-out order.
    async fn inputs(&self, key: TaskKey, offset: u32, limit: u32) -> Result<Vec<Input>, StoreError>;

    /// Ends what a crash left, sends again what seems lost, closes fed jobs that have gone quiet, and lists what is to be done outside.
    async fn sweep(&self, request: SweepRequest) -> Result<Swept, StoreError>;

    /// The attempts of these tasks are gone.
    async fn swept(&self, keys: Vec<TaskKey>) -> Result<(), StoreError>;

    /// A committed task whose outputs cannot be put in place for good: DEAD, its manifest and staged bytes kept.
    async fn bury_committed(&self, key: TaskKey, error: TaskError) -> Result<(), StoreError>;

    /// Returns when there may be new work: something was enqueued, here or elsewhere, since the wait that returned `seen`, or `at_most` has
    /// passed. Who has not waited yet has seen 0.
    async fn wait_for_work(&self, seen: u64, at_most: Duration) -> u64;

    /// How much there is to do in a pipeline.
    async fn depth(&self, pipeline: &str) -> Result<Depth, StoreError>;

    /// When the next task of a pipeline that is not due yet falls due, or the next lease lapses: milliseconds from now.
    async fn next_due(&self, pipeline: &str) -> Result<Option<u64>, StoreError>;

    /// One job.
    async fn job(&self, tenant: &str, job_id: &str) -> Result<JobView, StoreError>;

    /// Jobs, newest first.
    async fn jobs(&self, tenant: Option<&str>, state: Option<JobState>, limit: u32) -> Result<Vec<JobView>, StoreError>;

    /// One task with its claims. `task_id` may be an unambiguous beginning of at least 6 characters.
    async fn task(&self, tenant: &str, task_id: &str) -> Result<TaskView, StoreError>;

    /// Tasks.
    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, StoreError>;

    /// What the guest logged, attempt by attempt: (epoch, text).
    async fn logs(&self, key: TaskKey) -> Result<Vec<(u64, String)>, StoreError>;

    /// Dead letters, newest first.
    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>, StoreError>;

    /// Puts dead tasks back: attempts at zero, epochs go on, their jobs reopen; one that had committed is COMMITTED again. With `dry_run`
    /// nothing changes. Returns what was (or would be) put back.
    async fn redrive(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError>;

    /// Removes dead letters for good. Their tasks stay DEAD, cannot be put back, and lose their staged outputs to a sweep two leases on. With
    /// `dry_run` nothing changes. Returns what was (or would be) removed.
    async fn purge(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError>;

    /// No further root task joins this job: it ends once none of its tasks is live, at once if that is so. Returns its state.
    async fn seal(&self, tenant: &str, job_id: &str) -> Result<JobState, StoreError>;

    /// Removes jobs that ended longer ago than `older_than`, with their tasks, claims and logs; jobs with dead letters stay, and those
    /// whose attempts are not swept yet. At most `limit` jobs in one call. With `dry_run` nothing changes.
    async fn prune(&self, older_than: Duration, limit: u32, dry_run: bool) -> Result<Pruned, StoreError>;

    /// Asks a task to stop. WAITING and QUEUED end at once; PROCESSING is told by its heartbeat; COMMITTED ignores it.
    /// Returns the state after the request.
    async fn cancel_task(&self, key: TaskKey) -> Result<TaskState, StoreError>;

    /// Asks every task of a job to stop. Returns how many were live. Root tasks that come later are stored as CANCELLED; an open job
    /// without a live task ends.
    async fn cancel_job(&self, tenant: &str, job_id: &str) -> Result<u64, StoreError>;
}
