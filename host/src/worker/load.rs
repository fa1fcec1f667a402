//! What a run of the worker has under way: the places that its tasks take, and room set aside for looks at the table and into queues.
//!
//! A task takes its place until its outputs are staged. Its commit and end wait for the store, not for a guest: meanwhile the next
//! task has the place, and the store gets commits and claims together.

use crate::task::state::TaskState;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::task::JoinError;

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

impl Reserved {
    /// What is left of it where no more than so many tasks can begin.
    pub fn at_most(mut self, max: usize) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        self.max = self.max.min(max);
        self.rooms.values_mut().for_each(|room| *room = max.min(*room));
        self
    }
}

/// The place of one task, free again once this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    step: String,
    freed: mpsc::UnboundedSender<String>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Without a receiver the worker's run is over, and nobody counts any more.
        self.freed.send(std::mem::take(&mut self.step)).ok();
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Load {
    taken: u32,
    reserved: u32,
    by_step: BTreeMap<String, u32>,
    free: mpsc::UnboundedSender<String>,
    freed: mpsc::UnboundedReceiver<String>,
    pub summary: Summary,
}

impl Load {
    pub fn new() -> Self {
        let (free, freed) = mpsc::unbounded_channel();
        Self { taken: 0, reserved: 0, by_step: BTreeMap::new(), free, freed, summary: Summary::default() }
    }

    /// Places that are taken, and those that may be any moment.
    pub fn total(&self) -> u32 {
        self.taken + self.reserved
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

    /// A task begins, and takes a place. Finishing what another worker committed is no run.
    pub fn start(&mut self, step: String, is_run: bool) -> Slot {
        *self.by_step.entry(step.clone()).or_default() += 1;
        self.taken += 1;
        self.summary.runs += u64::from(is_run);
        Slot { step, freed: self.free.clone() }
    }

    /// Waits until a place is free again.
    pub async fn wait_for_place(&mut self) {
        // It never closes: a sender is kept here.
        if let Some(step) = self.freed.recv().await {
            self.free(&step);
        }
    }

    /// Counts the places that have become free meanwhile.
    pub fn count_free(&mut self) {
        while let Ok(step) = self.freed.try_recv() {
            self.free(&step);
        }
    }

    fn free(&mut self, step: &str) {
        self.taken = self.taken.saturating_sub(1);
        self.sub(step, 1);
    }

    /// A task ended, or failed in the host itself.
    pub fn ended(&mut self, ended: Result<TaskState, JoinError>) {
        match ended {
            Ok(state) => *self.summary.ended.entry(state.as_str()).or_default() += 1,
            // Its lease lapses, and the task is found again.
            Err(error) => tracing::error!(%error, "a task's run failed in the host itself"),
        }
    }

    fn sub(&mut self, step: &str, room: u32) {
        if let Some(kept) = self.by_step.get_mut(step) {
            *kept = kept.saturating_sub(room);
        }
    }
}
