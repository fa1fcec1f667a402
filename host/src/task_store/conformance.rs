//! One suite for every adapter of [`TaskStore`]: what the state machine promises, on a fresh and empty store per case.
//!
//! Leases are short and real; no clock is moved by hand. What is particular to one adapter is tested beside it.

mod aging;
mod agreement;
mod arrivals;
mod failures;
mod feeds;
mod outbox;
mod prefixes;

pub use aging::*;
pub use agreement::stores_agree;
pub use arrivals::*;
pub use failures::*;
pub use feeds::*;
pub use outbox::*;
pub use prefixes::*;

use super::*;
use crate::task::children::{Children, Delivery, NewTask};
use crate::task::id;
use crate::task::id::JobKey;
use crate::task::message::Message;
use crate::task::outputs::ManifestEntry;
use crate::task::outputs::{Figures, Manifest};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};

/// A lease that no case lets lapse.
const LONG: Duration = Duration::from_secs(60);

/// A lease that a case waits out.
const SHORT: Duration = Duration::from_millis(400);

const TENANT: &str = "t";

/// Runs every case on a store of its own. `$store` is an async expression that makes a fresh one, with whatever must be kept as long; or
/// none where there is no server, which it has said.
macro_rules! suite {
    ($store:expr) => {
        $crate::task_store::conformance::suite! { $store;
            a_worker_of_one_job_takes_nothing_else,
            live_jobs_share_no_prefix,
            live_tasks_share_no_prefix,
            a_chosen_prefix_is_no_other_jobs,
            a_task_at_its_jobs_own_prefix_is_alone,
            a_dead_task_keeps_the_prefix_it_chose,
            a_message_that_chose_a_taken_prefix_leaves_a_letter,
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
            a_run_that_was_asked_to_stop_counts_as_nothing,
            a_cancelled_job_grows_no_further,
            retries_wait_and_count,
            a_delay_holds_a_task_back,
            a_poison_task_runs_alone_and_then_dies,
            a_lapsed_lease_of_a_cancelled_task_is_its_end,
            redrive_puts_back_what_died,
            a_cancelled_job_can_be_redriven,
            the_sweeper_lists_what_a_crash_left,
            a_leftover_names_the_folders_of_its_own_claims,
            views_find_and_filter,
            waiting_ends_when_work_comes,
            a_message_is_stored_and_leased_once,
            a_message_that_comes_early_is_told_when,
            a_message_of_an_ended_task_is_told_its_end,
            a_message_finds_what_a_dead_worker_committed,
            a_message_takes_a_lapsed_lease_over,
            a_message_that_may_kill_workers_is_leased_alone,
            a_message_with_a_taken_id_leaves_one_letter,
            a_childs_message_finds_the_row_its_parent_made,
            a_childs_message_runs_wherever_its_queue_is_read,
            what_is_no_message_is_kept_once,
            an_end_sends_for_its_children,
            a_then_is_sent_for_when_it_is_woken,
            who_waits_for_another_system_waits_for_nothing,
            no_job_begins_in_another_system,
            what_is_submitted_for_a_broker_is_sent_for,
            a_cancelled_job_sends_for_nothing,
            a_lost_message_is_sent_again,
            a_fed_job_ends_when_it_is_sealed,
            a_job_that_was_never_fed_takes_no_other,
            the_last_expected_task_seals_its_job,
            a_quiet_job_is_closed_and_a_late_task_opens_it,
            a_job_stays_open_while_its_queue_is_not_empty,
            what_comes_to_a_cancelled_job_is_cancelled,
            every_road_to_dead_is_followed,
            a_then_waits_for_a_failure_task_and_reads_it,
            a_task_that_dies_again_is_followed_once,
            nothing_follows_in_a_cancelled_job,
            a_failure_task_may_go_to_a_broker,
            a_purged_task_stays_dead_and_lets_go_of_everything,
            old_jobs_are_pruned_with_all_that_is_theirs,
            what_is_not_swept_is_not_pruned,
        }
    };
    ($store:expr; $($case:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let Some((store, _keep)) = $store.await.into() else { return };
            $crate::task_store::conformance::$case(&store).await;
        })+
    };
}
pub(super) use suite;

fn task(id: &str, job: &str, step: &str) -> NewTask {
    let mut message = Message::new(job, id, serde_json::Map::new());
    message.step = Some(step.into());
    NewTask {
        task_id: id.into(),
        step: step.into(),
        key: id.into(),
        payload_hash: message.payload_hash(step).unwrap(),
        message: message.into(),
        priority: 5,
        max_attempts: 5,
        delay_ms: 0,
        output_prefix: format!("file:///out/{job}/{id}/"),
        delivery: Delivery::Table,
        on_failure: None,
        pipeline: None,
    }
}

fn job_of(root: NewTask) -> NewJob {
    let job_id = root.message.job_id.clone();
    NewJob { tenant: TENANT.into(), prefix: format!("file:///out/{job_id}/"), job_id, pipeline: "p".into(), root, feed: Feed::Single }
}

/// A job `id` whose root task is `<id>-root`, in step `a`.
pub fn job(id: &str) -> NewJob {
    job_of(task(&format!("{id}-root"), id, "a"))
}

/// The queue of a broker.
const QUEUE: &str = "q";

/// A task whose message a broker carries.
fn carried(task: NewTask) -> NewTask {
    NewTask { delivery: Delivery::Queue(QUEUE.into()), ..task }
}

/// A message of that queue: one of the root tasks of an open job, as far as whoever receives it can tell.
fn arrival(task: NewTask) -> NewJob {
    NewJob { feed: Feed::Open { queue: Some(QUEUE.into()), tasks: None }, ..job_of(carried(task)) }
}

fn key(id: &str) -> TaskKey {
    TaskKey::new(TENANT, id)
}

async fn submit(store: &dyn TaskStore, new: NewJob) {
    assert_eq!(store.submit(vec![new]).await.unwrap(), [Submitted::Created]);
}

fn request(limit: u32, lease: Duration) -> ClaimRequest {
    let steps = ["a", "b", "c"].map(|s| (s.to_owned(), 1000)).to_vec();
    ClaimRequest { pipeline: "p".into(), job: None, steps, limit, lease, worker: "w".into() }
}

