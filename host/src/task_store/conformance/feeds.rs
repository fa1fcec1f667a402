//! Jobs that are fed from outside: what joins them, and what closes them.

use super::*;

/// A root task of the open job `job`.
fn fed(id: &str, job: &str, tasks: Option<u64>) -> NewJob {
    NewJob { feed: Feed::Open { queue: None, tasks }, ..job_of(task(id, job, "a")) }
}

async fn add(store: &dyn TaskStore, new: NewJob) -> Submitted {
    store.submit(vec![new]).await.unwrap().remove(0)
}

async fn idle(store: &dyn TaskStore, queues: &[(&str, Duration)]) -> u64 {
    let idle_queues = queues.iter().map(|(queue, since)| IdleQueue { queue: (*queue).into(), since: *since }).collect();
    store.sweep(SweepRequest { fed_idle: SHORT, idle_queues, ..sweeping(LONG) }).await.unwrap().closed
}

pub async fn a_fed_job_ends_when_it_is_sealed(store: &dyn TaskStore) {
    assert_eq!(store.submit(vec![fed("x", "j", None), fed("y", "j", None), fed("x", "j", None)]).await.unwrap(), {
        [Submitted::Created, Submitted::Created, Submitted::Repeated]
    });
    let claimed = claim(store, 9).await;
    assert_eq!(ids(&claimed), ["x", "y"]);
    assert!(claimed.iter().all(|c| !c.is_root && c.job_prefix == "file:///out/j/"), "none of several owns the job's prefix");
    for task in &claimed {
        finish(store, &task.lease, Children::default()).await;
    }
    let open = store.job(TENANT, "j").await.unwrap();
    assert_eq!((open.state, open.open, open.expected, open.ended_at), (JobState::Processing, true, None, None));
    assert_eq!(add(store, fed("z", "j", None)).await, Submitted::Created);
    assert_eq!(store.seal(TENANT, "j").await.unwrap(), JobState::Processing, "one of its tasks is live");
    assert_eq!(add(store, fed("late", "j", None)).await, Submitted::Sealed);
    assert_eq!(add(store, fed("z", "j", None)).await, Submitted::Repeated, "it was in time");
    assert_eq!(run_down(store).await, ["z"]);
    let done = store.job(TENANT, "j").await.unwrap();
    assert_eq!((done.state, done.open, done.tasks.get(&TaskState::Done)), (JobState::Done, false, Some(&3)));
    assert_eq!(store.seal(TENANT, "j").await.unwrap(), JobState::Done);
    assert!(matches!(store.seal(TENANT, "nobody").await, Err(StoreError::NotFound(_))));
    // Sealed while nothing of it is live: it ends at once.
    add(store, fed("other", "k", None)).await;
    run_down(store).await;
    assert_eq!(store.seal(TENANT, "k").await.unwrap(), JobState::Done);
}

pub async fn a_job_that_was_never_fed_takes_no_other(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    assert_eq!(add(store, fed("x", "j", None)).await, Submitted::Sealed);
    add(store, fed("y", "k", None)).await;
    assert_eq!(add(store, job_of(task("other", "k", "a"))).await, Submitted::Conflict, "its id is taken");
    assert_eq!(add(store, NewJob { prefix: "file:///elsewhere/".into(), ..fed("z", "k", None) }).await, Submitted::Conflict);
    assert_eq!(store.tasks(TaskFilter::default()).await.unwrap().len(), 2);
}

pub async fn the_last_expected_task_seals_its_job(store: &dyn TaskStore) {
    assert_eq!(add(store, fed("x", "j", None)).await, Submitted::Created);
    assert_eq!(add(store, fed("y", "j", Some(3))).await, Submitted::Created);
    assert_eq!(add(store, fed("y", "j", Some(3))).await, Submitted::Repeated);
    run_down(store).await;
    let open = store.job(TENANT, "j").await.unwrap();
    assert_eq!((open.state, open.open, open.expected), (JobState::Processing, true, Some(3)), "a repeat counts once");
    assert_eq!(add(store, fed("z", "j", Some(99))).await, Submitted::Created, "the first to say how many counts");
    assert_eq!(add(store, fed("late", "j", None)).await, Submitted::Sealed);
    run_down(store).await;
    assert_eq!(job_state(store, "j").await, JobState::Done);
    // All in one call.
    let all = vec![fed("k1", "k", Some(2)), fed("k2", "k", Some(2)), fed("k3", "k", Some(2))];
    assert_eq!(store.submit(all).await.unwrap(), [Submitted::Created, Submitted::Created, Submitted::Sealed]);
    run_down(store).await;
    assert_eq!(job_state(store, "k").await, JobState::Done);
}

