//! The worker with a scripted guest, on a real task store and real files: leases, drain, cancel and faults of the host.

use super::*;
use crate::guest::{Guest, GuestFault, Scope};
use crate::object_store::FileObjectStore;
use crate::task::children::{self, Routes};
use crate::task::hooks::{FanOut, NextTask, Output, Payload, TaskError, Work};
use crate::task::id::TaskKey;
use crate::task::limits::Limits;
use crate::task::message::Message;
use crate::task::schema::ParamsSchema;
use crate::task::state::{JobState, TaskState};
use crate::task::uri::Uri;
use crate::task_store::{ClaimRequest, DeadLetterFilter, Durability, NewJob, SqliteTaskStore, Submitted, TaskStore};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::time::{sleep, timeout};

/// What the scripted guests share: how many loads are still to fail, and how many runs began.
#[derive(Default)]
struct Script {
    loads_fail: AtomicU32,
    runs: AtomicU32,
}

/// Acts by the params of its task.
struct Scripted(Arc<Script>);

/// Where scripted guests come from.
struct Cast(Arc<Script>);

#[async_trait]
impl Guest for Scripted {
    async fn process(&mut self, work: &Arc<Work>, scope: &Arc<Scope>) -> Result<Output, GuestFault> {
        self.0.runs.fetch_add(1, Ordering::Relaxed);
        let params: serde_json::Value = serde_json::from_str(&work.params).unwrap();
        if let Some(ms) = params["sleep_ms"].as_u64() {
            sleep(Duration::from_millis(ms)).await;
        }
        if params["until_cancelled"] == true {
            while !scope.is_cancel_requested() {
                sleep(Duration::from_millis(5)).await;
            }
        }
        if params["write"] == true {
            scope.write("big.bin", "application/octet-stream", vec![7; 100_000]).await.map_err(|e| failed(&e.message))?;
        }
        if params["fail"] == true {
            return Err(failed("on purpose"));
        }
        Ok(Output { payload: Some(Payload::Json("{\"ok\":true}".into())), ..Output::default() })
    }

    async fn publish_next(&mut self, work: &Arc<Work>, _: Output, _: &Arc<Scope>) -> Result<FanOut, GuestFault> {
        let params: serde_json::Value = serde_json::from_str(&work.params).unwrap();
        let child = |i: u64| NextTask { key: format!("c{i}"), params: "{}".into(), ..NextTask::default() };
        Ok(FanOut { tasks: (0..params["children"].as_u64().unwrap_or(0)).map(child).collect(), then: None })
    }

    fn is_reusable(&self) -> bool {
        true
    }
}

fn failed(text: &str) -> GuestFault {
    GuestFault::Guest(TaskError::new("scripted", text))
}

#[async_trait]
impl Guests for Cast {
    async fn instance(&self, _: &str) -> Result<Box<dyn Guest>, GuestFault> {
        let fails = self.0.loads_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match fails {
            Ok(_) => Err(GuestFault::Host(TaskError::new("load", "on purpose"))),
            Err(_) => Ok(Box::new(Scripted(Arc::clone(&self.0)))),
        }
    }

    fn give_back(&self, _: &str, _: Box<dyn Guest>) {}

    async fn enter(&self, work: BoxFuture<'static, ()>) {
        work.await;
    }

    fn release(&self, _: &str) -> String {
        "scripted".into()
    }
}

/// Doublings of a schema whose check outlasts every deadline here, and yet comes to an end: nothing can stop it.
const DOUBLINGS: u32 = 27;

/// A schema of a few lines, each of which asks twice for the next: 2 to the power of `depth` checks.
fn doubling(depth: u32) -> ParamsSchema {
    let twice = |level: u32| {
        let next = serde_json::json!({"$ref": format!("#/$defs/d{}", level + 1)});
        (format!("d{level}"), serde_json::json!({"allOf": [next, next]}))
    };
    let mut levels: serde_json::Map<String, serde_json::Value> = (0..depth).map(twice).collect();
    levels.insert(format!("d{depth}"), serde_json::json!({"type": "object"}));
    ParamsSchema::compile(&serde_json::json!({"$defs": levels, "$ref": "#/$defs/d0"})).unwrap()
}

