//! A queue of Amazon SQS, or of what speaks its protocol.
//!
//! What is particular to it: times are whole seconds; a delivery stays hidden for twelve hours at most; a message can be delayed by fifteen
//! minutes at most, and one of a FIFO queue not at all (what comes early is hidden by the worker until it is due, which in a FIFO queue
//! holds up its group); FIFO queues keep a tenant's messages in order and drop a second one of a task for five minutes; SQS does not say
//! how old the oldest message is (its metric `ApproximateAgeOfOldestMessage` does); its counts are estimates. A queue with a dead-letter
//! queue of its own takes messages away by itself after so many deliveries: the worker's own dead letters are for that, so a low
//! `maxReceiveCount` is warned about. Nothing is keyed on SQS's own message ids, and nothing is fetched ahead of need.
//!
//! There is no retry in here: a failed call is `Unavailable`, and whoever called decides.

mod address;
mod batch;
mod calls;
mod fault;
#[cfg(test)]
mod tests;

pub use address::SqsAddress;
pub use calls::SqsCalls;

use super::{Delivered, Queue, QueueDepth, QueueError, ToSend};
use crate::aws::{self, Fault};
use crate::task::outcome::{MAX_CRASHES, MAX_HANDBACKS};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{Builder, Region, StalledStreamProtectionConfig};
use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};
use batch::{Answers, BYTES, ENTRIES, PARALLEL, answered, in_order, name, pieces, refusal, seconds};
use calls::{Calls, count};
use fault::Called;
use futures::future::join_all;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest wait of one receive: SQS's own bound.
const LONGEST_POLL: Duration = Duration::from_secs(20);

/// Longest delay of a sent message: SQS's own bound.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// Longest that a delivery stays hidden in all: SQS's own bound.
const LONGEST_HOLD: Duration = Duration::from_secs(12 * 3600);

/// How much less than that is asked for: SQS counts from when it sent the delivery, and refuses what goes a second beyond.
const HOLD_MARGIN: Duration = Duration::from_secs(60);

/// Region in which calls are signed where neither address, variables nor profile name one: what speaks SQS takes any.
const ANY_REGION: &str = "us-east-1";

/// Deliveries that a task may use up here: handed back, lapsed, and as many failed attempts as are usual. A queue that gives up sooner
/// takes messages away from tasks that are well.
const DELIVERIES: u32 = MAX_HANDBACKS + MAX_CRASHES + 5;

/// See the head of this file.
#[derive(Debug)]
pub struct SqsQueue {
    client: Client,
    /// The same, with time for a long poll.
    poller: Client,
    called: Called,
    is_fifo: bool,
    max_body: usize,
    gives_up_after: Option<u32>,
    calls: Calls,
    /// How many receives the next look may begin with: more than one once all of the last were full.
    width: AtomicUsize,
}

impl SqsQueue {
    /// Opens a queue, with what [`crate::aws::load`] found, and asks for what it takes: it must be there and let this machine in.
    pub async fn open(address: &SqsAddress, aws: &SdkConfig) -> Result<Self, QueueError> {
        let named = address.region().map(|region| Region::new(region.to_owned())).or_else(|| aws.region().cloned());
        let region = named.unwrap_or(Region::from_static(ANY_REGION));
        let called = Called { url: address.url().to_owned(), region: region.as_ref().to_owned() };
        let mut config = Builder::from(aws).region(region).retry_config(RetryConfig::disabled());
        if let Some(endpoint) = address.endpoint() {
            config = config.endpoint_url(endpoint);
        }
        let once = aws::ATTEMPT;
        let poll = config.clone().timeout_config(aws::timeouts(LONGEST_POLL + once, LONGEST_POLL + once));
        // A long poll may well send its first byte late.
        let poll = poll.stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let (client, poller) = (config.timeout_config(aws::timeouts(once, once)), poll);
        let mut queue = Self {
            client: Client::from_conf(client.build()),
            poller: Client::from_conf(poller.build()),
            called,
            is_fifo: address.is_fifo(),
            max_body: BYTES,
            gives_up_after: None,
            calls: Calls::default(),
            width: AtomicUsize::new(1),
        };
        // All: to ask a queue by name for an attribute that its kind does not have is an error.
        let attributes = queue.attributes(&[QueueAttributeName::All]).await?;
        let of = |name: QueueAttributeName| attributes.get(&name);
        queue.max_body = of(QueueAttributeName::MaximumMessageSize).and_then(|size| size.parse().ok()).unwrap_or(BYTES);
        queue.gives_up_after = of(QueueAttributeName::RedrivePolicy).and_then(|policy| max_receive_count(policy));
        if let Some(count) = queue.gives_up_after.filter(|count| *count < DELIVERIES) {
            tracing::warn!(
                queue = queue.called.url,
                "its redrive policy takes a message away after {count} deliveries, and a task here may need {DELIVERIES}: set \
                 maxReceiveCount to that or more, so that tasks end here and their dead letters are found by `dlq`"
            );
        }
        Ok(queue)
    }

