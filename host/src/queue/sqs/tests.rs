//! The adapter on a strict fake of SQS, over TCP and with the real client.

use super::*;
use crate::queue::conformance::{self, message, suite};
use crate::servers::moto;
use crate::servers::sqs::{Config, Fake, Faults};
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use std::net::TcpListener;

const MINUTE: Duration = Duration::from_secs(60);

/// What a machine has whose key is this one.
pub(super) async fn machine(key: &str) -> SdkConfig {
    let credentials = SharedCredentialsProvider::new(Credentials::new(key, "secret", None, None, "test"));
    aws::load(Some("eu-west-1")).await.into_builder().credentials_provider(credentials).build()
}

async fn open(url: &str, key: &str) -> Result<SqsQueue, QueueError> {
    SqsQueue::open(&url.parse().unwrap(), &machine(key).await).await
}

async fn over(config: Config) -> (SqsQueue, Fake) {
    let fake = Fake::start(config);
    (open(&fake.url(), "key").await.unwrap(), fake)
}

async fn fresh() -> (SqsQueue, Fake) {
    over(Config::default()).await
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

/// Of the suite, what holds where one message of a tenant waits for the other: not what two of them at once or a delay are for.
mod fifo {
    use super::*;

    async fn fresh() -> (SqsQueue, Fake) {
        let fake = Fake::start(Config::default());
        (open(&fake.queue("jobs.fifo"), "key").await.unwrap(), fake)
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
    }

    #[tokio::test]
    async fn order_is_kept_and_repeats_are_dropped() {
        let (queue, _keep) = fresh().await;
        let ids: Vec<String> = (0..25).map(|n| format!("m{n}")).collect();
        let all = || ids.iter().map(|id| ToSend { delay: MINUTE, ..message(id) }).collect();
        for _ in 0..2 {
            assert_eq!(queue.send(all()).await.unwrap(), vec![Ok(()); 25], "a delay is no error: the worker waits");
        }
        let mut came = Vec::new();
        while came.len() < 25 {
            let some = queue.receive(10, Duration::from_secs(1), MINUTE).await.unwrap();
            assert!(!some.is_empty(), "{came:?}");
            queue.acknowledge(some.iter().map(|delivered| delivered.receipt.clone()).collect()).await.unwrap();
            came.extend(some.into_iter().map(|delivered| String::from_utf8(delivered.body).unwrap()));
        }
        assert_eq!(came, ids);
        assert_eq!(queue.depth().await.unwrap(), QueueDepth::default());
    }

    #[tokio::test]
    async fn names_that_sqs_does_not_take_are_hashed() {
        let (queue, _keep) = fresh().await;
        let odd = ToSend { deduplication_id: "ä ".repeat(100), group: String::new(), ..message("x") };
        assert_eq!(queue.send(vec![odd]).await.unwrap(), [Ok(())]);
    }
}

/// A new queue of moto's.
async fn of_moto(server: &moto::Server, name: &str) -> SqsQueue {
    let machine = machine("key").await;
    let client = Client::from_conf(Builder::from(&machine).endpoint_url(server.url()).build());
    client.create_queue().queue_name(name).send().await.unwrap();
    open(&format!("{}/123456789012/{name}", server.url()), "key").await.unwrap()
}

/// A second reading of the protocol than ours. Left out: `a_receipt_is_stale_once_the_message_came_again`, as moto takes old receipts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto_keeps_the_port_too() {
    let Some(server) = tokio::task::block_in_place(moto::Server::shared) else { return };
    macro_rules! cases {
        ($($case:ident),+ $(,)?) => {
            tokio::join!($(async { conformance::$case(&of_moto(server, stringify!($case)).await).await }),+)
        };
    }
    cases!(
        what_is_sent_comes_until_it_is_acknowledged,
        an_empty_queue_is_waited_for,
        a_wait_ends_when_a_message_comes,
        what_nobody_acknowledges_comes_again,
        what_is_let_go_comes_at_once,
        what_is_kept_hidden_stays_hidden,
        a_delay_holds_a_message_back,
        every_entry_is_answered_by_itself,
        receivers_share_what_is_there,
        how_full_it_is,
    );
    let missing = open(&format!("{}/123456789012/missing", server.url()), "key").await;
    assert!(matches!(missing, Err(QueueError::NotFound(_))), "{missing:?}");
}

