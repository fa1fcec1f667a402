//! Where guests run: threads of their own, so that no guest holds up a heartbeat. A guest gives its thread back at every
//! tick of the epoch, so a few threads serve many guests in turn.

use super::GuestFault;
use crate::task::hooks::TaskError;
use std::future::Future;
use std::io;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinHandle};

/// How many tasks a thread runs between two looks at timers and sockets. Guests hold a thread for up to a tick each, so the
/// default of 61 would make a timer late by half a second.
const EVENT_INTERVAL: u32 = 2;

/// A second tokio runtime, for guests alone.
pub(super) struct GuestRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl GuestRuntime {
    /// Starts `threads` threads.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("guest")
            .event_interval(EVENT_INTERVAL)
            .global_queue_interval(EVENT_INTERVAL)
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs `work` there, or in place if the caller is there already. Dropping the answer stops the work.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, GuestFault> {
        if Handle::try_current().is_ok_and(|here| here.id() == self.handle.id()) {
            return Ok(work.await);
        }
        let mut task = StopOnDrop(self.handle.spawn(work));
        (&mut task.0).await.map_err(|error| fault(&error))
    }

    /// Drops `value` there.
    pub(super) fn dispose<T: Send + 'static>(&self, value: T) {
        self.handle.spawn(async move { drop(value) });
    }
}

fn fault(error: &JoinError) -> GuestFault {
    if error.is_cancelled() {
        // Only a runtime on its way out cancels a task that somebody waits for.
        return GuestFault::Host(TaskError::new("shutting-down", "the host is shutting down"));
    }
    GuestFault::Host(TaskError::new("host-panic", "the host panicked while it ran a guest; its log has the details"))
}

struct StopOnDrop<T>(JoinHandle<T>);

impl<T> Drop for StopOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for GuestRuntime {
    fn drop(&mut self) {
        // A plain drop would wait for blocking calls, and may not be done on an async thread at all.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