pub async fn a_quiet_job_is_closed_and_a_late_task_opens_it(store: &dyn TaskStore) {
    add(store, fed("x", "j", None)).await;
    lapse().await;
    assert_eq!(idle(store, &[]).await, 0, "a task of it is live");
    run_down(store).await;
    assert_eq!(idle(store, &[]).await, 0, "not for long enough");
    lapse().await;
    assert_eq!(idle(store, &[]).await, 1);
    assert_eq!(idle(store, &[]).await, 0);
    let closed = store.job(TENANT, "j").await.unwrap();
    assert_eq!((closed.state, closed.open), (JobState::Done, true), "nobody has sealed it");
    assert_eq!(add(store, fed("late", "j", None)).await, Submitted::Created);
    let open = store.job(TENANT, "j").await.unwrap();
    assert_eq!((open.state, open.ended_at), (JobState::Processing, None));
    run_down(store).await;
    assert_eq!(job_state(store, "j").await, JobState::Processing, "open again");
    assert_eq!(idle(store, &[]).await, 0);
    lapse().await;
    assert_eq!(idle(store, &[]).await, 1);
    // Meanwhile its prefix is anybody's.
    submit(store, NewJob { prefix: "file:///out/j/".into(), ..job("k") }).await;
    assert_eq!(add(store, fed("later", "j", None)).await, Submitted::Occupied);
    assert_eq!(store.seal(TENANT, "j").await.unwrap(), JobState::Done);
    assert_eq!(add(store, fed("last", "j", None)).await, Submitted::Sealed);
}

pub async fn a_job_stays_open_while_its_queue_is_not_empty(store: &dyn TaskStore) {
    let admitted = store.admit(vec![arrival(task("x", "j", "a"))], LONG, "w".into()).await.unwrap().remove(0);
    let Admission::Claimed(claimed) = admitted else { panic!("{admitted:?}") };
    finish(store, &claimed.lease, Children::default()).await;
    lapse().await;
    for queues in [&[][..], &[("another", LONG)], &[(QUEUE, SHORT / 2)]] {
        assert_eq!(idle(store, queues).await, 0, "{queues:?}");
    }
    assert_eq!(idle(store, &[("another", Duration::ZERO), (QUEUE, LONG)]).await, 1);
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

pub async fn what_comes_to_a_cancelled_job_is_cancelled(store: &dyn TaskStore) {
    let of = |id: &str| arrival(task(id, "j", "a"));
    let admitted = store.admit(vec![of("x")], LONG, "w".into()).await.unwrap().remove(0);
    let Admission::Claimed(claimed) = admitted else { panic!("{admitted:?}") };
    assert_eq!(store.cancel_job(TENANT, "j").await.unwrap(), 1);
    for id in ["y", "y", "z"] {
        let answer = store.admit(vec![of(id)], LONG, "w".into()).await.unwrap().remove(0);
        assert!(matches!(answer, Admission::Ended(TaskState::Cancelled)), "{id}: {answer:?}");
    }
    assert_eq!(job_state(store, "j").await, JobState::Processing, "one still runs");
    store.settle(claimed.lease.clone(), Settlement::Cancelled, String::new()).await.unwrap();
    assert_eq!(job_state(store, "j").await, JobState::Cancelled, "nothing of it will ever be live again");
    let answer = store.admit(vec![of("late")], LONG, "w".into()).await.unwrap().remove(0);
    assert!(matches!(answer, Admission::Ended(TaskState::Cancelled)), "{answer:?}");
    let job = store.job(TENANT, "j").await.unwrap();
    assert_eq!((job.state, job.tasks.get(&TaskState::Cancelled)), (JobState::Cancelled, Some(&4)));
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 0);
    // Open, and nothing of it is live.
    add(store, fed("k1", "k", None)).await;
    run_down(store).await;
    assert_eq!(store.cancel_job(TENANT, "k").await.unwrap(), 0);
    assert_eq!(job_state(store, "k").await, JobState::Cancelled);
}
