//! Messages on their way to brokers: written with the end that makes them due, leased to one sender, sent again where they seem lost.

use super::*;

/// Ids of what is to be sent, leased for so long.
async fn outgoing(store: &dyn TaskStore, lease: Duration) -> Vec<Outgoing> {
    store.outgoing(None, lease, 99).await.unwrap()
}

fn tasks(messages: &[Outgoing]) -> Vec<&str> {
    messages.iter().map(|m| m.key.task_id.as_str()).collect()
}

async fn confirm(store: &dyn TaskStore, messages: &[Outgoing]) {
    store.sent(messages.iter().map(|m| m.id).collect()).await.unwrap();
}

/// Takes in the message of a task, as if it had come back from its broker.
async fn receive(store: &dyn TaskStore, task: NewTask) -> Lease {
    match store.admit(vec![arrival(task)], LONG, "w".into()).await.unwrap().remove(0) {
        Admission::Claimed(claimed) => claimed.lease,
        other => panic!("not leased: {other:?}"),
    }
}

pub async fn an_end_sends_for_its_children(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let elsewhere = NewTask { delivery: Delivery::Foreign("theirs".into()), delay_ms: 60_000, ..task("z", "j", "b") };
    let children = Children { tasks: vec![carried(task("x", "j", "b")), task("y", "j", "b"), elsewhere.clone()], then: None };
    store.commit(Commit { manifest: manifest(), ..commit_of(&root.lease, children.clone()) }).await.unwrap();
    assert_eq!(outgoing(store, LONG).await, [], "nothing before the end");
    store.end(key("j-root")).await.unwrap();
    store.end(key("j-root")).await.unwrap();
    let of = |queue: &str| Some(vec![queue.to_owned(), "another".to_owned()]);
    assert_eq!(store.outgoing(of("nobody's"), LONG, 9).await.unwrap(), []);
    assert_eq!(store.outgoing(Some(Vec::new()), LONG, 9).await.unwrap(), []);
    assert_eq!(tasks(&store.outgoing(of("theirs"), SHORT, 9).await.unwrap()), ["z"], "who knows one queue keeps no other's");
    lapse().await;
    assert_eq!(store.outgoing(None, SHORT, 1).await.unwrap().len(), 1, "no more than was asked for");
    let rest = outgoing(store, SHORT).await;
    assert_eq!(outgoing(store, SHORT).await, [], "somebody is about to send them");
    lapse().await;
    let all = outgoing(store, LONG).await;
    assert_eq!((all.len(), rest.len()), (2, 1), "listed again once nobody did");
    let of = |id: &str| all.iter().find(|m| m.key == key(id)).unwrap();
    assert_eq!((of("x").queue.as_str(), of("x").delay), (QUEUE, Duration::ZERO));
    assert_eq!(serde_json::from_str::<Message>(&of("x").body).unwrap(), *children.tasks[0].message);
    assert!(of("z").queue == "theirs" && of("z").delay > Duration::from_secs(50), "{:?}", of("z"));
    assert_eq!(serde_json::from_str::<Message>(&of("z").body).unwrap(), *elsewhere.message);
    confirm(store, &all).await;
    // Nobody here waits for what another system reads: it has no row.
    assert!(matches!(store.task(TENANT, "z").await, Err(StoreError::NotFound(_))));
    assert_eq!(run_down(store).await, ["y"]);
    let lease = receive(store, children.tasks[0].clone()).await;
    assert_eq!(job_state(store, "j").await, JobState::Processing);
    finish(store, &lease, Children::default()).await;
    assert_eq!(job_state(store, "j").await, JobState::Done);
    assert_eq!(outgoing(store, LONG).await, []);
}

pub async fn a_then_is_sent_for_when_it_is_woken(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let then = carried(task("t", "j", "c"));
    let elsewhere = NewTask { delivery: Delivery::Foreign("theirs".into()), ..task("z", "j", "b") };
    let tasks_of = vec![task("x", "j", "b"), carried(task("y", "j", "b")), elsewhere];
    finish(store, &root.lease, Children { tasks: tasks_of.clone(), then: Some(then.clone()) }).await;
    let first = outgoing(store, LONG).await;
    assert_eq!(tasks(&first).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["y", "z"]));
    confirm(store, &first).await;
    assert_eq!(run_down(store).await, ["x"]);
    assert_eq!(outgoing(store, LONG).await, [], "one of its siblings is live");
    let y = receive(store, tasks_of[1].clone()).await;
    finish(store, &y, Children::default()).await;
    let woken = outgoing(store, LONG).await;
    assert_eq!(tasks(&woken), ["t"]);
    let lease = receive(store, then).await;
    assert_eq!(store.inputs(key("t"), 0, 9).await.unwrap().into_iter().map(|i| i.key).collect::<Vec<_>>(), ["x", "y"]);
    finish(store, &lease, Children::default()).await;
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

