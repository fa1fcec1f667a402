//! Where outputs go: no two live jobs share a prefix or nest theirs, nor do tasks whose feeders chose a prefix for them.

use super::*;
use Submitted::{Created, Occupied, Repeated};
use std::sync::Arc;

pub async fn live_jobs_share_no_prefix(store: &dyn TaskStore) {
    let at = |id: &str, prefix: &str| NewJob { prefix: prefix.into(), ..job(id) };
    submit(store, at("j", "file:///out/x/")).await;
    for (id, prefix) in [("same", "file:///out/x/"), ("below", "file:///out/x/y/"), ("above", "file:///out/")] {
        assert_eq!(store.submit(vec![at(id, prefix)]).await.unwrap(), [Submitted::Occupied], "{id}");
    }
    // A namesake is none, and a repeat stays one.
    let both = vec![at("beside", "file:///out/xy/"), at("inside", "file:///out/xy/z/"), at("j", "file:///out/x/")];
    assert_eq!(store.submit(both).await.unwrap(), [Submitted::Created, Submitted::Occupied, Submitted::Repeated]);
    run_down(store).await;
    submit(store, at("later", "file:///out/x/")).await;
}

/// A root task of the open job `job` that is to write to this prefix.
fn choosing(id: &str, job: &str, prefix: &str) -> NewJob {
    let mut root = task(id, job, "a");
    Arc::make_mut(&mut root.message).output_prefix = Some(prefix.into());
    root.payload_hash = root.message.payload_hash("a").unwrap();
    root.output_prefix = prefix.into();
    fed(root)
}

/// A root task of an open job, at the prefix that the host derives.
fn derived(id: &str, job: &str) -> NewJob {
    fed(task(id, job, "a"))
}

fn fed(root: NewTask) -> NewJob {
    NewJob { feed: Feed::Open { queue: None, tasks: None }, ..job_of(root) }
}

async fn add(store: &dyn TaskStore, all: Vec<NewJob>) -> Vec<Submitted> {
    store.submit(all).await.unwrap()
}

pub async fn live_tasks_share_no_prefix(store: &dyn TaskStore) {
    let first = || choosing("first", "j", "file:///out/j/x/y/");
    let others = |n: u32| {
        let at = |what: &str, prefix: &str| choosing(&format!("{what}{n}"), "j", prefix);
        vec![at("same", "file:///out/j/x/y/"), at("below", "file:///out/j/x/y/z/"), at("above", "file:///out/j/x/")]
    };
    // All in one call, and one after the other.
    assert_eq!(add(store, [vec![first(), first()], others(1)].concat()).await, [Created, Repeated, Occupied, Occupied, Occupied]);
    assert_eq!(add(store, others(2)).await, [Occupied; 3]);
    let claimed = claim_one(store).await;
    assert_eq!(claimed.output_prefix, "file:///out/j/x/y/");
    assert_eq!(add(store, others(3)).await, [Occupied; 3], "it runs");
    // Namesakes are none, and what the host derives lies elsewhere.
    let beside = vec![choosing("namesake", "j", "file:///out/j/x/yy/"), derived("derived", "j"), first()];
    assert_eq!(add(store, beside).await, [Created, Created, Repeated]);
    store.commit(Commit { manifest: manifest(), ..commit_of(&claimed.lease, Children::default()) }).await.unwrap();
    assert_eq!(add(store, others(4)).await, [Occupied; 3], "its outputs are not in place yet");
    store.end(claimed.lease.key).await.unwrap();
    // Whoever is first has it now, again and again.
    for n in 5..8 {
        assert_eq!(add(store, others(n)).await, [Created, Occupied, Occupied]);
        run_down(store).await;
    }
    assert_eq!(add(store, others(9).split_off(1)).await, [Created, Occupied]);
}

