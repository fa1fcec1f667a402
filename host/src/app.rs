//! The composition root: the only place that names concrete adapters and puts the rooms together.

mod objects;
mod probes;
mod queues;

pub use probes::{Finding, Verdict, examine};

use crate::config::{Config, ConfigError, Pipeline, QueueAt, Step, StoreAt};
use crate::failpoint;
use crate::guest::{Component, ComponentError, EngineConfig, EngineError, Grants, GuestEngine, Services, StepGuest, StepSetup, WasmGuests};
use crate::inference::{BackendChoice, Device, InferenceError, ModelSpec, Models, ModelsConfig};
use crate::object_store::ObjectStore;
use crate::task::children::{self, Delivery, Routes};
use crate::task::id::JobKey;
use crate::task::message::{Message, MessageBounds};
use crate::task::pointer::{self, Violation};
use crate::task::root::{Origin, Root};
use crate::task::schema::ParamsSchema;
use crate::task::uri::Uri;
use crate::task_store::{Durability, Feed, NewJob, PostgresTaskStore, SqliteTaskStore, StoreError, Submitted, TaskStore};
use crate::worker::{Settings, StepSpec, Worker, send_all};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// File name of the task store in the data directory.
pub const DATABASE: &str = "wasm-worker.db";

/// Longest that reaching anything outside may take when a command starts: what is wrong is to be said before a person gives up.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why something could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration or the pipeline file.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The data directory.
    #[error("data directory {path} cannot be used: {why}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The task store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The task store, when it was opened.
    #[error("{setting}: {why}")]
    OpenStore {
        /// What names it.
        setting: String,
        /// Why.
        why: StoreError,
    },
    /// A broker's queue.
    #[error("{setting}: {queue}: {why}")]
    Queue {
        /// What names it.
        setting: String,
        /// Which.
        queue: String,
        /// Why.
        why: String,
    },
    /// Where outputs go.
    #[error("{setting}: {bucket}: {why}")]
    Bucket {
        /// What names it.
        setting: String,
        /// Which.
        bucket: String,
        /// Why.
        why: String,
    },
    /// The WebAssembly engine.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// A component.
    #[error("{0}")]
    Component(#[from] ComponentError),
    /// A guest.
    #[error("step '{step}': {why}")]
    Guest {
        /// Of which step.
        step: String,
        /// Why.
        why: String,
    },
    /// A model, or the library that runs it.
    #[error("{why}")]
    Model {
        /// Which.
        model: String,
        /// Why.
        why: InferenceError,
    },
    /// A submission that can never work.
    #[error("submission {number}: {}", pointer::join(.violations))]
    Submission {
        /// Which, from 1.
        number: usize,
        /// All that is wrong with it.
        violations: Vec<Violation>,
    },
    /// A secret that a step is granted and nobody has set.
    #[error("step '{step}' is granted secret '{name}', which is not set")]
    Secret {
        /// Of which step.
        step: String,
        /// Which.
        name: String,
    },
}

/// One job to submit.
#[derive(Debug, Clone, Default)]
pub struct Submission {
    /// The object to work on. The submitter answers for it: the job may read exactly this one.
    pub input: Option<Uri>,
    /// Parameters.
    pub params: Map<String, Value>,
    /// Where outputs go; none: below the bucket.
    pub output: Option<Uri>,
    /// The step; none: the pipeline's entry.
    pub step: Option<String>,
    /// The function of the guest.
    pub function: Option<String>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// Attempts before a task is given up.
    pub max_attempts: Option<u32>,
    /// Not before this long from now.
    pub delay: Option<Duration>,
    /// None: a new UUID (version 7, so that ids sort by time).
    pub job_id: Option<String>,
    /// None: the job's id.
    pub task_id: Option<String>,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
    /// Whether other submissions may join the job.
    pub feed: Feed,
}

/// What became of a submission.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Its job.
    pub job_id: String,
    /// Its first task.
    pub task_id: String,
    /// Whether it is new.
    pub submitted: Submitted,
}