pub async fn who_waits_for_another_system_waits_for_nothing(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let elsewhere = NewTask { delivery: Delivery::Foreign("theirs".into()), ..task("z", "j", "b") };
    finish(store, &root.lease, Children { tasks: vec![elsewhere], then: Some(task("t", "j", "c")) }).await;
    assert_eq!(run_down(store).await, ["t"]);
    assert_eq!(job_state(store, "j").await, JobState::Done);
    assert_eq!(tasks(&outgoing(store, LONG).await), ["z"]);
}

pub async fn no_job_begins_in_another_system(store: &dyn TaskStore) {
    let foreign = |task: NewTask| NewTask { delivery: Delivery::Foreign("theirs".into()), ..task };
    let fed = NewJob { feed: Feed::Open { queue: None, tasks: None }, ..job_of(foreign(task("fed", "k", "away"))) };
    for new in [job_of(foreign(task("x", "j", "away"))), fed] {
        let refused = store.submit(vec![job("beside"), new]).await;
        let text = matches!(&refused, Err(StoreError::Invalid(text)) if text.contains("'away'") && text.contains("'theirs'"));
        assert!(text, "it is told which step and which queue: {refused:?}");
    }
    assert_eq!(store.jobs(None, None, 9).await.unwrap().len(), 0, "nothing of the call took effect");
    assert_eq!(outgoing(store, LONG).await, []);
}

pub async fn what_is_submitted_for_a_broker_is_sent_for(store: &dyn TaskStore) {
    let mut late = job_of(carried(task("late", "late", "a")));
    late.root.delay_ms = 60_000;
    submit(store, job_of(carried(task("x", "x", "a")))).await;
    submit(store, late).await;
    let messages = outgoing(store, LONG).await;
    assert_eq!(tasks(&messages), ["x", "late"], "oldest first");
    assert!(messages[0].delay.is_zero() && messages[1].delay > Duration::from_secs(50), "{messages:?}");
    confirm(store, &messages).await;
    assert_eq!(store.submit(vec![job_of(carried(task("x", "x", "a")))]).await.unwrap(), [Submitted::Repeated]);
    assert_eq!(outgoing(store, LONG).await, []);
    assert_eq!(claim(store, 9).await.len(), 0);
    let lease = receive(store, task("x", "x", "a")).await;
    kill(store, &lease).await;
    assert_eq!(outgoing(store, LONG).await, []);
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 1);
    assert_eq!(tasks(&outgoing(store, LONG).await), ["x"], "its first message was acknowledged long ago");
    assert_eq!(receive(store, task("x", "x", "a")).await.epoch, 2);
}

pub async fn a_cancelled_job_sends_for_nothing(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let elsewhere = NewTask { delivery: Delivery::Foreign("theirs".into()), ..task("z", "j", "b") };
    let children = Children { tasks: vec![carried(task("x", "j", "b")), elsewhere], then: None };
    store.commit(Commit { manifest: manifest(), ..commit_of(&root.lease, children) }).await.unwrap();
    store.cancel_job(TENANT, "j").await.unwrap();
    store.end(key("j-root")).await.unwrap();
    assert_eq!(outgoing(store, LONG).await, []);
    assert_eq!(job_state(store, "j").await, JobState::Cancelled);
}

/// Its queue was empty for as long as it takes a message to come back from a dead worker: a lease.
pub async fn a_lost_message_is_sent_again(store: &dyn TaskStore) {
    submit(store, job_of(carried(task("x", "x", "a")))).await;
    let idle = |queue: &str, since| SweepRequest {
        idle_queues: vec![IdleQueue { queue: queue.into(), since }],
        fed_idle: LONG,
        ..sweeping(SHORT)
    };
    let resent = async |request: SweepRequest| store.sweep(request).await.unwrap().resent;
    lapse().await;
    assert_eq!(resent(idle(QUEUE, LONG)).await, 0, "it was not even sent");
    confirm(store, &outgoing(store, LONG).await).await;
    assert_eq!(resent(idle(QUEUE, LONG)).await, 0, "it may be under way");
    lapse().await;
    assert_eq!(resent(sweeping(SHORT)).await, 0, "nothing is known of its queue, and an hour has not passed");
    assert_eq!(resent(idle("another", LONG)).await, 0);
    assert_eq!(resent(idle(QUEUE, Duration::ZERO)).await, 0, "the queue was just read");
    assert_eq!(resent(idle(QUEUE, LONG)).await, 1);
    assert_eq!(resent(idle(QUEUE, LONG)).await, 0);
    let again = outgoing(store, LONG).await;
    assert_eq!(tasks(&again), ["x"]);
    confirm(store, &again).await;
    lapse().await;
    assert_eq!(resent(idle(QUEUE, LONG)).await, 0, "the wait doubles");
    lapse().await;
    assert_eq!(resent(idle(QUEUE, LONG)).await, 1);
    receive(store, task("x", "x", "a")).await;
    tokio::time::sleep(SHORT * 5).await;
    assert_eq!(resent(idle(QUEUE, LONG)).await, 0, "it has come");
}