fn sweeping(lease: Duration) -> SweepRequest {
    SweepRequest { lease, limit: 9, ..SweepRequest::default() }
}

async fn claim(store: &dyn TaskStore, limit: u32) -> Vec<Claimed> {
    store.claim_next(request(limit, LONG)).await.unwrap()
}

async fn claim_one(store: &dyn TaskStore) -> Claimed {
    let mut claimed = claim(store, 1).await;
    assert_eq!(claimed.len(), 1, "exactly one task is due");
    claimed.remove(0)
}

fn ids(claimed: &[Claimed]) -> Vec<&str> {
    claimed.iter().map(|c| c.lease.key.task_id.as_str()).collect()
}

fn commit_of(lease: &Lease, children: Children) -> Commit {
    Commit { lease: lease.clone(), manifest: Manifest::default(), children, outcome: None, figures: Figures::default(), log: String::new() }
}

fn manifest() -> Manifest {
    Manifest { folder: String::new(), entries: vec![ManifestEntry::inline("result.json", "application/json", b"{}".to_vec())] }
}

async fn finish(store: &dyn TaskStore, lease: &Lease, children: Children) {
    assert_eq!(store.commit(commit_of(lease, children)).await.unwrap(), Applied::Yes);
}

fn fan_out(ids: &[&str], job: &str, then: Option<&str>) -> Children {
    Children { tasks: ids.iter().map(|id| task(id, job, "b")).collect(), then: then.map(|id| task(id, job, "c")) }
}

/// Claims one task at a time and ends it without children, until none is due. Returns the order.
async fn run_down(store: &dyn TaskStore) -> Vec<String> {
    let mut order = Vec::new();
    while let Some(claimed) = claim(store, 1).await.pop() {
        finish(store, &claimed.lease, Children::default()).await;
        order.push(claimed.lease.key.task_id);
    }
    order
}

async fn state(store: &dyn TaskStore, id: &str) -> TaskState {
    store.task(TENANT, id).await.unwrap().state
}

async fn job_state(store: &dyn TaskStore, id: &str) -> JobState {
    store.job(TENANT, id).await.unwrap().state
}

async fn kill(store: &dyn TaskStore, lease: &Lease) {
    let how = Settlement::Dead(TaskError::new("broken", "on purpose"));
    assert_eq!(store.settle(lease.clone(), how, String::new()).await.unwrap(), Applied::Yes);
}

async fn lapse() {
    tokio::time::sleep(SHORT + Duration::from_millis(30)).await;
}

pub async fn a_worker_of_one_job_takes_nothing_else(store: &dyn TaskStore) {
    for id in ["j1", "j2", "j3"] {
        submit(store, job(id)).await;
    }
    let only = |job_id: &str| Some(JobKey { tenant: TENANT.into(), job_id: job_id.into() });
    let of_one = store.claim_next(ClaimRequest { job: only("j2"), ..request(9, LONG) }).await.unwrap();
    assert_eq!(ids(&of_one), ["j2-root"]);
    assert!(store.claim_next(ClaimRequest { job: only("other"), ..request(9, LONG) }).await.unwrap().is_empty());
    finish(store, &of_one[0].lease, fan_out(&["x", "y"], "j2", None)).await;
    let of_one = store.claim_next(ClaimRequest { job: only("j2"), ..request(9, LONG) }).await.unwrap();
    assert_eq!(ids(&of_one), ["x", "y"]);
    assert_eq!(ids(&claim(store, 9).await), ["j1-root", "j3-root"]);
}

pub async fn a_repeat_has_no_effect_and_a_conflict_changes_nothing(store: &dyn TaskStore) {
    use Submitted::{Conflict, Created, Repeated};
    let mut other = job("j");
    other.root.payload_hash = "other".into();
    let thief = job_of(task("j-root", "k", "a"));
    let other_pipeline = NewJob { pipeline: "q".into(), ..job("j") };
    let answers = store.submit(vec![job("j"), job("j"), other.clone(), thief.clone()]).await.unwrap();
    assert_eq!(answers, [Created, Repeated, Conflict, Conflict]);
    let claimed = claim_one(store).await;
    let answers = store.submit(vec![job("j"), other, thief, other_pipeline]).await.unwrap();
    assert_eq!(answers, [Repeated, Conflict, Conflict, Conflict]);
    assert_eq!(claim(store, 10).await.len(), 0);
    finish(store, &claimed.lease, Children::default()).await;
    assert_eq!(store.submit(vec![job("j")]).await.unwrap(), [Repeated], "also after its end");
    assert_eq!(claim(store, 10).await.len(), 0);
    assert_eq!(store.jobs(None, None, 10).await.unwrap().len(), 1);
    let elsewhere = NewJob { tenant: "u".into(), ..job("j") };
    assert_eq!(store.submit(vec![elsewhere]).await.unwrap(), [Created], "ids of two tenants never meet");
}

pub async fn better_priority_first_then_order_of_arrival(store: &dyn TaskStore) {
    for (id, priority) in [("low", 1), ("mid1", 5), ("mid2", 5), ("high", 9)] {
        let mut new = job(id);
        new.root.priority = priority;
        submit(store, new).await;
    }
    assert_eq!(ids(&claim(store, 10).await), ["high-root", "mid1-root", "mid2-root", "low-root"]);
}

pub async fn a_claim_keeps_to_steps_rooms_and_limit(store: &dyn TaskStore) {
    for (id, step) in [("1", "a"), ("2", "a"), ("3", "b"), ("4", "b"), ("5", "z")] {
        submit(store, job_of(task(id, id, step))).await;
    }
    let of = |steps: &[(&str, u32)], limit| ClaimRequest {
        steps: steps.iter().map(|(s, room)| ((*s).to_owned(), *room)).collect(),
        ..request(limit, LONG)
    };
    assert_eq!(ids(&store.claim_next(of(&[("b", 1), ("a", 0)], 5)).await.unwrap()), ["3"]);
    assert_eq!(ids(&store.claim_next(of(&[("b", 9), ("a", 9)], 2)).await.unwrap()), ["4", "1"]);
    let elsewhere = ClaimRequest { pipeline: "q".into(), ..of(&[("a", 9)], 9) };
    assert_eq!(store.claim_next(elsewhere).await.unwrap().len(), 0);
    assert_eq!(ids(&store.claim_next(of(&[("a", 9), ("b", 9)], 9)).await.unwrap()), ["2"]);
}

