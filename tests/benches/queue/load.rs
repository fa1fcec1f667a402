//! A store full of tasks that wait, and the step that is to run them.

use super::CONCURRENCY;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasm_worker::app::{App, Submission, routes_of};
use wasm_worker::config::{Config, MadeUp, Overrides, Pipeline};
use wasm_worker::guest::{Component, GuestEngine};
use wasm_worker::task::schema::ParamsSchema;
use wasm_worker::task_store::PostgresTaskStore;
use wasm_worker::worker::{Settings, StepSpec};

/// Name of pipeline and step.
pub const STEP: &str = "noop";

/// Jobs submitted in one call.
const BATCH: u32 = 1000;

/// Length of the filler that brings a message to 200 bytes.
const FILLER: usize = 42;

/// Where the tasks wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// SQLite, nothing lost at a power cut.
    SqliteFull,
    /// SQLite, the last moments lost at a power cut.
    SqliteNormal,
    /// Postgres: its DSN.
    Postgres(String),
}

/// See the head of this file.
pub struct Place {
    pub app: App,
    pub pipeline: Pipeline,
    pub database: PathBuf,
    pub tasks: u32,
    pub store: Store,
    _folder: tempfile::TempDir,
}

impl Place {
    /// Submits so many jobs that `tasks` tasks will have run in the end: every second job's task has one child. Each tenth has a priority
    /// of its own, below that of the one before, and children have their parent's: so every tenth is the same mix of work.
    pub async fn filled(store: Store, tasks: u32) -> Self {
        let place = Self::empty(store, tasks).await;
        place.submit().await;
        place
    }

    /// Nothing is submitted; `tasks` tasks will have run in the end.
    pub async fn empty(store: Store, tasks: u32) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let kept = if store == Store::SqliteNormal { "normal" } else { "full" };
        let (mut app, pipeline) = open(folder.path(), kept).await;
        if let Store::Postgres(dsn) = &store {
            app.tasks = Arc::new(PostgresTaskStore::open(dsn).await.unwrap());
        }
        let database = folder.path().join(wasm_worker::app::DATABASE);
        Self { app, pipeline, database, tasks, store, _folder: folder }
    }

    async fn submit(&self) {
        let (mut left, mut number) = (self.tasks, 0);
        while left > 0 {
            let mut batch = Vec::new();
            while left > 0 && (batch.len() as u32) < BATCH {
                let child = number % 2 == 0 && left > 1;
                let tenth = u64::from(self.tasks - left) * 10 / u64::from(self.tasks);
                left -= 1 + u32::from(child);
                number += 1;
                batch.push(Submission { params: params(child), priority: Some(9 - tenth as u8), ..Submission::default() });
            }
            self.app.submit(&self.pipeline, batch).await.unwrap();
        }
    }

    /// A worker's settings.
    pub fn settings(&self) -> Settings {
        let worker = &self.app.config.worker;
        Settings {
            pipeline: self.pipeline.name.clone(),
            name: "bench".into(),
            concurrency: CONCURRENCY,
            lease: worker.lease,
            grace: worker.grace,
            retry: worker.retry,
            fed_idle: worker.fed_idle,
            patient: true,
            job: None,
        }
    }

    /// The step as a worker gets it, with the shape of params that the guest describes.
    pub async fn step(&self, engine: &Arc<GuestEngine>) -> (StepSpec, Arc<Component>) {
        let step = &self.pipeline.steps[0];
        let component = Component::load(engine, &step.guest).await.unwrap();
        let manifest = component.describe().await.unwrap().expect("the guest describes itself");
        let schema = ParamsSchema::compile(&manifest["functions"][0]["params"]).unwrap();
        let spec = StepSpec {
            name: step.name.clone(),
            concurrency: None,
            retry: None,
            limits: step.limits.clone(),
            routes: Arc::new(routes_of(&self.pipeline, step, 5)),
            read: Vec::new(),
            accept: Default::default(),
            secrets: BTreeMap::new(),
            functions: BTreeMap::new(),
            params: Some(Arc::new(schema)),
        };
        (spec, component)
    }
}

/// What brings a message to 200 bytes, and says whether its task has a child.
pub fn params(child: bool) -> Map<String, Value> {
    [("child".to_owned(), Value::from(child)), ("filler".to_owned(), Value::from("x".repeat(FILLER)))].into_iter().collect()
}

/// The stores in a folder, and a pipeline of one step that hands on to itself.
pub async fn open(folder: &Path, durability: &str) -> (App, Pipeline) {
    let flags = [("data_dir", folder.to_str().unwrap()), ("store.durability", durability)];
    let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let config = Config::load(&Overrides { flags, ..Overrides::default() }).unwrap();
    let mut pipeline = Pipeline::load(&guest(), &MadeUp::default(), &config.limits).unwrap();
    pipeline.steps[0].next = Some(pipeline.entry.clone());
    (App::open(config).await.unwrap(), pipeline)
}

/// The component that `cargo xtask guests` built.
fn guest() -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    target.join(format!("wasm32-wasip2/release/{STEP}.wasm"))
}