/// How a worker is to work.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// Only tasks of this job.
    pub job: Option<JobKey>,
    /// Whether a fault of the host is waited out; false in a one-job run.
    pub patient: bool,
}

/// The stores, opened.
pub struct App {
    /// The machine's configuration.
    pub config: Config,
    /// The task store, which is the queue as well.
    pub tasks: Arc<dyn TaskStore>,
    /// Objects.
    pub objects: Arc<dyn ObjectStore>,
}

impl App {
    /// Creates the data directory and opens the stores.
    pub async fn open(config: Config) -> Result<Self, AppError> {
        if let Some(at) = config.abort_at {
            failpoint::arm(at);
        }
        let refuse = |why: String| AppError::DataDir { path: config.data_dir.clone(), why };
        std::fs::create_dir_all(&config.data_dir).map_err(|e| refuse(e.to_string()))?;
        Self::connect(config).await
    }

    async fn connect(config: Config) -> Result<Self, AppError> {
        let durability = if config.normal_durability { Durability::Normal } else { Durability::Full };
        let tasks: Arc<dyn TaskStore> = match &config.store {
            None => Arc::new(SqliteTaskStore::open(&config.data_dir.join(DATABASE), durability).await?),
            Some(at) => {
                Self::open_store(at, durability).await.map_err(|why| AppError::OpenStore { setting: config.named("store.dsn"), why })?
            }
        };
        let objects = objects::open(&config).await?;
        Ok(Self { config, tasks, objects })
    }

    async fn open_store(at: &StoreAt, durability: Durability) -> Result<Arc<dyn TaskStore>, StoreError> {
        Ok(match at {
            StoreAt::File(path) => Arc::new(SqliteTaskStore::open(path, durability).await?),
            StoreAt::Server(dsn) => Arc::new(PostgresTaskStore::open(dsn.reveal()).await?),
        })
    }

    /// The stores where there are any; none where nothing was ever submitted. For commands that only look: it creates nothing.
    pub async fn existing(config: Config) -> Result<Option<Self>, AppError> {
        match Self::database(&config).map_or(Ok(true), |file| file.try_exists()) {
            Ok(true) => Self::connect(config).await.map(Some),
            Ok(false) => Ok(None),
            Err(e) => Err(AppError::DataDir { path: config.data_dir, why: e.to_string() }),
        }
    }

    /// The file of the task store; none where a server keeps it.
    pub fn database(config: &Config) -> Option<PathBuf> {
        match &config.store {
            None => Some(config.data_dir.join(DATABASE)),
            Some(StoreAt::File(path)) => Some(path.clone()),
            Some(StoreAt::Server(_)) => None,
        }
    }

    /// Submits jobs, all or none: nothing is stored if one of them can never work.
    pub async fn submit(&self, pipeline: &Pipeline, submissions: Vec<Submission>) -> Result<Vec<Receipt>, AppError> {
        let mut jobs = Vec::new();
        for (index, submission) in submissions.into_iter().enumerate() {
            let job = self.job_of(pipeline, submission);
            jobs.push(job.map_err(|violations| AppError::Submission { number: index + 1, violations })?);
        }
        let ids: Vec<(String, String)> = jobs.iter().map(|j| (j.job_id.clone(), j.root.task_id.clone())).collect();
        let mut receipts = Vec::new();
        let mut jobs = jobs.into_iter().peekable();
        let mut ids = ids.into_iter();
        while jobs.peek().is_some() {
            for submitted in self.tasks.submit(jobs.by_ref().take(SUBMIT_BATCH).collect()).await? {
                let Some((job_id, task_id)) = ids.next() else { break };
                receipts.push(Receipt { job_id, task_id, submitted });
            }
        }
        Ok(receipts)
    }

