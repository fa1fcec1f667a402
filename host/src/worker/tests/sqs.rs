//! The worker over SQS: the real client, and a fake that does what SQS may do at its worst.

use super::brokers::message;
use super::*;
use crate::queue::SqsQueue;
use crate::servers::sqs::{Config, Fake, Faults};
use crate::task::children::Delivery;
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use serde_json::json;

/// SQS counts in whole seconds, and a lease is renewed every quarter of it.
const LEASE: Duration = Duration::from_secs(2);

async fn open(fake: &Fake) -> Arc<SqsQueue> {
    let credentials = SharedCredentialsProvider::new(Credentials::new("key", "secret", None, None, "test"));
    let machine = crate::aws::load(Some("eu-west-1")).await.into_builder().credentials_provider(credentials).build();
    Arc::new(SqsQueue::open(&fake.url().parse().unwrap(), &machine).await.unwrap())
}

async fn over(config: Config) -> (Place, Fake, Arc<SqsQueue>) {
    let fake = Fake::start(config);
    let queue = open(&fake).await;
    (Place::in_memory(), fake, queue)
}

/// Waits until every message is acknowledged.
async fn answered(fake: &Fake) {
    let waiting = async {
        while fake.left().0 > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("messages are left: {:?}", fake.left()));
}

fn once() -> (TaskState, Vec<String>) {
    (TaskState::Done, vec!["committed".to_owned()])
}

#[tokio::test]
async fn a_hundred_duplicates_at_once_are_one_commit() {
    let (place, fake, queue) =
        over(Config { seed: 36, faults: Faults { duplicates: 0.3, ..Faults::default() }, ..Config::default() }).await;
    fake.put((0..100).map(|_| message("same", json!({"sleep_ms": 300}))));
    let served = place.serve(&queue, |setting| (setting.lease, setting.concurrency) = (LEASE, 100));
    answered(&fake).await;
    assert_eq!((place.ended("same").await, place.script.runs.load(Ordering::Relaxed)), (once(), 1));
    // Delivered after its end it is acknowledged, and nothing else.
    fake.put([message("same", json!({"sleep_ms": 300}))]);
    answered(&fake).await;
    served.stop().await;
    assert_eq!((place.ended("same").await, place.script.runs.load(Ordering::Relaxed)), (once(), 1));
}

/// The message becomes visible while its task runs: a second worker finds the lease, hides the message and leaves it. The first one's
/// receipt is stale by then, so that its acknowledgement fails; the message comes again, and then it goes.
#[tokio::test]
async fn a_visibility_that_lapses_in_mid_run_costs_nothing() {
    let (place, fake, queue) = over(Config::default()).await;
    fake.put([message("slow", json!({"sleep_ms": 2500}))]);
    let first = place.serve(&queue, |setting| setting.lease = LEASE);
    place.wait_for("slow", TaskState::Processing).await;
    let second = place.serve(&open(&fake).await, |setting| setting.lease = LEASE);
    fake.redeliver_all();
    answered(&fake).await;
    first.stop().await;
    second.stop().await;
    assert_eq!((place.ended("slow").await, place.script.runs.load(Ordering::Relaxed)), (once(), 1));
    let task = place.task("slow").await;
    assert_eq!((task.attempts, task.handbacks, task.crashes), (0, 0, 0), "nothing was burned");
}

/// The broker holds a delivery for less than the task takes, and refuses to hold it for longer.
#[tokio::test]
async fn a_task_longer_than_the_longest_hold_runs_once() {
    let (place, fake, queue) = over(Config { max_hold: Duration::from_secs(2), ..Config::default() }).await;
    fake.put([message("slow", json!({"sleep_ms": 4500}))]);
    let served = place.serve(&queue, |setting| setting.lease = LEASE);
    answered(&fake).await;
    served.stop().await;
    assert_eq!((place.ended("slow").await, place.script.runs.load(Ordering::Relaxed)), (once(), 1));
}

async fn ends(place: &Place, job: &str) {
    let ended = async {
        while place.store.job("t", job).await.unwrap().state != JobState::Done {
            sleep(Duration::from_millis(10)).await;
        }
    };
    // Longer than the lease of a row of the outbox: one that failed three times waits for its end.
    timeout(Duration::from_secs(75), ended).await.expect("the job ends");
}