pub async fn jobs_take_turns(store: &dyn TaskStore) {
    submit(store, job("big")).await;
    let big = claim_one(store).await;
    let names: Vec<String> = (0..200).map(|i| format!("big-{i:03}")).collect();
    finish(store, &big.lease, fan_out(&names.iter().map(String::as_str).collect::<Vec<_>>(), "big", None)).await;
    assert_eq!(claim(store, 20).await.len(), 20);
    submit(store, job("small")).await;
    let small = claim_one(store).await;
    assert_eq!(small.lease.key.task_id, "small-root", "step a comes first in the request");
    finish(store, &small.lease, fan_out(&["small-0", "small-1", "small-2"], "small", None)).await;
    let next = claim(store, 7).await;
    let of_small = ids(&next).iter().filter(|id| id.starts_with("small")).count();
    assert_eq!(of_small, 3, "a job of 3 is not kept waiting by one of 200: {:?}", ids(&next));
    assert!(ids(&next).iter().any(|id| id.starts_with("big")), "nor does it starve it");
}

pub async fn epochs_rise_and_a_heartbeat_tells_who_holds(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let first = store.claim_next(request(1, SHORT)).await.unwrap().remove(0);
    assert_eq!((first.lease.epoch, first.is_root, first.alone), (1, true, false));
    let beat = |lease: &Lease, progress: Option<&str>| Heartbeat { lease: lease.clone(), progress: progress.map(str::to_owned) };
    let other_owner = Lease { owner: "someone".into(), ..first.lease.clone() };
    let beats = vec![beat(&first.lease, Some(r#"{"done":1}"#)), beat(&other_owner, None)];
    assert_eq!(store.heartbeat(beats, SHORT).await.unwrap(), [Beat::Held { cancel: false }, Beat::Lost]);
    assert_eq!(store.task(TENANT, "j-root").await.unwrap().progress, Some(json!({"done": 1})));
    // Progress that is no JSON loses nothing but itself.
    assert_eq!(store.heartbeat(vec![beat(&first.lease, Some("{"))], SHORT).await.unwrap(), [Beat::Held { cancel: false }]);
    tokio::time::sleep(SHORT / 2).await;
    store.heartbeat(vec![beat(&first.lease, None)], SHORT).await.unwrap();
    tokio::time::sleep(SHORT * 3 / 4).await;
    assert_eq!(claim(store, 1).await.len(), 0, "renewed");
    lapse().await;
    let second = claim_one(store).await;
    assert_eq!((second.lease.epoch, second.counters.crashes), (2, 1));
    assert_ne!(second.lease.owner, first.lease.owner);
    assert_eq!(store.heartbeat(vec![beat(&first.lease, None)], LONG).await.unwrap(), [Beat::Lost]);
    let claims = store.task(TENANT, "j-root").await.unwrap().claims;
    assert_eq!(claims.iter().map(|c| (c.epoch, c.ended.as_deref())).collect::<Vec<_>>(), [(1, Some("lapsed")), (2, None)]);
}

pub async fn a_zombie_changes_nothing(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let zombie = store.claim_next(request(1, SHORT)).await.unwrap().remove(0).lease;
    lapse().await;
    let holder = claim_one(store).await.lease;
    let zombies = commit_of(&zombie, fan_out(&["z"], "j", None));
    assert_eq!(store.commit(zombies.clone()).await.unwrap(), Applied::Lost);
    let how = Settlement::Dead(TaskError::new("x", "x"));
    assert_eq!(store.settle(zombie, how, String::new()).await.unwrap(), Applied::Lost);
    finish(store, &holder, fan_out(&["h"], "j", None)).await;
    assert_eq!(store.commit(zombies).await.unwrap(), Applied::Lost);
    assert_eq!(ids(&claim(store, 9).await), ["h"]);
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 0);
}

pub async fn a_repeated_answer_is_the_same_answer(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let lease = claim_one(store).await.lease;
    let commit = commit_of(&lease, fan_out(&["x"], "j", None));
    for _ in 0..2 {
        assert_eq!(store.commit(commit.clone()).await.unwrap(), Applied::Yes);
    }
    let (one, two) = tokio::join!(store.commit(commit.clone()), store.commit(commit));
    assert_eq!((one.unwrap(), two.unwrap()), (Applied::Yes, Applied::Yes));
    let child = claim_one(store).await;
    assert_eq!((child.lease.key.task_id.as_str(), claim(store, 9).await.len()), ("x", 0));
    let retry = Settlement::Retry(LONG, TaskError::new("busy", "later"));
    for _ in 0..2 {
        assert_eq!(store.settle(child.lease.clone(), retry.clone(), "log".into()).await.unwrap(), Applied::Yes);
    }
    assert_eq!(store.commit(commit_of(&child.lease, Children::default())).await.unwrap(), Applied::Lost, "it ended otherwise");
    let view = store.task(TENANT, "x").await.unwrap();
    assert_eq!((view.attempts, view.state), (1, TaskState::Queued));
    assert_eq!(store.logs(key("x")).await.unwrap(), [(1, "log".to_owned())]);
}

pub async fn the_end_inserts_children_once(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let lease = claim_one(store).await.lease;
    let commit = Commit { manifest: manifest(), outcome: Some("fine".into()), ..commit_of(&lease, fan_out(&["x", "y"], "j", None)) };
    assert_eq!(store.commit(commit.clone()).await.unwrap(), Applied::Yes);
    assert_eq!(state(store, "j-root").await, TaskState::Committed);
    assert_eq!(claim(store, 9).await.len(), 0, "no child before the end");
    store.end(key("j-root")).await.unwrap();
    store.end(key("j-root")).await.unwrap();
    assert_eq!(store.commit(commit).await.unwrap(), Applied::Yes);
    let view = store.task(TENANT, "j-root").await.unwrap();
    assert_eq!((view.state, view.children, view.outcome.as_deref()), (TaskState::Done, 2, Some("fine")));
    assert_eq!(view.result_uri.as_deref(), Some("file:///out/j/j-root/result.json"));
    assert_eq!(view.manifest, Some(manifest().finalised()));
    let children = claim(store, 9).await;
    assert_eq!(ids(&children), ["x", "y"]);
    assert_eq!(store.task(TENANT, "x").await.unwrap().parent.as_deref(), Some("j-root"));
    assert!(!children[0].is_root);
    assert_eq!(children[0].job_prefix, "file:///out/j/");
    assert_eq!(job_state(store, "j").await, JobState::Processing);
    for child in &children {
        finish(store, &child.lease, Children::default()).await;
    }
    let job = store.job(TENANT, "j").await.unwrap();
    assert_eq!((job.state, job.tasks.get(&TaskState::Done)), (JobState::Done, Some(&3)));
    assert!(job.ended_at.is_some_and(|at| at >= job.created_at));
}

pub async fn a_taken_child_id_is_absorbed_or_refused(store: &dyn TaskStore) {
    submit(store, job("a")).await;
    submit(store, job_of(task("same", "j", "b"))).await;
    submit(store, job_of(task("other", "other", "b"))).await;
    let root = claim_one(store).await;
    assert_eq!(root.lease.key.task_id, "a-root");
    let mut children = fan_out(&["new", "other"], "a", Some("then"));
    children.tasks.push(task("same", "j", "b"));
    finish(store, &root.lease, children).await;
    let letters = store.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].error.code.as_str(), letters[0].task_id.as_deref()), ("conflict", Some("other")));
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 0, "it never was a task");
    assert_eq!(state(store, "other").await, TaskState::Queued);
    let order = run_down(store).await;
    assert_eq!(order.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["new", "other", "same", "then"]));
    assert_eq!(order.iter().filter(|id| *id == "same").count(), 1);
    assert_eq!(job_state(store, "a").await, JobState::Failed, "one of its tasks never came to be");
    assert_eq!(job_state(store, "other").await, JobState::Done);
}