    fn job_of(&self, pipeline: &Pipeline, submission: Submission) -> Result<NewJob, Vec<Violation>> {
        let job_id = submission.job_id.unwrap_or_else(|| Uuid::now_v7().to_string());
        let is_fed = submission.feed != Feed::Single;
        let task_id = submission.task_id.unwrap_or_else(|| if is_fed { Uuid::now_v7().to_string() } else { job_id.clone() });
        let tenant = self.config.tenant.clone();
        let now_ms = unix_ms(SystemTime::now());
        let due = |delay: Duration| now_ms.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
        let mut message = Message::new(&job_id, task_id, submission.params);
        message.input_uri = submission.input.as_ref().map(|uri| uri.as_str().to_owned());
        message.output_prefix = submission.output.as_ref().filter(|_| !is_fed).map(|uri| uri.as_prefix().as_str().to_owned());
        message.step = submission.step.clone();
        message.function = submission.function;
        message.priority = submission.priority;
        message.max_attempts = submission.max_attempts;
        message.not_before = submission.delay.map(due);
        message.metadata = submission.metadata;
        if let Feed::Open { tasks, .. } = &submission.feed {
            message.job_tasks = *tasks;
        }
        // The same checks as for a message from a queue: there is one gate.
        let message = Message::decode(message.to_json().as_bytes(), &MessageBounds::default())?;
        let step = submission.step.unwrap_or_else(|| pipeline.entry.clone());
        let Some(spec) = pipeline.step(&step) else {
            let known: Vec<&str> = pipeline.steps.iter().map(|s| s.name.as_str()).collect();
            let text = format!("no step '{step}' in pipeline '{}' (it has {})", pipeline.name, known.join(", "));
            return Err(vec![Violation::at("/step", text)]);
        };
        let unacceptable = spec.accept.check(&message);
        if !unacceptable.is_empty() {
            return Err(unacceptable);
        }
        let routes = routes_of(pipeline, spec, self.config.worker.max_attempts);
        let job_prefix = submission.output.map(|prefix| prefix.as_prefix());
        let origin =
            Origin { tenant: &tenant, step: &step, routes: &routes, bucket: &self.config.bucket, job_prefix: job_prefix.as_ref(), now_ms };
        let root = if is_fed { origin.fed(message, routes.delivery_of(&step)) } else { origin.single(message) };
        let Root { job_prefix, task } = root?;
        let prefix = job_prefix.as_str().to_owned();
        Ok(NewJob { tenant, job_id, pipeline: pipeline.name.clone(), prefix, root: task, feed: submission.feed })
    }

    /// A registry of models, set up as this machine is configured.
    pub fn models(&self) -> Arc<Models> {
        models(&self.config)
    }

    /// The models a step may load, each loaded once to see that it can be.
    async fn models_of(&self, models: &Arc<Models>, pipeline: &Pipeline, step: &Step) -> Result<BTreeMap<String, ModelSpec>, AppError> {
        let mut specs = BTreeMap::new();
        for name in &step.models {
            let Some(spec) = model_spec(&self.config, pipeline, name)? else { continue };
            models.get(&spec).await.map_err(|why| AppError::Model { model: name.clone(), why })?;
            specs.insert(name.clone(), spec);
        }
        Ok(specs)
    }

