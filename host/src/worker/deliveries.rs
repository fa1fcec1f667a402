//! Deliveries of a queue that this worker holds: kept hidden from others until they are answered, and answered in batches.
//!
//! Nothing rests on any of it: a delivery that cannot be hidden or acknowledged comes again, and its claim sees what became of it.

use super::GATHER;
use super::queues::QueueSpec;
use crate::failpoint::{Point, reach};
use crate::queue::{Delivered, QueueError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Most answers that wait for the broker; whoever has one more waits.
const WAITING_ANSWERS: usize = 1024;

/// Most answers given in one call.
const BATCH: usize = 128;

/// Tries to give an answer, the first included. After the last the message comes again by itself.
const TRIES: u32 = 3;

/// Longest that one call of a broker may take.
const CALL: Duration = Duration::from_secs(10);

/// What becomes of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The store holds all that it asked for: it goes.
    Acknowledge,
    /// It comes again after so long.
    Hide(Duration),
}

/// What one worker holds of one queue.
pub(super) struct Deliveries {
    /// The queue.
    pub spec: Arc<QueueSpec>,
    lease: Duration,
    held: Mutex<Held>,
    /// Since when it was empty each time it was read, and when that was last.
    empty: Mutex<Option<(Instant, Instant)>>,
}

#[derive(Default)]
struct Held {
    next: u64,
    hidden: BTreeMap<u64, Hidden>,
}

struct Hidden {
    receipt: String,
    since: Instant,
    renewed: Instant,
}

/// The receiving end of answers; [`Answers::give`] runs until no delivery is left.
pub(super) struct Answers(mpsc::Receiver<(Delivery, Verdict)>);

/// A queue as a run of the worker reads it.
#[derive(Clone)]
pub(super) struct Inbox {
    /// What is held of it.
    pub deliveries: Arc<Deliveries>,
    answers: mpsc::Sender<(Delivery, Verdict)>,
}

/// One delivery, kept hidden for as long as this lives. Dropped without an answer, it is seen again once its visibility is over.
pub(super) struct Delivery {
    of: Inbox,
    number: u64,
    receipt: String,
    since: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while one of these plain values was held leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    /// Opens a queue for one run of the worker. `lease`: how long a delivery is hidden at a time.
    pub fn open(spec: Arc<QueueSpec>, lease: Duration) -> (Self, Answers) {
        let (answers, receiver) = mpsc::channel(WAITING_ANSWERS);
        let deliveries = Deliveries { spec, lease, held: Mutex::default(), empty: Mutex::default() };
        (Self { deliveries: Arc::new(deliveries), answers }, Answers(receiver))
    }

    /// Keeps a delivery hidden from now on.
    pub fn hold(&self, delivered: &Delivered) -> Delivery {
        let now = Instant::now();
        let mut held = locked(&self.deliveries.held);
        let number = held.next;
        held.next += 1;
        held.hidden.insert(number, Hidden { receipt: delivered.receipt.clone(), since: now, renewed: now });
        drop(held);
        Delivery { of: self.clone(), number, receipt: delivered.receipt.clone(), since: now }
    }
}

impl Delivery {
    /// Gives the answer; its sending is not waited for.
    pub async fn answer(self, answer: Verdict) {
        let answers = self.of.answers.clone();
        if let Verdict::Hide(_) = answer {
            // From now on it is hidden for as long as the answer says, and no longer.
            locked(&self.of.deliveries.held).hidden.remove(&self.number);
        }
        // The other end is gone only where the whole run was dropped: then the message comes again.
        let _ = answers.send((self, answer)).await;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        locked(&self.of.deliveries.held).hidden.remove(&self.number);
    }
}

impl Deliveries {
    /// Notes whether a look into the queue, begun then, found it empty all along.
    pub fn looked(&self, began: Instant, empty: bool) {
        let mut kept = locked(&self.empty);
        *kept = empty.then(|| (kept.map_or(began, |(since, _)| since), Instant::now()));
    }

    /// For how long it was empty each time it was read; none where it was not, or cannot be told.
    pub fn idle(&self) -> Option<Duration> {
        locked(&self.empty).map(|(since, last)| last - since)
    }

    /// What is left of the longest hold that the broker allows, `since` a delivery.
    fn hold_left(&self, since: Instant) -> Duration {
        self.spec.queue.max_hold().map_or(Duration::MAX, |max| max.saturating_sub(since.elapsed()))
    }

    /// Keeps what is held hidden, for as long as the run goes on. A third of the lease apart, as the store's own heartbeats.
    pub async fn keep_hidden(&self) {
        loop {
            sleep(self.lease / 12).await;
            let due = self.due();
            if !due.is_empty() {
                self.renew(due).await;
            }
        }
    }

    fn due(&self) -> Vec<(u64, String, Duration)> {
        let now = Instant::now();
        let held = locked(&self.held);
        let due = held.hidden.iter().filter(|(_, h)| now >= h.renewed + self.lease / 4);
        let left = due.map(|(number, h)| (*number, h.receipt.clone(), self.hold_left(h.since).min(self.lease)));
        left.filter(|(.., left)| !left.is_zero()).collect()
    }

