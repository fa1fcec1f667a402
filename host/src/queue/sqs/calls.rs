//! How often each operation was called: AWS bills by the call, and one call carries up to ten messages.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one queue.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub receive: AtomicU64,
    pub delete: AtomicU64,
    pub hide: AtomicU64,
    pub send: AtomicU64,
    pub attributes: AtomicU64,
}

/// Calls made so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SqsCalls {
    /// `ReceiveMessage`.
    pub receive: u64,
    /// `DeleteMessageBatch`.
    pub delete: u64,
    /// `ChangeMessageVisibilityBatch`.
    pub hide: u64,
    /// `SendMessageBatch`.
    pub send: u64,
    /// `GetQueueAttributes`.
    pub attributes: u64,
}

impl Calls {
    /// As they stand. Each is exact; together they may be a moment apart.
    pub fn read(&self) -> SqsCalls {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (receive, delete, hide) = (of(&self.receive), of(&self.delete), of(&self.hide));
        SqsCalls { receive, delete, hide, send: of(&self.send), attributes: of(&self.attributes) }
    }
}

/// Counts one call.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
