//! The worker with a scripted guest: on SQLite and real files, or with everything in memory.

mod brokers;
mod hostile;
mod redis;
mod runs;
mod sqs;
mod stopping;
mod storage;
mod sweeping;
mod tray;

use super::*;
use crate::guest::{Guest, GuestFault, Scope};
use crate::object_store::{FileObjectStore, MemoryObjectStore, ObjectStore};
use crate::task::accept::Accept;
use crate::task::children::{self, Routes};
use crate::task::hooks::{FanOut, NextTask, Output, Payload, TaskError, Work};
use crate::task::id::TaskKey;
use crate::task::limits::Limits;
use crate::task::message::Message;
use crate::task::schema::ParamsSchema;
use crate::task::state::{JobState, TaskState};
use crate::task::uri::Uri;
use crate::task_store::{ClaimRequest, DeadLetterFilter, Durability, MemoryTaskStore, NewJob, SqliteTaskStore, Submitted, TaskStore};
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
        if params["read"] == true {
            let read = scope.read(work.input_uri.as_deref().unwrap_or_default()).await;
            read.map_err(|e| GuestFault::Guest(TaskError::new(e.code, e.message)))?;
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

/// A place for a task that no run loop began.
fn slot() -> load::Slot {
    load::Load::new().start("s".to_owned(), true)
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

/// Stores, and workers over them.
struct Place {
    folder: tempfile::TempDir,
    store: Arc<dyn TaskStore>,
    objects: Arc<dyn ObjectStore>,
    script: Arc<Script>,
}

const LEASE: Duration = Duration::from_millis(600);

/// How a worker is to be.
struct Setting {
    lease: Duration,
    concurrency: u32,
    step_concurrency: Option<u32>,
    /// Whether there is a second step, of which no task ever comes.
    two_steps: bool,
    fed_idle: Duration,
    delivery: Delivery,
    queues: Vec<QueueSpec>,
    accept: Accept,
}

impl Default for Setting {
    fn default() -> Self {
        let (lease, fed_idle) = (Duration::from_secs(60), Duration::from_secs(300));
        let (delivery, queues, accept) = (Delivery::Table, Vec::new(), Accept::default());
        Self { lease, concurrency: 4, step_concurrency: None, two_steps: false, fed_idle, delivery, queues, accept }
    }
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteTaskStore::open(&folder.path().join("t.db"), Durability::Normal).await.unwrap();
        Self { folder, store: Arc::new(store), objects: Arc::new(FileObjectStore::new()), script: Arc::default() }
    }

    fn in_memory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, store: Arc::new(MemoryTaskStore::new()), objects: Arc::new(MemoryObjectStore::new()), script: Arc::default() }
    }

    fn worker(&self, lease: Duration) -> Arc<Worker> {
        self.worker_as(Setting { lease, ..Setting::default() })
    }

    fn worker_as(&self, setting: Setting) -> Arc<Worker> {
        let Setting { lease, concurrency, step_concurrency, two_steps, fed_idle, delivery, queues, accept } = setting;
        let retry = RetryPolicy { first: Duration::from_millis(20), max: Duration::from_millis(40) };
        let settings = Settings {
            pipeline: "p".into(),
            name: "w".into(),
            concurrency,
            lease,
            grace: Duration::from_millis(100),
            retry,
            patient: true,
            fed_idle,
            job: None,
        };
        let routes = Routes {
            next: Some("s".into()),
            steps: ["s".to_owned()].into(),
            default_max_attempts: 3,
            deliveries: [("s".to_owned(), delivery)].into(),
            ..Routes::default()
        };
        let limits = Limits { cancel_grace: Duration::from_millis(200), ..Limits::default() };
        let routes = Arc::new(routes);
        let step = |(name, concurrency): (&str, Option<u32>)| StepSpec {
            name: name.into(),
            concurrency,
            retry: None,
            limits: limits.clone(),
            routes: Arc::clone(&routes),
            read: Vec::new(),
            accept: accept.clone(),
            secrets: BTreeMap::new(),
            functions: BTreeMap::from([("costly".to_owned(), Some(Arc::new(doubling(DOUBLINGS))))]),
            params: None,
        };
        let services = Services { objects: Arc::clone(&self.objects), tasks: Arc::clone(&self.store) };
        let steps = [("s", step_concurrency)].into_iter().chain(two_steps.then_some(("other", None))).map(step).collect();
        Worker::new(settings, services, Arc::new(Cast(Arc::clone(&self.script))), steps, queues)
    }

    /// A job with one task, of that function if any, whose outputs go to the folder `at`.
    fn job(&self, id: &str, params: serde_json::Value, function: Option<&str>, at: &str) -> NewJob {
        self.job_in(id, params, function, &Uri::of_folder(&self.folder.path().join(at)).unwrap())
    }

    /// The same, whose outputs go below a prefix.
    fn job_in(&self, id: &str, params: serde_json::Value, function: Option<&str>, prefix: &Uri) -> NewJob {
        let mut message = Message::new(id, id, params.as_object().unwrap().clone());
        message.function = function.map(str::to_owned);
        let root = children::root(message, "s", 3, prefix).unwrap();
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
            while !self.store.task("t", id).await.is_ok_and(|task| task.state == state) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), reached).await.expect("the task gets there");
    }
}
