//! The table of tasks with its indexes. Rows are changed by [`Tasks::update`] only, which keeps the indexes true.

use super::rows::Task;
use crate::task::Millis;
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Best priority first, then start tag, then order of creation.
type Turn = (Reverse<u8>, i64, i64);

/// Tasks by number, by key, and by what is asked of them.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    rows: BTreeMap<i64, Task>,
    keys: BTreeMap<TaskKey, i64>,
    of_job: BTreeSet<(i64, i64)>,
    /// QUEUED and due, of the table: by pipeline and step.
    ready: BTreeMap<(String, String), BTreeSet<Turn>>,
    /// QUEUED and not due, of the table: by pipeline.
    later: BTreeMap<String, BTreeSet<(Millis, i64)>>,
    /// QUEUED, and a broker carries the message.
    carried: BTreeSet<(Millis, i64)>,
    running: BTreeSet<(Millis, i64)>,
    committed: BTreeSet<(Millis, i64)>,
    leftovers: BTreeSet<(Millis, i64)>,
}

/// The numbers in an index of times up to one, earliest first.
fn until(index: &BTreeSet<(Millis, i64)>, last: Millis) -> Vec<i64> {
    index.range(..=(last, i64::MAX)).map(|(_, id)| *id).collect()
}

impl Tasks {
    pub fn get(&self, id: i64) -> Option<&Task> {
        self.rows.get(&id)
    }

    pub fn by_key(&self, key: &TaskKey) -> Option<&Task> {
        self.rows.get(self.keys.get(key)?)
    }

    /// Tasks of a tenant whose ids lie between two, in their order.
    pub fn between<'a>(&'a self, tenant: &str, first: &str, last: &str) -> impl Iterator<Item = &'a Task> + use<'a> {
        self.keys.range(TaskKey::new(tenant, first)..=TaskKey::new(tenant, last)).filter_map(|(_, id)| self.rows.get(id))
    }

    /// All tasks, in the order of their creation.
    pub fn all(&self) -> impl Iterator<Item = &Task> {
        self.rows.values()
    }

    /// The tasks of a job, in the order of their creation.
    pub fn of_job(&self, job: i64) -> impl Iterator<Item = &Task> {
        self.of_job.range((job, i64::MIN)..=(job, i64::MAX)).filter_map(|(_, id)| self.rows.get(id))
    }

    /// One step's line, from its head.
    pub fn line<'a>(&'a self, pipeline: &str, step: &str) -> impl Iterator<Item = &'a Task> + use<'a> {
        let line = self.ready.get(&(pipeline.to_owned(), step.to_owned()));
        line.into_iter().flatten().filter_map(|(.., id)| self.rows.get(id))
    }

    /// Waiting for a time that is over by now.
    pub fn now_due(&self, pipeline: &str, now: Millis) -> Vec<i64> {
        self.later.get(pipeline).map(|later| until(later, now)).unwrap_or_default()
    }

    /// When the first task that waits for its time is due.
    pub fn first_due(&self, pipeline: &str) -> Option<Millis> {
        self.later.get(pipeline)?.first().map(|(at, _)| *at)
    }

    /// QUEUED and due by then, and a broker carries the message.
    pub fn carried(&self, last: Millis) -> Vec<i64> {
        until(&self.carried, last)
    }

    /// PROCESSING with a lease up to then.
    pub fn running(&self, last: Millis) -> Vec<i64> {
        until(&self.running, last)
    }

    /// COMMITTED with a lease up to then.
    pub fn committed(&self, last: Millis) -> Vec<i64> {
        until(&self.committed, last)
    }

    /// Ended up to then, with attempts that may still be there.
    pub fn leftovers(&self, last: Millis) -> Vec<i64> {
        until(&self.leftovers, last)
    }

    pub fn insert(&mut self, task: Task) {
        self.keys.insert(task.key.clone(), task.id);
        self.of_job.insert((task.job, task.id));
        self.file(&task, true);
        self.rows.insert(task.id, task);
    }

    pub fn remove(&mut self, id: i64) {
        if let Some(task) = self.rows.remove(&id) {
            self.file(&task, false);
            self.keys.remove(&task.key);
            self.of_job.remove(&(task.job, id));
        }
    }

    /// Changes one row. None where there is no such row.
    pub fn update<R>(&mut self, id: i64, change: impl FnOnce(&mut Task) -> R) -> Option<R> {
        let mut task = self.rows.remove(&id)?;
        self.file(&task, false);
        let result = change(&mut task);
        self.file(&task, true);
        self.rows.insert(id, task);
        Some(result)
    }

    /// Puts a row into the indexes it belongs in, or takes it out of them.
    fn file(&mut self, task: &Task, into: bool) {
        let at = |index: &mut BTreeSet<(Millis, i64)>, time: Millis| {
            if into {
                index.insert((time, task.id))
            } else {
                index.remove(&(time, task.id))
            };
        };
        match task.state {
            TaskState::Queued if task.queue().is_some() => at(&mut self.carried, task.not_before),
            TaskState::Queued if task.due => {
                let line = self.ready.entry((task.pipeline.clone(), task.made.step.clone())).or_default();
                let turn = (Reverse(task.priority()), task.fair, task.id);
                if into {
                    line.insert(turn)
                } else {
                    line.remove(&turn)
                };
            }
            TaskState::Queued => at(self.later.entry(task.pipeline.clone()).or_default(), task.not_before),
            TaskState::Processing => at(&mut self.running, task.lease_until),
            TaskState::Committed => at(&mut self.committed, task.lease_until),
            TaskState::Waiting | TaskState::Done | TaskState::Dead | TaskState::Cancelled => {}
        }
        if let Some(time) = task.leftover {
            at(&mut self.leftovers, time);
        }
    }
}
