//! The suite of the port in memory.

use super::MemoryTaskStore;
use crate::task_store::conformance::{self, suite};
use crate::task_store::{ClaimRequest, TaskStore};
use std::time::Duration;

async fn fresh() -> (MemoryTaskStore, ()) {
    (MemoryTaskStore::new(), ())
}

suite! {
    fresh();
    a_worker_of_one_job_takes_nothing_else,
    live_jobs_share_no_prefix,
    a_repeat_has_no_effect_and_a_conflict_changes_nothing,
    better_priority_first_then_order_of_arrival,
    a_claim_keeps_to_steps_rooms_and_limit,
    jobs_take_turns,
    epochs_rise_and_a_heartbeat_tells_who_holds,
    a_zombie_changes_nothing,
    a_repeated_answer_is_the_same_answer,
    the_end_inserts_children_once,
    a_taken_child_id_is_absorbed_or_refused,
    then_waits_for_all_and_reads_them_in_order,
    then_over_nothing_runs_at_once,
    nested_fan_outs_and_chains_join_once,
    then_runs_though_siblings_died,
    what_waits_ends_at_once_when_cancelled,
    what_runs_is_told_and_ends_cancelled,
    a_cancelled_job_grows_no_further,
    retries_wait_and_count,
    a_delay_holds_a_task_back,
    a_poison_task_runs_alone_and_then_dies,
    a_lapsed_lease_of_a_cancelled_task_is_its_end,
    redrive_puts_back_what_died,
    a_cancelled_job_can_be_redriven,
    the_sweeper_lists_what_a_crash_left,
    views_find_and_filter,
    waiting_ends_when_work_comes,
}

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