    async fn renew(&self, due: Vec<(u64, String, Duration)>) {
        let sent = Instant::now();
        let numbers: Vec<u64> = due.iter().map(|(number, ..)| *number).collect();
        let wanted = due.into_iter().map(|(_, receipt, left)| (receipt, left)).collect();
        let name = &self.spec.name;
        let renewed = match timeout(self.lease / 3, self.spec.queue.hide(wanted)).await {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(error)) => return tracing::warn!(%error, queue = name, "messages could not be kept hidden; trying again"),
            Err(_) => return tracing::warn!(queue = name, "messages could not be kept hidden in time; trying again"),
        };
        let mut held = locked(&self.held);
        for (number, renewed) in numbers.iter().zip(renewed) {
            match renewed {
                Ok(()) => {
                    if let Some(hidden) = held.hidden.get_mut(number) {
                        hidden.renewed = sent;
                    }
                }
                // Delivered again: whoever has it finds the lease in the store.
                Err(QueueError::NotFound(_)) => drop(held.hidden.remove(number)),
                Err(error) => tracing::warn!(%error, queue = name, "a message could not be kept hidden; trying again"),
            }
        }
    }

    /// Gives answers to the broker, again where it was out of reach.
    async fn give(&self, given: &[(Delivery, Verdict)]) {
        reach(Point::BeforeAck);
        let mut left: Vec<(String, Option<Duration>)> = given.iter().map(|(delivery, answer)| self.worded(delivery, *answer)).collect();
        let mut wait = Duration::from_millis(100);
        for attempt in 1..=TRIES {
            let (hides, acks): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, hide)| hide.is_some());
            let hiding = async {
                let wanted: Vec<(String, Duration)> = hides.iter().map(|(r, hide)| (r.clone(), hide.unwrap_or_default())).collect();
                if wanted.is_empty() { Vec::new() } else { self.failed(hides, timeout(CALL, self.spec.queue.hide(wanted)).await) }
            };
            let acknowledging = async {
                let wanted: Vec<String> = acks.iter().map(|(receipt, _)| receipt.clone()).collect();
                if wanted.is_empty() { Vec::new() } else { self.failed(acks, timeout(CALL, self.spec.queue.acknowledge(wanted)).await) }
            };
            let (mut again, acks) = futures::join!(hiding, acknowledging);
            again.extend(acks);
            left = again;
            if left.is_empty() {
                return;
            }
            if attempt < TRIES {
                sleep(wait).await;
                wait *= 4;
            }
        }
        tracing::warn!(queue = self.spec.name, messages = left.len(), "answers did not reach the broker; the messages come again");
    }

    fn worded(&self, delivery: &Delivery, answer: Verdict) -> (String, Option<Duration>) {
        let hide = match answer {
            Verdict::Acknowledge => None,
            Verdict::Hide(wait) => Some(wait.min(self.hold_left(delivery.since))),
        };
        (delivery.receipt.clone(), hide)
    }

    /// Those of `asked` that are worth another try.
    fn failed(
        &self,
        asked: Vec<(String, Option<Duration>)>,
        answer: Result<Result<Vec<Result<(), QueueError>>, QueueError>, tokio::time::error::Elapsed>,
    ) -> Vec<(String, Option<Duration>)> {
        let answers = match answer {
            Ok(Ok(answers)) => answers,
            Ok(Err(QueueError::Unavailable(_))) | Err(_) => return asked,
            Ok(Err(error)) => {
                tracing::error!(%error, queue = self.spec.name, "the broker refuses answers; the messages come again");
                return Vec::new();
            }
        };
        let again = asked.into_iter().zip(answers).filter(|(_, answer)| matches!(answer, Err(QueueError::Unavailable(_))));
        again.map(|(asked, _)| asked).collect()
    }
}

impl Answers {
    /// Gives answers as they come, many in one call where many wait, until the run and the last delivery of it are gone.
    pub async fn give(mut self, deliveries: Arc<Deliveries>) {
        let batch = deliveries.spec.queue.batch() as usize;
        let mut waiting = Vec::new();
        while !waiting.is_empty() || self.0.recv_many(&mut waiting, BATCH).await > 0 {
            let is_whole = self.gather(&mut waiting, batch).await;
            // What goes beyond whole batches begins the next one.
            let ready = if is_whole { waiting.len() - waiting.len() % batch.max(1) } else { waiting.len() };
            let given: Vec<(Delivery, Verdict)> = waiting.drain(..ready).collect();
            deliveries.give(&given).await;
        }
    }

    /// Waits a moment until there are enough answers for a call. Returns whether there are.
    async fn gather(&mut self, waiting: &mut Vec<(Delivery, Verdict)>, batch: usize) -> bool {
        let until = Instant::now() + GATHER;
        while waiting.len() < batch {
            match timeout_at(until, self.0.recv_many(waiting, BATCH)).await {
                Ok(more) if more > 0 => {}
                _ => return false,
            }
        }
        true
    }
}
