//! One suite for every adapter of [`Queue`], on a fresh and empty queue per case. What is particular to one adapter is tested beside it.
//!
//! Times are real and whole seconds: brokers count in no smaller ones. A case holds for queues that keep no order and deliver twice.

use super::*;
use std::collections::BTreeSet;
use std::time::Instant;

/// Longer than any case takes.
const LONG: Duration = Duration::from_secs(60);

/// The shortest time that every broker keeps.
const SECOND: Duration = Duration::from_secs(1);

/// Longest that a message may be under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs every case on a queue of its own. `$queue` is an async expression that makes a fresh one.
macro_rules! suite {
    ($queue:expr; $($case:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (queue, _keep) = $queue.await;
            $crate::queue::conformance::$case(&queue).await;
        })+
    };
}
pub(super) use suite;

/// A message for the task of this id, with the id as its body.
pub fn message(id: &str) -> ToSend {
    ToSend { body: id.into(), deduplication_id: id.into(), group: "t".into(), delay: Duration::ZERO }
}

async fn send(queue: &dyn Queue, ids: &[&str]) {
    let answers = queue.send(ids.iter().map(|id| message(id)).collect()).await.unwrap();
    assert_eq!(answers, vec![Ok(()); ids.len()]);
}

/// Exactly one message, which comes in time.
async fn one(queue: &dyn Queue, visibility: Duration) -> Delivered {
    let mut came = queue.receive(1, PATIENCE, visibility).await.unwrap();
    assert_eq!(came.len(), 1, "one message waits");
    came.remove(0)
}

async fn nothing(queue: &dyn Queue) {
    assert_eq!(queue.receive(10, Duration::ZERO, LONG).await.unwrap(), [], "nothing is visible");
}

async fn acknowledge(queue: &dyn Queue, delivered: &Delivered) {
    assert_eq!(queue.acknowledge(vec![delivered.receipt.clone()]).await.unwrap(), [Ok(())]);
}

async fn hide(queue: &dyn Queue, delivered: &Delivered, for_long: Duration) {
    assert_eq!(queue.hide(vec![(delivered.receipt.clone(), for_long)]).await.unwrap(), [Ok(())]);
}

pub async fn what_is_sent_comes_until_it_is_acknowledged(queue: &dyn Queue) {
    let bodies = ["x", "{\"ä\": \"€ \\u0000\"}", "z"];
    send(queue, &bodies).await;
    let mut came = BTreeSet::new();
    while came.len() < bodies.len() {
        let delivered = one(queue, SECOND * 2).await;
        assert_eq!(delivered.deliveries, 1);
        acknowledge(queue, &delivered).await;
        came.insert(String::from_utf8(delivered.body).unwrap());
    }
    assert_eq!(came, bodies.map(str::to_owned).into());
    tokio::time::sleep(SECOND * 3).await;
    nothing(queue).await;
}

pub async fn an_empty_queue_is_waited_for(queue: &dyn Queue) {
    let started = Instant::now();
    nothing(queue).await;
    assert!(started.elapsed() < SECOND, "no wait was asked for");
    assert_eq!(queue.receive(10, SECOND, LONG).await.unwrap(), []);
    assert!(started.elapsed() > SECOND * 9 / 10, "{:?}", started.elapsed());
}

pub async fn a_wait_ends_when_a_message_comes(queue: &dyn Queue) {
    let started = Instant::now();
    let (delivered, ()) = tokio::join!(one(queue, LONG), async {
        tokio::time::sleep(SECOND / 2).await;
        send(queue, &["x"]).await;
    });
    assert_eq!(delivered.body, b"x");
    assert!(started.elapsed() < SECOND * 3, "{:?}", started.elapsed());
}

pub async fn what_nobody_acknowledges_comes_again(queue: &dyn Queue) {
    send(queue, &["x"]).await;
    let first = one(queue, SECOND).await;
    nothing(queue).await;
    let second = one(queue, LONG).await;
    assert_eq!((second.body.as_slice(), first.deliveries, second.deliveries), (b"x".as_slice(), 1, 2));
    acknowledge(queue, &second).await;
}

