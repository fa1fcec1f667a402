//! Messages of brokers that are taken in, and those that can never be tasks.

use super::*;
use std::sync::Arc;

/// How many crashes a task has behind it when the next one is its last.
const ALMOST_DEAD: u32 = 2;

async fn admit(store: &dyn TaskStore, arrivals: Vec<NewJob>, lease: Duration) -> Vec<Admission> {
    let expected = arrivals.len();
    let answers = store.admit(arrivals, lease, "w".into()).await.unwrap();
    assert_eq!(answers.len(), expected, "one answer each");
    answers
}

async fn admit_one(store: &dyn TaskStore, arrival: NewJob, lease: Duration) -> Admission {
    admit(store, vec![arrival], lease).await.remove(0)
}

fn claimed(admission: Admission) -> Claimed {
    match admission {
        Admission::Claimed(claimed) => *claimed,
        other => panic!("not leased: {other:?}"),
    }
}

fn refused(admission: &Admission) -> &str {
    match admission {
        Admission::Refused(error) => &error.code,
        other => panic!("not refused: {other:?}"),
    }
}

pub async fn a_message_is_stored_and_leased_once(store: &dyn TaskStore) {
    let x = || arrival(task("x", "j", "a"));
    let mut answers = admit(store, vec![x(), x(), arrival(task("y", "k", "b"))], LONG).await;
    assert_eq!(claimed(answers.remove(2)).lease.key.task_id, "y");
    assert!(
        matches!(&answers[1], Admission::Leased(wait) if *wait > Duration::ZERO && *wait <= LONG + Duration::from_millis(1)),
        "{:?}",
        answers[1]
    );
    let first = claimed(answers.remove(0));
    assert_eq!((first.lease.epoch, first.step.as_str(), first.is_root, first.alone), (1, "a", false, false));
    assert_eq!((first.output_prefix.as_str(), first.job_prefix.as_str()), ("file:///out/j/x/", "file:///out/j/"));
    assert!(matches!(admit_one(store, x(), LONG).await, Admission::Leased(_)));
    let view = store.task(TENANT, "x").await.unwrap();
    assert_eq!((view.state, view.queue.as_deref(), view.claims.len()), (TaskState::Processing, Some(QUEUE), 1));
    assert!(store.job(TENANT, "j").await.unwrap().open, "others may come");
    // Nobody who reads the table takes it, and nobody sends for what has come.
    store.settle(first.lease, Settlement::GiveBack, String::new()).await.unwrap();
    assert_eq!(claim(store, 9).await.len(), 0);
    assert!(store.next_due("p").await.unwrap().is_none_or(|ms| ms > 1000));
    assert_eq!(store.outgoing(None, LONG, 9).await.unwrap(), []);
    assert_eq!(store.depth("p").await.unwrap().ready, 1, "but it is there to be done");
    assert_eq!(claimed(admit_one(store, x(), LONG).await).lease.epoch, 2);
}

pub async fn a_message_that_comes_early_is_told_when(store: &dyn TaskStore) {
    let late = || arrival(NewTask { delay_ms: 150, ..task("late", "late", "a") });
    let began = std::time::Instant::now();
    assert!(matches!(admit_one(store, late(), LONG).await, Admission::NotDue(wait) if wait > Duration::ZERO && wait <= SHORT));
    let depth = store.depth("p").await.unwrap();
    assert!(depth.later == 1 || began.elapsed() > Duration::from_millis(150), "{depth:?}");
    lapse().await;
    let lease = claimed(admit_one(store, late(), LONG).await).lease;
    let retry = Settlement::Retry(SHORT, TaskError::new("busy", "later"));
    store.settle(lease, retry, String::new()).await.unwrap();
    assert!(matches!(admit_one(store, late(), LONG).await, Admission::NotDue(wait) if wait > Duration::ZERO && wait <= SHORT));
    lapse().await;
    let again = claimed(admit_one(store, late(), LONG).await);
    assert_eq!((again.lease.epoch, again.counters.attempts), (2, 1));
}

pub async fn a_message_of_an_ended_task_is_told_its_end(store: &dyn TaskStore) {
    let ids = ["done", "dead", "cancelled"];
    let all = || ids.map(|id| arrival(task(id, id, "a"))).to_vec();
    let leases: Vec<Lease> = admit(store, all(), LONG).await.into_iter().map(|a| claimed(a).lease).collect();
    finish(store, &leases[0], Children::default()).await;
    kill(store, &leases[1]).await;
    store.cancel_task(leases[2].key.clone()).await.unwrap();
    store.settle(leases[2].clone(), Settlement::Cancelled, String::new()).await.unwrap();
    let ends: Vec<TaskState> = admit(store, all(), LONG)
        .await
        .into_iter()
        .map(|answer| if let Admission::Ended(state) = answer { state } else { panic!("{answer:?}") })
        .collect();
    assert_eq!(ends, [TaskState::Done, TaskState::Dead, TaskState::Cancelled]);
}

