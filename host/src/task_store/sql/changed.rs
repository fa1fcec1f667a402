//! Waking those who wait for work, in one process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Tells waiters of one process that there may be new work.
#[derive(Debug)]
pub(super) struct Changed {
    version: watch::Sender<u64>,
    waiters: AtomicUsize,
    first_waiter: Notify,
}

impl Changed {
    pub fn new() -> Self {
        Self { version: watch::Sender::new(0), waiters: AtomicUsize::new(0), first_waiter: Notify::new() }
    }

    /// There may be new work.
    pub fn tell(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Waits until there is another version than the one `seen`, and returns it.
    pub async fn wait(&self, seen: u64, at_most: Duration) -> u64 {
        let mut version = self.version.subscribe();
        if *version.borrow() == seen {
            let _waiting = Waiting::new(self);
            // The sender lives as long as `self`, and a timeout is an answer too.
            tokio::time::timeout(at_most, version.wait_for(|version| *version != seen)).await.ok();
        }
        *self.version.borrow()
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