async fn input_keys(store: &dyn TaskStore, then: &Claimed) -> Vec<String> {
    let mut keys = Vec::new();
    loop {
        let page = store.inputs(then.lease.key.clone(), keys.len() as u32, 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        keys.extend(page.into_iter().map(|input| input.key));
    }
    assert_eq!(keys.len(), then.input_count as usize);
    keys
}

pub async fn then_waits_for_all_and_reads_them_in_order(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    let names: Vec<String> = (0..12).map(|i| format!("x{i}")).collect();
    finish(store, &root.lease, fan_out(&names.iter().map(String::as_str).collect::<Vec<_>>(), "j", Some("then"))).await;
    assert_eq!(state(store, "then").await, TaskState::Waiting);
    assert_eq!(store.depth("p").await.unwrap().later, 1);
    let mut children = claim(store, 99).await;
    children.reverse();
    for child in &children {
        assert_eq!(state(store, "then").await, TaskState::Waiting);
        let commit = Commit { manifest: manifest(), ..commit_of(&child.lease, Children::default()) };
        store.commit(commit).await.unwrap();
        store.end(child.lease.key.clone()).await.unwrap();
    }
    let then = claim_one(store).await;
    assert_eq!(then.step, "c");
    assert_eq!(input_keys(store, &then).await, names);
    let input = store.inputs(then.lease.key.clone(), 3, 1).await.unwrap().remove(0);
    assert_eq!(
        (input.end, input.outputs, input.output_prefix.as_str()),
        (TaskState::Done, manifest().finalised().entries, "file:///out/j/x3/")
    );
    assert_eq!(job_state(store, "j").await, JobState::Processing);
    finish(store, &then.lease, Children::default()).await;
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

pub async fn then_over_nothing_runs_at_once(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    finish(store, &root.lease, fan_out(&[], "j", Some("then"))).await;
    let then = claim_one(store).await;
    assert_eq!((then.lease.key.task_id.as_str(), then.input_count), ("then", 0));
    assert_eq!(input_keys(store, &then).await.len(), 0);
    finish(store, &then.lease, Children::default()).await;
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

/// root -> (x, y, z) then t; x -> chain x1 -> x2; y -> (y1, y2) then yt, yt -> ytc; the leaves are x2, ytc, z.
pub async fn nested_fan_outs_and_chains_join_once(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    finish(store, &root.lease, fan_out(&["x", "y", "z"], "j", Some("t"))).await;
    let mut order = Vec::new();
    while let Some(claimed) = claim(store, 1).await.pop() {
        let id = claimed.lease.key.task_id.as_str();
        let children = match id {
            "x" => fan_out(&["x1"], "j", None),
            "x1" => fan_out(&["x2"], "j", None),
            "y" => fan_out(&["y1", "y2"], "j", Some("yt")),
            "yt" => {
                assert_eq!(input_keys(store, &claimed).await, ["y1", "y2"]);
                fan_out(&["ytc"], "j", None)
            }
            "t" => {
                assert_eq!(input_keys(store, &claimed).await, ["x2", "ytc", "z"]);
                Children::default()
            }
            _ => Children::default(),
        };
        order.push(id.to_owned());
        finish(store, &claimed.lease, children).await;
    }
    assert_eq!(order.len(), 10);
    assert_eq!(order.last().map(String::as_str), Some("t"));
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

pub async fn then_runs_though_siblings_died(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    finish(store, &root.lease, fan_out(&["x", "y", "z"], "j", Some("t"))).await;
    let children = claim(store, 9).await;
    kill(store, &children[0].lease).await;
    assert_eq!(store.cancel_task(children[1].lease.key.clone()).await.unwrap(), TaskState::Processing);
    store.settle(children[1].lease.clone(), Settlement::Cancelled, String::new()).await.unwrap();
    finish(store, &children[2].lease, Children::default()).await;
    let then = claim_one(store).await;
    let ends: Vec<TaskState> = store.inputs(then.lease.key.clone(), 0, 9).await.unwrap().into_iter().map(|i| i.end).collect();
    assert_eq!(ends, [TaskState::Dead, TaskState::Cancelled, TaskState::Done]);
    finish(store, &then.lease, Children::default()).await;
    assert_eq!(job_state(store, "j").await, JobState::Failed);
}

pub async fn what_waits_ends_at_once_when_cancelled(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    finish(store, &root.lease, fan_out(&["x", "y"], "j", Some("t"))).await;
    assert_eq!(store.cancel_task(key("x")).await.unwrap(), TaskState::Cancelled);
    assert_eq!(store.cancel_task(key("t")).await.unwrap(), TaskState::Cancelled);
    assert_eq!(store.cancel_task(key("t")).await.unwrap(), TaskState::Cancelled);
    assert_eq!(run_down(store).await, ["y"], "a cancelled `then` is not woken");
    assert_eq!(job_state(store, "j").await, JobState::Done, "the job itself was not cancelled");
    assert_eq!(store.cancel_task(key("y")).await.unwrap(), TaskState::Done);
    assert!(matches!(store.cancel_task(key("nobody")).await, Err(StoreError::NotFound(_))));
}

/// A run that fails while its task is being cancelled: its claim says `cancelled`, and so nothing counts it.
pub async fn a_run_that_was_asked_to_stop_counts_as_nothing(store: &dyn TaskStore) {
    let error = || TaskError::new("broken", "on purpose");
    let ways = [
        ("retry", Settlement::Retry(Duration::ZERO, error())),
        ("back", Settlement::HandBack(Duration::ZERO, error())),
        ("dead", Settlement::Dead(error())),
        ("given", Settlement::GiveBack),
        ("stopped", Settlement::Cancelled),
    ];
    for (id, how) in ways {
        submit(store, job(id)).await;
        // A failure before somebody asked is one.
        store.settle(claim_one(store).await.lease, Settlement::Retry(Duration::ZERO, error()), String::new()).await.unwrap();
        let lease = claim_one(store).await.lease;
        store.cancel_task(lease.key.clone()).await.unwrap();
        assert_eq!(store.settle(lease, how, String::new()).await.unwrap(), Applied::Yes);
        let task = store.task(TENANT, &format!("{id}-root")).await.unwrap();
        let ends: Vec<_> = task.claims.iter().filter_map(|claim| claim.ended.as_deref()).collect();
        assert_eq!((task.state, task.attempts, task.handbacks), (TaskState::Cancelled, 1, 0), "{id}");
        assert_eq!(ends, ["retried", "cancelled"], "{id}");
    }
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 0);
}

pub async fn what_runs_is_told_and_ends_cancelled(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    submit(store, job("k")).await;
    let claimed = claim(store, 2).await;
    for task in &claimed {
        assert_eq!(store.cancel_task(task.lease.key.clone()).await.unwrap(), TaskState::Processing);
        let beat = Heartbeat { lease: task.lease.clone(), progress: None };
        assert_eq!(store.heartbeat(vec![beat], LONG).await.unwrap(), [Beat::Held { cancel: true }]);
    }
    // Whatever it returned: a commit of it has no effect, a retry is not one.
    assert_eq!(store.commit(commit_of(&claimed[0].lease, fan_out(&["x"], "j", None))).await.unwrap(), Applied::Lost);
    let retry = Settlement::Retry(Duration::ZERO, TaskError::new("busy", "later"));
    for _ in 0..2 {
        assert_eq!(store.settle(claimed[1].lease.clone(), retry.clone(), String::new()).await.unwrap(), Applied::Yes);
    }
    for id in ["j-root", "k-root"] {
        assert_eq!(state(store, id).await, TaskState::Cancelled);
    }
    assert_eq!(claim(store, 9).await.len(), 0);
    submit(store, job("l")).await;
    let lease = claim_one(store).await.lease;
    store.commit(Commit { manifest: manifest(), ..commit_of(&lease, Children::default()) }).await.unwrap();
    assert_eq!(store.cancel_task(key("l-root")).await.unwrap(), TaskState::Committed, "too late");
    store.end(key("l-root")).await.unwrap();
    assert_eq!(state(store, "l-root").await, TaskState::Done);
}

pub async fn a_cancelled_job_grows_no_further(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    finish(store, &root.lease, fan_out(&["v", "w", "x", "y"], "j", Some("t"))).await;
    let running = claim(store, 3).await;
    let committed = Commit { manifest: manifest(), ..commit_of(&running[1].lease, fan_out(&["grandchild"], "j", None)) };
    store.commit(committed).await.unwrap();
    let lapses = store.task(TENANT, "x").await.unwrap();
    assert_eq!(lapses.state, TaskState::Processing);
    assert_eq!(store.cancel_job(TENANT, "j").await.unwrap(), 5);
    assert_eq!(job_state(store, "j").await, JobState::Processing);
    assert_eq!((state(store, "y").await, state(store, "t").await), (TaskState::Cancelled, TaskState::Cancelled));
    store.end(key("w")).await.unwrap();
    assert_eq!(state(store, "w").await, TaskState::Done);
    for lease in [&running[0].lease, &running[2].lease] {
        store.settle(lease.clone(), Settlement::Cancelled, String::new()).await.unwrap();
    }
    assert_eq!(claim(store, 9).await.len(), 0);
    assert!(matches!(store.task(TENANT, "grandchild").await, Err(StoreError::NotFound(_))));
    assert_eq!(job_state(store, "j").await, JobState::Cancelled);
    assert_eq!(store.cancel_job(TENANT, "j").await.unwrap(), 0);
    assert!(matches!(store.cancel_job(TENANT, "nobody").await, Err(StoreError::NotFound(_))));
}

pub async fn retries_wait_and_count(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let first = claim_one(store).await;
    let wait = Duration::from_millis(200);
    let retry = Settlement::Retry(wait, TaskError::new("busy", "later"));
    store.settle(first.lease, retry, "one".into()).await.unwrap();
    assert_eq!(claim(store, 1).await.len(), 0);
    let due = store.next_due("p").await.unwrap().unwrap();
    assert!((1..=200).contains(&due), "{due}");
    let view = store.task(TENANT, "j-root").await.unwrap();
    assert_eq!((view.attempts, view.error.map(|e| e.code)), (1, Some("busy".to_owned())));
    tokio::time::sleep(Duration::from_millis(due + 10)).await;
    let second = claim_one(store).await;
    assert_eq!((second.lease.epoch, second.counters.attempts, second.counters.handbacks), (2, 1, 0));
    let hand_back = Settlement::HandBack(Duration::ZERO, TaskError::new("model", "cannot load"));
    store.settle(second.lease, hand_back, String::new()).await.unwrap();
    let third = claim_one(store).await;
    assert_eq!((third.counters.attempts, third.counters.handbacks), (1, 1));
    store.settle(third.lease, Settlement::GiveBack, "three".into()).await.unwrap();
    let fourth = claim_one(store).await;
    assert_eq!((fourth.lease.epoch, fourth.counters.attempts, fourth.counters.handbacks, fourth.counters.crashes), (4, 1, 1, 0));
    assert_eq!(store.logs(key("j-root")).await.unwrap(), [(1, "one".to_owned()), (3, "three".to_owned())]);
    kill(store, &fourth.lease).await;
    let ended: Vec<_> = store.task(TENANT, "j-root").await.unwrap().claims.into_iter().filter_map(|c| c.ended).collect();
    assert_eq!(ended, ["retried", "handed-back", "given-back", "dead"]);
    let letter = store.dead_letters(DeadLetterFilter::default()).await.unwrap().remove(0);
    assert_eq!((letter.attempts, letter.error.code.as_str(), letter.step.as_deref()), (2, "broken", Some("a")));
    assert_eq!(job_state(store, "j").await, JobState::Failed);
}

pub async fn a_delay_holds_a_task_back(store: &dyn TaskStore) {
    let mut late = job("late");
    late.root.delay_ms = 600;
    submit(store, late).await;
    assert_eq!(claim(store, 9).await.len(), 0);
    assert_eq!(store.depth("p").await.unwrap(), Depth { later: 1, ..Depth::default() });
    tokio::time::sleep(Duration::from_millis(650)).await;
    let depth = store.depth("p").await.unwrap();
    assert!(depth.ready == 1 && depth.later == 0 && depth.oldest_ms >= 40, "{depth:?}");
    assert_eq!(store.next_due("p").await.unwrap(), Some(0));
    let claimed = claim_one(store).await;
    assert!(claimed.queue_wait < Duration::from_millis(600), "counted from when it was due: {:?}", claimed.queue_wait);
    assert_eq!(store.depth("p").await.unwrap().running, 1);
}

/// Three lapses are the end; before the last one it comes alone.
pub async fn a_poison_task_runs_alone_and_then_dies(store: &dyn TaskStore) {
    submit(store, job("poison")).await;
    for crashes in 0..2 {
        let claimed = store.claim_next(request(9, SHORT)).await.unwrap().remove(0);
        assert_eq!((claimed.counters.crashes, claimed.alone), (crashes, false));
        lapse().await;
    }
    submit(store, job("x")).await;
    submit(store, job("y")).await;
    let claimed = store.claim_next(request(9, SHORT)).await.unwrap();
    assert_eq!(ids(&claimed), ["poison-root"]);
    assert!(claimed[0].alone);
    assert_eq!(ids(&claim(store, 9).await), ["x-root", "y-root"]);
    lapse().await;
    assert_eq!(store.sweep(sweeping(LONG)).await.unwrap().buried, 1);
    let view = store.task(TENANT, "poison-root").await.unwrap();
    assert_eq!((view.state, view.crashes, view.error.map(|e| e.code)), (TaskState::Dead, 3, Some("crashed".to_owned())));
    assert_eq!(job_state(store, "poison").await, JobState::Failed);
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 1);
}

pub async fn a_lapsed_lease_of_a_cancelled_task_is_its_end(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let claimed = store.claim_next(request(1, SHORT)).await.unwrap().remove(0);
    store.cancel_task(claimed.lease.key.clone()).await.unwrap();
    lapse().await;
    assert_eq!(claim(store, 1).await.len(), 0);
    assert_eq!(state(store, "j-root").await, TaskState::Cancelled);
    assert_eq!(job_state(store, "j").await, JobState::Done);
}

pub async fn redrive_puts_back_what_died(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    finish(store, &root.lease, fan_out(&["x", "y"], "j", Some("t"))).await;
    let children = claim(store, 9).await;
    kill(store, &children[0].lease).await;
    let commit = Commit { manifest: manifest(), ..commit_of(&children[1].lease, fan_out(&["late"], "j", None)) };
    store.commit(commit.clone()).await.unwrap();
    store.bury_committed(key("y"), TaskError::new("denied", "no such bucket")).await.unwrap();
    store.bury_committed(key("y"), TaskError::new("denied", "no such bucket")).await.unwrap();
    assert_eq!(run_down(store).await, ["t"]);
    assert_eq!(job_state(store, "j").await, JobState::Failed);
    assert_eq!(store.commit(commit).await.unwrap(), Applied::Yes, "it did commit");
    let of_y = DeadLetterFilter { code: Some("denied".into()), ..DeadLetterFilter::default() };
    assert_eq!(store.redrive(of_y.clone(), true).await.unwrap().len(), 1);
    assert_eq!(state(store, "y").await, TaskState::Dead, "a dry run changes nothing");
    assert_eq!(store.redrive(of_y, false).await.unwrap()[0].task_id.as_deref(), Some("y"));
    let view = store.task(TENANT, "y").await.unwrap();
    assert_eq!((view.state, view.epoch, view.error.is_none()), (TaskState::Committed, 1, true));
    assert_eq!(job_state(store, "j").await, JobState::Processing);
    let unfinished = store.sweep(sweeping(LONG)).await.unwrap().unfinished;
    assert_eq!((unfinished.len(), &unfinished[0].manifest), (1, &manifest()), "with its bytes");
    store.end(key("y")).await.unwrap();
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 1);
    let mut again = claim(store, 9).await;
    again.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(ids(&again), ["late", "x"], "the `then` that ran is not repeated");
    assert_eq!((again[1].lease.epoch, again[1].counters.attempts), (2, 0));
    for task in &again {
        finish(store, &task.lease, Children::default()).await;
    }
    assert_eq!(job_state(store, "j").await, JobState::Done);
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 0);
}