#[tokio::test]
async fn of_a_batch_that_failed_in_part_only_those_are_sent_again() {
    let (place, fake, queue) = over(Config { seed: 41, faults: Faults { entries: 0.1, ..Faults::default() }, ..Config::default() }).await;
    place.submit("parent", json!({"children": 60})).await;
    let served = place.serve(&queue, |setting| (setting.lease, setting.delivery) = (LEASE, Delivery::Queue("q".into())));
    ends(&place, "parent").await;
    // Deliveries whose acknowledgement failed too often come again when they are visible.
    answered(&fake).await;
    served.stop().await;
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 61);
    assert_eq!(fake.taken(), 60, "each once");
}

/// Its confirmation was a lie: the rows wait, and the sweeper sends them again once the queue has been empty for long.
#[tokio::test]
async fn what_the_broker_forgets_is_sent_again() {
    let (place, fake, queue) = over(Config { faults: Faults { forgets: 1.0, ..Faults::default() }, ..Config::default() }).await;
    place.submit("parent", json!({"children": 5})).await;
    let served = place.serve(&queue, |setting| (setting.lease, setting.delivery) = (LEASE, Delivery::Queue("q".into())));
    let lost = async {
        while fake.forgotten() < 5 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), lost).await.expect("all are sent");
    fake.set(Faults::default());
    ends(&place, "parent").await;
    answered(&fake).await;
    served.stop().await;
    assert_eq!((fake.forgotten(), place.script.runs.load(Ordering::Relaxed)), (5, 6));
}

/// All at once, two workers, and children: every task is done exactly once.
#[tokio::test]
async fn whatever_goes_wrong_every_task_is_done_once() {
    let faults = Faults { duplicates: 0.1, entries: 0.1, throttles: 0.05, failures: 0.05, lost_answers: 0.05, forgets: 0.1 };
    let (place, fake, queue) = over(Config { seed: 7, faults, ..Config::default() }).await;
    fake.put((0..100).map(|n| message(&format!("m{n}"), json!({"children": 1}))));
    let change = |setting: &mut Setting| {
        (setting.lease, setting.concurrency, setting.delivery) = (LEASE, 20, Delivery::Queue("q".into()));
    };
    let (first, second) = (place.serve(&queue, change), place.serve(&open(&fake).await, change));
    let filter = || crate::task_store::TaskFilter { state: Some(TaskState::Done), limit: 1000, ..Default::default() };
    let all = async {
        while place.store.tasks(filter()).await.unwrap().len() < 200 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(90), all).await.expect("every task is done");
    fake.set(Faults::default());
    answered(&fake).await;
    first.stop().await;
    second.stop().await;
    let tasks = place.store.tasks(filter()).await.unwrap();
    assert_eq!(tasks.len(), 200, "and no other is there");
    for task in tasks {
        let (_, claims) = place.ended(&task.task_id).await;
        let commits = claims.iter().filter(|how| *how == "committed").count();
        assert_eq!((commits, task.crashes), (1, 0), "{}: {claims:?}", task.task_id);
    }
}

/// One place of two is taken for long: the other takes message after message, though it never makes up a batch.
#[tokio::test]
async fn a_lone_place_is_not_left_empty() {
    let (place, fake, queue) = over(Config::default()).await;
    fake.put([message("slow", json!({"sleep_ms": 6000}))]);
    let served = place.serve(&queue, |setting| setting.concurrency = 2);
    place.wait_for("slow", TaskState::Processing).await;
    fake.put((0..20).map(|n| message(&format!("m{n}"), json!({}))));
    let began = Instant::now();
    for n in 0..20 {
        place.wait_for(&format!("m{n}"), TaskState::Done).await;
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    served.stop().await;
}

/// What AWS bills: at full load a call carries ten messages, or nearly so.
#[tokio::test]
async fn calls_are_full_at_full_load() {
    let (place, fake, queue) = over(Config::default()).await;
    fake.put((0..2000).map(|n| message(&format!("m{n}"), json!({"sleep_ms": n % 5}))));
    let before = queue.calls();
    let served = place.serve(&queue, |setting| setting.concurrency = 64);
    answered(&fake).await;
    served.stop().await;
    let after = queue.calls();
    let (receives, deletes) = (after.receive - before.receive, after.delete - before.delete);
    assert!(receives + deletes <= 2000 / 4, "{receives} receives and {deletes} deletes for 2000 messages");
    assert_eq!(after.hide, 0, "nothing had to be hidden");
}
