//! Waking those who wait for work, in one process.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Tells waiters of one process that there may be new work.
#[derive(Debug)]
pub(super) struct Changed {
    version: watch::Sender<u64>,
    /// The version that the last waiter returned with.
    returned: AtomicU64,
    waiters: AtomicUsize,
    first_waiter: Notify,
}

impl Changed {
    pub fn new() -> Self {
        Self { version: watch::Sender::new(0), returned: AtomicU64::new(0), waiters: AtomicUsize::new(0), first_waiter: Notify::new() }
    }

    /// There may be new work.
    pub fn tell(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Waits until there may be new work. What was told since the last wait returned counts as well: it may have come after the
    /// caller's claim and before this call.
    pub async fn wait(&self, at_most: Duration) {
        let mut version = self.version.subscribe();
        let seen = *version.borrow_and_update();
        if self.returned.swap(seen, Ordering::AcqRel) < seen {
            return;
        }
        let _waiting = Waiting::new(self);
        // The sender lives as long as `self`, and a timeout is an answer too.
        tokio::time::timeout(at_most, version.changed()).await.ok();
        self.returned.store(*version.borrow(), Ordering::Release);
    }

    /// Returns once somebody waits.
    pub async fn waited_for(&self) {
        while self.waiters.load(Ordering::Acquire) == 0 {
            self.first_waiter.notified().await;
        }
    }
}

/// Counts one waiter for as long as it lives, also when its caller goes away.
struct Waiting<'a>(&'a Changed);

impl<'a> Waiting<'a> {
    fn new(changed: &'a Changed) -> Self {
        changed.waiters.fetch_add(1, Ordering::AcqRel);
        changed.first_waiter.notify_one();
        Self(changed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}
