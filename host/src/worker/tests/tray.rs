//! A queue in memory that remembers what was asked of it, and delivers again or loses an answer where a test says so.

use crate::queue::{Delivered, MemoryQueue, MemoryQueueConfig, Queue, QueueDepth, QueueError, ToSend};
use async_trait::async_trait;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// See the head of this file.
#[derive(Default)]
pub(super) struct Tray {
    queue: MemoryQueue,
    receipts: Mutex<Vec<String>>,
    /// Every message that the worker sent, in order.
    pub sent: Mutex<Vec<ToSend>>,
    /// For how long it asked deliveries to be hidden.
    pub hidden: Mutex<Vec<Duration>>,
    /// Messages that it acknowledged in time.
    pub acknowledged: AtomicUsize,
    /// Most messages that one look asked for.
    pub most_asked: AtomicUsize,
    /// The next answer to acknowledgements is lost, though they take effect.
    pub loses_answers: AtomicBool,
}

impl Tray {
    pub fn new(config: MemoryQueueConfig) -> Self {
        Self { queue: MemoryQueue::new(config), ..Self::default() }
    }

    /// Puts a message in, as a producer would.
    pub async fn put(&self, body: impl Into<String>) {
        let message = ToSend { body: body.into(), deduplication_id: String::new(), group: String::new(), delay: Duration::ZERO };
        self.queue.send(vec![message]).await.unwrap().remove(0).unwrap();
    }

    /// Messages that are not acknowledged, and those of them that can be received.
    pub async fn left(&self) -> (u64, u64) {
        let depth = self.queue.depth().await.unwrap();
        (depth.waiting + depth.in_flight, depth.waiting)
    }

    /// Makes every message visible though somebody holds it.
    pub async fn redeliver_all(&self) {
        let receipts = std::mem::take(&mut *self.receipts.lock().unwrap());
        self.queue.hide(receipts.into_iter().map(|receipt| (receipt, Duration::ZERO)).collect()).await.unwrap();
    }
}

#[async_trait]
impl Queue for Tray {
    async fn receive(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        self.most_asked.fetch_max(max as usize, Ordering::Relaxed);
        let received = self.queue.receive(max, wait, visibility).await?;
        self.receipts.lock().unwrap().extend(received.iter().map(|delivered| delivered.receipt.clone()));
        Ok(received)
    }

    async fn hide(&self, deliveries: Vec<(String, Duration)>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        self.hidden.lock().unwrap().extend(deliveries.iter().map(|(_, wait)| *wait));
        self.queue.hide(deliveries).await
    }

    async fn acknowledge(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let answers = self.queue.acknowledge(receipts).await?;
        self.acknowledged.fetch_add(answers.iter().filter(|answer| answer.is_ok()).count(), Ordering::Relaxed);
        if self.loses_answers.swap(false, Ordering::Relaxed) { Err(QueueError::Unavailable("lost".into())) } else { Ok(answers) }
    }

    async fn send(&self, messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        self.sent.lock().unwrap().extend(messages.iter().cloned());
        self.queue.send(messages).await
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        self.queue.depth().await
    }

    fn max_body(&self) -> usize {
        self.queue.max_body()
    }

    fn max_hold(&self) -> Option<Duration> {
        self.queue.max_hold()
    }
}