pub async fn a_cancelled_job_can_be_redriven(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    let root = claim_one(store).await;
    finish(store, &root.lease, fan_out(&["x", "y"], "j", None)).await;
    let children = claim(store, 9).await;
    kill(store, &children[0].lease).await;
    store.cancel_job(TENANT, "j").await.unwrap();
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 0, "not while it is being cancelled");
    store.settle(children[1].lease.clone(), Settlement::Cancelled, String::new()).await.unwrap();
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 1);
    let back = claim_one(store).await;
    finish(store, &back.lease, fan_out(&["more"], "j", None)).await;
    assert_eq!(run_down(store).await, ["more"]);
    assert_eq!(job_state(store, "j").await, JobState::Cancelled);
}

pub async fn the_sweeper_lists_what_a_crash_left(store: &dyn TaskStore) {
    for id in ["j", "k"] {
        submit(store, job(id)).await;
    }
    let claimed = store.claim_next(request(2, SHORT)).await.unwrap();
    let commit = Commit { manifest: manifest(), ..commit_of(&claimed[0].lease, Children::default()) };
    store.commit(commit).await.unwrap();
    finish(store, &claimed[1].lease, Children::default()).await;
    assert_eq!(store.sweep(sweeping(SHORT)).await.unwrap().unfinished.len(), 0, "its worker is about to finish it");
    lapse().await;
    let swept = store.sweep(sweeping(SHORT)).await.unwrap();
    assert_eq!(swept.unfinished.iter().map(|u| &u.key).collect::<Vec<_>>(), [&key("j-root")]);
    assert_eq!(store.sweep(sweeping(SHORT)).await.unwrap().unfinished.len(), 0, "leased to the first sweeper");
    store.end(key("j-root")).await.unwrap();
    assert_eq!(store.sweep(sweeping(SHORT)).await.unwrap().leftovers.len(), 0, "not yet");
    tokio::time::sleep(SHORT * 2).await;
    let leftovers = store.sweep(sweeping(SHORT)).await.unwrap().leftovers;
    assert_eq!(leftovers.iter().map(|l| &l.key).collect::<Vec<_>>(), [&key("j-root")], "the other one has written nothing");
    assert_eq!(leftovers[0].folders, [claimed[0].lease.attempt_folder()]);
    store.swept(vec![key("j-root")]).await.unwrap();
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(store.sweep(sweeping(SHORT)).await.unwrap().leftovers.len(), 0);
}