    /// The engine that guests run on, with compiled code kept in the data directory.
    pub fn engine(&self) -> Result<Arc<GuestEngine>, AppError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let config = EngineConfig { cache_dir: Some(self.config.data_dir.join(CODE_CACHE)), ..EngineConfig::for_cores(cores) };
        Ok(GuestEngine::start(&config)?)
    }

    /// Sends what was submitted to its brokers' queues, where they can be reached; workers of those queues do otherwise.
    pub async fn send(&self, pipeline: &Pipeline) -> Result<(), AppError> {
        let is_carried = pipeline.steps.iter().any(|step| step.queue != QueueAt::Table);
        if !is_carried {
            return Ok(());
        }
        let specs: Vec<_> = queues::open(&self.config, pipeline).await?.into_iter().map(Arc::new).collect();
        Ok(send_all(self.tasks.as_ref(), &specs, &worker_name(), self.config.worker.lease).await?)
    }

    /// Loads and checks the guests and models of a pipeline, and makes a worker that serves it.
    pub async fn worker(&self, pipeline: &Pipeline, options: WorkerOptions) -> Result<Arc<Worker>, AppError> {
        let (specs_of_queues, ()) =
            tokio::try_join!(queues::open(&self.config, pipeline), objects::check(&self.config, self.objects.as_ref()))?;
        let (engine, models) = (self.engine()?, self.models());
        let (mut guests, mut specs) = (Vec::new(), Vec::new());
        for step in &pipeline.steps {
            let component = Component::load(&engine, &step.guest).await?;
            let manifest = component.describe().await.unwrap_or_else(|fault| {
                tracing::warn!(step = step.name, ?fault, "the guest does not describe itself; its params are not checked beforehand");
                None
            });
            specs.push(self.spec_of(pipeline, step, manifest.as_ref())?);
            guests.push(StepGuest { component, setup: self.setup_of(&models, pipeline, step).await? });
        }
        let guests = WasmGuests::new(engine, self.services(), models, guests);
        let worker = &self.config.worker;
        let settings = Settings {
            pipeline: pipeline.name.clone(),
            name: worker_name(),
            concurrency: worker.concurrency,
            lease: worker.lease,
            grace: worker.grace,
            retry: worker.retry,
            patient: options.patient,
            fed_idle: worker.fed_idle,
            job: options.job,
        };
        Ok(Worker::new(settings, self.services(), guests, specs, specs_of_queues))
    }

    /// What an instance of a step is set up with; its models are loaded once to see that they can be.
    pub async fn setup_of(&self, models: &Arc<Models>, pipeline: &Pipeline, step: &Step) -> Result<StepSetup, AppError> {
        Ok(StepSetup {
            step: step.name.clone(),
            functions: step.functions.clone(),
            models: self.models_of(models, pipeline, step).await?,
            config: Value::Object(step.config.clone()).to_string(),
            extras: Vec::new(),
            grants: Grants { read: step.grant.read.clone(), secrets: self.secrets_of(step)?, ..Grants::default() },
            limits: step.limits.clone(),
            allow_load: step.allow_model_bytes,
            warm: step.concurrency.unwrap_or(self.config.worker.concurrency).min(self.config.worker.concurrency) as usize,
        })
    }

    fn spec_of(&self, pipeline: &Pipeline, step: &Step, manifest: Option<&Value>) -> Result<StepSpec, AppError> {
        let described = described_functions(step, manifest)?;
        let allowed = |name: &String| step.functions.is_empty() || step.functions.contains(name);
        Ok(StepSpec {
            name: step.name.clone(),
            concurrency: step.concurrency,
            retry: Some(step.retry.over(self.config.worker.retry)),
            limits: step.limits.clone(),
            routes: Arc::new(routes_of(pipeline, step, self.config.worker.max_attempts)),
            read: step.grant.read.clone(),
            accept: step.accept.clone(),
            secrets: self.secrets_of(step)?,
            params: described.first().and_then(|(_, schema)| schema.clone()),
            functions: described.into_iter().filter(|(name, _)| allowed(name)).collect(),
        })
    }

    /// What a scope may reach.
    pub fn services(&self) -> Services {
        Services { objects: Arc::clone(&self.objects), tasks: Arc::clone(&self.tasks) }
    }

    fn secrets_of(&self, step: &Step) -> Result<BTreeMap<String, String>, AppError> {
        let find = |name: &String| match self.config.secrets.get(name) {
            Some(value) => Ok((name.clone(), value.clone())),
            None => Err(AppError::Secret { step: step.name.clone(), name: name.clone() }),
        };
        step.grant.secrets.iter().map(find).collect()
    }
}

/// Names of functions, each with the shape of its params.
type Described = Vec<(String, Option<Arc<ParamsSchema>>)>;

