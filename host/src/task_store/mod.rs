//! The task store: the only authority on what state a task is in. The port and its types; adapters stand beside it.
//!
//! With SQLite (and later Postgres) the `tasks` table is the queue as well: [`TaskStore::claim_next`] leases what is due, and an
//! end marks DONE and creates the children in one transaction. Every effect on a running task names its [`Lease`]; an adapter
//! applies it only where epoch and owner still match.

#[cfg(test)]
mod conformance;
mod sqlite;

pub use sqlite::{Durability, SqliteTaskStore};

use crate::task::Millis;
use crate::task::children::{Children, NewTask};
use crate::task::hooks::{Input, TaskError};
use crate::task::id::{JobKey, TaskKey};
use crate::task::lease::Lease;
use crate::task::message::Message;
use crate::task::outcome::Counters;
use crate::task::outputs::{Figures, Manifest};
use crate::task::state::{JobState, TaskState};
use async_trait::async_trait;
use serde::Serialize;
use std::time::Duration;

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

/// A job about to exist, with its root task.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Whose job it is.
    pub tenant: String,
    /// Its id.
    pub job_id: String,
    /// The pipeline that runs it.
    pub pipeline: String,
    /// The job's own prefix, with `/` at its end; the root task owns it.
    pub prefix: String,
    /// The first task.
    pub root: NewTask,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It is new.
    Created,
    /// The same job and task, with the same content, were there already: no effect.
    Repeated,
    /// The id is taken by something else. Nothing was changed, and nothing of the other is disclosed.
    Conflict,
    /// Its prefix is, covers or lies below that of a job that is still PROCESSING: their outputs would mix.
    Occupied,
}

/// What a worker can take right now.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// The pipeline it serves.
    pub pipeline: String,
    /// Only tasks of this job, where the worker runs just one.
    pub job: Option<JobKey>,
    /// Steps with room and how much each has, in the order they are to be served.
    pub steps: Vec<(String, u32)>,
    /// At most this many in all.
    pub limit: u32,
    /// How long the leases are.
    pub lease: Duration,
    /// The worker's name, for people.
    pub worker: String,
}

/// A task, leased.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The lease.
    pub lease: Lease,
    /// Its message.
    pub message: Message,
    /// Hash of the message.
    pub payload_hash: String,
    /// The step as resolved.
    pub step: String,
    /// Its name among its siblings.
    pub key: String,
    /// As resolved.
    pub priority: u8,
    /// Failures so far.
    pub counters: Counters,
    /// Where its outputs go.
    pub output_prefix: String,
    /// The job's own prefix.
    pub job_prefix: String,
    /// True for the job's first task, which owns the job's prefix.
    pub is_root: bool,
    /// Inputs of a `then` task; 0 otherwise.
    pub input_count: u32,
    /// From ready to claimed.
    pub queue_wait: Duration,
    /// Whether it was asked to stop before it was claimed.
    pub cancelled: bool,
    /// All its leases but the last one allowed have lapsed: it may be what kills workers, so it comes as the only task of its
    /// claim, and nothing else is to run beside it.
    pub alone: bool,
}

/// A renewed lease, or the news that it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Renewed. `cancel`: somebody asked for the task to stop.
    Held {
        /// The task is to stop.
        cancel: bool,
    },
    /// Zero rows: another epoch, another owner, or no longer PROCESSING.
    Lost,
}

/// A heartbeat of one task.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// The lease to renew.
    pub lease: Lease,
    /// How far the guest says it is: a JSON object `{done, total, phase, metrics}`.
    pub progress: Option<String>,
}

/// What a commit fixes.
#[derive(Debug, Clone)]
pub struct Commit {
    /// By whom.
    pub lease: Lease,
    /// The outputs; empty where the task has no files.
    pub manifest: Manifest,
    /// The tasks that will exist once this one has ended.
    pub children: Children,
    /// None for success.
    pub outcome: Option<String>,
    /// What the host measured.
    pub figures: Figures,
    /// Lines the guest logged, capped.
    pub log: String,
}

/// How a commit or a settlement went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It took effect, now or in an earlier try whose answer was lost.
    Yes,
    /// The lease is another's: no effect.
    Lost,
}

/// How a run ended that did not reach its commit.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// QUEUED again after the wait; one more attempt is counted.
    Retry(Duration, TaskError),
    /// QUEUED again after the wait; one more hand-back is counted.
    HandBack(Duration, TaskError),
    /// QUEUED again at once; nothing is counted.
    GiveBack,
    /// DEAD, with a dead letter.
    Dead(TaskError),
    /// CANCELLED.
    Cancelled,
}

/// A COMMITTED task that somebody has to finalise and end.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// The task.
    pub key: TaskKey,
    /// Where its outputs go.
    pub output_prefix: String,
    /// What was committed.
    pub manifest: Manifest,
}

/// A folder of attempts that has outlived its task.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// The task.
    pub key: TaskKey,
    /// Its output prefix; `_attempts/` below it is to go.
    pub output_prefix: String,
}

/// What the sweeper found to do outside the store.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// COMMITTED, and nobody has renewed a lease on them: finalise and end them.
    pub unfinished: Vec<Unfinished>,
    /// Ended two leases ago: remove their attempts, then call [`TaskStore::swept`].
    pub leftovers: Vec<Leftover>,
    /// Tasks given up because their leases lapsed too often.
    pub buried: u64,
}

/// A job as shown. Times in Unix milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// Whose job it is.
    pub tenant: String,
    /// Its id.
    pub job_id: String,
    /// The pipeline.
    pub pipeline: String,
    /// Where it stands.
    pub state: JobState,
    /// Its own prefix.
    pub prefix: String,
    /// When it was submitted.
    pub created_at: Millis,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Number of tasks by state.
    pub tasks: std::collections::BTreeMap<TaskState, u64>,
}