pub async fn a_message_finds_what_a_dead_worker_committed(store: &dyn TaskStore) {
    let x = || arrival(task("x", "j", "a"));
    let lease = claimed(admit_one(store, x(), SHORT).await).lease;
    let commit = Commit { manifest: manifest(), ..commit_of(&lease, Children::default()) };
    assert_eq!(store.commit(commit).await.unwrap(), Applied::Yes);
    assert!(matches!(admit_one(store, x(), SHORT).await, Admission::Leased(_)), "its worker is about to finish it");
    lapse().await;
    let answers = admit(store, vec![x(), x()], SHORT).await;
    let Admission::Unfinished(unfinished) = &answers[0] else { panic!("{answers:?}") };
    assert_eq!((&unfinished.key, &unfinished.manifest, unfinished.output_prefix.as_str()), (&key("x"), &manifest(), "file:///out/j/x/"));
    assert!(matches!(answers[1], Admission::Leased(_)), "somebody is at it");
    store.end(key("x")).await.unwrap();
    assert!(matches!(admit_one(store, x(), SHORT).await, Admission::Ended(TaskState::Done)));
}

pub async fn a_message_takes_a_lapsed_lease_over(store: &dyn TaskStore) {
    let x = || arrival(task("x", "j", "a"));
    for crashes in 0..=ALMOST_DEAD {
        let claimed = claimed(admit_one(store, x(), SHORT).await);
        let found = (claimed.lease.epoch, claimed.counters.crashes, claimed.alone);
        assert_eq!(found, (u64::from(crashes) + 1, crashes, crashes == ALMOST_DEAD));
        lapse().await;
    }
    assert!(matches!(admit_one(store, x(), SHORT).await, Admission::Ended(TaskState::Dead)));
    let view = store.task(TENANT, "x").await.unwrap();
    assert_eq!((view.crashes, view.error.map(|e| e.code)), (3, Some("crashed".to_owned())));
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 1);
}

pub async fn a_message_that_may_kill_workers_is_leased_alone(store: &dyn TaskStore) {
    let of = |id: &str| arrival(task(id, id, "a"));
    for _ in 0..ALMOST_DEAD {
        claimed(admit_one(store, of("poison"), SHORT).await);
        lapse().await;
    }
    let mut answers = admit(store, vec![of("x"), of("poison"), of("y")], LONG).await;
    assert!(claimed(answers.remove(1)).alone);
    for answer in answers {
        assert!(matches!(answer, Admission::NotDue(_)), "nothing else comes with it: {answer:?}");
    }
    // One that somebody holds keeps nobody waiting.
    let mut answers = admit(store, vec![of("x"), of("poison"), of("y")], LONG).await;
    assert!(matches!(answers.remove(1), Admission::Leased(_)));
    assert_eq!(answers.into_iter().map(claimed).filter(|c| !c.alone).count(), 2);
}

pub async fn a_message_with_a_taken_id_leaves_one_letter(store: &dyn TaskStore) {
    let lease = claimed(admit_one(store, arrival(task("x", "j", "a")), LONG).await).lease;
    let mut other = task("x", "j", "a");
    Arc::make_mut(&mut other.message).params.insert("other".into(), json!(true));
    other.payload_hash = other.message.payload_hash("a").unwrap();
    let mut third = other.clone();
    Arc::make_mut(&mut third.message).params.insert("third".into(), json!(true));
    third.payload_hash = third.message.payload_hash("a").unwrap();
    let answers = admit(store, vec![arrival(other.clone()), arrival(other.clone())], LONG).await;
    assert_eq!(answers.iter().map(refused).collect::<Vec<_>>(), ["conflict", "conflict"]);
    assert_eq!(refused(&admit_one(store, arrival(other.clone()), LONG).await), "conflict");
    let letters = store.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.len(), 1, "however often it comes");
    assert_eq!((letters[0].task_id.as_deref(), letters[0].queue.as_deref(), letters[0].attempts), (Some("x"), Some(QUEUE), 0));
    assert_eq!(serde_json::from_str::<Message>(&letters[0].message).unwrap(), *other.message);
    assert_eq!(refused(&admit_one(store, arrival(third), LONG).await), "conflict");
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 2, "another one, another letter");
    let of_other_pipeline = NewJob { pipeline: "other".into(), ..arrival(task("x", "j", "a")) };
    assert_eq!(refused(&admit_one(store, of_other_pipeline, LONG).await), "conflict");
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 0, "none of them ever was a task");
    // What it says of the job is not the job's affair.
    finish(store, &lease, Children::default()).await;
    assert_eq!(store.seal(TENANT, "j").await.unwrap(), JobState::Done);
}

