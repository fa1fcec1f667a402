//! What running tasks tell: heartbeats, commits, ends, settlements. Fenced by epoch and owner.

use super::Tx;
use super::rows::{Task, millis};
use crate::task::children::Children;
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task::state::TaskState;
use crate::task_store::{Applied, Beat, Commit, Heartbeat, Settlement};
use std::time::Duration;

/// The name of an end in `claims`.
fn name(how: &Settlement) -> &'static str {
    match how {
        Settlement::Retry(..) => "retried",
        Settlement::HandBack(..) => "handed-back",
        Settlement::GiveBack => "given-back",
        Settlement::Dead(_) => "dead",
        Settlement::Cancelled => "cancelled",
    }
}

impl Tx<'_> {
    /// The task of a lease, where the lease holds.
    fn held(&self, lease: &Lease) -> Option<&Task> {
        let task = self.rows.tasks.by_key(&lease.key)?;
        (task.state == TaskState::Processing && task.epoch == lease.epoch && task.owner == lease.owner).then_some(task)
    }

    pub(super) fn heartbeat(&mut self, beats: Vec<Heartbeat>, lease: Duration) -> Vec<Beat> {
        let until = self.now + millis(lease);
        let mut answers = Vec::with_capacity(beats.len());
        for Heartbeat { lease, progress } in beats {
            // Progress that is no JSON is dropped: it is a guest's text, and the lease is worth more.
            let progress = progress.and_then(|text| serde_json::from_str(&text).ok());
            let held = self.held(&lease).map(|task| task.id).and_then(|id| {
                self.rows.tasks.update(id, |task| {
                    task.lease_until = until;
                    task.progress = progress.or(task.progress.take());
                    task.cancel_at.is_some()
                })
            });
            answers.push(held.map_or(Beat::Lost, |cancel| Beat::Held { cancel }));
        }
        answers
    }

    pub(super) fn commit(&mut self, commit: Commit) -> Applied {
        let Commit { lease, manifest, children, outcome, figures, log } = commit;
        let Some(id) = self.held(&lease).map(|task| task.id) else { return self.answer(&lease, "committed") };
        let (now, ends) = (self.now, manifest.is_empty());
        // A first run that wrote no byte has left nothing to sweep.
        let leftover = lease.epoch > 1 || figures.written_bytes > 0;
        let mut follows = None;
        let cancelled = self.rows.tasks.update(id, |task| {
            task.figures = Some(figures);
            task.error = None;
            if task.cancel_at.is_some() {
                task.state = TaskState::Cancelled;
                (task.ended_at, task.leftover) = (Some(now), Some(now));
                return true;
            }
            task.manifest = Some(manifest);
            task.outcome = outcome;
            if ends {
                task.state = TaskState::Done;
                (task.ended_at, task.leftover) = (Some(now), leftover.then_some(now));
                follows = Some(children);
            } else {
                task.state = TaskState::Committed;
                task.children = Some(children);
            }
            false
        });
        let cancelled = cancelled.unwrap_or(true);
        self.close_claim(id, if cancelled { "cancelled" } else { "committed" }, None, log);
        match follows {
            Some(children) => self.done(id, children),
            None if cancelled => self.count(id, -1),
            None => {}
        }
        if cancelled { Applied::Lost } else { Applied::Yes }
    }

    pub(super) fn end(&mut self, key: &TaskKey) {
        let Some(id) = self.rows.tasks.by_key(key).filter(|task| task.state == TaskState::Committed).map(|task| task.id) else { return };
        let now = self.now;
        let children: Option<Children> = self.rows.tasks.update(id, |task| {
            task.state = TaskState::Done;
            // The outputs have their names, so the bytes that rode in the manifest go.
            task.manifest = task.manifest.take().map(|manifest| manifest.finalised());
            (task.ended_at, task.leftover) = (Some(now), Some(now));
            task.children.take().unwrap_or_default()
        });
        self.done(id, children.unwrap_or_default());
    }

    /// DEAD, where the task is COMMITTED; manifest and children stay, for a redrive.
    pub(super) fn bury_committed(&mut self, key: &TaskKey, error: TaskError) {
        let Some(id) = self.rows.tasks.by_key(key).filter(|task| task.state == TaskState::Committed).map(|task| task.id) else { return };
        let now = self.now;
        self.rows.tasks.update(id, |task| {
            task.state = TaskState::Dead;
            task.error = Some(error);
            (task.ended_at, task.leftover) = (Some(now), None);
        });
        self.died(id);
    }

    pub(super) fn settle(&mut self, lease: &Lease, how: Settlement, log: String) -> Applied {
        let asked = name(&how);
        let Some(id) = self.held(lease).map(|task| task.id) else { return self.answer(lease, asked) };
        let (state, wait, attempts, handbacks, error) = match how {
            Settlement::Retry(wait, error) => (TaskState::Queued, wait, 1, 0, Some(error)),
            Settlement::HandBack(wait, error) => (TaskState::Queued, wait, 0, 1, Some(error)),
            Settlement::GiveBack => (TaskState::Queued, Duration::ZERO, 0, 0, None),
            // The run that ends it is an attempt made.
            Settlement::Dead(error) => (TaskState::Dead, Duration::ZERO, 1, 0, Some(error)),
            Settlement::Cancelled => (TaskState::Cancelled, Duration::ZERO, 0, 0, None),
        };
        let now = self.now;
        let state = self.rows.tasks.update(id, |task| {
            if task.cancel_at.is_some() {
                task.state = TaskState::Cancelled;
            } else {
                task.state = state;
                task.attempts += attempts;
                task.handbacks += handbacks;
            }
            task.due = wait.is_zero();
            task.not_before = now + millis(wait);
            task.error = error.clone().or(task.error.take());
            task.ended_at = (task.state != TaskState::Queued).then_some(now);
            task.leftover = (task.state == TaskState::Cancelled).then_some(now);
            task.state
        });
        let ended = if state == Some(TaskState::Cancelled) { "cancelled" } else { asked };
        self.close_claim(id, ended, error, log);
        match state {
            Some(TaskState::Queued) => self.enqueued = true,
            Some(TaskState::Dead) => self.died(id),
            _ => self.count(id, -1),
        }
        Applied::Yes
    }

    /// Notes how a run ended, and what its guest logged.
    pub(super) fn close_claim(&mut self, id: i64, ended: &str, error: Option<TaskError>, log: String) {
        let now = self.now;
        self.rows.tasks.update(id, |task| {
            if let Some(claim) = task.claims.last_mut() {
                (claim.ended_at, claim.ended, claim.error) = (Some(now), Some(ended.to_owned()), error);
            }
            if !log.is_empty() {
                task.logs.push((task.epoch, log));
            }
        });
    }

    /// For an effect that finds its lease over: `Yes` where its claim says that it ended just so in an earlier try. A settlement of a
    /// task that was asked to stop took effect as a cancellation; a commit did not take effect then.
    fn answer(&self, lease: &Lease, asked: &str) -> Applied {
        let claims = self.rows.tasks.by_key(&lease.key).map(|task| task.claims.as_slice()).unwrap_or_default();
        let ended =
            claims.iter().find(|claim| claim.epoch == lease.epoch && claim.owner == lease.owner).and_then(|claim| claim.ended.as_deref());
        let took_effect = ended.is_some_and(|ended| ended == asked || (ended == "cancelled" && asked != "committed"));
        if took_effect { Applied::Yes } else { Applied::Lost }
    }
}
