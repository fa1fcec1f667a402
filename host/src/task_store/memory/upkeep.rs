//! What people, sweepers and relays ask for: cancelling, putting back, purging, pruning, sweeping, sending.

use super::Tx;
use super::rows::{Feeding, Job, Letter, between, millis};
use super::views::page;
use crate::task::Millis;
use crate::task::id::TaskKey;
use crate::task::lease::attempt_folder;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{
    ClaimView, DeadLetter, DeadLetterFilter, IdleQueue, LAPSED_LATELY, Leftover, Outgoing, Pruned, StoreError, SweepRequest, Swept,
    Unfinished,
};
use std::time::Duration;

/// How long a message may be under way before it counts as lost though nothing is known of its queue: an hour.
const LOST_AFTER: Duration = Duration::from_secs(3600);

/// Most doublings of it.
const MAX_DOUBLINGS: u32 = 5;

impl Tx<'_> {
    pub(super) fn cancel_task(&mut self, key: &TaskKey) -> Result<TaskState, StoreError> {
        let not_found = || StoreError::NotFound(format!("task {} of tenant {}", key.task_id, key.tenant));
        let id = self.rows.tasks.by_key(key).map(|task| task.id).ok_or_else(not_found)?;
        if self.ask_to_stop(id) == Some(TaskState::Cancelled) {
            self.count(id, -1);
        }
        self.rows.tasks.get(id).map(|task| task.state).ok_or_else(not_found)
    }

    /// Returns the state after the request where it took effect. What ended is to be counted.
    fn ask_to_stop(&mut self, id: i64) -> Option<TaskState> {
        let now = self.now;
        self.rows.tasks.update(id, |task| {
            let waits = matches!(task.state, TaskState::Waiting | TaskState::Queued);
            if !waits && task.state != TaskState::Processing {
                return None;
            }
            task.cancel_at = task.cancel_at.or(Some(now));
            if waits {
                // One that was claimed before may have left attempts.
                task.leftover = (task.epoch > 0).then_some(now);
                task.ended_at = Some(now);
                task.state = TaskState::Cancelled;
            }
            Some(task.state)
        })?
    }

    /// Marks the job, so that ends insert no children from here on. Returns how many of its tasks were live.
    pub(super) fn cancel_job(&mut self, tenant: &str, job_id: &str) -> Result<u64, StoreError> {
        let not_found = || StoreError::NotFound(format!("job {job_id} of tenant {tenant}"));
        let id = self.rows.job_of(tenant, job_id).map(|job| job.id).ok_or_else(not_found)?;
        let now = self.now;
        let job = self.rows.jobs.get_mut(&id).ok_or_else(not_found)?;
        if job.state.is_ended() {
            return Ok(0);
        }
        job.stopping = true;
        job.cancel_at = job.cancel_at.or(Some(now));
        let live = job.live.unsigned_abs();
        let tasks: Vec<i64> = self.rows.tasks.of_job(id).map(|task| task.id).collect();
        let ended: Vec<i64> = tasks.into_iter().filter(|task| self.ask_to_stop(*task) == Some(TaskState::Cancelled)).collect();
        for task in ended {
            self.count(task, -1);
        }
        self.close_or_reopen(id);
        Ok(live)
    }

    /// Numbers of the letters a filter names, newest first.
    fn chosen(&self, filter: &DeadLetterFilter, only: impl Fn(&Letter) -> bool) -> Vec<i64> {
        let is = |wanted: &Option<String>, value: Option<&String>| wanted.is_none() || wanted.as_ref() == value;
        let matches = |letter: &Letter| {
            let shown = &letter.shown;
            filter.id.is_none_or(|id| id == shown.id)
                && is(&filter.tenant, Some(&shown.tenant))
                && is(&filter.task_id, shown.task_id.as_ref())
                && is(&filter.job_id, shown.job_id.as_ref())
                && is(&filter.step, shown.step.as_ref())
                && is(&filter.code, Some(&shown.error.code))
        };
        let letters = self.rows.letters.values().rev().filter(|letter| matches(letter) && only(letter));
        letters.map(|letter| letter.shown.id).take(page(filter.limit)).collect()
    }

    fn shown(&self, letters: &[i64]) -> Vec<DeadLetter> {
        letters.iter().filter_map(|id| Some(self.rows.letters.get(id)?.shown.clone())).collect()
    }

    pub(super) fn dead_letters(&self, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
        self.shown(&self.chosen(filter, |_| true))
    }

    /// Letters of DEAD tasks whose job is not just being cancelled: their tasks can be put back.
    fn can_go_back(&self, letter: &Letter) -> bool {
        let Some(task) = letter.task.and_then(|id| self.rows.tasks.get(id)) else { return false };
        let cancelling = |job: &Job| job.stopping && job.state == JobState::Processing;
        task.state == TaskState::Dead && !self.rows.jobs.get(&task.job).is_some_and(cancelling)
    }

    pub(super) fn redrive(&mut self, filter: &DeadLetterFilter, dry_run: bool) -> Vec<DeadLetter> {
        let chosen = self.chosen(filter, |letter| self.can_go_back(letter));
        let shown = self.shown(&chosen);
        if !dry_run {
            for letter in chosen {
                if let Some(task) = self.rows.letters.remove(&letter).and_then(|letter| letter.task) {
                    self.put_back(task);
                }
            }
        }
        shown
    }

    /// One that had committed goes back to COMMITTED, without a lease: the sweeper finalises it again.
    fn put_back(&mut self, id: i64) {
        let Some(task) = self.rows.tasks.get(id) else { return };
        if let Some(job) = self.rows.jobs.get_mut(&task.job) {
            job.stopping = false;
        }
        // A failure task took its place among the inputs of the group; both are inputs now.
        let is_input = self.rows.groups.get(&task.group).is_some_and(|group| group.then_task.is_some());
        let now = self.now;
        let state = self.rows.tasks.update(id, |task| {
            task.state = if task.manifest.is_none() { TaskState::Queued } else { TaskState::Committed };
            task.due = true;
            task.not_before = now;
            task.lease_until = 0;
            (task.attempts, task.handbacks, task.crashes) = (0, 0, 0);
            (task.cancel_at, task.error, task.ended_at) = (None, None, None);
            (task.sent_at, task.resends) = (now, 0);
            task.is_input = is_input;
            task.state
        });
        self.count(id, 1);
        match state {
            Some(TaskState::Queued) => self.enqueue(id),
            _ => self.enqueued = true,
        }
    }

    pub(super) fn purge(&mut self, filter: &DeadLetterFilter, dry_run: bool) -> Vec<DeadLetter> {
        let chosen = self.chosen(filter, |_| true);
        let (shown, now) = (self.shown(&chosen), self.now);
        if !dry_run {
            for letter in chosen {
                let task = self.rows.letters.remove(&letter).and_then(|letter| letter.task);
                if let Some(task) = task.filter(|id| self.rows.tasks.get(*id).is_some_and(|task| task.state == TaskState::Dead)) {
                    self.rows.tasks.update(task, |task| {
                        (task.manifest, task.children) = (None, None);
                        task.leftover = Some(now);
                    });
                }
            }
        }
        shown
    }

    pub(super) fn prune(&mut self, older_than: Duration, limit: u32, dry_run: bool) -> Pruned {
        let before = self.now - millis(older_than);
        let keeps = |job: &Job| self.rows.letters.values().any(|letter| letter.is_of(job));
        let old = |job: &&Job| job.state.is_ended() && job.ended_at.is_some_and(|at| at < before) && !keeps(job);
        let is_unswept = |job: &i64| self.rows.tasks.of_job(*job).any(|task| task.leftover.is_some());
        let (unswept, jobs): (Vec<i64>, Vec<i64>) = self.rows.jobs.values().filter(old).map(|job| job.id).partition(is_unswept);
        let jobs: Vec<i64> = jobs.into_iter().take(limit as usize).collect();
        let mut pruned = Pruned { jobs: jobs.len() as u64, tasks: 0, unswept: unswept.len() as u64 };
        for job in jobs {
            let tasks: Vec<i64> = self.rows.tasks.of_job(job).map(|task| task.id).collect();
            pruned.tasks += tasks.len() as u64;
            if !dry_run {
                self.remove_job(job, &tasks);
            }
        }
        pruned
    }

    fn remove_job(&mut self, id: i64, tasks: &[i64]) {
        self.rows.outbox.retain(|_, row| row.task.is_none_or(|task| !tasks.contains(&task)));
        for task in tasks {
            self.rows.tasks.remove(*task);
        }
        self.rows.groups.retain(|_, group| group.job != id);
        self.rows.turns.retain(|(job, _), _| *job != id);
        if let Some(job) = self.rows.jobs.remove(&id) {
            self.rows.job_ids.remove(&(job.tenant, job.job_id));
        }
    }

    pub(super) fn sweep(&mut self, request: &SweepRequest) -> Swept {
        let (now, lease, limit) = (self.now, millis(request.lease), request.limit as usize);
        let buried = self.lapse();
        let unfinished = self.rows.tasks.committed(now - 1).into_iter().take(limit).filter_map(|id| {
            self.rows.tasks.update(id, |task| {
                task.lease_until = now + lease;
                let (output_prefix, manifest) = (task.made.output_prefix.clone(), task.manifest.clone().unwrap_or_default());
                Unfinished { key: task.key.clone(), output_prefix, manifest }
            })
        });
        let unfinished = unfinished.collect();
        let leftovers = self.rows.tasks.leftovers(now - 2 * lease).into_iter().take(limit).filter_map(|id| {
            self.rows.tasks.update(id, |task| {
                // Listed again a lease later unless somebody says that they are gone.
                task.leftover = Some(now - lease);
                let folders = task.claims.iter().map(|claim| attempt_folder(claim.epoch, &claim.owner)).collect();
                let is_late =
                    |claim: &ClaimView| claim.ended.as_deref() == Some("lapsed") && claim.ended_at > Some(now - millis(LAPSED_LATELY));
                let lapsed = task.claims.iter().any(is_late);
                Leftover { key: task.key.clone(), output_prefix: task.made.output_prefix.clone(), folders, lapsed }
            })
        });
        let leftovers = leftovers.collect();
        Swept { unfinished, leftovers, buried, resent: self.resend(request), closed: self.close_idle(request) }
    }

    pub(super) fn swept(&mut self, keys: &[TaskKey]) {
        for key in keys {
            if let Some(id) = self.rows.tasks.by_key(key).map(|task| task.id) {
                self.rows.tasks.update(id, |task| task.leftover = None);
            }
        }
    }

    /// Sends for tasks that are ready for so long that their message must be lost: their queue was empty all the while, or an hour is
    /// over. Each time the wait doubles.
    fn resend(&mut self, request: &SweepRequest) -> u64 {
        let mut resent = 0;
        for id in self.rows.tasks.carried(self.now) {
            if resent == u64::from(request.limit) {
                break;
            }
            let Some(task) = self.rows.tasks.get(id) else { continue };
            let ready_at = task.sent_at.max(task.not_before);
            let doubled = |first: Duration| millis(first.saturating_mul(1 << task.resends.min(MAX_DOUBLINGS)));
            let empty_for = |idle: &IdleQueue| Some(idle.queue.as_str()) == task.queue() && idle.since >= request.lease;
            let after = if request.idle_queues.iter().any(empty_for) { request.lease } else { LOST_AFTER };
            let under_way = self.rows.outbox.values().any(|row| row.task == Some(id));
            if ready_at + doubled(after) <= self.now && !under_way {
                let now = self.now;
                self.rows.tasks.update(id, |task| (task.sent_at, task.resends) = (now, task.resends + 1));
                self.enqueue(id);
                resent += 1;
            }
        }
        resent
    }

    /// Ends fed jobs to which nothing came for long.
    fn close_idle(&mut self, request: &SweepRequest) -> u64 {
        let idle = millis(request.fed_idle);
        let quiet = |job: &&Job| {
            let mut idle_queues = request.idle_queues.iter();
            job.feeding == Feeding::Open
                && job.quiet_at.is_some_and(|at| at + idle <= self.now)
                && job.queue.as_ref().is_none_or(|queue| idle_queues.any(|q| q.queue == *queue && q.since >= request.fed_idle))
        };
        let jobs: Vec<i64> = self.rows.jobs.values().filter(quiet).map(|job| job.id).take(request.limit as usize).collect();
        for id in &jobs {
            if let Some(job) = self.rows.jobs.get_mut(id) {
                job.feeding = Feeding::Idle;
            }
            self.close_or_reopen(*id);
        }
        jobs.len() as u64
    }

    pub(super) fn outgoing(&mut self, queues: Option<&[String]>, lease: Duration, limit: u32) -> Vec<Outgoing> {
        let (now, until): (Millis, Millis) = (self.now, self.now + millis(lease));
        let wanted = |row: &Outgoing| queues.is_none_or(|queues| queues.contains(&row.queue));
        let free = self.rows.outbox.values_mut().filter(|row| row.leased_until < now && wanted(&row.message)).take(limit as usize);
        let leased = free.map(|row| {
            row.leased_until = until;
            Outgoing { delay: between(now, row.not_before), ..row.message.clone() }
        });
        leased.collect()
    }

    pub(super) fn sent(&mut self, ids: &[i64]) {
        let now = self.now;
        for id in ids {
            if let Some(task) = self.rows.outbox.remove(id).and_then(|row| row.task) {
                self.rows.tasks.update(task, |task| task.sent_at = now);
            }
        }
    }
}