/// The functions a guest describes and the shapes of their params, in its own order; those the pipeline file names, if it describes none.
fn described_functions(step: &Step, manifest: Option<&Value>) -> Result<Described, AppError> {
    let Some(functions) = manifest.and_then(|m| m.get("functions")).and_then(Value::as_array) else {
        return Ok(step.functions.iter().map(|name| (name.clone(), None)).collect());
    };
    let mut described = Vec::new();
    for function in functions {
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
        let compile = |schema| ParamsSchema::compile(schema).map(Arc::new);
        let schema = function.get("params").map(compile).transpose().map_err(|e| AppError::Guest {
            step: step.name.clone(),
            why: format!("the JSON Schema that the guest gives for the params of '{name}' does not compile: {e}"),
        })?;
        described.push((name.to_owned(), schema));
    }
    Ok(described)
}

fn models(config: &Config) -> Arc<Models> {
    let inference = &config.inference;
    Models::new(ModelsConfig {
        onnxruntime: inference.onnxruntime.clone(),
        max_concurrent_runs: inference.parallel as usize,
        parallel: inference.parallel as usize,
        threads: inference.threads as usize,
        ..ModelsConfig::for_cores(inference.parallel as usize)
    })
}

/// A model as this machine runs it; none where the pipeline has no such.
fn model_spec(config: &Config, pipeline: &Pipeline, name: &str) -> Result<Option<ModelSpec>, AppError> {
    let Some(decl) = pipeline.models.get(name) else { return Ok(None) };
    let written = if decl.backend == "auto" { &config.inference.backend } else { &decl.backend };
    let backend = written.parse::<BackendChoice>();
    let why = |why| AppError::Model { model: name.to_owned(), why };
    Ok(Some(ModelSpec {
        name: name.to_owned(),
        path: decl.path.clone(),
        sha256: decl.sha256.clone(),
        backend: backend.map_err(|e| why(InferenceError::InvalidArgument(e.to_string())))?,
        device: Device::Cpu,
        threads: None,
    }))
}

/// A name for people: host and process, so that a claim can be traced to who made it.
fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}

/// Folder of compiled guests in the data directory.
const CODE_CACHE: &str = "code";

/// Most jobs stored in one transaction.
const SUBMIT_BATCH: usize = 1000;

fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Where the children of a step go.
pub fn routes_of(pipeline: &Pipeline, step: &Step, default_max_attempts: u32) -> Routes {
    let failure = |s: &Step| Some((s.name.clone(), s.transitions.get(children::FAILURE)?.clone()));
    let here = pipeline.steps.iter().map(|s| (&s.name, &s.queue, s.max_attempts, false));
    let elsewhere = pipeline.elsewhere.iter().map(|s| (&s.name, &s.queue, s.max_attempts, s.foreign));
    let all: Vec<_> = here.chain(elsewhere).collect();
    let delivery = |queue: &QueueAt, foreign: bool| match queue {
        QueueAt::Broker(at) if foreign => Some(Delivery::Foreign(at.name())),
        QueueAt::Broker(at) => Some(Delivery::Queue(at.name())),
        // Of a rehearsal; any other name was resolved when the pipeline was placed.
        QueueAt::Named(name) if foreign => Some(Delivery::Foreign(name.clone())),
        QueueAt::Table | QueueAt::Named(_) => None,
    };
    let reads_a_broker = pipeline.steps.iter().any(|s| s.queue != QueueAt::Table);
    Routes {
        next: step.next.clone(),
        then: step.then.clone(),
        transitions: step.transitions.clone(),
        steps: all.iter().map(|(name, ..)| (*name).clone()).collect(),
        max_attempts: all.iter().filter_map(|(name, _, attempts, _)| Some(((*name).clone(), (*attempts)?))).collect(),
        default_max_attempts,
        deliveries: all.iter().filter_map(|(name, queue, _, foreign)| Some(((*name).clone(), delivery(queue, *foreign)?))).collect(),
        failures: pipeline.steps.iter().filter_map(failure).collect(),
        pipeline: reads_a_broker.then(|| pipeline.name.clone()),
    }
}
