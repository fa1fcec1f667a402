//! Queues of a broker as one worker reaches them: they lose, repeat, reorder and delay messages, forget what they acknowledged, and keep an
//! eye on what is acknowledged and sent too early.

use super::coverage::{Fault, Step};
use super::process::Process;
use super::world::World;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use wasm_worker::queue::{Delivered, Queue, QueueDepth, QueueError, ToSend};

/// Longest that a late message is late.
const MAX_LATE_MS: u64 = 15_000;

/// The queue of a world that carries many messages in one call.
const GATHERED: &str = "q-each";

/// One queue of a world.
pub struct Broker {
    pub name: &'static str,
    /// The queue without faults.
    pub queue: Arc<dyn Queue>,
    /// What each delivery carried, and when it was made.
    bodies: Mutex<BTreeMap<String, (Vec<u8>, Instant)>>,
}

impl Broker {
    pub fn new(name: &'static str, queue: Arc<dyn Queue>) -> Arc<Self> {
        Arc::new(Self { name, queue, bodies: Mutex::default() })
    }

    /// Puts a message in, as it is.
    pub async fn put(&self, body: String, delay: Duration) {
        let message = ToSend { body, deduplication_id: uuid_like(), group: "any".into(), delay };
        let sent = self.queue.send(vec![message]).await;
        assert!(matches!(sent.as_deref(), Ok([Ok(())])), "a queue in memory takes what it is given");
    }
}

/// A deduplication id that nothing else has: what is put in twice shall come twice.
fn uuid_like() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// See the head of this file.
pub struct FaultyQueue {
    pub broker: Arc<Broker>,
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

fn unavailable() -> QueueError {
    QueueError::Unavailable("simulated".into())
}

fn late() -> Duration {
    Duration::from_millis(fastrand::u64(1..MAX_LATE_MS))
}

impl FaultyQueue {
    fn inner(&self) -> &dyn Queue {
        self.broker.queue.as_ref()
    }

    /// What is delivered, after the broker has had its way with it.
    async fn tampered(&self, mut delivered: Vec<Delivered>) -> Result<Vec<Delivered>, QueueError> {
        if delivered.is_empty() {
            return Ok(delivered);
        }
        let at = fastrand::usize(0..delivered.len());
        match self.world.draw(Step::Claim, &[Fault::Lost, Fault::Repeated, Fault::Reordered, Fault::Late]) {
            Some(Fault::Lost) => {
                let gone = delivered.remove(at);
                self.world.ledger().note(self.broker.name, "loses", String::from_utf8_lossy(&gone.body));
                self.inner().acknowledge(vec![gone.receipt]).await?;
            }
            Some(Fault::Repeated) => self.broker.put(String::from_utf8_lossy(&delivered[at].body).into_owned(), Duration::ZERO).await,
            Some(Fault::Reordered) => {
                // The first goes behind all that wait.
                let first = delivered.remove(0);
                self.inner().acknowledge(vec![first.receipt]).await?;
                self.broker.put(String::from_utf8_lossy(&first.body).into_owned(), Duration::from_millis(1)).await;
                fastrand::shuffle(&mut delivered);
            }
            Some(Fault::Late) => {
                let late_one = delivered.remove(at);
                let _ = self.inner().hide(vec![(late_one.receipt, late())]).await?;
            }
            _ => {}
        }
        Ok(delivered)
    }

    async fn receive_inside(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        let delivered = self.inner().receive(max, wait, visibility).await?;
        let delivered = self.tampered(delivered).await?;
        let mut bodies = self.broker.bodies.lock().unwrap();
        for one in &delivered {
            bodies.insert(one.receipt.clone(), (one.body.clone(), Instant::now()));
        }
        if !delivered.is_empty() {
            self.world.ledger().note(&self.process.name, "received", format_args!("{} of {}", delivered.len(), self.broker.name));
        }
        Ok(delivered)
    }

    async fn acknowledge_inside(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let answers = self.inner().acknowledge(receipts.clone()).await?;
        for (receipt, answer) in receipts.iter().zip(&answers) {
            let body = self.broker.bodies.lock().unwrap().remove(receipt);
            let (Some((body, delivered)), Ok(())) = (body, answer) else { continue };
            self.world.check_acknowledged(&self.process.name, self.broker.name, &body, delivered).await;
            if self.world.draw(Step::Ack, &[Fault::Repeated]).is_some() {
                self.broker.put(String::from_utf8_lossy(&body).into_owned(), late()).await;
            }
        }
        Ok(answers)
    }

    async fn send_inside(&self, mut messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        for message in &messages {
            self.world.check_sent(&self.process.name, self.broker.name, &message.body).await;
        }
        let confirmed: Vec<_> = messages.iter().map(|_| Ok(())).collect();
        let at = fastrand::usize(0..messages.len().max(1));
        match self.world.draw(Step::Send, &[Fault::Lost, Fault::Repeated, Fault::Reordered, Fault::Late]) {
            Some(Fault::Lost) => drop(messages.remove(at)),
            Some(Fault::Repeated) => {
                let twin = ToSend { deduplication_id: uuid_like(), ..messages[at].clone() };
                messages.push(twin);
            }
            Some(Fault::Reordered) => messages.reverse(),
            Some(Fault::Late) => messages[at].delay += late(),
            _ => {}
        }
        self.inner().send(messages).await?;
        Ok(confirmed)
    }
}

#[async_trait]
impl Queue for FaultyQueue {
    async fn receive(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        self.world.call(&self.process, Step::Claim, unavailable, self.receive_inside(max, wait, visibility)).await
    }

    async fn hide(&self, deliveries: Vec<(String, Duration)>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        self.world.call(&self.process, Step::Ack, unavailable, self.inner().hide(deliveries)).await
    }

    async fn acknowledge(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        self.world.call(&self.process, Step::Ack, unavailable, self.acknowledge_inside(receipts)).await
    }

    async fn send(&self, messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        self.world.call(&self.process, Step::Send, unavailable, self.send_inside(messages)).await
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        self.process.gate().await;
        self.inner().depth().await
    }

    fn max_body(&self) -> usize {
        self.inner().max_body()
    }

    fn max_hold(&self) -> Option<Duration> {
        self.inner().max_hold()
    }

    /// For one queue room, answers and messages are gathered; the others are called for each.
    fn batch(&self) -> u32 {
        if self.broker.name == GATHERED { 10 } else { 1 }
    }
}
