//! A queue in memory, on tokio's clock: for tests and simulations. It promises what a good broker does, and nothing that outlives the process.

use super::{Delivered, Queue, QueueDepth, QueueError, ToSend};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Largest body, unless told otherwise: what SQS takes.
const MAX_BODY: usize = 1 << 20;

/// Any longer wait is as good as this one, and times this far away can still be added up.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a broker may be different in.
#[derive(Debug, Clone, Copy)]
pub struct MemoryQueueConfig {
    /// Largest body in bytes.
    pub max_body: usize,
    /// Longest that a delivery can stay hidden in all; none: no bound. What is hidden for longer comes back then.
    pub max_hold: Option<Duration>,
    /// For how long a second message with one deduplication id is dropped; none: never.
    pub deduplicates_for: Option<Duration>,
}

impl Default for MemoryQueueConfig {
    fn default() -> Self {
        Self { max_body: MAX_BODY, max_hold: None, deduplicates_for: None }
    }
}

/// See the head of this file. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: MemoryQueueConfig,
    messages: Mutex<Messages>,
    /// Rung when a receiver may find something sooner than it thought. Not a `watch` channel: that wakes its waiters in an order drawn
    /// anew in every run.
    news: Notify,
}

/// Messages by number, in the order in which they were sent.
#[derive(Debug, Default)]
struct Messages {
    waiting: BTreeMap<u64, Message>,
    last_number: u64,
    /// When each deduplication id was sent last; forgotten once the window is over.
    sent: BTreeMap<String, Instant>,
}

#[derive(Debug)]
struct Message {
    body: Vec<u8>,
    sent_at: Instant,
    visible_at: Instant,
    delivered_at: Option<Instant>,
    deliveries: u32,
}

impl Message {
    fn is_in_flight(&self, now: Instant) -> bool {
        self.deliveries > 0 && self.visible_at > now
    }
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::new(MemoryQueueConfig::default())
    }
}

fn receipt(number: u64, deliveries: u32) -> String {
    format!("{number}-{deliveries}")
}

impl Messages {
    /// The message of a receipt, unless it was delivered again or is gone.
    fn delivery(&mut self, text: &str) -> Result<(u64, &mut Message), QueueError> {
        let stale = || QueueError::NotFound(format!("delivery '{text}'"));
        let number = text.split_once('-').and_then(|(number, _)| number.parse().ok()).ok_or_else(stale)?;
        let message = self.waiting.get_mut(&number).ok_or_else(stale)?;
        if receipt(number, message.deliveries) == text { Ok((number, message)) } else { Err(stale()) }
    }
}

impl MemoryQueue {
    /// An empty queue.
    pub fn new(config: MemoryQueueConfig) -> Self {
        Self { shared: Arc::new(Shared { config, messages: Mutex::default(), news: Notify::new() }) }
    }

