//! A queue in Redis: one stream, read by one consumer group, which is this queue's alone.
//!
//! A consumer group remembers what was delivered, how often, and since when; what it lacks is an end of each delivery's visibility. So
//! each operation is one script (`scripts/`), which does it as a whole and notes beside the stream when an entry is seen again:
//!
//! | key | type | what |
//! |---|---|---|
//! | `S` | stream | every message that nobody has acknowledged: field `body`, and `due` (Unix ms of the server) where it is for later |
//! | `{S}:G:hidden` | sorted set | id of each delivered entry → when it is visible again |
//! | `{S}:G:delayed` | sorted set | id of each entry that was read before its time → when that is |
//! | `{S}:G:bell` | stream | one entry, new whenever something is due sooner than waiting receivers can know |
//! | `dead` | stream | entries given up after [`MAX_DELIVERIES`], where the address names one |
//!
//! `S` is the stream and `G` the group (`wasm-worker`) of the address; a stream whose name has a hash tag keeps it. An acknowledged entry
//! leaves stream and group at once, so another group would miss it. What names a delivery is the entry's id and the number of its
//! deliveries, which the group counts: a receipt is stale once that has risen. Workers share one consumer name: nothing rests on it, and
//! none are left over from workers that are gone. No time comes from a worker.
//!
//! **Any producer** may `XADD S * body '<message>'`; the field may have any name if it is the only one. Of an entry of another shape a
//! dead letter is made.
//!
//! **Waiting** takes nothing: receivers listen to stream and bell (`XREAD BLOCK`), each on a connection of its own, and then ask for
//! what there is. All receivers that wait are woken by one message, and one gets it.
//!
//! **What can be lost.** With `appendfsync everysec`, what Redis confirmed in the second before a power cut; without an append-only file
//! everything since the last snapshot; with a failover, what the replica had not got. The sweeper sends messages again whose tasks the
//! store knows: children, and what was submitted here. A message of another producer that no worker had received is gone.
//!
//! Redis 6.2 or newer. Redis Cluster is not supported (no redirection is followed), though all keys of a queue lie in one slot.

mod address;
mod entry;
mod fault;
mod link;
#[cfg(test)]
mod tests;

pub use address::RedisAddress;

use super::{Delivered, Queue, QueueDepth, QueueError, ToSend};
use async_trait::async_trait;
use entry::Receipt;
use link::Link;
use redis::{Script, ScriptInvocation};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Largest body: as SQS has it, so that a message that one broker takes fits another. Redis itself would take 512 MiB, all in memory.
const MAX_BODY: usize = 1 << 20;

/// Most bytes that one call carries in either direction, a few entries more or less: the server does nothing else meanwhile.
const MAX_BYTES: usize = 4 << 20;

/// Most entries in one call, for the same reason; a thousand arguments are few enough for Lua to hand on at once.
const MAX_ENTRIES: usize = 256;

/// Longest that a receiver sleeps at a time. What is to be visible later than this needs no bell: everybody looks before.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Any longer wait is as good as this one, and Lua's numbers are exact this far.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Deliveries after which an entry goes to the stream `dead`, if there is one: far more than attempts, handbacks and crashes allow, so
/// that only what no store ever gets to see goes that way.
const MAX_DELIVERIES: u32 = 1000;

/// The one consumer of the group.
const CONSUMER: &str = "wasm-worker";

/// Between two looks for deliveries that something else than this adapter has made, or forgotten.
const RECOVERY: Duration = Duration::from_secs(10);

/// Most of them in one look.
const RECOVERY_PAGE: u32 = 100;

macro_rules! script {
    ($name:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("scripts/shared.lua"), include_str!(concat!("scripts/", $name, ".lua")))))
    };
}

static RECEIVE: LazyLock<Script> = script!("receive");
static HIDE: LazyLock<Script> = script!("hide");
static ACKNOWLEDGE: LazyLock<Script> = script!("acknowledge");
static SEND: LazyLock<Script> = script!("send");
static DEPTH: LazyLock<Script> = script!("depth");
static RECOVER: LazyLock<Script> = script!("recover");

/// See the head of this file.
pub struct RedisQueue {
    address: RedisAddress,
    bell: String,
    keys: [String; 4],
    link: Link,
    recovery: Mutex<Recovery>,
}

/// Where the next look for deliveries that were forgotten begins, and when.
struct Recovery {
    from: String,
    at: Instant,
}

/// One look: what there was; else how long there is nothing, as far as is known, and from where on to listen.
struct Looked {
    entries: Vec<Delivered>,
    next_due: Duration,
    read_to: String,
    rung: String,
}