pub async fn a_chosen_prefix_is_no_other_jobs(store: &dyn TaskStore) {
    assert_eq!(add(store, vec![derived("j1", "j"), choosing("j2", "j", "file:///free/x/")]).await, [Created, Created]);
    // Of another job that is fed: as it begins, and later.
    for id in ["k1", "k2"] {
        for (n, prefix) in
            ["file:///out/j/", "file:///out/j/deep/", "file:///out/", "file:///free/x/", "file:///free/", "file:///free/x/y/"]
                .into_iter()
                .enumerate()
        {
            assert_eq!(add(store, vec![choosing(&format!("{id}-{n}"), "k", prefix)]).await, [Occupied], "{prefix}");
        }
        assert_eq!(add(store, vec![derived(id, "k")]).await, [Created]);
    }
    // And of one with a prefix of its own.
    let at = |id: &str, prefix: &str| NewJob { prefix: prefix.into(), ..job(id) };
    let all = vec![at("a", "file:///free/x/"), at("b", "file:///free/"), at("c", "file:///free/x/y/"), at("d", "file:///free/xx/")];
    assert_eq!(add(store, all).await, [Occupied, Occupied, Occupied, Created]);
    run_down(store).await;
    assert_eq!(add(store, vec![at("a", "file:///free/x/")]).await, [Created], "it has ended");
    assert_eq!(add(store, vec![choosing("j3", "j", "file:///free/x/")]).await, [Occupied], "and a job has its place");
    assert_eq!(add(store, vec![choosing("j4", "j", "file:///out/j/mine/")]).await, [Created], "its own job's is another matter");
}

pub async fn a_task_at_its_jobs_own_prefix_is_alone(store: &dyn TaskStore) {
    assert_eq!(add(store, vec![choosing("x", "j", "file:///out/j/"), derived("y", "j")]).await, [Created, Occupied]);
    assert_eq!(add(store, vec![derived("y", "j"), choosing("z", "j", "file:///out/j/z/")]).await, [Occupied, Occupied]);
    run_down(store).await;
    assert_eq!(add(store, vec![derived("y", "j"), choosing("z", "j", "file:///out/j/")]).await, [Created, Occupied]);
    run_down(store).await;
    assert_eq!(add(store, vec![choosing("z", "j", "file:///out/j/")]).await, [Created]);
}

pub async fn a_dead_task_keeps_the_prefix_it_chose(store: &dyn TaskStore) {
    assert_eq!(add(store, vec![choosing("x", "j", "file:///out/j/x/"), choosing("y", "j", "file:///out/j/y/")]).await, [Created; 2]);
    let claimed = claim(store, 2).await;
    store.commit(Commit { manifest: manifest(), ..commit_of(&claimed[0].lease, Children::default()) }).await.unwrap();
    store.bury_committed(key("x"), TaskError::new("denied", "no such bucket")).await.unwrap();
    kill(store, &claimed[1].lease).await;
    // What the one has staged waits for a redrive; the other has nothing.
    let heirs =
        || vec![choosing("x2", "j", "file:///out/j/x/"), choosing("y2", "j", "file:///out/j/y/"), choosing("z", "j", "file:///out/j/")];
    assert_eq!(add(store, heirs()).await, [Occupied, Created, Occupied]);
    run_down(store).await;
    assert_eq!(add(store, heirs().split_off(2)).await, [Occupied], "nothing is live, and something is kept");
    store.purge(DeadLetterFilter::default(), false).await.unwrap();
    assert_eq!(add(store, heirs()).await, [Created, Repeated, Occupied]);
}

pub async fn a_message_that_chose_a_taken_prefix_leaves_a_letter(store: &dyn TaskStore) {
    let of = |id: &str, job: &str| {
        let new = choosing(id, job, "file:///free/x/");
        NewJob { feed: Feed::Open { queue: Some(QUEUE.into()), tasks: None }, root: carried(new.root.clone()), ..new }
    };
    let answers = store.admit(vec![of("x", "j"), of("y", "j"), of("z", "k")], LONG, "w".into()).await.unwrap();
    let [Admission::Claimed(claimed), Admission::Refused(one), Admission::Refused(two)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((one.code.as_str(), two.code.as_str()), ("occupied", "occupied"));
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 2);
    finish(store, &claimed.lease, Children::default()).await;
    let answer = store.admit(vec![of("later", "k")], LONG, "w".into()).await.unwrap().remove(0);
    assert!(matches!(answer, Admission::Claimed(_)), "{answer:?}");
    // A job that is being cancelled writes nothing more.
    store.cancel_job(TENANT, "k").await.unwrap();
    let answer = store.admit(vec![of("last", "k")], LONG, "w".into()).await.unwrap().remove(0);
    assert!(matches!(answer, Admission::Ended(TaskState::Cancelled)), "{answer:?}");
}