/// Each claim may have staged something, however it ended; nothing else of the prefix is the task's.
pub async fn a_leftover_names_the_folders_of_its_own_claims(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    submit(store, job("k")).await;
    let first = store.claim_next(request(2, SHORT)).await.unwrap();
    finish(store, &first[1].lease, Children::default()).await;
    lapse().await;
    let second = claim_one(store).await.lease;
    store.settle(second.clone(), Settlement::Retry(Duration::ZERO, TaskError::new("busy", "later")), String::new()).await.unwrap();
    let third = claim_one(store).await.lease;
    store.cancel_task(third.key.clone()).await.unwrap();
    store.settle(third.clone(), Settlement::Cancelled, String::new()).await.unwrap();
    tokio::time::sleep(SHORT * 2).await;
    let leftovers = store.sweep(sweeping(SHORT)).await.unwrap().leftovers;
    assert_eq!(
        leftovers.iter().map(|l| (&l.key, l.output_prefix.as_str())).collect::<Vec<_>>(),
        [(&key("j-root"), "file:///out/j/j-root/")]
    );
    assert_eq!(leftovers[0].folders, [&first[0].lease, &second, &third].map(Lease::attempt_folder));
}

pub async fn views_find_and_filter(store: &dyn TaskStore) {
    submit(store, job("one")).await;
    submit(store, job_of(task(&id::child(TENANT, "p", "s", "k"), "two", "a"))).await;
    let claimed = claim_one(store).await;
    finish(store, &claimed.lease, fan_out(&["child-1", "child-2"], "one", None)).await;
    let long = id::child(TENANT, "p", "s", "k");
    assert_eq!(store.task(TENANT, &long[..8]).await.unwrap().task_id, long);
    assert!(matches!(store.task(TENANT, &long[..5]).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.task(TENANT, "child-").await, Err(StoreError::Conflict(_))));
    assert!(matches!(store.task("u", &long).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.job(TENANT, "three").await, Err(StoreError::NotFound(_))));
    let list = async |filter: TaskFilter| -> Vec<String> { store.tasks(filter).await.unwrap().into_iter().map(|t| t.task_id).collect() };
    let all = list(TaskFilter { limit: 10, ..TaskFilter::default() }).await;
    assert_eq!(all, [&long, "one-root", "child-1", "child-2"]);
    assert_eq!(list(TaskFilter { limit: 2, ..TaskFilter::default() }).await, [&long, "one-root"]);
    let filter = TaskFilter {
        job_id: Some("one".into()),
        step: Some("b".into()),
        state: Some(TaskState::Queued),
        limit: 9,
        ..TaskFilter::default()
    };
    assert_eq!(list(filter).await, ["child-1", "child-2"]);
    assert_eq!(list(TaskFilter { tenant: Some("u".into()), limit: 9, ..TaskFilter::default() }).await.len(), 0);
    let jobs = store.jobs(Some(TENANT), Some(JobState::Processing), 9).await.unwrap();
    assert_eq!(jobs.iter().map(|j| j.job_id.as_str()).collect::<Vec<_>>(), ["two", "one"]);
    assert_eq!(jobs[1].tasks, [(TaskState::Queued, 2), (TaskState::Done, 1)].into());
}

