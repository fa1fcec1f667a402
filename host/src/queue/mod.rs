//! Queues of brokers: wake-ups that carry complete messages. The port and its types; adapters stand beside it.
//!
//! A queue may lose, repeat, delay and reorder what it is given, and forget what it acknowledged: the task store is the authority,
//! and no effect rests on a queue alone. With SQLite and Postgres the tasks table is the queue, and nothing here is used.

#[cfg(test)]
mod conformance;
mod memory;
mod redis;
mod sqs;

pub use memory::{MemoryQueue, MemoryQueueConfig};
pub use redis::{RedisAddress, RedisQueue};
pub use sqs::{SqsAddress, SqsCalls, SqsQueue};

use async_trait::async_trait;
use std::time::Duration;

/// Why the queue did not do it, classed by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// There is no such queue, or no such delivery any more: the receipt is stale.
    #[error("{0} not found")]
    NotFound(String),
    /// Not allowed.
    #[error("queue refuses: {0}")]
    Denied(String),
    /// It can never work: a body over the queue's limit, an address that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Out of reach, throttled: try again.
    #[error("queue unavailable: {0}")]
    Unavailable(String),
}

/// A message as it came: one delivery of it, hidden from others until its visibility time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Its bytes.
    pub body: Vec<u8>,
    /// Names this delivery, for [`Queue::hide`] and [`Queue::acknowledge`]. Stale once the message was delivered again.
    pub receipt: String,
    /// How often it was delivered, this time included, as far as the broker counts: a backstop, not a fact.
    pub deliveries: u32,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToSend {
    /// Its bytes: a complete message, as JSON.
    pub body: String,
    /// The id of its task: a broker that can refuses a second message with it for a while.
    pub deduplication_id: String,
    /// Messages of one group keep their order where the broker keeps any: the tenant.
    pub group: String,
    /// Hidden for so long at first; brokers with a bound hide it for as long as they can.
    pub delay: Duration,
}

/// How full a queue is, as far as the broker tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Visible, or soon to be.
    pub waiting: u64,
    /// Delivered, and neither acknowledged nor visible again.
    pub in_flight: u64,
    /// Age of the oldest waiting message, where the broker tells.
    pub oldest: Option<Duration>,
}

/// The port. Every list is answered entry by entry, in order: a failure of one is not one of the others.
#[async_trait]
pub trait Queue: Send + Sync {
    /// At most `max` messages, each hidden from others for `visibility`; waits up to `wait` for the first one. Empty: none came.
    async fn receive(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError>;

    /// Hides each delivery for so long from now; zero makes it visible at once. [`QueueError::NotFound`]: the receipt is stale.
    async fn hide(&self, deliveries: Vec<(String, Duration)>) -> Result<Vec<Result<(), QueueError>>, QueueError>;

    /// Removes each message for good. [`QueueError::NotFound`] where the receipt is stale: the message may come again.
    async fn acknowledge(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError>;

    /// Sends each message; `Ok` once the broker has confirmed it.
    async fn send(&self, messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError>;

    /// How full it is.
    async fn depth(&self) -> Result<QueueDepth, QueueError>;

    /// Largest body in bytes.
    fn max_body(&self) -> usize;

    /// Longest that a delivery can stay hidden in all, from its delivery on; none where there is no bound.
    fn max_hold(&self) -> Option<Duration>;

    /// How many messages one call carries at the price of one: where that is more than one, whoever has fewer to receive, to answer or to
    /// send does well to wait a moment for more.
    fn batch(&self) -> u32 {
        1
    }
}
