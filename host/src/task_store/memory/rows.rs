//! The tables of the store in memory, ordered throughout: whatever is read comes in the same order every time.

use super::index::Tasks;
use crate::task::Millis;
use crate::task::children::{Children, Delivery, NewTask};
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::outputs::{Figures, Manifest};
use crate::task::state::{JobState, TaskState};
use crate::task_store::{ClaimView, DeadLetter, Outgoing};
use std::collections::BTreeMap;
use std::time::Duration;

/// A duration as the store counts; at most 142,000 years, so that a sum of two stays a whole number.
pub(super) fn millis(duration: Duration) -> Millis {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(1 << 52)
}

/// Milliseconds between two times as a duration; zero where the second is not later.
pub(super) fn between(from: Millis, to: Millis) -> Duration {
    Duration::from_millis(to.saturating_sub(from).max(0).unsigned_abs())
}

/// How root tasks come to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feeding {
    /// It has one, and gets no other.
    Single,
    /// Others may come: it does not end.
    Open,
    /// None came for long, and it has ended; one that comes opens it again.
    Idle,
    /// No other comes any more.
    Sealed,
}

#[derive(Debug)]
pub(super) struct Job {
    pub id: i64,
    pub tenant: String,
    pub job_id: String,
    pub pipeline: String,
    pub prefix: String,
    pub root_group: i64,
    pub feeding: Feeding,
    /// The queue that its root tasks come from.
    pub queue: Option<String>,
    /// How many root tasks there will be, and how many have come.
    pub expected: Option<u64>,
    pub arrived: u64,
    /// Since when it has had no live task, while it is open.
    pub quiet_at: Option<Millis>,
    pub state: JobState,
    /// Tasks that have not ended, in all groups.
    pub live: i64,
    /// Somebody cancelled it, at some time.
    pub cancel_at: Option<Millis>,
    /// Ends insert no children and wake no `then`; a redrive of the ended job takes it back.
    pub stopping: bool,
    pub created_at: Millis,
    pub ended_at: Option<Millis>,
}

/// The root group of each job, and one per fan-out with a `then`.
#[derive(Debug)]
pub(super) struct Group {
    pub job: i64,
    /// The task that runs once the group has no live task; none for a root group.
    pub then_task: Option<i64>,
    pub live: i64,
}

#[derive(Debug)]
pub(super) struct Task {
    pub id: i64,
    pub job: i64,
    pub group: i64,
    pub key: TaskKey,
    pub pipeline: String,
    /// As it was made.
    pub made: NewTask,
    /// Whoever fed it chose its output prefix.
    pub chose_prefix: bool,
    pub state: TaskState,
    /// QUEUED and no longer waiting for `not_before`.
    pub due: bool,
    /// When it is, or was, ready to run.
    pub not_before: Millis,
    /// Start tag: jobs of one step and priority take turns by it.
    pub fair: i64,
    pub epoch: u64,
    pub owner: String,
    pub lease_until: Millis,
    pub attempts: u32,
    pub handbacks: u32,
    pub crashes: u32,
    pub cancel_at: Option<Millis>,
    pub parent: Option<i64>,
    /// Ordinals from the root task down: sorts in fan-out order.
    pub path: Vec<u32>,
    /// While it is an input of its group's `then`.
    pub is_input: bool,
    /// The group a `then` waits for.
    pub waits: Option<i64>,
    pub child_count: u64,
    pub outcome: Option<String>,
    pub error: Option<TaskError>,
    pub progress: Option<serde_json::Value>,
    pub figures: Option<Figures>,
    pub manifest: Option<Manifest>,
    /// Kept from commit to end.
    pub children: Option<Children>,
    /// When it ended, until its `_attempts/` folder is known to be gone; none where there cannot be one.
    pub leftover: Option<Millis>,
    /// When its message was sent last, or came.
    pub sent_at: Millis,
    /// How often its message was sent again since it was claimed last.
    pub resends: u32,
    pub created_at: Millis,
    pub claimed_at: Option<Millis>,
    pub ended_at: Option<Millis>,
    pub claims: Vec<ClaimView>,
    pub logs: Vec<(u64, String)>,
}

impl Task {
    /// The broker's queue that carries its message.
    pub fn queue(&self) -> Option<&str> {
        match &self.made.delivery {
            Delivery::Table => None,
            Delivery::Queue(queue) | Delivery::Foreign(queue) => Some(queue),
        }
    }

    /// Whether it is dead, and what it has staged waits for a redrive.
    pub fn keeps_outputs(&self) -> bool {
        self.state == TaskState::Dead && self.manifest.is_some()
    }

    /// 0 to 9.
    pub fn priority(&self) -> u8 {
        self.made.priority.min(9)
    }
}

/// A dead letter, with what is not shown of it.
#[derive(Debug)]
pub(super) struct Letter {
    pub shown: DeadLetter,
    /// The row that died; none for a newcomer that never became a task.
    pub task: Option<i64>,
    /// SHA-256 of a message that was refused on arrival.
    pub body_hash: Option<String>,
}

impl Letter {
    /// Whether it is of a task of this job. What was refused on arrival never belonged to a job, whatever it said.
    pub fn is_of(&self, job: &Job) -> bool {
        self.shown.tenant == job.tenant && self.shown.job_id.as_ref() == Some(&job.job_id) && self.body_hash.is_none()
    }
}

/// A row of the outbox.
#[derive(Debug)]
pub(super) struct Letterbox {
    pub message: Outgoing,
    /// The row it is for; none where another system reads the queue.
    pub task: Option<i64>,
    pub not_before: Millis,
    /// Until when somebody is about to send it.
    pub leased_until: Millis,
}

/// Where jobs take turns: pipeline, step, priority.
pub(super) type Lane = (String, String, u8);

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub jobs: BTreeMap<i64, Job>,
    /// By tenant and job id.
    pub job_ids: BTreeMap<(String, String), i64>,
    pub groups: BTreeMap<i64, Group>,
    pub tasks: Tasks,
    /// The highest start tag that was claimed in each lane.
    pub lanes: BTreeMap<Lane, i64>,
    /// The next start tag of a job in a lane.
    pub turns: BTreeMap<(i64, Lane), i64>,
    pub letters: BTreeMap<i64, Letter>,
    pub outbox: BTreeMap<i64, Letterbox>,
    last_number: i64,
}

impl Rows {
    /// A number that no other row has: rising, and never given twice.
    pub fn number(&mut self) -> i64 {
        self.last_number += 1;
        self.last_number
    }

    pub fn job_of(&self, tenant: &str, job_id: &str) -> Option<&Job> {
        self.jobs.get(self.job_ids.get(&(tenant.to_owned(), job_id.to_owned()))?)
    }

    /// Whether the job of a task is being cancelled.
    pub fn is_stopping(&self, task: &Task) -> bool {
        self.jobs.get(&task.job).is_some_and(|job| job.stopping)
    }
}
