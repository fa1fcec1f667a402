//! Leases: who may end a task, and how a worker knows that it may no longer.

use super::id::TaskKey;
use std::time::{Duration, Instant};

/// One claim of one task. Every effect on the task names all three; the store applies it only where they match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// The task.
    pub key: TaskKey,
    /// The fencing token: rises by one at every claim of the task.
    pub epoch: u64,
    /// A fresh UUID per claim.
    pub owner: String,
}

impl Lease {
    /// The folder of this attempt's large outputs below the task's output prefix: `_attempts/<epoch>-<owner>/`.
    pub fn attempt_folder(&self) -> String {
        attempt_folder(self.epoch, &self.owner)
    }
}

/// See [`Lease::attempt_folder`].
pub fn attempt_folder(epoch: u64, owner: &str) -> String {
    format!("_attempts/{epoch}-{owner}/")
}

/// What the worker believes about a lease, by its own monotonic clock.
///
/// Counted from *before* the claim or renewal was sent, so that the worker's view always lapses before the store's.
#[derive(Debug, Clone, Copy)]
pub struct LeaseView {
    renewed: Instant,
    length: Duration,
}

impl LeaseView {
    /// A lease claimed or renewed by a request that was sent at `sent`.
    pub fn new(sent: Instant, length: Duration) -> Self {
        Self { renewed: sent, length }
    }

    /// When the worker must stop acting on it.
    pub fn lapses_at(&self) -> Instant {
        self.renewed + self.length
    }

    /// Whether the worker may still act on it at `now`.
    pub fn holds(&self, now: Instant) -> bool {
        now < self.lapses_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_lapses_by_the_time_the_request_was_sent() {
        let sent = Instant::now();
        let view = LeaseView::new(sent, Duration::from_secs(3));
        assert!(view.holds(sent + Duration::from_millis(2999)));
        assert!(!view.holds(sent + Duration::from_secs(3)));
    }
}
