//! What a run of the worker has under way: tasks that run, and room set aside for looks into queues.

use crate::task::state::TaskState;
use std::collections::{BTreeMap, HashMap};
use tokio::task::{Id, JoinError};

/// What a worker did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Claims run.
    pub runs: u64,
    /// How they ended: QUEUED stands for retried or handed back, PROCESSING for a lost lease.
    pub ended: BTreeMap<&'static str, u64>,
}

/// Room set aside: in all, and of each step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reserved {
    pub max: u32,
    pub rooms: BTreeMap<String, u32>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Load {
    running: HashMap<Id, String>,
    reserved: u32,
    by_step: BTreeMap<String, u32>,
    pub summary: Summary,
}

impl Load {
    /// Tasks that run, and those that may come any moment.
    pub fn total(&self) -> u32 {
        self.running.len() as u32 + self.reserved
    }

    /// The same, of one step.
    pub fn of_step(&self, step: &str) -> u32 {
        self.by_step.get(step).copied().unwrap_or_default()
    }

    /// Room that is set aside.
    pub fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Sets room aside.
    pub fn reserve(&mut self, room: &Reserved) {
        self.reserved += room.max;
        for (step, room) in &room.rooms {
            *self.by_step.entry(step.clone()).or_default() += room;
        }
    }

    /// Frees room that was set aside.
    pub fn release(&mut self, room: &Reserved) {
        self.reserved = self.reserved.saturating_sub(room.max);
        for (step, room) in &room.rooms {
            self.sub(step, *room);
        }
    }

    /// A task began. Finishing what another worker committed is no run.
    pub fn started(&mut self, id: Id, step: String, is_run: bool) {
        *self.by_step.entry(step.clone()).or_default() += 1;
        self.running.insert(id, step);
        self.summary.runs += u64::from(is_run);
    }

    /// A task ended, or failed in the host itself.
    pub fn ended(&mut self, ended: Result<(Id, TaskState), JoinError>) {
        let id = match ended {
            Ok((id, state)) => {
                *self.summary.ended.entry(state.as_str()).or_default() += 1;
                id
            }
            // Its lease lapses, and the task is found again.
            Err(error) => {
                tracing::error!(%error, "a task's run failed in the host itself");
                error.id()
            }
        };
        if let Some(step) = self.running.remove(&id) {
            self.sub(&step, 1);
        }
    }

    fn sub(&mut self, step: &str, room: u32) {
        if let Some(kept) = self.by_step.get_mut(step) {
            *kept = kept.saturating_sub(room);
        }
    }
}
