//! The suite of the port on a real server, and what is particular to Postgres.

use super::PostgresTaskStore;
use crate::task_store::conformance::{self, suite};

#[allow(dead_code, reason = "the end-to-end tests use it too, and each uses another part")]
#[path = "../../../../../tests/src/servers/postgres.rs"]
mod servers;

use servers::Server;

/// A store in a database of its own; none where there is no server, and then the test has said so.
async fn fresh() -> Option<(PostgresTaskStore, String)> {
    let dsn = tokio::task::block_in_place(|| Server::shared().map(Server::database))?;
    Some((PostgresTaskStore::open(&dsn).await.unwrap(), dsn))
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_stores_claim_each_task_once() {
    let Some((one, dsn)) = fresh().await else { return };
    let two = PostgresTaskStore::open(&dsn).await.unwrap();
    conformance::racing_stores_claim_each_task_once(&one, &two).await;
}