/// A store in a folder, and a worker over it.
struct Place {
    folder: tempfile::TempDir,
    store: Arc<SqliteTaskStore>,
    script: Arc<Script>,
}

const LEASE: Duration = Duration::from_millis(600);

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteTaskStore::open(&folder.path().join("t.db"), Durability::Normal).await.unwrap();
        Self { folder, store: Arc::new(store), script: Arc::default() }
    }

    fn worker(&self, lease: Duration) -> Arc<Worker> {
        let retry = RetryPolicy { first: Duration::from_millis(20), max: Duration::from_millis(40) };
        let settings = Settings {
            pipeline: "p".into(),
            name: "w".into(),
            concurrency: 4,
            lease,
            grace: Duration::from_millis(100),
            retry,
            patient: true,
            fed_idle: Duration::from_secs(300),
            job: None,
        };
        let routes = Routes { next: Some("s".into()), steps: ["s".to_owned()].into(), default_max_attempts: 3, ..Routes::default() };
        let limits = Limits { cancel_grace: Duration::from_millis(200), ..Limits::default() };
        let step = StepSpec {
            name: "s".into(),
            concurrency: None,
            retry: None,
            limits,
            routes: Arc::new(routes),
            read: Vec::new(),
            secrets: BTreeMap::new(),
            functions: BTreeMap::from([("costly".to_owned(), Some(Arc::new(doubling(DOUBLINGS))))]),
            params: None,
        };
        let store: Arc<dyn TaskStore> = Arc::clone(&self.store) as _;
        let services = Services { objects: Arc::new(FileObjectStore::new()), tasks: store };
        Worker::new(settings, services, Arc::new(Cast(Arc::clone(&self.script))), vec![step], Vec::new())
    }

    /// A job with one task, of that function if any, whose outputs go to the folder `at`.
    fn job(&self, id: &str, params: serde_json::Value, function: Option<&str>, at: &str) -> NewJob {
        let mut message = Message::new(id, id, params.as_object().unwrap().clone());
        message.function = function.map(str::to_owned);
        let prefix = Uri::of_folder(&self.folder.path().join(at)).unwrap();
        let root = children::root(message, "s", 3, &prefix).unwrap();
        NewJob {
            tenant: "t".into(),
            job_id: id.into(),
            pipeline: "p".into(),
            prefix: prefix.as_str().into(),
            root,
            feed: crate::task_store::Feed::Single,
        }
    }

    async fn submit(&self, id: &str, params: serde_json::Value) {
        self.store.submit(vec![self.job(id, params, None, id)]).await.unwrap();
    }

    /// Runs a worker until nothing is left.
    async fn run_down(&self) -> Summary {
        let run = self.worker(LEASE);
        timeout(Duration::from_secs(20), run.run(Until::Empty, None, CancellationToken::new())).await.expect("the worker comes to an end")
    }

    async fn ended(&self, id: &str) -> (TaskState, Vec<String>) {
        let task = self.store.task("t", id).await.unwrap();
        (task.state, task.claims.into_iter().map(|c| c.ended.unwrap_or_default()).collect())
    }

    async fn wait_for(&self, id: &str, state: TaskState) {
        let reached = async {
            while self.store.task("t", id).await.unwrap().state != state {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), reached).await.expect("the task gets there");
    }
}

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
    assert_eq!(std::fs::read_dir(place.folder.path().join("parent/_attempts")).unwrap().count(), 0);
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
    let state = execute::execute(&worker, claimed, sent, None).await;
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

/// The guest's own schema may ask for more work than there is time. The task is refused in time, its neighbour runs meanwhile, and the
/// next task of the same schema does not begin a second check beside the first.
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
        // A worker that knows: the second is refused without a check.
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
        for _ in 0..2 {
            let claimed = place.store.claim_next(request(1)).await.unwrap().remove(0);
            let began = Instant::now();
            assert_eq!(execute::execute(&worker, claimed, began, None).await, TaskState::Dead);
            took.push(began.elapsed());
        }
        assert!(took[0] > Duration::from_secs(1) && took[1] < Duration::from_millis(500), "{took:?}");
    });
    // Checks that were given up cannot be stopped; nobody waits for them.
    runtime.shutdown_background();
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
