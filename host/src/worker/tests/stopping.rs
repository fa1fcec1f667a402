//! Drain, cancel, and a run that is dropped.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_hands_back_at_no_cost() {
    let place = Place::new().await;
    place.submit("slow", serde_json::json!({"sleep_ms": 60_000})).await;
    let (worker, drain) = (place.worker(Duration::from_secs(60)), CancellationToken::new());
    let stop = drain.clone();
    let running = tokio::spawn(async move { worker.run(Until::Stopped, None, stop).await });
    place.wait_for("slow", TaskState::Processing).await;
    drain.cancel();
    let summary = timeout(Duration::from_secs(5), running).await.expect("drained within the grace time").unwrap();
    assert_eq!(summary.ended["QUEUED"], 1);
    let task = place.store.task("t", "slow").await.unwrap();
    assert_eq!((task.state, task.attempts, task.handbacks, task.crashes), (TaskState::Queued, 0, 0, 0));
}

/// Whatever a run has spawned ends with it: a simulation that drops it sees a crash, and nothing more of that worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_run_leaves_nothing_behind() {
    let place = Place::new().await;
    place.submit("slow", serde_json::json!({"sleep_ms": 60_000})).await;
    let worker = place.worker(Duration::from_secs(60));
    {
        let run = worker.run(Until::Stopped, None, CancellationToken::new());
        tokio::select! { biased; () = place.wait_for("slow", TaskState::Processing) => {}, _ = run => {} }
    }
    let gone = async {
        while Arc::strong_count(&worker) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), gone).await.expect("heartbeats, sweeper and tasks are dropped with the run");
    assert_eq!(place.store.task("t", "slow").await.unwrap().state, TaskState::Processing, "as a crash leaves it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_stops_by_itself_or_is_stopped() {
    let place = Place::new().await;
    place.submit("kind", serde_json::json!({"until_cancelled": true})).await;
    place.submit("deaf", serde_json::json!({"sleep_ms": 60_000})).await;
    let (worker, drain) = (place.worker(LEASE), CancellationToken::new());
    let stop = drain.clone();
    let running = tokio::spawn(async move { worker.run(Until::Empty, None, stop).await });
    for id in ["kind", "deaf"] {
        place.wait_for(id, TaskState::Processing).await;
        place.store.cancel_task(TaskKey::new("t", id)).await.unwrap();
    }
    timeout(Duration::from_secs(5), running).await.expect("both end").unwrap();
    for id in ["kind", "deaf"] {
        assert_eq!(place.ended(id).await, (TaskState::Cancelled, vec!["cancelled".to_owned()]), "{id}");
        assert!(!place.folder.path().join(id).join("result.json").exists());
    }
}

/// Claimed before the drain, held after it: the task is told all the same.
#[tokio::test]
async fn a_drain_reaches_a_task_that_has_just_begun() {
    use crate::guest::{Grants, StopReason};
    let heartbeats = heartbeat::Heartbeats::new(Duration::from_secs(60));
    let lease = |owner: &str| crate::task::lease::Lease { key: TaskKey::new("t", "x"), epoch: 1, owner: owner.into() };
    let scope = || Scope::apart(None, Limits::default(), Grants::default());
    let (early, late) = (scope(), scope());
    let _early = heartbeats.hold(lease("early"), Arc::clone(&early), Instant::now());
    assert_eq!(early.stop_reason(), None);
    heartbeats.stop_all(StopReason::Drained);
    let _late = heartbeats.hold(lease("late"), Arc::clone(&late), Instant::now());
    assert_eq!([early.stop_reason(), late.stop_reason()], [Some(StopReason::Drained); 2]);
    timeout(Duration::from_secs(1), late.stopped()).await.expect("whoever waits for it is woken");
}