pub async fn waiting_ends_when_work_comes(store: &dyn TaskStore) {
    // Whatever was told before is used up first.
    let seen = store.wait_for_work(0, Duration::from_millis(1)).await;
    let started = std::time::Instant::now();
    assert_eq!(store.wait_for_work(seen, Duration::from_millis(60)).await, seen);
    assert!(started.elapsed() >= Duration::from_millis(50), "nothing came");
    let ((waited, seen), ()) = tokio::join!(
        async {
            let started = std::time::Instant::now();
            let news = store.wait_for_work(seen, LONG).await;
            assert_ne!(news, seen);
            (started.elapsed(), news)
        },
        async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            submit(store, job("j")).await;
        }
    );
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    submit(store, job("k")).await;
    let started = std::time::Instant::now();
    for _ in 0..2 {
        assert_ne!(store.wait_for_work(seen, LONG).await, seen, "what came before the wait counts, for everybody");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Many at once, on two handles of one store: no task is claimed twice, none is forgotten, every job ends.
pub async fn racing_stores_claim_each_task_once(one: &dyn TaskStore, two: &dyn TaskStore) {
    let jobs: Vec<NewJob> = (0..2000).map(|i| job(&format!("j{i}"))).collect();
    let half = jobs[1000..].to_vec();
    let (a, b) = tokio::join!(one.submit(jobs[..1000].to_vec()), two.submit(half));
    assert!(a.unwrap().into_iter().chain(b.unwrap()).all(|s| s == Submitted::Created));
    let drain = async |store: &dyn TaskStore| {
        let mut seen = Vec::new();
        loop {
            let claimed = store.claim_next(request(16, LONG)).await.unwrap();
            if claimed.is_empty() {
                return seen;
            }
            let commits = claimed.iter().map(|c| store.commit(commit_of(&c.lease, Children::default())));
            for applied in futures::future::join_all(commits).await {
                assert_eq!(applied.unwrap(), Applied::Yes);
            }
            seen.extend(claimed.into_iter().map(|c| (c.lease.key.task_id, c.lease.epoch)));
        }
    };
    let (a, b, c, d) = tokio::join!(drain(one), drain(two), drain(one), drain(two));
    let (on_one, on_two) = (a.len() + c.len(), b.len() + d.len());
    let all: Vec<(String, u64)> = [a, b, c, d].concat();
    assert!(all.iter().all(|(_, epoch)| *epoch == 1), "nobody's lease was taken over");
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (2000, 2000));
    assert!(on_one > 0 && on_two > 0, "both had their share: {on_one} and {on_two}");
    assert_eq!(one.jobs(None, Some(JobState::Done), 5000).await.unwrap().len(), 2000);
}