fn ms(duration: Duration) -> u64 {
    duration.min(FAR).as_millis() as u64
}

impl RedisQueue {
    /// Opens a queue; its stream and group are made when they are first needed. Fails within five seconds where the server is not there,
    /// lets nobody in, or has something else under the stream's name.
    pub async fn open(address: &RedisAddress) -> Result<Self, QueueError> {
        let (hidden, delayed, bell) = (address.key("hidden"), address.key("delayed"), address.key("bell"));
        let keys = [address.stream.clone(), hidden, delayed, bell.clone()];
        let recovery = Mutex::new(Recovery { from: "-".to_owned(), at: Instant::now() });
        let queue = Self { address: address.clone(), bell, keys, link: Link::new(address)?, recovery };
        queue.look(0, Duration::ZERO).await?;
        queue.advise().await;
        Ok(queue)
    }

    /// Tells what about the server's own settings puts messages at risk, where it says.
    async fn advise(&self) {
        let Ok(info) = self.link.ask::<String>(&redis::cmd("INFO")).await else { return };
        let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
        let queue = self.address.to_string();
        if let Some(policy) = value("maxmemory_policy").filter(|policy| policy.starts_with("allkeys")) {
            tracing::warn!(
                queue,
                policy,
                "this server drops keys, messages among them, when memory runs out; set maxmemory-policy noeviction"
            );
        }
        if value("aof_enabled") == Some("0") {
            tracing::warn!(queue, "this server forgets messages when it stops; set appendonly yes");
        }
    }

    /// A call of a script, with the keys and the group that every script gets.
    fn call<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.key(&self.keys[..]);
        call.arg(self.address.group.as_str());
        call
    }

    /// Takes what is visible.
    async fn look(&self, max: u32, visibility: Duration) -> Result<Looked, QueueError> {
        let mut call = self.call(&RECEIVE);
        let last_delivery = if self.address.dead.is_some() { MAX_DELIVERIES } else { 0 };
        call.key(self.address.dead.as_deref());
        call.arg(CONSUMER).arg(max.min(MAX_ENTRIES as u32)).arg(ms(visibility)).arg(ms(LONGEST_WAIT)).arg(MAX_BYTES).arg(last_delivery);
        type Answer = (Vec<(String, u32, Vec<Vec<u8>>)>, i64, String, String);
        let (entries, next_due, read_to, rung): Answer = self.link.invoke(&call).await?;
        let delivered = |(id, deliveries, fields): (String, u32, Vec<Vec<u8>>)| Delivered {
            receipt: Receipt { id: &id, deliveries }.to_string(),
            body: entry::body(fields),
            deliveries,
        };
        let next_due = u64::try_from(next_due).map_or(FAR, Duration::from_millis);
        Ok(Looked { entries: entries.into_iter().map(delivered).collect(), next_due, read_to, rung })
    }

    /// Brings back deliveries of which nobody knows when they end: now and then, and a few at a time.
    async fn recover(&self, visibility: Duration) -> Result<(), QueueError> {
        let from = {
            let mut recovery = self.recovery.lock().unwrap_or_else(PoisonError::into_inner);
            if recovery.at > Instant::now() {
                return Ok(());
            }
            recovery.at = Instant::now() + RECOVERY;
            recovery.from.clone()
        };
        let mut call = self.call(&RECOVER);
        call.arg(from).arg(RECOVERY_PAGE).arg(ms(visibility));
        let next: String = self.link.invoke(&call).await?;
        let next = if next.is_empty() { "-".to_owned() } else { next };
        self.recovery.lock().unwrap_or_else(PoisonError::into_inner).from = next;
        Ok(())
    }

    /// Gives answers to deliveries: `head` is what the script is told first, and each receipt may have a number of its own.
    async fn answer(
        &self,
        script: &Script,
        head: &[u64],
        asked: Vec<(String, Option<u64>)>,
    ) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let mut answers: Vec<Result<(), QueueError>> = Vec::with_capacity(asked.len());
        for piece in asked.chunks(MAX_ENTRIES) {
            let mut call = self.call(script);
            call.arg(head);
            let receipts: Vec<_> = piece.iter().map(|(text, _)| Receipt::parse(text)).collect();
            for (receipt, (_, number)) in receipts.iter().zip(piece) {
                if let Ok(Receipt { id, deliveries }) = receipt {
                    call.arg(*id).arg(*deliveries).arg(*number);
                }
            }
            let mut said = match self.link.invoke::<Vec<i64>>(&call).await {
                Ok(said) => said.into_iter(),
                Err(error) if answers.is_empty() => return Err(error),
                Err(error) => {
                    answers.resize(asked.len(), Err(error));
                    return Ok(answers);
                }
            };
            let answer = |(receipt, (text, _)): (Result<Receipt<'_>, QueueError>, &(String, _))| {
                receipt.and_then(|_| if said.next() == Some(1) { Ok(()) } else { Err(entry::stale(text)) })
            };
            answers.extend(receipts.into_iter().zip(piece).map(answer));
        }
        Ok(answers)
    }

    /// Sends a few messages.
    async fn send_piece(&self, piece: &[&ToSend]) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let maxlen = self.address.maxlen.unwrap_or(0);
        let mut call = self.call(&SEND);
        call.arg(maxlen);
        for message in piece {
            call.arg(ms(message.delay)).arg(message.body.as_str());
        }
        let full = || QueueError::Unavailable(format!("{}: full, with {maxlen} entries (maxlen)", self.address));
        let added: Vec<i64> = self.link.invoke(&call).await?;
        Ok(added.into_iter().map(|added| if added == 1 { Ok(()) } else { Err(full()) }).collect())
    }
}