/// A claim as shown.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimView {
    /// The fencing token.
    pub epoch: u64,
    /// UUID of the claim.
    pub owner: String,
    /// Name of the worker.
    pub worker: String,
    /// When it began.
    pub claimed_at: Millis,
    /// When it ended; none while it runs.
    pub ended_at: Option<Millis>,
    /// `committed`, `retried`, `handed-back`, `given-back`, `dead`, `cancelled` or `lapsed`; none while it runs.
    pub ended: Option<String>,
    /// Why, where it failed.
    pub error: Option<TaskError>,
}

/// A task as shown. Times in Unix milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct TaskView {
    /// Whose task it is.
    pub tenant: String,
    /// Its id.
    pub task_id: String,
    /// Its job.
    pub job_id: String,
    /// The pipeline.
    pub pipeline: String,
    /// The step.
    pub step: String,
    /// Its name among its siblings.
    pub key: String,
    /// Where it stands.
    pub state: TaskState,
    /// Claims so far.
    pub epoch: u64,
    /// Failures, hand-backs and lapsed leases.
    pub attempts: u32,
    /// See [`Counters`].
    pub handbacks: u32,
    /// See [`Counters`].
    pub crashes: u32,
    /// See [`Counters`].
    pub max_attempts: u32,
    /// 0 to 9.
    pub priority: u8,
    /// Whether somebody asked for it to stop.
    pub cancel_requested: bool,
    /// The task that created it.
    pub parent: Option<String>,
    /// Children it created.
    pub children: u64,
    /// The outcome it named.
    pub outcome: Option<String>,
    /// Why it failed last.
    pub error: Option<TaskError>,
    /// Where its outputs go.
    pub output_prefix: String,
    /// The payload it returned, as an address.
    pub result_uri: Option<String>,
    /// Its outputs, without their bytes.
    pub manifest: Option<Manifest>,
    /// What the host measured.
    pub figures: Option<Figures>,
    /// The last progress the guest told: a JSON object.
    pub progress: Option<serde_json::Value>,
    /// The message.
    pub message: Message,
    /// When it was created.
    pub created_at: Millis,
    /// Not before this.
    pub not_before: Millis,
    /// When it was claimed last.
    pub claimed_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Every claim, oldest first; filled by [`TaskStore::task`] only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimView>,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this job.
    pub job_id: Option<String>,
    /// Of this step.
    pub step: Option<String>,
    /// In this state.
    pub state: Option<TaskState>,
    /// At most this many (0: as many as one answer holds), newest jobs first; within a job in the order of creation.
    pub limit: u32,
}

/// A dead letter as shown.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// Number of the letter, rising.
    pub id: i64,
    /// Whose task it was.
    pub tenant: String,
    /// The task; none where the message was not valid enough to have one.
    pub task_id: Option<String>,
    /// Its job.
    pub job_id: Option<String>,
    /// The step.
    pub step: Option<String>,
    /// Why.
    pub error: TaskError,
    /// Attempts made.
    pub attempts: u32,
    /// The message, as it came.
    pub message: String,
    /// When it died.
    pub died_at: Millis,
}

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// This task only.
    pub task_id: Option<String>,
    /// Of this job.
    pub job_id: Option<String>,
    /// Of this step.
    pub step: Option<String>,
    /// With this error code.
    pub code: Option<String>,
    /// At most this many (0: as many as one answer holds), newest first.
    pub limit: u32,
}

/// How much work waits, runs and is finished, for a pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// QUEUED and due.
    pub ready: u64,
    /// QUEUED and not due yet, or WAITING.
    pub later: u64,
    /// PROCESSING or COMMITTED.
    pub running: u64,
    /// Age of the oldest due task.
    pub oldest_ms: u64,
}

/// The port. Times are the store's own clock throughout.
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// Creates jobs with their root tasks; one transaction for all that are new. One answer per job, in order.
    async fn submit(&self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError>;

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
    /// to stop ends CANCELLED. [`Settlement::Dead`] counts as an attempt.
    async fn settle(&self, lease: Lease, how: Settlement, log: String) -> Result<Applied, StoreError>;

    /// A page of the inputs of a `then` task, in fan-out order.
    async fn inputs(&self, key: TaskKey, offset: u32, limit: u32) -> Result<Vec<Input>, StoreError>;

    /// Ends what a crash left, and lists what is to be done outside. `lease` is the length of leases; at most `limit` of each kind.
    async fn sweep(&self, lease: Duration, limit: u32) -> Result<Swept, StoreError>;

    /// The attempts of these tasks are gone.
    async fn swept(&self, keys: Vec<TaskKey>) -> Result<(), StoreError>;

    /// A committed task whose outputs cannot be put in place for good: DEAD, its manifest and staged bytes kept.
    async fn bury_committed(&self, key: TaskKey, error: TaskError) -> Result<(), StoreError>;

    /// Returns when there may be new work: something was enqueued here or elsewhere, or `at_most` has passed.
    async fn wait_for_work(&self, at_most: Duration);

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

    /// Asks a task to stop. WAITING and QUEUED end at once; PROCESSING is told by its heartbeat; COMMITTED ignores it.
    /// Returns the state after the request.
    async fn cancel_task(&self, key: TaskKey) -> Result<TaskState, StoreError>;

    /// Asks every task of a job to stop. Returns how many were live.
    async fn cancel_job(&self, tenant: &str, job_id: &str) -> Result<u64, StoreError>;
}
