//! The task that follows one that was given up: `failure` among the transitions of its step.

use super::*;
use crate::task::children::FailureRoute;

/// A task of step `a` or `b` that is followed by one of step `c`.
fn followed(task: NewTask) -> NewTask {
    NewTask { on_failure: Some(FailureRoute { step: "c".into(), max_attempts: 2, delivery: Delivery::Table }), ..task }
}

fn dead(code: &str) -> Settlement {
    Settlement::Dead(TaskError::new(code, "on purpose"))
}

/// The failure task of `parent`, which is the next one due.
async fn claim_failure(store: &dyn TaskStore, parent: &str, code: &str) -> Claimed {
    let failure = claim_one(store).await;
    assert_eq!((failure.step.as_str(), failure.key.as_str(), failure.counters.max_attempts), ("c", "failure", 2));
    assert_eq!(failure.message.params["error"]["code"], json!(code));
    let view = store.task(TENANT, &failure.lease.key.task_id).await.unwrap();
    assert_eq!(view.parent.as_deref(), Some(parent));
    failure
}

pub async fn every_road_to_dead_is_followed(store: &dyn TaskStore) {
    for id in ["settled", "lapsed", "buried"] {
        submit(store, job_of(followed(task(id, id, "a")))).await;
    }
    let claimed = claim(store, 3).await;
    store.settle(claimed[0].lease.clone(), dead("broken"), String::new()).await.unwrap();
    let failure = claim_failure(store, "settled", "broken").await;
    assert_eq!(failure.job_prefix, "file:///out/settled/");
    assert_eq!(job_state(store, "settled").await, JobState::Processing);
    finish(store, &failure.lease, Children::default()).await;
    assert_eq!(job_state(store, "settled").await, JobState::Failed, "one of its tasks is dead");
    let commit = Commit { manifest: manifest(), ..commit_of(&claimed[2].lease, Children::default()) };
    store.commit(commit).await.unwrap();
    store.bury_committed(key("buried"), TaskError::new("denied", "no such bucket")).await.unwrap();
    let failure = claim_failure(store, "buried", "denied").await;
    // Given up itself, it is followed by nothing.
    store.settle(failure.lease, dead("again"), String::new()).await.unwrap();
    assert_eq!(job_state(store, "buried").await, JobState::Failed);
    store.settle(claimed[1].lease.clone(), Settlement::GiveBack, String::new()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ids(&store.claim_next(request(9, SHORT)).await.unwrap()), ["lapsed"]);
        lapse().await;
    }
    assert_eq!(store.sweep(sweeping(LONG)).await.unwrap().buried, 1);
    let failure = claim_failure(store, "lapsed", "crashed").await;
    finish(store, &failure.lease, Children::default()).await;
    assert_eq!(job_state(store, "lapsed").await, JobState::Failed);
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 4);
    assert_eq!(store.task(TENANT, "lapsed").await.unwrap().children, 1);
}

pub async fn a_then_waits_for_a_failure_task_and_reads_it(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let children = vec![followed(task("x", "j", "b")), task("y", "j", "b")];
    finish(store, &root.lease, Children { tasks: children, then: Some(task("t", "j", "c")) }).await;
    let claimed = claim(store, 9).await;
    finish(store, &claimed[1].lease, Children::default()).await;
    store.settle(claimed[0].lease.clone(), dead("broken"), String::new()).await.unwrap();
    assert_eq!(state(store, "t").await, TaskState::Waiting, "what follows a dead task is still to run");
    let failure = claim_failure(store, "x", "broken").await;
    finish(store, &failure.lease, Children::default()).await;
    let then = claim_one(store).await;
    assert_eq!((then.lease.key.task_id.as_str(), then.input_count), ("t", 2));
    assert_eq!(input_keys(store, &then).await, ["failure", "y"], "it stands where the dead one stood");
}

pub async fn a_task_that_dies_again_is_followed_once(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let children = vec![followed(task("x", "j", "b")), task("y", "j", "b")];
    finish(store, &root.lease, Children { tasks: children, then: Some(task("t", "j", "c")) }).await;
    let claimed = claim(store, 9).await;
    store.settle(claimed[0].lease.clone(), dead("first"), String::new()).await.unwrap();
    let failure = claim_failure(store, "x", "first").await;
    finish(store, &failure.lease, Children::default()).await;
    for code in ["first", "second"] {
        assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 1);
        let again = claim_one(store).await;
        assert_eq!(again.lease.key.task_id, "x");
        store.settle(again.lease, dead(code), String::new()).await.unwrap();
        assert_eq!(claim(store, 9).await.len(), 0, "it was followed already");
    }
    let letters = store.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.iter().map(|l| l.error.code.as_str()).collect::<Vec<_>>(), ["second"]);
    // In the end it works: a `then` that has not run reads it too.
    store.redrive(DeadLetterFilter::default(), false).await.unwrap();
    let again = claim_one(store).await;
    finish(store, &again.lease, Children::default()).await;
    finish(store, &claimed[1].lease, Children::default()).await;
    let then = claim_one(store).await;
    let mut inputs = input_keys(store, &then).await;
    inputs.sort();
    assert_eq!(inputs, ["failure", "x", "y"]);
    finish(store, &then.lease, Children::default()).await;
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

pub async fn nothing_follows_in_a_cancelled_job(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let children = vec![followed(task("x", "j", "b")), followed(task("y", "j", "b"))];
    finish(store, &root.lease, Children { tasks: children, then: None }).await;
    let claimed = claim(store, 9).await;
    let commit = Commit { manifest: manifest(), ..commit_of(&claimed[1].lease, Children::default()) };
    store.commit(commit).await.unwrap();
    store.cancel_job(TENANT, "j").await.unwrap();
    store.settle(claimed[0].lease.clone(), dead("broken"), String::new()).await.unwrap();
    assert_eq!(state(store, "x").await, TaskState::Cancelled);
    store.bury_committed(key("y"), TaskError::new("denied", "no such bucket")).await.unwrap();
    assert_eq!(state(store, "y").await, TaskState::Dead);
    assert_eq!(store.tasks(TaskFilter::default()).await.unwrap().len(), 3);
    assert_eq!(job_state(store, "j").await, JobState::Failed);
}

pub async fn a_failure_task_may_go_to_a_broker(store: &dyn TaskStore) {
    let route = |delivery| Some(FailureRoute { step: "c".into(), max_attempts: 2, delivery });
    let of = |id: &str, delivery| job_of(NewTask { on_failure: route(delivery), ..task(id, id, "a") });
    submit(store, of("x", Delivery::Queue(QUEUE.into()))).await;
    submit(store, of("y", Delivery::Foreign("theirs".into()))).await;
    for claimed in claim(store, 2).await {
        store.settle(claimed.lease, dead("broken"), String::new()).await.unwrap();
    }
    let messages = store.outgoing(None, LONG, 9).await.unwrap();
    assert_eq!(messages.iter().map(|m| m.queue.as_str()).collect::<Vec<_>>(), [QUEUE, "theirs"]);
    assert_eq!(claim(store, 9).await.len(), 0);
    assert_eq!(job_state(store, "x").await, JobState::Processing, "its failure task is to run here");
    assert_eq!(job_state(store, "y").await, JobState::Failed, "nobody here waits for that one");
}