/// Whether the queue takes a message of this size.
fn fits(message: &ToSend) -> Result<(), QueueError> {
    let size = message.body.len();
    if size > MAX_BODY {
        return Err(QueueError::Invalid(format!("a body of {size} bytes is over the queue's limit of {MAX_BODY}")));
    }
    Ok(())
}

/// Messages in pieces that one call may carry.
fn pieces(messages: Vec<&ToSend>) -> Vec<Vec<&ToSend>> {
    let mut pieces: Vec<Vec<&ToSend>> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        bytes += message.body.len();
        match pieces.last_mut() {
            Some(piece) if bytes <= MAX_BYTES && piece.len() < MAX_ENTRIES => piece.push(message),
            _ => {
                bytes = message.body.len();
                pieces.push(vec![message]);
            }
        }
    }
    pieces
}

#[async_trait]
impl Queue for RedisQueue {
    async fn receive(&self, max: u32, wait: Duration, visibility: Duration) -> Result<Vec<Delivered>, QueueError> {
        let until = Instant::now() + wait.min(FAR);
        loop {
            self.recover(visibility).await?;
            let looked = self.look(max, visibility).await?;
            let left = until.saturating_duration_since(Instant::now());
            if !looked.entries.is_empty() || max == 0 || left.is_zero() {
                return Ok(looked.entries);
            }
            let news = [(self.address.stream.as_str(), looked.read_to.as_str()), (self.bell.as_str(), looked.rung.as_str())];
            self.link.listen(&news, left.min(looked.next_due).min(LONGEST_WAIT)).await?;
        }
    }

    async fn hide(&self, deliveries: Vec<(String, Duration)>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let asked = deliveries.into_iter().map(|(receipt, for_long)| (receipt, Some(ms(for_long)))).collect();
        self.answer(&HIDE, &[ms(LONGEST_WAIT)], asked).await
    }

    async fn acknowledge(&self, receipts: Vec<String>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        self.answer(&ACKNOWLEDGE, &[], receipts.into_iter().map(|receipt| (receipt, None)).collect()).await
    }

    async fn send(&self, messages: Vec<ToSend>) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let sendable = messages.iter().filter(|message| fits(message).is_ok()).collect();
        let mut sent: Vec<Result<(), QueueError>> = Vec::with_capacity(messages.len());
        let mut broken = None;
        for piece in pieces(sendable) {
            match self.send_piece(&piece).await {
                Ok(answers) => sent.extend(answers),
                Err(error) if sent.is_empty() => return Err(error),
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let lost = || QueueError::Unavailable("the server did not say what became of it".to_owned());
        let broken = broken.unwrap_or_else(lost);
        let mut sent = sent.into_iter();
        let answer = |message| fits(message).and_then(|()| sent.next().unwrap_or_else(|| Err(broken.clone())));
        Ok(messages.iter().map(answer).collect())
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        let (waiting, in_flight, oldest): (u64, u64, i64) = self.link.invoke(&self.call(&DEPTH)).await?;
        Ok(QueueDepth { waiting, in_flight, oldest: u64::try_from(oldest).ok().map(Duration::from_millis) })
    }

    fn max_body(&self) -> usize {
        MAX_BODY
    }

    /// An entry may be hidden for ever.
    fn max_hold(&self) -> Option<Duration> {
        None
    }
}
