//! A real worker over the queue of a broker, whichever it is: complete messages wait in it, a component that does nothing runs them, and
//! SQLite that loses nothing at a power cut is the task store. What a broker was asked meanwhile is the caller's to count.

use super::figures::{Figures, Watch};
use super::load::{self, Place, STEP, Store};
use super::ours;
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wasm_worker::queue::{Queue, ToSend};
use wasm_worker::task::children::Delivery;
use wasm_worker::worker::{QueueSpec, Settings, Until, Worker};

/// Name of the queue in rows and outbox.
const QUEUE: &str = "bench";

/// Messages put in by one call.
const BATCH: usize = 500;

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// See the head of this file.
pub struct Broker {
    place: Place,
    queue: Arc<dyn Queue>,
    child: bool,
    at_once: u32,
}

impl Broker {
    /// Puts so many messages into the queue, which was empty, for a worker with so many places. `child`: each of their tasks has one child,
    /// whose message takes the same way.
    pub async fn filled(queue: Arc<dyn Queue>, messages: u32, child: bool, at_once: u32) -> Self {
        let place = Place::empty(Store::SqliteFull, messages * (1 + u32::from(child))).await;
        let ids: Vec<String> = (0..messages).map(|number| format!("task-{number:08}")).collect();
        for ids in ids.chunks(BATCH) {
            let answers = queue.send(ids.iter().map(|id| message(id, child)).collect()).await.expect("the queue takes messages");
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        }
        Self { place, queue, child, at_once }
    }

    /// Runs them all, and checks that each ran once and that no message is left.
    pub async fn run(self) -> Figures {
        let worker = self.worker().await;
        let (watch, tasks) = (Watch::start(), u64::from(self.place.tasks));
        let run = worker.run(Until::Stopped, Some(tasks), CancellationToken::new());
        let summary = timeout(PATIENCE, run).await.expect("every task runs");
        let figures = watch.stop(&self.place).await;
        assert_eq!(summary.ended.get("DONE"), Some(&tasks), "{summary:?}");
        let mut on = SqliteConnection::connect(&format!("sqlite://{}", self.place.database.display())).await.unwrap();
        let counts =
            "SELECT (SELECT count(*) FROM tasks WHERE state = 'DONE'), (SELECT count(*) FROM tasks), (SELECT count(*) FROM claims),
                             (SELECT count(*) FROM outbox), (SELECT count(*) FROM dead_letters)";
        let counts: (i64, i64, i64, i64, i64) = sqlx::query_as(counts).fetch_one(&mut on).await.unwrap();
        let tasks = i64::from(self.place.tasks);
        assert_eq!(counts, (tasks, tasks, tasks, 0, 0), "done, tasks, claims, messages unsent, dead letters (children: {})", self.child);
        let depth = self.queue.depth().await.unwrap();
        assert_eq!((depth.waiting, depth.in_flight), (0, 0), "every message was acknowledged");
        figures
    }

    async fn worker(&self) -> Arc<Worker> {
        let engine = self.place.app.engine().unwrap();
        let (mut step, component) = self.place.step(&engine).await;
        let mut routes = (*step.routes).clone();
        routes.deliveries.insert(STEP.to_owned(), Delivery::Queue(QUEUE.to_owned()));
        step.routes = Arc::new(routes);
        let queue = QueueSpec {
            name: QUEUE.to_owned(),
            queue: Arc::clone(&self.queue),
            tenant: self.place.app.config.tenant.clone(),
            trusted: false,
            steps: vec![STEP.to_owned()],
            bucket: self.place.app.config.bucket.clone(),
            inputs: Vec::new(),
        };
        let guests = ours::guests(&self.place, engine, &step, component);
        let settings = Settings { concurrency: self.at_once, ..self.place.settings() };
        Worker::new(settings, self.place.app.services(), guests, vec![step], vec![queue])
    }
}

/// About two hundred bytes, each a job of its own, as a producer elsewhere would write it.
fn message(id: &str, child: bool) -> ToSend {
    let body =
        json!({"job_id": id, "task_id": id, "params": load::params(child), "metadata": {"from": "a producer elsewhere"}}).to_string();
    ToSend { body, deduplication_id: id.to_owned(), group: "bench".to_owned(), delay: Duration::ZERO }
}