    /// A change is never left half done, so a test that panicked while it looked on is no reason to stop.
    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.shared.news.notify_waiters();
    }

    /// What is visible, or when the next one will be.
    fn take(&self, max: u32, visibility: Duration) -> (Vec<Delivered>, Option<Instant>) {
        let (now, mut messages) = (Instant::now(), self.messages());
        let hold = visibility.min(self.shared.config.max_hold.unwrap_or(FAR)).min(FAR);
        let visible = messages.waiting.iter_mut().filter(|(_, message)| message.visible_at <= now).take(max as usize);
        let taken: Vec<Delivered> = visible
            .map(|(number, message)| {
                message.deliveries += 1;
                message.visible_at = now + hold;
                message.delivered_at = Some(now);
                let receipt = receipt(*number, message.deliveries);
                Delivered { body: message.body.clone(), receipt, deliveries: message.deliveries }
            })
            .collect();
        (taken, messages.waiting.values().map(|message| message.visible_at).min())
    }

    fn hide_one(&self, receipt: &str, for_long: Duration) -> Result<(), QueueError> {
        let now = Instant::now();
        let mut messages = self.messages();
        let (_, message) = messages.delivery(receipt)?;
        let last = self.shared.config.max_hold.zip(message.delivered_at).map(|(hold, at)| at + hold.min(FAR));
        let until = now + for_long.min(FAR);
        message.visible_at = last.map_or(until, |last| last.min(until));
        Ok(())
    }

    fn send_one(&self, message: ToSend) -> Result<(), QueueError> {
        let ToSend { body, deduplication_id, group: _, delay } = message;
        let max = self.shared.config.max_body;
        if body.len() > max {
            return Err(QueueError::Invalid(format!("a body of {} bytes is over the queue's limit of {max}", body.len())));
        }
        let (now, mut messages) = (Instant::now(), self.messages());
        if let Some(window) = self.shared.config.deduplicates_for {
            messages.sent.retain(|_, at| now.duration_since(*at) < window);
            if messages.sent.contains_key(&deduplication_id) {
                return Ok(());
            }
            messages.sent.insert(deduplication_id, now);
        }
        messages.last_number += 1;
        let number = messages.last_number;
        let visible_at = now + delay.min(FAR);
        let message = Message { body: body.into_bytes(), sent_at: now, visible_at, delivered_at: None, deliveries: 0 };
        messages.waiting.insert(number, message);
        Ok(())
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn receive(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        let until = Instant::now() + wait.min(FAR);
        loop {
            let mut news = pin!(self.shared.news.notified());
            news.as_mut().enable();
            let (taken, next) = self.take(max, visibility);
            if !taken.is_empty() || max == 0 || Instant::now() >= until {
                return Ok(taken);
            }
            // A timeout is time to look again, or to go.
            timeout_at(next.map_or(until, |next| next.min(until)), news).await.ok();
        }
    }

    async fn hide(&self, deliveries: Vec<(String, Duration)>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let answers = deliveries.iter().map(|(receipt, for_long)| self.hide_one(receipt, *for_long)).collect();
        self.tell();
        Ok(answers)
    }

    async fn acknowledge(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let mut messages = self.messages();
        let acknowledged = receipts.iter().map(|receipt| {
            let number = messages.delivery(receipt)?.0;
            messages.waiting.remove(&number);
            Ok(())
        });
        Ok(acknowledged.collect())
    }

    async fn send(&self, messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let answers = messages.into_iter().map(|message| self.send_one(message)).collect();
        self.tell();
        Ok(answers)
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        let (now, messages) = (Instant::now(), self.messages());
        let (in_flight, waiting): (Vec<&Message>, Vec<&Message>) = messages.waiting.values().partition(|message| message.is_in_flight(now));
        let oldest = waiting.iter().map(|message| now.duration_since(message.sent_at)).max();
        Ok(QueueDepth { waiting: waiting.len() as u64, in_flight: in_flight.len() as u64, oldest })
    }

    fn max_body(&self) -> usize {
        self.shared.config.max_body
    }

    fn max_hold(&self) -> Option<Duration> {
        self.shared.config.max_hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::conformance::{message, suite};

    async fn fresh() -> (MemoryQueue, ()) {
        (MemoryQueue::default(), ())
    }

    suite! {
        fresh();
        what_is_sent_comes_until_it_is_acknowledged,
        an_empty_queue_is_waited_for,
        a_wait_ends_when_a_message_comes,
        what_nobody_acknowledges_comes_again,
        a_receipt_is_stale_once_the_message_came_again,
        what_is_let_go_comes_at_once,
        what_is_kept_hidden_stays_hidden,
        a_delay_holds_a_message_back,
        every_entry_is_answered_by_itself,
        receivers_share_what_is_there,
        how_full_it_is,
    }

    async fn receive(queue: &MemoryQueue) -> Vec<Delivered> {
        queue.receive(9, Duration::ZERO, Duration::from_millis(100)).await.unwrap()
    }

    #[tokio::test]
    async fn a_second_message_of_one_task_is_dropped_for_a_while() {
        let queue =
            MemoryQueue::new(MemoryQueueConfig { deduplicates_for: Some(Duration::from_millis(80)), ..MemoryQueueConfig::default() });
        for _ in 0..2 {
            queue.send(vec![message("x"), message("x")]).await.unwrap();
            let one = receive(&queue).await;
            assert_eq!(one.len(), 1);
            assert_eq!(queue.acknowledge(vec![one[0].receipt.clone()]).await.unwrap(), [Ok(())]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[tokio::test]
    async fn nothing_is_held_for_longer_than_can_be() {
        let queue = MemoryQueue::new(MemoryQueueConfig { max_hold: Some(Duration::from_millis(150)), ..MemoryQueueConfig::default() });
        queue.send(vec![message("x")]).await.unwrap();
        let held = receive(&queue).await.remove(0);
        for _ in 0..2 {
            assert_eq!(queue.hide(vec![(held.receipt.clone(), Duration::MAX)]).await.unwrap(), [Ok(())]);
        }
        assert!(receive(&queue).await.is_empty());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(receive(&queue).await[0].deliveries, 2);
    }
}