#[tokio::test]
async fn long_lists_go_in_full_batches() {
    let (queue, fake) = fresh().await;
    let ids: Vec<String> = (0..85).map(|n| format!("m{n}")).collect();
    assert_eq!(queue.send(ids.iter().map(|id| message(id)).collect()).await.unwrap(), vec![Ok(()); 85]);
    let came = queue.receive(85, MINUTE, MINUTE).await.unwrap();
    assert_eq!(came.len(), 85);
    let hidden = came.iter().map(|delivered| (delivered.receipt.clone(), MINUTE)).collect();
    assert_eq!(queue.hide(hidden).await.unwrap(), vec![Ok(()); 85]);
    let receipts = came.into_iter().map(|delivered| delivered.receipt).collect();
    assert_eq!(queue.acknowledge(receipts).await.unwrap(), vec![Ok(()); 85]);
    assert_eq!(queue.calls(), SqsCalls { receive: 9, delete: 9, hide: 9, send: 9, attributes: 1 });
    let told = fake.calls();
    assert_eq!((told["ReceiveMessage"], told["DeleteMessageBatch"], told["SendMessageBatch"]), (9, 9, 9), "as the other side counts");
    assert_eq!(fake.left(), (0, 0));
}

/// Also when it was busy before: an empty queue is found by one call that waits.
#[tokio::test]
async fn an_idle_queue_costs_one_call_at_a_time() {
    let (queue, fake) = fresh().await;
    fake.put((0..80).map(|n| n.to_string()));
    assert_eq!(queue.receive(80, MINUTE, MINUTE).await.unwrap().len(), 80);
    let before = queue.calls().receive;
    for _ in 0..2 {
        assert_eq!(queue.receive(128, Duration::from_secs(1), MINUTE).await.unwrap(), []);
    }
    let spent = queue.calls().receive - before;
    assert!(spent <= 2 + PARALLEL as u64, "{spent} calls");
    // The first message is not held up by looking for more.
    let began = Instant::now();
    let (came, ()) = tokio::join!(queue.receive(128, MINUTE, MINUTE), async { fake.put(["x".to_owned()]) });
    assert_eq!(came.unwrap().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes_by_what_the_queue_takes() {
    let (queue, _fake) = over(Config { max_body: 1000, ..Config::default() }).await;
    assert_eq!(queue.max_body(), 1000);
    let large = |size: usize| ToSend { body: "x".repeat(size), ..message("x") };
    let answers = queue.send(vec![large(1000), large(1001)]).await.unwrap();
    assert!(matches!(answers.as_slice(), [Ok(()), Err(QueueError::Invalid(why))] if why.contains("storage")), "{answers:?}");
    let (queue, _fake) = fresh().await;
    let answers = queue.send((0..10).map(|_| large(300_000)).collect()).await.unwrap();
    assert_eq!((answers, queue.calls().send), (vec![Ok(()); 10], 4), "three of them in one batch of a mebibyte");
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_apart_before_the_call() {
    let (queue, fake) = fresh().await;
    let bad = |body: &str| ToSend { body: body.into(), ..message("x") };
    let answers = queue.send(vec![bad("a\u{1}"), message("good"), bad("\u{fffe}"), bad("")]).await.unwrap();
    let invalid = |answer: &Result<(), QueueError>| matches!(answer, Err(QueueError::Invalid(_)));
    assert_eq!(answers.iter().map(invalid).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!((answers[1].clone(), fake.taken()), (Ok(()), 1));
    let answers = queue.send(vec![bad("\u{1}")]).await.unwrap();
    assert!(invalid(&answers[0]) && queue.calls().send == 1, "nothing to call for");
}

#[tokio::test]
async fn entries_that_failed_are_told_one_by_one() {
    let (queue, fake) = over(Config { seed: 1, ..Config::default() }).await;
    let ids: Vec<String> = (0..50).map(|n| format!("m{n}")).collect();
    fake.set(Faults { entries: 0.3, ..Faults::default() });
    let mut left: Vec<&String> = ids.iter().collect();
    let mut rounds = 0;
    while !left.is_empty() {
        let answers = queue.send(left.iter().map(|id| message(id)).collect()).await.unwrap();
        assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(QueueError::Unavailable(_)))), "{answers:?}");
        left = left.into_iter().zip(answers).filter(|(_, answer)| answer.is_err()).map(|(id, _)| id).collect();
        rounds += 1;
    }
    assert!(rounds > 1 && fake.taken() == 50, "{rounds} rounds, {} messages", fake.taken());
    let came = queue.receive(50, MINUTE, MINUTE).await.unwrap();
    let answers = queue.acknowledge(came.iter().map(|delivered| delivered.receipt.clone()).collect()).await.unwrap();
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    assert!(failed > 0 && fake.left().0 == failed, "those of which it was told, and no others");
}

/// One piece of a list fails as a whole: the others stand.
#[tokio::test]
async fn calls_that_failed_are_the_answers_of_their_entries() {
    let (queue, fake) = over(Config { seed: 5, ..Config::default() }).await;
    for faults in [Faults { throttles: 0.5, ..Faults::default() }, Faults { failures: 0.5, ..Faults::default() }] {
        let before = fake.taken();
        fake.set(faults);
        let answers = queue.send((0..80).map(|n| message(&n.to_string())).collect()).await.unwrap();
        fake.set(Faults::default());
        let failed = answers.iter().filter(|answer| matches!(answer, Err(QueueError::Unavailable(_)))).count();
        assert!(failed > 0 && failed % 10 == 0, "{failed}");
        assert_eq!(fake.taken() - before, 80 - failed as u64);
    }
    fake.set(Faults { throttles: 1.0, ..Faults::default() });
    for answer in [
        queue.send(vec![message("x")]).await.map(drop),
        queue.receive(1, Duration::ZERO, MINUTE).await.map(drop),
        queue.depth().await.map(drop),
    ] {
        assert!(matches!(answer, Err(QueueError::Unavailable(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn times_beyond_what_sqs_takes_are_cut() {
    let (queue, fake) = fresh().await;
    let late = ToSend { delay: MINUTE * 60 * 24, ..message("late") };
    assert_eq!(queue.send(vec![late]).await.unwrap(), [Ok(())]);
    assert_eq!(queue.depth().await.unwrap(), QueueDepth { waiting: 1, in_flight: 0, oldest: None }, "delayed is waiting");
    fake.put(["now".to_owned()]);
    let held = queue.receive(1, Duration::ZERO, MINUTE * 60 * 24).await.unwrap().remove(0);
    let hold = queue.max_hold().unwrap();
    assert_eq!(queue.hide(vec![(held.receipt.clone(), hold)]).await.unwrap(), [Ok(())]);
    let answer = queue.hide(vec![(held.receipt, MINUTE * 60 * 24)]).await.unwrap();
    assert!(matches!(answer.as_slice(), [Err(QueueError::Invalid(_))]), "twelve hours from now are more than twelve in all: {answer:?}");
}

#[tokio::test]
async fn what_the_queue_gives_up_after_is_read() {
    let (queue, fake) = over(Config { redrive: Some(2), ..Config::default() }).await;
    assert_eq!(queue.gives_up_after(), Some(2));
    fake.put(["x".to_owned()]);
    for _ in 0..2 {
        let came = queue.receive(1, MINUTE, MINUTE).await.unwrap().remove(0);
        queue.hide(vec![(came.receipt, Duration::ZERO)]).await.unwrap();
    }
    assert_eq!(queue.receive(1, Duration::ZERO, MINUTE).await.unwrap(), []);
    assert_eq!(fake.dead(), ["x"]);
    assert_eq!(max_receive_count(r#"{"maxReceiveCount":"7"}"#), Some(7));
    assert_eq!(max_receive_count("{}"), None);
    assert_eq!(over(Config::default()).await.0.gives_up_after(), None);
}

#[tokio::test]
async fn a_queue_that_cannot_be_opened_says_why() {
    let fake = Fake::start(Config::default());
    let missing = format!("{}-not-there", fake.url());
    let QueueError::NotFound(why) = open(&missing, "key").await.unwrap_err() else { panic!("not found") };
    assert!(why.contains(&missing) && why.contains("eu-west-1"), "{why}");
    for key in ["stranger", "guest"] {
        let QueueError::Denied(why) = open(&fake.url(), key).await.unwrap_err() else { panic!("denied") };
        assert!(why.contains(&fake.url()) && why.contains("sqs:ReceiveMessage"), "{why}");
    }
    // Nobody listens there any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let why = open(&format!("http://{closed}/123456789012/queue"), "key").await.unwrap_err();
    assert!(matches!(&why, QueueError::Unavailable(text) if text.contains(&closed.to_string())), "{why}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_machine_without_credentials_is_told_how_to_get_some() {
    let fake = Fake::start(Config::default());
    let nobody = ProfileFileCredentialsProvider::builder().profile_name("a profile that nobody has").build();
    let machine = machine("key").await.into_builder().credentials_provider(SharedCredentialsProvider::new(nobody)).build();
    let why = SqsQueue::open(&fake.url().parse().unwrap(), &machine).await.unwrap_err();
    assert!(matches!(&why, QueueError::Denied(text) if text.contains("AWS_ACCESS_KEY_ID")), "{why}");
}

/// A connection that is taken and never answered.
#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/123456789012/queue", silent.local_addr().unwrap());
    let began = Instant::now();
    assert!(matches!(open(&url, "key").await, Err(QueueError::Unavailable(_))));
    assert!(began.elapsed() < aws::ATTEMPT + Duration::from_secs(3), "{:?}", began.elapsed());
}
