//! The one road out: whatever ends a task (DONE, DEAD, CANCELLED) comes here. Children are inserted, groups and jobs counted, every
//! `then` whose group has no live task left is woken, and jobs are closed.

use super::Tx;
use super::insert::{NewRow, not_before};
use super::rows::{Feeding, Group, Letter};
use crate::task::children::{self, Children, Delivery, GivenUp, NewTask};
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::state::{JobState, TaskState};
use crate::task_store::DeadLetter;
use std::collections::BTreeMap;

/// The place of a failure task among its siblings: behind all that its parent may name, should it come to life again.
const LAST: u32 = u32::MAX;

impl Tx<'_> {
    /// A task ended DONE, and these follow.
    pub(super) fn done(&mut self, id: i64, children: Children) {
        let tasks = (0..).zip(children.tasks).collect();
        self.insert_children(id, tasks, children.then);
        self.count(id, -1);
    }

    /// A task is DEAD now: it leaves a letter, and its failure task where there is one.
    pub(super) fn died(&mut self, id: i64) {
        self.write_letter(id);
        if let Some(failure) = self.failure_of(id) {
            self.insert_children(id, vec![(LAST, failure)], None);
        }
        self.count(id, -1);
    }

    fn failure_of(&self, id: i64) -> Option<NewTask> {
        let dead = self.rows.tasks.get(id)?;
        let (route, error) = (dead.made.on_failure.as_ref()?, dead.error.as_ref()?);
        let job_prefix = &self.rows.jobs.get(&dead.job)?.prefix;
        let given_up = GivenUp { tenant: &dead.key.tenant, message: &dead.made.message, priority: dead.priority(), job_prefix, error };
        let failure = children::failure(&given_up, route).ok()?;
        // A task that dies again is followed by the same one: it is there already, whatever the first death said.
        let key = TaskKey::new(&dead.key.tenant, &failure.task_id);
        let followed = self.rows.tasks.by_key(&key).is_some_and(|there| there.parent == Some(id));
        if followed { None } else { Some(failure) }
    }

    fn insert_children(&mut self, parent: i64, tasks: Vec<(u32, NewTask)>, then: Option<NewTask>) {
        let Some(row) = self.rows.tasks.get(parent).filter(|row| !self.rows.is_stopping(row)) else { return };
        let (job, group, is_input, path, tenant) = (row.job, row.group, row.is_input, row.path.clone(), row.key.tenant.clone());
        let behind = tasks.len() as u32;
        let mut seen = BTreeMap::new();
        let accepted: Vec<_> = tasks.into_iter().filter(|(_, task)| self.accept(&tenant, task, &mut seen)).collect();
        let then = then.filter(|then| self.accept(&tenant, then, &mut seen));
        let count = accepted.len() + usize::from(then.is_some());
        if count == 0 {
            return;
        }
        // Without its `then` (absorbed or refused) a fan-out has nothing to wait for: its tasks stay in the parent's group.
        let inner = (then.is_some() && !accepted.is_empty()).then(|| self.rows.number());
        if let Some(id) = inner {
            self.rows.groups.insert(id, Group { job, then_task: None, live: 0 });
        }
        let place = |ordinal: u32| path.iter().copied().chain([ordinal]).collect::<Vec<u32>>();
        let new = |task, ordinal| NewRow {
            job,
            group,
            task,
            waits: None,
            parent: Some(parent),
            path: place(ordinal),
            is_input,
            takes_turns: true,
            is_sent: false,
        };
        for (ordinal, task) in accepted {
            self.insert(NewRow { group: inner.unwrap_or(group), is_input: inner.is_some() || is_input, ..new(task, ordinal) });
        }
        if let Some(then) = then {
            let id = self.insert(NewRow { waits: inner, ..new(then, behind) });
            if let Some(group) = inner.and_then(|inner| self.rows.groups.get_mut(&inner)) {
                group.then_task = Some(id);
            }
        }
        // A task with children is no leaf of its group any more.
        self.rows.tasks.update(parent, |row| {
            row.child_count += count as u64;
            row.is_input = false;
        });
    }

    /// New: a row. The same id and content: absorbed. The same id with another content: refused, the old task untouched. For another
    /// system: sent, and no row, as nobody here waits for it. `seen` holds the hashes of those before it in the list.
    fn accept(&mut self, tenant: &str, task: &NewTask, seen: &mut BTreeMap<String, String>) -> bool {
        let key = TaskKey::new(tenant, &task.task_id);
        if let Delivery::Foreign(queue) = &task.delivery {
            let not_before = not_before(task, self.now);
            self.post(queue, &key, &task.message, None, not_before);
            return false;
        }
        let there = self.rows.tasks.by_key(&key).map(|there| &there.made.payload_hash).or_else(|| seen.get(&task.task_id));
        match there {
            None => {
                seen.insert(task.task_id.clone(), task.payload_hash.clone());
                true
            }
            Some(hash) if *hash == task.payload_hash => false,
            Some(_) => {
                let error = TaskError::new("conflict", format!("a task with id '{}' and another content exists", task.task_id));
                self.refuse_task(tenant, task, error, None);
                false
            }
        }
    }

    /// A dead letter for a newcomer that never becomes a task; where it was refused on arrival, with its queue and the hash of its body.
    pub(super) fn refuse_task(&mut self, tenant: &str, task: &NewTask, error: TaskError, arrival: Option<(String, String)>) {
        let (queue, body_hash) = arrival.unzip();
        let shown = DeadLetter {
            id: 0,
            tenant: tenant.to_owned(),
            task_id: Some(task.task_id.clone()),
            job_id: Some(task.message.job_id.clone()),
            step: Some(task.step.clone()),
            queue,
            error,
            attempts: 0,
            message: task.message.to_json(),
            died_at: self.now,
        };
        self.keep_letter(Letter { shown, task: None, body_hash });
    }

    /// Stores a letter, unless its message has left one already.
    pub(super) fn keep_letter(&mut self, mut letter: Letter) {
        let of = |letter: &Letter| (letter.shown.tenant.clone(), letter.shown.queue.clone(), letter.body_hash.clone());
        let same = |other: &Letter| of(other) == of(&letter);
        if letter.body_hash.is_some() && self.rows.letters.values().any(same) {
            return;
        }
        letter.shown.id = self.rows.number();
        self.rows.letters.insert(letter.shown.id, letter);
    }

    fn write_letter(&mut self, id: i64) {
        let Some(task) = self.rows.tasks.get(id) else { return };
        let shown = DeadLetter {
            id: 0,
            tenant: task.key.tenant.clone(),
            task_id: Some(task.key.task_id.clone()),
            job_id: self.rows.jobs.get(&task.job).map(|job| job.job_id.clone()),
            step: Some(task.made.step.clone()),
            queue: None,
            error: task.error.clone().unwrap_or_else(|| TaskError::new("dead", "given up")),
            attempts: task.attempts,
            message: task.made.message.to_json(),
            died_at: self.now,
        };
        self.keep_letter(Letter { shown, task: Some(id), body_hash: None });
    }

    /// A task ended (-1), or came to life (+1): counts its group and its job, and lets every `then` go that waits for nothing now.
    pub(super) fn count(&mut self, id: i64, by: i64) {
        let mut counted = vec![(id, by)];
        while let Some((id, by)) = counted.pop() {
            let Some(task) = self.rows.tasks.get(id) else { continue };
            let (job, group) = (task.job, task.group);
            if let Some(group) = self.rows.groups.get_mut(&group) {
                group.live += by;
                if let Some(then) = group.then_task.filter(|_| group.live == 0)
                    && self.wake(then)
                {
                    counted.push((then, -1));
                }
            }
            if let Some(job) = self.rows.jobs.get_mut(&job) {
                job.live += by;
            }
            self.close_or_reopen(job);
        }
    }

    /// Lets a `then` go, once; in a cancelled job it ends instead, and the answer is true.
    fn wake(&mut self, then: i64) -> bool {
        let Some(task) = self.rows.tasks.get(then).filter(|task| task.state == TaskState::Waiting) else { return false };
        let (now, stopping) = (self.now, self.rows.is_stopping(task));
        self.rows.tasks.update(then, |task| {
            task.state = if stopping { TaskState::Cancelled } else { TaskState::Queued };
            task.due = task.not_before <= now;
            task.not_before = task.not_before.max(now);
            task.ended_at = stopping.then_some(now);
        });
        if !stopping {
            self.enqueue(then);
        }
        stopping
    }

    /// Closes a job without a live task that gets no other; opens one again that has some.
    pub(super) fn close_or_reopen(&mut self, id: i64) {
        let Some(job) = self.rows.jobs.get(&id) else { return };
        let open = job.feeding == Feeding::Open && !job.stopping;
        let state = if job.live > 0 || open { JobState::Processing } else { self.end_of(id) };
        let now = self.now;
        let Some(job) = self.rows.jobs.get_mut(&id) else { return };
        job.quiet_at = if open && job.live == 0 { job.quiet_at.or(Some(now)) } else { None };
        job.ended_at = if state.is_ended() { job.ended_at.or(Some(now)) } else { None };
        job.state = state;
        if job.live == 0 {
            self.rows.turns.retain(|(job, _), _| *job != id);
        }
    }

    fn end_of(&self, id: i64) -> JobState {
        let Some(job) = self.rows.jobs.get(&id) else { return JobState::Done };
        let failed = self.rows.tasks.of_job(id).any(|task| task.state == TaskState::Dead)
            || self.rows.letters.values().any(|letter| letter.is_of(job));
        match (failed, job.cancel_at) {
            (true, _) => JobState::Failed,
            (false, Some(_)) => JobState::Cancelled,
            (false, None) => JobState::Done,
        }
    }
}