pub async fn a_childs_message_finds_the_row_its_parent_made(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let child = carried(task("x", "j", "b"));
    finish(store, &root.lease, Children { tasks: vec![child.clone()], then: None }).await;
    assert_eq!(claim(store, 9).await.len(), 0, "its message brings it");
    let x = claimed(admit_one(store, arrival(child.clone()), LONG).await);
    assert_eq!((x.lease.epoch, x.is_root, x.step.as_str()), (1, false, "b"));
    assert_eq!(store.task(TENANT, "x").await.unwrap().parent.as_deref(), Some("j-root"));
    finish(store, &x.lease, Children::default()).await;
    assert_eq!(job_state(store, "j").await, JobState::Done, "a job that is not fed ends with its last task");
    assert!(matches!(admit_one(store, arrival(child), LONG).await, Admission::Ended(TaskState::Done)));
    // One that its parent did not make is none of the job's.
    assert_eq!(refused(&admit_one(store, arrival(task("stranger", "j", "b")), LONG).await), "sealed");
    assert!(matches!(store.task(TENANT, "stranger").await, Err(StoreError::NotFound(_))));
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

pub async fn a_childs_message_runs_wherever_its_queue_is_read(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let child = carried(task("x", "j", "b"));
    finish(store, &root.lease, Children { tasks: vec![child.clone(), task("y", "j", "b")], then: None }).await;
    let elsewhere = |task: NewTask| NewJob { pipeline: "q".into(), ..arrival(task) };
    assert_eq!(refused(&admit_one(store, elsewhere(carried(task("y", "j", "b"))), LONG).await), "conflict", "no queue carries it");
    let x = claimed(admit_one(store, elsewhere(child.clone()), LONG).await);
    assert_eq!(store.task(TENANT, "x").await.unwrap().pipeline, "p", "it stays its parent's");
    // What follows from it is of the pipeline that planned it, and is found there.
    let of_theirs = NewTask { pipeline: Some("q".into()), ..task("z", "j", "c") };
    finish(store, &x.lease, Children { tasks: vec![of_theirs, task("w", "j", "c")], then: None }).await;
    let request = |pipeline: &str| ClaimRequest {
        pipeline: pipeline.into(),
        job: None,
        steps: vec![("b".into(), 9), ("c".into(), 9)],
        limit: 9,
        lease: LONG,
        worker: "w".into(),
    };
    let ids = |claims: Vec<Claimed>| claims.into_iter().map(|c| c.lease.key.task_id).collect::<Vec<_>>();
    assert_eq!(ids(store.claim_next(request("q")).await.unwrap()), ["z"]);
    let mut here = ids(store.claim_next(request("p")).await.unwrap());
    here.sort();
    assert_eq!(here, ["w", "y"]);
    assert!(matches!(admit_one(store, elsewhere(child), LONG).await, Admission::Ended(TaskState::Done)));
}

pub async fn what_is_no_message_is_kept_once(store: &dyn TaskStore) {
    let of = |body: &str| Refused {
        tenant: TENANT.into(),
        queue: QUEUE.into(),
        body: body.into(),
        body_hash: id::sha256(body.as_bytes()),
        error: TaskError::new("invalid", "no JSON"),
    };
    store.refuse(vec![of("{"), of("{"), of("[")]).await.unwrap();
    store.refuse(vec![of("{")]).await.unwrap();
    let letters = store.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.iter().map(|l| l.message.as_str()).collect::<Vec<_>>(), ["[", "{"]);
    let letter = &letters[0];
    assert_eq!((letter.queue.as_deref(), letter.task_id.as_deref(), letter.error.code.as_str()), (Some(QUEUE), None, "invalid"));
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 0);
    let only = DeadLetterFilter { id: Some(letter.id), ..DeadLetterFilter::default() };
    assert_eq!(store.purge(only, false).await.unwrap().len(), 1);
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 1);
}
