//! A queue of a broker, scripted: messages in a tray, hidden by a clock, and counters of what was asked of it.

use crate::queue::{Delivered, Queue, QueueDepth, QueueError, ToSend};
use async_trait::async_trait;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) struct Slip {
    body: Vec<u8>,
    visible_at: Instant,
    deliveries: u32,
    /// Stale ones are of earlier deliveries.
    receipt: String,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Tray {
    pub slips: Mutex<Vec<Slip>>,
    /// Every message that was sent, in order.
    pub sent: Mutex<Vec<ToSend>>,
    /// How many deliveries were asked to be hidden, and for how long at most.
    pub hidden: Mutex<Vec<Duration>>,
    pub acknowledged: AtomicUsize,
    /// Most messages that one look asked for.
    pub most_asked: AtomicUsize,
    /// The next answers to acknowledgements are lost, though they take effect.
    pub loses_answers: AtomicBool,
    pub max_body: Option<usize>,
}

impl Tray {
    /// Puts a message in, as a producer would.
    pub fn put(&self, body: impl Into<Vec<u8>>) {
        let slip = Slip { body: body.into(), visible_at: Instant::now(), deliveries: 0, receipt: String::new() };
        self.slips.lock().unwrap().push(slip);
    }

    /// Messages that are not acknowledged, and those of them that can be received.
    pub fn left(&self) -> (usize, usize) {
        let slips = self.slips.lock().unwrap();
        (slips.len(), slips.iter().filter(|slip| slip.visible_at <= Instant::now()).count())
    }

    /// Makes a message visible though somebody holds it.
    pub fn redeliver_all(&self) {
        self.slips.lock().unwrap().iter_mut().for_each(|slip| slip.visible_at = Instant::now());
    }

    fn take(&self, max: u32, visibility: Duration) -> Vec<Delivered> {
        let now = Instant::now();
        let mut slips = self.slips.lock().unwrap();
        let taken = slips.iter_mut().enumerate().filter(|(_, slip)| slip.visible_at <= now).take(max as usize);
        let deliver = |(i, slip): (usize, &mut Slip)| {
            slip.deliveries += 1;
            slip.visible_at = now + visibility;
            slip.receipt = format!("{i}-{}-{}", slip.deliveries, uuid::Uuid::new_v4());
            Delivered { body: slip.body.clone(), receipt: slip.receipt.clone(), deliveries: slip.deliveries }
        };
        taken.map(deliver).collect()
    }
}

#[async_trait]
impl Queue for Tray {
    async fn receive(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        self.most_asked.fetch_max(max as usize, Ordering::Relaxed);
        let until = Instant::now() + wait;
        loop {
            let taken = self.take(max, visibility);
            if !taken.is_empty() || Instant::now() >= until {
                return Ok(taken);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn hide(&self, deliveries: Vec<(String, Duration)>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let mut slips = self.slips.lock().unwrap();
        let mut hide = |(receipt, wait): (String, Duration)| {
            self.hidden.lock().unwrap().push(wait);
            let slip = slips.iter_mut().find(|slip| slip.receipt == receipt).ok_or(QueueError::NotFound("receipt".into()))?;
            slip.visible_at = Instant::now() + wait;
            Ok(())
        };
        Ok(deliveries.into_iter().map(&mut hide).collect())
    }

    async fn acknowledge(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let mut slips = self.slips.lock().unwrap();
        let mut remove = |receipt: String| {
            let at = slips.iter().position(|slip| slip.receipt == receipt).ok_or(QueueError::NotFound("receipt".into()))?;
            slips.remove(at);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let answers = receipts.into_iter().map(&mut remove).collect();
        if self.loses_answers.swap(false, Ordering::Relaxed) { Err(QueueError::Unavailable("lost".into())) } else { Ok(answers) }
    }

    async fn send(&self, messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        for message in &messages {
            let visible_at = Instant::now() + message.delay;
            let slip = Slip { body: message.body.clone().into_bytes(), visible_at, deliveries: 0, receipt: String::new() };
            self.slips.lock().unwrap().push(slip);
            self.sent.lock().unwrap().push(message.clone());
        }
        Ok(messages.iter().map(|_| Ok(())).collect())
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        let (all, visible) = self.left();
        Ok(QueueDepth { waiting: visible as u64, in_flight: (all - visible) as u64, oldest: None })
    }

    fn max_body(&self) -> usize {
        self.max_body.unwrap_or(256 << 10)
    }

    fn max_hold(&self) -> Option<Duration> {
        None
    }
}
