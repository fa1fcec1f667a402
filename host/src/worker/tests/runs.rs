//! Runs and their leases: results, failures, faults of the host, lost leases, costly schemas.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_run_and_files_are_as_the_manifest_says() {
    let place = Place::new().await;
    place.submit("parent", serde_json::json!({"children": 5, "write": true})).await;
    let summary = place.run_down().await;
    assert_eq!((summary.runs, summary.ended["DONE"]), (6, 6));
    let bytes = std::fs::read(place.folder.path().join("parent/big.bin")).unwrap();
    let task = place.store.task("t", "parent").await.unwrap();
    let entries = task.manifest.unwrap().entries;
    assert_eq!(entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["big.bin", "result.json", "metrics.json"]);
    assert_eq!(crate::task::id::sha256(&bytes), entries[0].sha256);
    assert!(!place.folder.path().join("parent/_attempts").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_task_is_given_up_after_its_attempts() {
    let place = Place::new().await;
    place.submit("bad", serde_json::json!({"fail": true})).await;
    place.run_down().await;
    assert_eq!(place.ended("bad").await, (TaskState::Dead, ["retried", "retried", "dead"].map(str::to_owned).to_vec()));
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_load_costs_no_attempt() {
    let place = Place::new().await;
    place.script.loads_fail.store(2, Ordering::Relaxed);
    place.submit("j", serde_json::json!({})).await;
    place.run_down().await;
    let task = place.store.task("t", "j").await.unwrap();
    assert_eq!((task.state, task.attempts, task.handbacks), (TaskState::Done, 0, 2));
}

/// A lease that somebody else took over while the worker stood still: its result is discarded and nothing of it is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_discards_the_result() {
    let place = Place::new().await;
    place.submit("slow", serde_json::json!({"sleep_ms": 900, "write": true})).await;
    let worker = place.worker(LEASE);
    // No heartbeat runs: the worker is as good as paused.
    let request =
        ClaimRequest { pipeline: "p".into(), job: None, steps: vec![("s".into(), 1)], limit: 1, lease: LEASE, worker: "w".into() };
    let sent = Instant::now();
    let claimed = place.store.claim_next(request.clone()).await.unwrap().remove(0);
    let state = execute::execute(&worker, claimed, sent, slot(), None).await;
    assert_eq!(state, TaskState::Processing, "left to whoever claims it next");
    assert!(!place.folder.path().join("slow/result.json").exists());
    let again = place.store.claim_next(request).await.unwrap().remove(0);
    assert_eq!((again.lease.epoch, again.counters.crashes), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_keep_a_task_longer_than_its_lease() {
    let place = Place::new().await;
    place.submit("slow", serde_json::json!({"sleep_ms": 2000})).await;
    place.run_down().await;
    assert_eq!(place.ended("slow").await, (TaskState::Done, vec!["committed".to_owned()]));
}

/// The guest's own schema may ask for more work than there is time. The task is refused in time, its neighbour runs meanwhile, and the
/// next task of the same schema does not begin a second check beside the first, and is not lost.
#[test]
fn a_schema_of_exponential_cost_is_refused_in_time() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let place = Place::new().await;
        let costly = |id: &str| place.job(id, serde_json::json!({}), Some("costly"), id);
        place.store.submit(vec![costly("first")]).await.unwrap();
        place.submit("healthy", serde_json::json!({"sleep_ms": 300})).await;
        let began = Instant::now();
        place.run_down().await;
        assert!(began.elapsed() < Duration::from_secs(4), "refused after {:?}", began.elapsed());
        let (refused, healthy) = (place.store.task("t", "first").await.unwrap(), place.store.task("t", "healthy").await.unwrap());
        assert_eq!((refused.state, refused.error.unwrap().code), (TaskState::Dead, "schema-cost".to_owned()));
        assert_eq!(healthy.state, TaskState::Done);
        assert!(healthy.ended_at < refused.ended_at, "it went on while the other was checked");
        // A worker that knows: the third is put off, as it may be the second's fault.
        let worker = place.worker(LEASE);
        place.store.submit(vec![costly("second"), costly("third")]).await.unwrap();
        let request = |limit| ClaimRequest {
            pipeline: "p".into(),
            job: None,
            steps: vec![("s".into(), limit)],
            limit,
            lease: Duration::from_secs(60),
            worker: "w".into(),
        };
        let mut took = Vec::new();
        for left in [TaskState::Dead, TaskState::Queued] {
            let claimed = place.store.claim_next(request(1)).await.unwrap().remove(0);
            let began = Instant::now();
            assert_eq!(execute::execute(&worker, claimed, began, slot(), None).await, left);
            took.push(began.elapsed());
        }
        assert!(took[0] > Duration::from_secs(1) && took[1] < Duration::from_millis(500), "{took:?}");
    });
    // Checks that were given up cannot be stopped; nobody waits for them.
    runtime.shutdown_background();
}