pub async fn a_receipt_is_stale_once_the_message_came_again(queue: &dyn Queue) {
    send(queue, &["x"]).await;
    let first = one(queue, SECOND).await;
    let second = one(queue, LONG).await;
    let stale = |answers: Vec<Result<(), QueueError>>| matches!(answers.as_slice(), [Err(QueueError::NotFound(_))]);
    assert!(stale(queue.hide(vec![(first.receipt.clone(), Duration::ZERO)]).await.unwrap()));
    assert!(stale(queue.acknowledge(vec![first.receipt]).await.unwrap()));
    nothing(queue).await;
    hide(queue, &second, Duration::ZERO).await;
    assert_eq!(one(queue, LONG).await.deliveries, 3, "nobody has acknowledged it");
}

pub async fn what_is_let_go_comes_at_once(queue: &dyn Queue) {
    send(queue, &["x"]).await;
    let first = one(queue, LONG).await;
    nothing(queue).await;
    hide(queue, &first, Duration::ZERO).await;
    assert_eq!(one(queue, LONG).await.deliveries, 2);
}

pub async fn what_is_kept_hidden_stays_hidden(queue: &dyn Queue) {
    send(queue, &["x"]).await;
    let delivered = one(queue, SECOND).await;
    for _ in 0..2 {
        hide(queue, &delivered, SECOND * 2).await;
        tokio::time::sleep(SECOND).await;
        nothing(queue).await;
    }
    assert_eq!(one(queue, LONG).await.deliveries, 2, "no longer than it was asked for");
}

pub async fn a_delay_holds_a_message_back(queue: &dyn Queue) {
    let late = ToSend { delay: SECOND * 2, ..message("late") };
    assert_eq!(queue.send(vec![late, message("now")]).await.unwrap(), [Ok(()), Ok(())]);
    let started = Instant::now();
    assert_eq!(one(queue, LONG).await.body, b"now");
    nothing(queue).await;
    assert_eq!(one(queue, LONG).await.body, b"late");
    assert!(started.elapsed() > SECOND * 3 / 2, "{:?}", started.elapsed());
}

pub async fn every_entry_is_answered_by_itself(queue: &dyn Queue) {
    let too_large = ToSend { body: "x".repeat(queue.max_body() + 1), ..message("too-large") };
    let answers = queue.send(vec![message("x"), too_large, message("y")]).await.unwrap();
    assert!(matches!(answers.as_slice(), [Ok(()), Err(QueueError::Invalid(_)), Ok(())]), "{answers:?}");
    let (first, second) = (one(queue, LONG).await, one(queue, LONG).await);
    nothing(queue).await;
    let bodies: BTreeSet<&[u8]> = [first.body.as_slice(), second.body.as_slice()].into();
    assert_eq!(bodies, [b"x".as_slice(), b"y"].into());
    let answers = queue.acknowledge(vec![first.receipt, second.receipt]).await.unwrap();
    assert_eq!(answers, [Ok(()), Ok(())]);
}

pub async fn receivers_share_what_is_there(queue: &dyn Queue) {
    let ids: Vec<String> = (0..25).map(|n| format!("m{n}")).collect();
    // Ten at once is what every broker takes.
    for ids in ids.chunks(10) {
        send(queue, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let drain = async || {
        let mut came = Vec::new();
        loop {
            let some = queue.receive(4, SECOND, LONG).await.unwrap();
            if some.is_empty() {
                return came;
            }
            assert!(some.len() <= 4);
            came.extend(some.into_iter().map(|delivered| String::from_utf8(delivered.body).unwrap()));
        }
    };
    let (a, b, c) = tokio::join!(drain(), drain(), drain());
    let all = [a, b, c].concat();
    assert_eq!(all.len(), 25, "each is hidden from the others: {all:?}");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
}

pub async fn how_full_it_is(queue: &dyn Queue) {
    assert_eq!(queue.depth().await.unwrap(), QueueDepth::default());
    send(queue, &["x", "y", "z"]).await;
    let delivered = one(queue, LONG).await;
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight), (2, 1));
    assert!(depth.oldest.is_none_or(|age| age < PATIENCE), "{depth:?}");
    acknowledge(queue, &delivered).await;
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight), (2, 0));
}
