//! Leasing what is due, and leases that ran out.

use super::Tx;
use super::rows::{Feeding, between, millis};
use crate::task::hooks::TaskError;
use crate::task::lease::Lease;
use crate::task::outcome::{Counters, MAX_CRASHES};
use crate::task::state::TaskState;
use crate::task_store::{ClaimRequest, ClaimView, Claimed};
use std::time::Duration;

/// Most tasks that one claim leases, whatever it asks for: each is a message in memory.
const CLAIMED_AT_ONCE: u32 = 1000;

fn runs_alone(crashes: u32) -> bool {
    crashes + 1 >= MAX_CRASHES
}

impl Tx<'_> {
    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Vec<Claimed> {
        self.lapse();
        for id in self.rows.tasks.now_due(&request.pipeline, self.now) {
            self.rows.tasks.update(id, |task| task.due = true);
            self.enqueued = true;
        }
        let picked = self.pick(request);
        picked.into_iter().filter_map(|id| self.lease(id, request.lease, &request.worker)).collect()
    }

    /// What a request gets: a task that runs alone where one is at the head of a line, else tasks that do not.
    fn pick(&self, request: &ClaimRequest) -> Vec<i64> {
        let limit = request.limit.min(CLAIMED_AT_ONCE) as usize;
        let wanted = request.job.as_ref();
        let job = wanted.map(|key| self.rows.job_of(&key.tenant, &key.job_id).map(|job| job.id));
        let line = |step: &str| {
            let tasks = self.rows.tasks.line(&request.pipeline, step);
            tasks.filter(move |task| job.is_none_or(|job| job == Some(task.job))).map(|task| (task.id, runs_alone(task.crashes)))
        };
        let with_room = || request.steps.iter().filter(|(_, room)| *room > 0 && limit > 0);
        let alone = with_room().find_map(|(step, _)| line(step).next().filter(|(_, alone)| *alone));
        if let Some((id, _)) = alone {
            return vec![id];
        }
        let mut picked: Vec<i64> = Vec::new();
        for (step, room) in with_room() {
            let room = (*room as usize).min(limit - picked.len());
            // Those that run alone keep their place; they are served once they are first.
            picked.extend(line(step).filter(|(id, alone)| !alone && !picked.contains(id)).map(|(id, _)| id).take(room).collect::<Vec<_>>());
        }
        picked
    }

    /// Leases one that is QUEUED and due: `epoch + 1`, a fresh owner.
    pub(super) fn lease(&mut self, id: i64, lease: Duration, worker: &str) -> Option<Claimed> {
        let task = self.rows.tasks.get(id)?;
        let clock = self.rows.lanes.entry((task.pipeline.clone(), task.made.step.clone(), task.priority())).or_default();
        *clock = (*clock).max(task.fair);
        let owner = uuid::Builder::from_random_bytes(self.owners.u128(..).to_be_bytes()).into_uuid().to_string();
        let now = self.now;
        self.rows.tasks.update(id, |task| {
            task.state = TaskState::Processing;
            task.due = false;
            task.epoch += 1;
            task.owner.clone_from(&owner);
            task.lease_until = now + millis(lease);
            task.claimed_at = Some(now);
            task.progress = None;
            task.resends = 0;
            let worker = worker.to_owned();
            task.claims.push(ClaimView { epoch: task.epoch, owner, worker, claimed_at: now, ended_at: None, ended: None, error: None });
        })?;
        self.claimed(id)
    }

    fn claimed(&self, id: i64) -> Option<Claimed> {
        let task = self.rows.tasks.get(id)?;
        let job = self.rows.jobs.get(&task.job)?;
        let leaves = |group: i64| self.rows.tasks.of_job(task.job).filter(|leaf| leaf.group == group && leaf.is_input).count();
        Some(Claimed {
            lease: Lease { key: task.key.clone(), epoch: task.epoch, owner: task.owner.clone() },
            message: task.made.message.clone(),
            payload_hash: task.made.payload_hash.clone(),
            step: task.made.step.clone(),
            key: task.made.key.clone(),
            priority: task.priority(),
            counters: Counters {
                attempts: task.attempts,
                handbacks: task.handbacks,
                crashes: task.crashes,
                max_attempts: task.made.max_attempts,
            },
            output_prefix: task.made.output_prefix.clone(),
            job_prefix: job.prefix.clone(),
            // Of several root tasks none owns the job's prefix.
            is_root: task.parent.is_none() && job.feeding == Feeding::Single,
            input_count: task.waits.map_or(0, leaves) as u32,
            queue_wait: between(task.not_before, self.now),
            cancelled: task.cancel_at.is_some(),
            alone: runs_alone(task.crashes),
        })
    }

    /// Takes back what lapsed, of all pipelines. Returns how many tasks were given up.
    pub(super) fn lapse(&mut self) -> u64 {
        let lapsed = self.rows.tasks.running(self.now - 1);
        lapsed.into_iter().filter(|id| self.lapse_one(*id)).count() as u64
    }

    /// A crash is counted, and the task is QUEUED again, or DEAD after too many of them, or CANCELLED if it was asked to stop.
    /// Returns whether it was given up.
    pub(super) fn lapse_one(&mut self, id: i64) -> bool {
        let now = self.now;
        let error = TaskError::new("crashed", "the lease lapsed: the worker died, hung or could not reach the store");
        let state = self.rows.tasks.update(id, |task| {
            task.crashes += 1;
            task.state = match task.cancel_at {
                Some(_) => TaskState::Cancelled,
                None if task.crashes >= MAX_CRASHES => TaskState::Dead,
                None => TaskState::Queued,
            };
            task.due = true;
            task.not_before = now;
            task.error = Some(error.clone());
            task.ended_at = (task.state != TaskState::Queued).then_some(now);
            task.leftover = task.cancel_at.map(|_| now);
            task.state
        });
        self.close_claim(id, "lapsed", Some(error), String::new());
        match state {
            Some(TaskState::Queued) => self.enqueued = true,
            Some(TaskState::Dead) => self.died(id),
            Some(_) => self.count(id, -1),
            None => {}
        }
        state == Some(TaskState::Dead)
    }
}
