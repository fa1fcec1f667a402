//! What a crash between commit and end leaves, and what a dead task keeps.

use super::*;
use crate::task::lease::Lease;

/// What a crash between commit and end leaves is finished by a sweep, and the guest does not run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_finishes_what_was_committed() {
    use crate::task::outputs::{Manifest, ManifestEntry};
    let place = Place::new().await;
    place.submit("j", serde_json::json!({})).await;
    let lease = Duration::from_millis(100);
    let request = ClaimRequest { pipeline: "p".into(), job: None, steps: vec![("s".into(), 1)], limit: 1, lease, worker: "w".into() };
    let claimed = place.store.claim_next(request).await.unwrap().remove(0);
    let manifest = Manifest {
        folder: claimed.lease.attempt_folder(),
        entries: vec![ManifestEntry::inline("result.json", "application/json", b"{}".to_vec())],
    };
    let commit = crate::task_store::Commit {
        lease: claimed.lease,
        manifest,
        children: children::Children::default(),
        outcome: None,
        figures: crate::task::outputs::Figures::default(),
        log: String::new(),
    };
    place.store.commit(commit).await.unwrap();
    assert_eq!(place.ended("j").await.0, TaskState::Committed);
    place.run_down().await;
    assert_eq!(place.ended("j").await, (TaskState::Done, vec!["committed".to_owned()]));
    assert_eq!(std::fs::read(place.folder.path().join("j/result.json")).unwrap(), b"{}");
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 0);
}

/// Claims a new task, whose outputs go to `shared/`, and does nothing with it.
async fn claim(place: &Place, id: &str) -> Lease {
    let newcomer = place.job(id, serde_json::json!({"write": true}), None, "shared");
    assert_eq!(place.store.submit(vec![newcomer]).await.unwrap(), [Submitted::Created]);
    let steps = vec![("s".into(), 1)];
    let request = ClaimRequest { pipeline: "p".into(), job: None, steps, limit: 1, lease: LEASE, worker: "w".into() };
    place.store.claim_next(request).await.unwrap().remove(0).lease
}

/// A file of an attempt at it.
fn staged(place: &Place, lease: &Lease) -> std::path::PathBuf {
    place.folder.path().join("shared").join(lease.attempt_folder()).join("000001")
}

fn stage(place: &Place, lease: &Lease) {
    let file = staged(place, lease);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "piece").unwrap();
}

/// How many jobs cannot be pruned, for what attempts of theirs may have left.
async fn unswept(place: &Place) -> u64 {
    place.store.prune(Duration::ZERO, 1000, true).await.unwrap().unswept
}

/// Where a lease lapsed, its worker may stage something after the attempts were removed: that goes with the second time, and only then
/// it is done with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_a_lapsed_lease_are_removed_twice() {
    let place = Place::new().await;
    let lost = claim(&place, "old").await;
    sleep(LEASE + Duration::from_millis(50)).await;
    assert_eq!(place.run_down().await.ended["DONE"], 1);
    let worker = place.worker(LEASE);
    stage(&place, &lost);
    for (pause, left) in [(LEASE * 2, 1), (LEASE, 0)] {
        sleep(pause + Duration::from_millis(100)).await;
        sweep::sweep(&worker, Vec::new()).await;
        assert!(!staged(&place, &lost).exists());
        assert_eq!(unswept(&place).await, left);
        stage(&place, &lost);
    }
}

/// More than one sweep takes is told, so that the next one follows at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_tells_that_there_is_more() {
    let place = Place::new().await;
    for i in 0..300 {
        place.submit(&format!("j{i}"), serde_json::json!({})).await;
    }
    // Whoever ends them sweeps none of them: that would be two long leases later.
    let run = place.worker(Duration::from_secs(60));
    assert_eq!(run.run(Until::Empty, None, CancellationToken::new()).await.ended["DONE"], 300);
    sleep(LEASE * 2 + Duration::from_millis(100)).await;
    let worker = place.worker(LEASE);
    assert!(sweep::sweep(&worker, Vec::new()).await);
    assert_eq!(unswept(&place).await, 44);
    assert!(!sweep::sweep(&worker, Vec::new()).await);
    assert_eq!(unswept(&place).await, 0);
}

/// A prefix is free for others once its job has ended, and its attempts are swept two leases later: those of the others stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_leaves_the_attempts_of_whoever_has_the_prefix_now() {
    let place = Place::new().await;
    // Its worker dies with a piece on the disk; another one ends it.
    let lost = claim(&place, "old").await;
    stage(&place, &lost);
    sleep(LEASE + Duration::from_millis(50)).await;
    assert_eq!(place.run_down().await.ended["DONE"], 1);
    let live = claim(&place, "new").await;
    stage(&place, &live);
    sleep(LEASE * 2 + Duration::from_millis(100)).await;
    sweep::sweep(&place.worker(LEASE), Vec::new()).await;
    assert!(!staged(&place, &lost).parent().unwrap().exists());
    assert!(staged(&place, &live).exists());
}

/// What a dead task has staged waits for its redrive: nobody else may move in where it belongs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_job_with_staged_outputs_keeps_its_prefix() {
    let place = Place::new().await;
    let obstacle = place.folder.path().join("kept/big.bin");
    std::fs::create_dir_all(&obstacle).unwrap();
    place.submit("kept", serde_json::json!({"write": true})).await;
    place.submit("bare", serde_json::json!({"fail": true})).await;
    place.run_down().await;
    assert_eq!(place.ended("kept").await, (TaskState::Dead, vec!["committed".to_owned()]));
    for id in ["kept", "bare"] {
        assert_eq!(place.store.job("t", id).await.unwrap().state, JobState::Failed);
    }
    let newcomer = |at: &str| place.job(&format!("into-{at}").replace('/', "-"), serde_json::json!({}), None, at);
    let tried = place.store.submit(vec![newcomer("kept"), newcomer("kept/below"), newcomer("bare")]).await.unwrap();
    assert_eq!(tried, [Submitted::Occupied, Submitted::Occupied, Submitted::Created]);
    // Nor do sweeps take what it has staged.
    let runs = place.script.runs.load(Ordering::Relaxed);
    sleep(LEASE * 2 + Duration::from_millis(300)).await;
    sweep::sweep(&place.worker(LEASE), Vec::new()).await;
    std::fs::remove_dir(&obstacle).unwrap();
    let filter = DeadLetterFilter { task_id: Some("kept".into()), ..DeadLetterFilter::default() };
    assert_eq!(place.store.redrive(filter, false).await.unwrap().len(), 1);
    place.run_down().await;
    assert_eq!(place.ended("kept").await.0, TaskState::Done);
    assert_eq!(std::fs::read(&obstacle).unwrap(), vec![7; 100_000]);
    assert_eq!(place.script.runs.load(Ordering::Relaxed), runs + 1, "only the newcomer's guest ran");
    assert_eq!(place.store.submit(vec![newcomer("kept")]).await.unwrap(), [Submitted::Created]);
}
