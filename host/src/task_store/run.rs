//! What a worker asks for and tells while it runs tasks.

use crate::task::children::Children;
use crate::task::hooks::TaskError;
use crate::task::id::JobKey;
use crate::task::lease::Lease;
use crate::task::message::Message;
use crate::task::outcome::Counters;
use crate::task::outputs::{Figures, Manifest};
use std::sync::Arc;
use std::time::Duration;

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
    pub message: Arc<Message>,
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