    /// After how many deliveries the queue itself moves a message to its dead-letter queue; none: never.
    pub fn gives_up_after(&self) -> Option<u32> {
        self.gives_up_after
    }

    /// Calls made so far.
    pub fn calls(&self) -> SqsCalls {
        self.calls.read()
    }

    async fn attributes(&self, names: &[QueueAttributeName]) -> Result<HashMap<QueueAttributeName, String>, QueueError> {
        count(&self.calls.attributes);
        let asked = self.client.get_queue_attributes().queue_url(&self.called.url).set_attribute_names(Some(names.to_vec()));
        let answer = asked.send().await.map_err(|error| self.called.error(Fault::of(&error)))?;
        Ok(answer.attributes.unwrap_or_default())
    }

    /// One call: at most [`ENTRIES`] messages.
    async fn receive_once(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        count(&self.calls.receive);
        let client = if wait.is_zero() { &self.client } else { &self.poller };
        let asked = client.receive_message().queue_url(&self.called.url);
        let asked = asked.message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        let asked = asked.max_number_of_messages(i32::try_from(max.min(ENTRIES)).unwrap_or(1));
        let asked = asked.wait_time_seconds(seconds(wait, LONGEST_POLL)).visibility_timeout(seconds(visibility, LONGEST_HOLD));
        let answer = asked.send().await.map_err(|error| self.called.error(Fault::of(&error)))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(delivered).collect())
    }

    /// Several calls at once that do not wait. What some bring is not lost because others fail.
    async fn receive_at_once(&self, calls: usize, max: usize, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        let wanted = (0..calls).map(|call| ENTRIES.min(max.saturating_sub(call * ENTRIES)));
        let received = join_all(wanted.map(|wanted| self.receive_once(wanted, Duration::ZERO, visibility))).await;
        let (mut all, mut failed) = (Vec::new(), None);
        for some in received {
            match some {
                Ok(some) => all.extend(some),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    async fn hide_some(&self, some: Vec<(String, Duration)>) -> Result<Answers, QueueError> {
        count(&self.calls.hide);
        let entries = some.iter().enumerate().map(|(place, (receipt, time))| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(place.to_string()).receipt_handle(receipt);
            entry.visibility_timeout(seconds(*time, LONGEST_HOLD)).build()
        });
        let entries = built(entries)?;
        let asked = self.client.change_message_visibility_batch().queue_url(&self.called.url).set_entries(Some(entries));
        let answer = asked.send().await.map_err(|error| self.called.error(Fault::of(&error)))?;
        Ok(in_order(some.len(), answer.successful().iter().map(|entry| entry.id()), self.failed(answer.failed(), true)))
    }

    async fn acknowledge_some(&self, some: Vec<String>) -> Result<Answers, QueueError> {
        count(&self.calls.delete);
        let entries = some.iter().enumerate();
        let entries = built(
            entries.map(|(place, receipt)| DeleteMessageBatchRequestEntry::builder().id(place.to_string()).receipt_handle(receipt).build()),
        )?;
        let asked = self.client.delete_message_batch().queue_url(&self.called.url).set_entries(Some(entries));
        let answer = asked.send().await.map_err(|error| self.called.error(Fault::of(&error)))?;
        Ok(in_order(some.len(), answer.successful().iter().map(|entry| entry.id()), self.failed(answer.failed(), true)))
    }

    async fn send_some(&self, some: Vec<ToSend>) -> Result<Answers, QueueError> {
        count(&self.calls.send);
        let entries = some.iter().enumerate().map(|(place, message)| {
            let entry = SendMessageBatchRequestEntry::builder().id(place.to_string()).message_body(&message.body);
            if self.is_fifo {
                entry.message_group_id(name(&message.group)).message_deduplication_id(name(&message.deduplication_id)).build()
            } else {
                let delay = seconds(message.delay, LONGEST_DELAY);
                entry.set_delay_seconds((delay > 0).then_some(delay)).build()
            }
        });
        let entries = built(entries)?;
        let asked = self.client.send_message_batch().queue_url(&self.called.url).set_entries(Some(entries));
        let answer = asked.send().await.map_err(|error| self.called.error(Fault::of(&error)))?;
        Ok(in_order(some.len(), answer.successful().iter().map(|entry| entry.id()), self.failed(answer.failed(), false)))
    }

    fn failed<'a>(&'a self, failed: &'a [BatchResultErrorEntry], of_delivery: bool) -> impl Iterator<Item = (&'a str, QueueError)> {
        failed.iter().map(move |entry| (entry.id(), self.called.entry(entry, of_delivery)))
    }
}

