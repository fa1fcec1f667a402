//! One queue: messages, their deliveries and receipts, by the rules of SQS. No protocol, and no clock: time comes in.

use super::{Config, Faults};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// See the head of this file.
pub struct Shelf {
    pub is_fifo: bool,
    /// By number, in the order in which they were sent.
    messages: BTreeMap<u64, Message>,
    last: u64,
    /// When each deduplication id was sent last, and as which message.
    sent: HashMap<String, (Instant, u64)>,
}

struct Message {
    body: String,
    group: Option<String>,
    visible_at: Instant,
    delivered_at: Instant,
    deliveries: u32,
}

impl Message {
    fn is_in_flight(&self, now: Instant) -> bool {
        self.deliveries > 0 && self.visible_at > now
    }
}

/// What a receiver gets.
pub struct Delivery {
    pub number: u64,
    pub body: String,
    pub receipt: String,
    pub deliveries: u32,
}

/// How many there are.
pub struct Counts {
    pub visible: usize,
    pub hidden: usize,
    pub delayed: usize,
}

/// Why SQS refuses: the name of its error, what it says, and whether the sender is at fault.
#[derive(Debug)]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
    pub by_sender: bool,
}

impl Refusal {
    /// The sender is at fault.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), by_sender: true }
    }

    /// The broker is.
    pub fn own(code: &'static str) -> Self {
        Self { code, message: "on purpose".into(), by_sender: false }
    }
}

/// What a look found: deliveries, bodies that are to move to the dead-letter queue, and when the next message will be visible.
pub struct Found {
    pub deliveries: Vec<Delivery>,
    pub dead: Vec<String>,
    pub next: Option<Instant>,
}

impl Shelf {
    pub fn new(is_fifo: bool) -> Self {
        Self { is_fifo, messages: BTreeMap::new(), last: 0, sent: HashMap::new() }
    }

    /// Adds a message, and returns its number.
    pub fn add(&mut self, body: String, group: Option<String>, delay: Duration, now: Instant) -> u64 {
        self.last += 1;
        let message = Message { body, group, visible_at: now + delay, delivered_at: now, deliveries: 0 };
        self.messages.insert(self.last, message);
        self.last
    }

    /// The message that was sent under this id within the window, if any; otherwise the next one is noted.
    pub fn repeated(&mut self, id: &str, window: Duration, now: Instant) -> Option<u64> {
        self.sent.retain(|_, (at, _)| now.duration_since(*at) < window);
        let before = self.sent.get(id).map(|(_, number)| *number);
        if before.is_none() {
            self.sent.insert(id.to_owned(), (now, self.last + 1));
        }
        before
    }

    /// Delivers at most `max` messages.
    pub fn take(
        &mut self,
        max: usize,
        hide: Duration,
        config: &Config,
        gives_up_after: Option<u32>,
        dice: &mut fastrand::Rng,
        now: Instant,
    ) -> Result<Found, Refusal> {
        let Faults { duplicates, .. } = config.faults;
        let (mut deliveries, mut worn, mut blocked) = (Vec::new(), Vec::new(), HashSet::new());
        if self.is_fifo {
            blocked = self.messages.values().filter(|m| m.is_in_flight(now)).filter_map(|m| m.group.clone()).collect();
        } else if self.messages.values().take(config.in_flight).filter(|m| m.is_in_flight(now)).count() >= config.in_flight {
            return Err(Refusal::new("OverLimit", "too many messages in flight"));
        }
        for (number, message) in &mut self.messages {
            if deliveries.len() == max {
                break;
            }
            if message.group.as_ref().is_some_and(|group| blocked.contains(group)) {
                continue;
            }
            if message.visible_at > now {
                // What comes after it in its group waits for it.
                blocked.extend(message.group.clone());
                continue;
            }
            if gives_up_after.is_some_and(|most| message.deliveries >= most) {
                worn.push(*number);
                continue;
            }
            message.deliveries += 1;
            message.delivered_at = now;
            let again = !self.is_fifo && dice.f64() < duplicates;
            message.visible_at = if again { now } else { now + hide.min(config.max_hold) };
            let receipt = receipt(*number, message.deliveries);
            deliveries.push(Delivery { number: *number, body: message.body.clone(), receipt, deliveries: message.deliveries });
        }
        let dead = worn.iter().filter_map(|number| self.messages.remove(number)).map(|message| message.body).collect();
        let next = if deliveries.is_empty() { self.messages.values().map(|m| m.visible_at).filter(|at| *at > now).min() } else { None };
        Ok(Found { deliveries, dead, next })
    }

    /// Hides a delivery for so long from now.
    pub fn hide(&mut self, receipt: &str, time: Duration, max_hold: Duration, now: Instant) -> Result<(), Refusal> {
        let message = self.delivery(receipt)?.and_then(|number| self.messages.get_mut(&number));
        let Some(message) = message else {
            let text = format!(
                "Value {receipt} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change."
            );
            return Err(Refusal::new("InvalidParameterValue", text));
        };
        if !message.is_in_flight(now) {
            return Err(Refusal::new("MessageNotInflight", "the message is not in flight"));
        }
        if now + time > message.delivered_at + max_hold {
            let text = format!("Total VisibilityTimeout for the message is beyond the limit [{} seconds]", max_hold.as_secs());
            return Err(Refusal::new("InvalidParameterValue", text));
        }
        message.visible_at = now + time;
        Ok(())
    }

    /// Removes the message of a delivery; one that is gone is no error, as a repeat is none.
    pub fn remove(&mut self, receipt: &str, now: Instant) -> Result<(), Refusal> {
        let Some(number) = self.delivery(receipt)? else { return Ok(()) };
        if self.is_fifo && self.messages.get(&number).is_some_and(|message| !message.is_in_flight(now)) {
            return Err(expired(receipt));
        }
        self.messages.remove(&number);
        Ok(())
    }

    /// The message of a receipt; none where it is gone. An error where it was delivered again, or the receipt is none.
    fn delivery(&self, text: &str) -> Result<Option<u64>, Refusal> {
        let number = text.strip_prefix("AQEB").and_then(|rest| rest.split_once('-')).and_then(|(number, _)| number.parse().ok());
        let number: u64 = number.ok_or_else(|| Refusal::new("ReceiptHandleIsInvalid", format!("{text} is no receipt")))?;
        match self.messages.get(&number) {
            None if number > self.last => Err(Refusal::new("ReceiptHandleIsInvalid", format!("{text} is no receipt"))),
            None => Ok(None),
            Some(message) if receipt(number, message.deliveries) == text => Ok(Some(number)),
            Some(_) => Err(expired(text)),
        }
    }

    pub fn counts(&self, now: Instant) -> Counts {
        let of = |is: &dyn Fn(&Message) -> bool| self.messages.values().filter(|message| is(message)).count();
        Counts {
            visible: of(&|m| m.visible_at <= now),
            hidden: of(&|m| m.is_in_flight(now)),
            delayed: of(&|m| m.visible_at > now && m.deliveries == 0),
        }
    }

    /// How many it ever took.
    pub fn taken(&self) -> u64 {
        self.last
    }

    pub fn bodies(&self) -> Vec<String> {
        self.messages.values().map(|message| message.body.clone()).collect()
    }

    pub fn show_all(&mut self, now: Instant) {
        self.messages.values_mut().for_each(|message| message.visible_at = now);
    }
}

fn receipt(number: u64, deliveries: u32) -> String {
    format!("AQEB{number}-{deliveries}")
}

fn expired(receipt: &str) -> Refusal {
    let text = format!("Value {receipt} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.");
    Refusal::new("InvalidParameterValue", text)
}
