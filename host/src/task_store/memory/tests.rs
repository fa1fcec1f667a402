//! The suite of the port in memory.

use super::MemoryTaskStore;
use crate::task_store::conformance::{self, suite};
use crate::task_store::{ClaimRequest, TaskStore};
use std::time::Duration;

async fn fresh() -> (MemoryTaskStore, ()) {
    (MemoryTaskStore::new(), ())
}

suite!(fresh());

fn request() -> ClaimRequest {
    let lease = Duration::from_secs(60);
    ClaimRequest { pipeline: "p".into(), job: None, steps: vec![("a".into(), 9)], limit: 9, lease, worker: "w".into() }
}

#[tokio::test]
async fn one_seed_gives_one_run() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        fastrand::seed(7);
        let store = MemoryTaskStore::new();
        store.submit(["x", "y"].map(conformance::job).to_vec()).await.unwrap();
        let claimed = store.claim_next(request()).await.unwrap();
        runs.push(claimed.into_iter().map(|c| c.lease).collect::<Vec<_>>());
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0][0].owner, runs[0][1].owner);
}

#[tokio::test]
async fn leases_lapse_by_the_clock_of_the_store() {
    let store = MemoryTaskStore::new();
    store.submit(vec![conformance::job("j")]).await.unwrap();
    store.skew(-3_600_000);
    let first = store.claim_next(request()).await.unwrap().remove(0);
    store.skew(-3_600_000 + 59_000);
    assert!(store.claim_next(request()).await.unwrap().is_empty());
    store.skew(0);
    let second = store.claim_next(request()).await.unwrap().remove(0);
    assert_eq!((first.lease.epoch, second.lease.epoch, second.counters.crashes), (1, 2, 1));
}
