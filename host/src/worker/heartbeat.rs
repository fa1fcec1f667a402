//! Heartbeats: every running task's lease is renewed in one batch, and a task whose lease is lost is stopped.
//!
//! The worker also fences itself: a lease that could not be renewed in time, by the worker's own monotonic clock counted from
//! before the request, counts as lost, whatever the store would say.

use crate::failpoint::{Point, reach};
use crate::guest::{Scope, StopReason};
use crate::task::lease::{Lease, LeaseView};
use crate::task_store::{Beat, Heartbeat, TaskStore};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Longest pause between two heartbeats, however long the lease: a request to cancel travels with them.
const MAX_PERIOD: Duration = Duration::from_secs(5);

/// The leases a worker holds.
pub(super) struct Heartbeats {
    lease: Duration,
    /// In order: what is renewed together goes out the same way every time.
    held: Mutex<BTreeMap<Lease, Held>>,
    /// Why every task is to stop, those not yet held included.
    stopping: OnceLock<StopReason>,
}

struct Held {
    scope: Arc<Scope>,
    view: LeaseView,
    renewed: Instant,
    cancel_at: Option<Instant>,
}

/// Keeps one lease alive; dropped before the commit, so that a heartbeat never meets a committed task.
pub(super) struct HeldLease<'a> {
    all: &'a Heartbeats,
    lease: Lease,
}

impl Drop for HeldLease<'_> {
    fn drop(&mut self) {
        self.all.held().remove(&self.lease);
    }
}

impl Heartbeats {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, held: Mutex::default(), stopping: OnceLock::new() }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Lease, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `lease` alive from now on. `sent`: when the claim was sent.
    pub(super) fn hold(&self, lease: Lease, scope: Arc<Scope>, sent: Instant) -> HeldLease<'_> {
        let view = LeaseView::new(sent.into_std(), self.lease);
        scope.renew(view);
        let mut held = self.held();
        if let Some(reason) = self.stopping.get() {
            scope.stop(*reason);
        }
        held.insert(lease.clone(), Held { scope, view, renewed: sent, cancel_at: None });
        drop(held);
        HeldLease { all: self, lease }
    }

    /// Stops every running task, and every one that begins from now on.
    pub(super) fn stop_all(&self, reason: StopReason) {
        let held = self.held();
        let _ = self.stopping.set(reason);
        for held in held.values() {
            held.scope.stop(reason);
        }
    }

    /// Stops what has lapsed or ignored its cancellation, to the moment, whether the store answers or not. Runs for as long as the
    /// worker does.
    pub(super) async fn fence(&self) {
        loop {
            let next = self.stop_overdue();
            sleep_until(next.min(Instant::now() + self.lease / 12)).await;
        }
    }

    /// Returns when the next one is due.
    fn stop_overdue(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + self.lease;
        for held in self.held().values() {
            if held.scope.has_lapsed() {
                continue;
            }
            if held.cancel_at.is_some_and(|at| now >= at) {
                held.scope.stop(StopReason::Cancelled);
            }
            let lapses = Instant::from_std(held.view.lapses_at());
            let cancels = held.cancel_at.filter(|at| *at > now).unwrap_or(lapses);
            next = next.min(lapses).min(cancels);
        }
        next
    }

    /// Renews what is due. Runs for as long as the worker does.
    pub(super) async fn beat(&self, store: &dyn TaskStore) {
        let period = (self.lease / 3).min(MAX_PERIOD);
        loop {
            sleep(period / 4).await;
            let due = self.due(period);
            if !due.is_empty() {
                self.renew(store, due).await;
            }
        }
    }

    /// What is to be renewed: nothing that has lapsed on the clock here.
    fn due(&self, period: Duration) -> Vec<Heartbeat> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (lease, held) in self.held().iter() {
            if !held.scope.has_lapsed() && now >= held.renewed + period * 3 / 4 {
                due.push(Heartbeat { lease: lease.clone(), progress: held.scope.progress() });
            }
        }
        due
    }

    async fn renew(&self, store: &dyn TaskStore, due: Vec<Heartbeat>) {
        let sent = Instant::now();
        let leases: Vec<Lease> = due.iter().map(|beat| beat.lease.clone()).collect();
        reach(Point::BeforeHeartbeat);
        let beats = match timeout(self.lease / 3, store.heartbeat(due, self.lease)).await {
            Ok(Ok(beats)) => beats,
            Ok(Err(error)) => return tracing::warn!(%error, leases = leases.len(), "heartbeat failed; trying again"),
            Err(_) => return tracing::warn!(leases = leases.len(), "heartbeat got no answer in time; trying again"),
        };
        reach(Point::AfterHeartbeat);
        let mut held = self.held();
        for (lease, beat) in leases.iter().zip(beats) {
            let Some(entry) = held.get_mut(lease) else { continue };
            match beat {
                Beat::Held { cancel } => {
                    entry.renewed = sent;
                    entry.view = LeaseView::new(sent.into_std(), self.lease);
                    entry.scope.renew(entry.view);
                    if cancel && entry.cancel_at.is_none() {
                        entry.scope.request_cancel();
                        entry.cancel_at = Some(Instant::now() + entry.scope.limits().cancel_grace);
                    }
                }
                Beat::Lost => {
                    tracing::warn!(
                        task_id = lease.key.task_id,
                        epoch = lease.epoch,
                        "lease lost; the task is stopped and its result discarded"
                    );
                    entry.scope.stop(StopReason::LeaseLost);
                }
            }
        }
    }
}
