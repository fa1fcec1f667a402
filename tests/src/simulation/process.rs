//! A worker's process as the machine sees it: it may be stopped for a while, as by SIGSTOP, and it may be gone from one instruction to the
//! next. Every call that leaves the worker, its run loop and its guests go through a [`Process`]; a dead one never returns.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Calls that all workers of a world may make together; the busiest of thousands of seeds made a fiftieth of it. A worker that goes round
/// and round does not let the clock move, and so no deadline would come.
const MAX_CALLS: u64 = 2_000_000;

/// What is left of them.
#[derive(Default)]
pub struct Budget(AtomicU64);

impl Budget {
    /// One call more.
    fn spend(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many were made.
    pub fn spent(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn is_spent(&self) -> bool {
        self.spent() > MAX_CALLS
    }
}

/// One incarnation of a worker.
pub struct Process {
    /// The worker and how often it was started, such as `w1.3`.
    pub name: String,
    paused_until: Mutex<Option<Instant>>,
    dead: CancellationToken,
    budget: Arc<Budget>,
}

impl Process {
    pub fn new(name: String, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { name, paused_until: Mutex::default(), dead: CancellationToken::new(), budget })
    }

    /// Nothing of it goes on from here.
    pub fn kill(&self) {
        self.dead.cancel();
    }

    pub fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    pub async fn died(&self) {
        self.dead.cancelled().await;
    }

    /// Stands still for so long, all of it.
    pub fn pause(&self, length: Duration) {
        let until = Instant::now() + length;
        let mut paused = self.paused_until.lock().unwrap();
        *paused = Some(paused.map_or(until, |before| before.max(until)));
    }

    fn stands_until(&self) -> Option<Instant> {
        self.paused_until.lock().unwrap().filter(|until| *until > Instant::now())
    }

    /// Returns as soon as the process runs; never if it is dead, or if its world has made more calls than any would.
    pub async fn gate(&self) {
        self.budget.spend();
        while let Some(until) = self.stands_until() {
            sleep_until(until).await;
        }
        if self.is_dead() || self.budget.is_spent() {
            pending::<()>().await;
        }
    }
}

/// A future that belongs to a process: not polled while that stands still, nor after its death.
pub struct Gated<F> {
    process: Arc<Process>,
    inner: Pin<Box<F>>,
    standing: Option<Pin<Box<Sleep>>>,
}

impl<F> Gated<F> {
    pub fn new(process: &Arc<Process>, inner: F) -> Self {
        Self { process: Arc::clone(process), inner: Box::pin(inner), standing: None }
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.process.is_dead() {
            return Poll::Pending;
        }
        while let Some(until) = self.process.stands_until() {
            let mut standing = Box::pin(sleep_until(until));
            if standing.as_mut().poll(context).is_pending() {
                self.standing = Some(standing);
                return Poll::Pending;
            }
        }
        self.standing = None;
        self.inner.as_mut().poll(context)
    }
}