/// Tasks of a job in [`race_of_everything`]: a root, five children with a `then`, and one child with a fan-out and `then` of its own.
fn raced_children(claimed: &Claimed) -> Children {
    let (id, job) = (claimed.lease.key.task_id.as_str(), claimed.message.job_id.as_str());
    let below = |names: &[&str]| names.iter().map(|name| format!("{id}.{name}")).collect::<Vec<_>>();
    let names = match id.rsplit_once('.') {
        None => below(&["0", "1", "2", "3", "4"]),
        Some((_, "0")) => below(&["x", "y"]),
        Some((_, "x")) => return fan_out(&[&format!("{id}.z")], job, None),
        _ => return Children::default(),
    };
    fan_out(&names.iter().map(String::as_str).collect::<Vec<_>>(), job, Some(&format!("{id}.then")))
}

/// What a worker does with a task in [`race_of_everything`]; a calm one succeeds with all.
async fn raced(store: &dyn TaskStore, other: &dyn TaskStore, claimed: &Claimed, calm: bool) {
    let (lease, dice) = (&claimed.lease, if calm { 99 } else { fastrand::u8(0..100) });
    let commit = commit_of(lease, raced_children(claimed));
    match dice {
        // The worker is gone: the lease lapses.
        0..4 => {}
        4..10 => drop(store.settle(lease.clone(), Settlement::Dead(TaskError::new("broken", "by chance")), String::new()).await.unwrap()),
        10..16 => {
            let retry = Settlement::Retry(Duration::from_millis(fastrand::u64(0..20)), TaskError::new("busy", "by chance"));
            store.settle(lease.clone(), retry, "log".into()).await.unwrap();
        }
        16..30 => {
            // Two processes finish the same task.
            store.commit(Commit { manifest: manifest(), ..commit }).await.unwrap();
            let (a, b) = tokio::join!(store.end(lease.key.clone()), other.end(lease.key.clone()));
            a.and(b).unwrap();
        }
        30..36 => drop(tokio::join!(store.commit(commit.clone()), other.commit(commit))),
        _ => drop(store.commit(commit).await.unwrap()),
    }
}

/// Everything at once, on several handles of one store: it comes to rest, with every job ended.
pub async fn race_of_everything(stores: &[&dyn TaskStore]) {
    let unrest = std::time::Instant::now() + Duration::from_secs(3);
    let is_calm = || std::time::Instant::now() > unrest;
    let of = |index: usize| stores[index % stores.len()];
    let ended = async |id: &str| job_state(of(0), id).await != JobState::Processing;
    let names: Vec<String> = (0..40).map(|n| format!("race{n}")).collect();
    let submits = (0..stores.len()).map(async |index| {
        for name in names.iter().skip(index).step_by(stores.len()) {
            submit(of(index), job(name)).await;
        }
    });
    let errands = async {
        let mut rounds = 0_usize;
        loop {
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(40)).await;
            let calm = is_calm();
            if !calm && rounds.is_multiple_of(3) {
                of(rounds).cancel_job(TENANT, &names[fastrand::usize(..names.len())]).await.ok();
                of(rounds).cancel_task(key(&format!("{}-root.1", names[fastrand::usize(..names.len())]))).await.ok();
            }
            let redrive = |index| of(index).redrive(DeadLetterFilter::default(), false);
            let (a, b) = tokio::join!(redrive(rounds), redrive(rounds + 1));
            let redriven = a.unwrap().len() + b.unwrap().len();
            for task in of(rounds).sweep(sweeping(SHORT)).await.unwrap().unfinished {
                of(rounds).end(task.key).await.unwrap();
            }
            if calm && redriven == 0 {
                let mut live = false;
                for name in &names {
                    live |= !ended(name).await;
                }
                if !live {
                    return;
                }
            }
        }
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let workers = (0..2 * stores.len()).map(async |index| {
        let mut seen = 0;
        while !stop.is_cancelled() {
            let calm = is_calm();
            let claimed = of(index).claim_next(request(8, if calm { LONG } else { SHORT })).await.unwrap();
            let beats = claimed.iter().map(|c| Heartbeat { lease: c.lease.clone(), progress: None }).collect();
            of(index).heartbeat(beats, if calm { LONG } else { SHORT }).await.unwrap();
            futures::future::join_all(claimed.iter().map(|c| raced(of(index), of(index + 1), c, calm))).await;
            if claimed.is_empty() {
                seen = of(index).wait_for_work(seen, Duration::from_millis(50)).await;
            }
        }
    });
    let race = async {
        futures::future::join_all(submits).await;
        errands.await;
        stop.cancel();
    };
    let all = async { tokio::join!(race, futures::future::join_all(workers)) };
    tokio::time::timeout(Duration::from_secs(120), all).await.expect("it comes to rest");
}
