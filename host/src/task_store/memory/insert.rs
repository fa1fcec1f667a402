//! New rows of tasks, the tags by which the jobs of a step take turns, and the messages that brokers carry.

use super::Tx;
use super::rows::{Lane, Letterbox, Task};
use crate::task::Millis;
use crate::task::children::NewTask;
use crate::task::id::TaskKey;
use crate::task::message::Message;
use crate::task::state::TaskState;
use crate::task_store::Outgoing;
use std::time::Duration;

/// A row to insert.
#[derive(Debug)]
pub(super) struct NewRow {
    pub job: i64,
    pub group: i64,
    pub task: NewTask,
    /// The group that it waits for, WAITING.
    pub waits: Option<i64>,
    pub parent: Option<i64>,
    pub path: Vec<u32>,
    pub is_input: bool,
    /// Whether it stands in line behind its job's other tasks; the only root task of a job does not.
    pub takes_turns: bool,
    /// Whether the broker has its message already.
    pub is_sent: bool,
}

/// When a task that is made now is ready.
pub(super) fn not_before(task: &NewTask, now: Millis) -> Millis {
    let delay = i64::try_from(task.delay_ms).unwrap_or(i64::MAX);
    now.saturating_add(delay).max(task.message.not_before.unwrap_or(0))
}

impl Tx<'_> {
    /// Inserts it and counts it, CANCELLED in a job that is being cancelled. Returns its number.
    pub(super) fn insert(&mut self, row: NewRow) -> i64 {
        let NewRow { job, group, task, waits, parent, path, is_input, takes_turns, is_sent } = row;
        let owner = self.rows.jobs.get(&job);
        let (tenant, of_job) = owner.map(|job| (job.tenant.clone(), job.pipeline.clone())).unwrap_or_default();
        let of_parent = || parent.and_then(|parent| self.rows.tasks.get(parent)).map(|parent| parent.pipeline.clone());
        let pipeline = task.pipeline.clone().or_else(of_parent).unwrap_or(of_job);
        let stopping = owner.is_some_and(|job| job.stopping);
        let state = match waits {
            _ if stopping => TaskState::Cancelled,
            Some(_) => TaskState::Waiting,
            None => TaskState::Queued,
        };
        let fair = self.start_tag(job, (pipeline.clone(), task.step.clone(), task.priority.min(9)), takes_turns);
        let (id, now, not_before) = (self.rows.number(), self.now, not_before(&task, self.now));
        self.rows.tasks.insert(Task {
            id,
            job,
            group,
            key: TaskKey::new(tenant, &task.task_id),
            pipeline,
            made: task,
            chose_prefix: false,
            state,
            due: state == TaskState::Queued && not_before <= now,
            not_before,
            fair,
            epoch: 0,
            owner: String::new(),
            lease_until: 0,
            attempts: 0,
            handbacks: 0,
            crashes: 0,
            cancel_at: None,
            parent,
            path,
            is_input,
            waits,
            child_count: 0,
            outcome: None,
            error: None,
            progress: None,
            figures: None,
            manifest: None,
            children: None,
            leftover: None,
            sent_at: now,
            resends: 0,
            created_at: now,
            claimed_at: None,
            ended_at: stopping.then_some(now),
            claims: Vec::new(),
            logs: Vec::new(),
        });
        if state == TaskState::Queued && !is_sent {
            self.enqueue(id);
        }
        // What ended before it began changes no job.
        if !stopping {
            self.count(id, 1);
        }
        id
    }

    /// Start tags (start-time fair queueing): a job's next task begins where its last one ended, but never before the lane's virtual
    /// time, which is the highest tag claimed so far. So a job that comes late stands beside the head of one that came with many.
    fn start_tag(&mut self, job: i64, lane: Lane, takes_turns: bool) -> i64 {
        let clock = self.rows.lanes.get(&lane).copied().unwrap_or_default();
        if !takes_turns {
            return clock;
        }
        let next = self.rows.turns.entry((job, lane)).or_default();
        let tag = clock.max(*next);
        *next = tag + 1;
        tag
    }

    /// A task is QUEUED now: a claim may find it, or its message is to be sent.
    pub(super) fn enqueue(&mut self, id: i64) {
        let Some(task) = self.rows.tasks.get(id) else { return };
        let (key, message, not_before) = (task.key.clone(), task.made.message.clone(), task.not_before);
        match task.queue().map(str::to_owned) {
            Some(queue) => self.post(&queue, &key, &message, Some(id), not_before),
            None => self.enqueued = true,
        }
    }

    /// Puts a message into the outbox; for a row that has one there, nothing happens.
    pub(super) fn post(&mut self, queue: &str, key: &TaskKey, message: &Message, task: Option<i64>, not_before: Millis) {
        if task.is_some() && self.rows.outbox.values().any(|row| row.task == task) {
            return;
        }
        let id = self.rows.number();
        let message = Outgoing { id, queue: queue.to_owned(), key: key.clone(), body: message.to_json(), delay: Duration::ZERO };
        self.rows.outbox.insert(id, Letterbox { message, task, not_before, leased_until: 0 });
    }
}
