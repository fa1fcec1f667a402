//! Jobs, tasks, claims and dead letters as people and programs are shown them. Times in Unix milliseconds.

use crate::task::Millis;
use crate::task::hooks::TaskError;
use crate::task::message::Message;
use crate::task::outputs::{Figures, Manifest};
use crate::task::state::{JobState, TaskState};
use serde::Serialize;

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
    /// Whether further root tasks may join it: fed from outside, and not sealed.
    pub open: bool,
    /// How many root tasks its feeder said there would be.
    pub expected: Option<u64>,
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
    /// The broker's queue that carries its message; none where the table is the queue.
    pub queue: Option<String>,
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
    /// The queue that its message came from, where it was refused on arrival.
    pub queue: Option<String>,
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
    /// This letter only.
    pub id: Option<i64>,
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