/// Entries of a batch; the builders only fail where a field was left out.
fn built<T>(entries: impl Iterator<Item = Result<T, BuildError>>) -> Result<Vec<T>, QueueError> {
    entries.collect::<Result<_, _>>().map_err(|error| QueueError::Invalid(error.to_string()))
}

/// None where there is no receipt, which no broker leaves out: what cannot be answered comes again.
fn delivered(message: Message) -> Option<Delivered> {
    let count = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    let deliveries = count.and_then(|count| count.parse().ok()).unwrap_or(1);
    Some(Delivered { receipt: message.receipt_handle?, body: message.body.unwrap_or_default().into_bytes(), deliveries })
}

/// `maxReceiveCount` of a redrive policy, which is a number, or one in quotes.
fn max_receive_count(policy: &str) -> Option<u32> {
    let policy: serde_json::Value = serde_json::from_str(policy).ok()?;
    let count = policy.get("maxReceiveCount")?;
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).and_then(|count| u32::try_from(count).ok())
}

#[async_trait]
impl Queue for SqsQueue {
    /// One call waits for the first message. While calls come back full, the rest is asked for by several at once, so that an idle queue
    /// costs one call at a time, and a full one a tenth of a call per message. What has come waits for the rest for a small part of its
    /// visibility at most.
    async fn receive(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        let max = max as usize;
        let (mut all, mut width) = (Vec::new(), self.width.load(Ordering::Relaxed));
        let mut first_came = None;
        while all.len() < max && first_came.is_none_or(|at: Instant| at.elapsed() < visibility / 8) {
            let left = max - all.len();
            let calls = width.min(left.div_ceil(ENTRIES));
            let asked = left.min(calls * ENTRIES);
            let waits = all.is_empty() && calls == 1;
            let received =
                if waits { self.receive_once(asked, wait, visibility).await } else { self.receive_at_once(calls, asked, visibility).await };
            let some = match received {
                Ok(some) => some,
                Err(error) if all.is_empty() => return Err(error),
                // What has come is worth more than the rest of it; the next look meets the error again.
                Err(_) => break,
            };
            let is_full = some.len() >= asked;
            all.extend(some);
            if !all.is_empty() {
                first_came.get_or_insert_with(Instant::now);
            }
            width = if is_full { (width * 2).min(PARALLEL) } else { 1 };
            // Calls that did not wait and found nothing may have asked servers that hold nothing; one that waits asks all of them.
            if !is_full && (waits || !all.is_empty()) {
                break;
            }
        }
        self.width.store(width, Ordering::Relaxed);
        Ok(all)
    }

    async fn hide(&self, deliveries: Vec<(String, Duration)>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        answered(pieces(deliveries, usize::MAX, |_| 0), PARALLEL, |some| self.hide_some(some)).await
    }

    async fn acknowledge(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        answered(pieces(receipts, usize::MAX, |_| 0), PARALLEL, |some| self.acknowledge_some(some)).await
    }

    async fn send(&self, messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let refusals: Vec<Option<QueueError>> = messages.iter().map(|message| refusal(message, self.max_body)).collect();
        let taken = messages.into_iter().zip(&refusals).filter(|(_, refused)| refused.is_none()).map(|(message, _)| message);
        let pieces = pieces(taken.collect(), self.max_body.max(BYTES), |message| message.body.len());
        // One batch after the other where there is an order to keep.
        let at_once = if self.is_fifo { 1 } else { PARALLEL };
        let mut sent = answered(pieces, at_once, |some| self.send_some(some)).await?.into_iter();
        let silent = || Err(QueueError::Unavailable("a message was not answered".into()));
        Ok(refusals.into_iter().map(|refused| refused.map_or_else(|| sent.next().unwrap_or_else(silent), Err)).collect())
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        use QueueAttributeName as Name;
        let [visible, hidden, delayed] =
            [Name::ApproximateNumberOfMessages, Name::ApproximateNumberOfMessagesNotVisible, Name::ApproximateNumberOfMessagesDelayed];
        let attributes = self.attributes(&[visible.clone(), hidden.clone(), delayed.clone()]).await?;
        let of = |name: &Name| attributes.get(name).and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
        Ok(QueueDepth { waiting: of(&visible).saturating_add(of(&delayed)), in_flight: of(&hidden), oldest: None })
    }

    fn max_body(&self) -> usize {
        self.max_body
    }

    fn max_hold(&self) -> Option<Duration> {
        Some(LONGEST_HOLD - HOLD_MARGIN)
    }

    fn batch(&self) -> u32 {
        ENTRIES as u32
    }
}
