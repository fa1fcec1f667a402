//! The machine's configuration: file, environment and flags; one typed value in the end.

use super::bucket;
use super::environment;
use super::pipeline::{read_limits, read_retry};
use super::queue::{self, BrokerAt, QueueAt, QueueConfig, QueueRules};
use super::section::{ConfigError, Problems, Section, Setting};
use super::sources::{Overrides, Sources, gather};
use super::store::{self, StoreAt};
use crate::failpoint::AbortAt;
use crate::task::limits::Limits;
use crate::task::retry::RetryPolicy;
use crate::task::uri::Uri;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The machine's configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the task store, compiled guests and, unless told otherwise, objects are.
    pub data_dir: PathBuf,
    /// Whose jobs are submitted here.
    pub tenant: String,
    /// Log filter, as `tracing-subscriber` reads it.
    pub log: String,
    /// Whether logs are JSON lines.
    pub log_json: bool,
    /// The worker.
    pub worker: WorkerConfig,
    /// Where tasks are kept; none: a SQLite file in the data directory.
    pub store: Option<StoreAt>,
    /// Whether the task store may forget the last commits at a power cut (`synchronous=NORMAL`).
    pub normal_durability: bool,
    /// How long jobs that have ended are kept, where `prune` is not told.
    pub retention: Duration,
    /// Models.
    pub inference: InferenceConfig,
    /// Where jobs put their outputs: a prefix.
    pub bucket: Uri,
    /// Where S3 is, if it is not what the AWS tools of this machine have.
    pub s3: S3At,
    /// Queues of the pipeline's entry.
    pub queue: QueueConfig,
    /// What is known of other queues.
    pub queues: Vec<QueueRules>,
    /// Bounds of every step that sets none of its own.
    pub limits: Limits,
    /// Secrets by name, from `WASM_WORKER_SECRET_<NAME>`. A step sees those it is granted.
    pub secrets: BTreeMap<String, String>,
    /// Where a developer wants this process to abort, from `WASM_WORKER_ABORT_AT`; never from a file.
    pub abort_at: Option<AbortAt>,
    /// Every key as it is in force, for people; secrets are masked.
    pub settings: Vec<Setting>,
}

/// Where everything is kept unless told otherwise.
const DATA_DIR: &str = ".wasm-worker";

/// How long jobs that have ended are kept unless told otherwise: longer than any queue keeps a message of theirs.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// The worker's settings.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Tasks at once.
    pub concurrency: u32,
    /// Length of a lease; renewed every third of it.
    pub lease: Duration,
    /// How long running tasks may go on when the worker is asked to stop.
    pub grace: Duration,
    /// Attempts before a task is given up.
    pub max_attempts: u32,
    /// Backoff.
    pub retry: RetryPolicy,
    /// A job fed by messages that nobody has sealed is closed once it has had no live task, and its queue no message, for this long.
    pub fed_idle: Duration,
    /// Whether this is the only worker of its queues: its task store need not be shared then.
    pub single: bool,
}

/// `storage.endpoint`, `storage.region`, `storage.path_style`.
#[derive(Debug, Clone, Default)]
pub struct S3At {
    /// `http(s)://host[:port]` of what speaks S3.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Whether the bucket stands in the path and not in the host's name.
    pub path_style: Option<bool>,
    /// Whether the environment says anything of it.
    pub in_environment: bool,
}

/// How models are run.
#[derive(Debug, Clone)]
pub struct InferenceConfig {
    /// `auto`, `rten` or `onnxruntime`: what a model that says `auto` gets.
    pub backend: String,
    /// The ONNX Runtime library.
    pub onnxruntime: Option<PathBuf>,
    /// Threads of one model run.
    pub threads: u32,
    /// Model runs at once.
    pub parallel: u32,
}

impl Config {
    /// Reads file, environment and flags, and checks the whole.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let Sources { table, problems, told } = gather(overrides)?;
        let mut config = read(Section::new(table, &problems), &problems);
        (config.secrets, config.abort_at, config.s3.in_environment) = (told.secrets, told.abort_at, told.has_aws);
        config.settings = problems.settings();
        let secret = |name: &String| Setting {
            key: format!("secrets.{name}"),
            value: Json::from("…"),
            source: Some(format!("environment variable {}", environment::secret_variable(name, overrides))),
        };
        config.settings.extend(config.secrets.keys().map(secret));
        problems.finish(config)
    }

    /// A key as it is in force.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// Queues of brokers that the machine itself names, each with its key.
    pub fn brokers(&self) -> Vec<(&'static str, &BrokerAt)> {
        let keys = [("queue.url", &self.queue.url), ("queue.next", &self.queue.next)];
        keys.into_iter().filter_map(|(key, at)| Some((key, self.broker(at.as_ref()?)?))).collect()
    }

    /// The broker's queue that an address means, if it means one that is known.
    pub fn broker<'a>(&'a self, at: &'a QueueAt) -> Option<&'a BrokerAt> {
        match at {
            QueueAt::Broker(at) => Some(at),
            QueueAt::Named(name) => self.queues.iter().find(|rules| rules.name.as_ref() == Some(name)).map(|rules| &rules.at),
            QueueAt::Table => None,
        }
    }

    /// A key for an error: the variable that set it, or the key and its file.
    pub fn named(&self, key: &str) -> String {
        match self.setting(key).and_then(|setting| setting.source.as_deref()) {
            Some(source) => source.strip_prefix("environment variable ").map_or_else(|| format!("{source}: {key}"), str::to_owned),
            None => key.to_owned(),
        }
    }

    /// Whether anything here can name an object in S3.
    pub fn uses_s3(&self) -> bool {
        let rules = self.queues.iter().flat_map(|rules| &rules.inputs);
        let mut named = std::iter::once(&self.bucket).chain(&self.queue.inputs).chain(rules);
        self.s3.in_environment || self.s3.endpoint.is_some() || self.s3.region.is_some() || named.any(|uri| uri.file_path().is_none())
    }

    /// Why a queue that several workers may read is none for this machine, if so: they would not know of each other's tasks.
    pub fn not_shared(&self) -> Option<String> {
        let is_shared = matches!(self.store, Some(StoreAt::Server(_))) || self.worker.single;
        (!is_shared).then(|| NOT_SHARED.to_owned())
    }
}

/// What to do where workers of a queue would share no task store.
const NOT_SHARED: &str = "its workers need one task store that they share, and tasks are kept in a file of this machine; \
                          set DB_DSN=postgres://USER:PASSWORD@HOST:PORT/DATABASE (store.dsn), or say that this is the only worker of \
                          the queue: WASM_WORKER_SINGLE=true (worker.single)";

fn read(mut root: Section<'_>, problems: &Problems) -> Config {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let data_dir = PathBuf::from(root.text_or("data_dir", DATA_DIR));
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    let tenant = root.text_or("tenant", "default");
    if let Err(e) = crate::task::id::check("tenant", &tenant) {
        root.fault("tenant", &tenant, e);
    }
    let log = root.text_or("log", "info");
    let log_json = root.choice_or("log_format", &[("text", false), ("json", true)], ("text", false));
    let limits = read_limits(root.section("limits"), &Limits::default());
    let worker = read_worker(root.section("worker"), cores);
    let mut section = root.section("store");
    let store = store::read_at(&mut section);
    let normal_durability = section.choice_or("durability", &[("full", false), ("normal", true)], ("full", false));
    let retention = section.duration_or("retention", RETENTION);
    let inference = read_inference(root.section("inference"), cores);
    let mut storage = root.section("storage");
    let bucket = bucket::read(&mut storage, &data_dir);
    let s3 = read_s3(&mut storage);
    let (queue, stores) = queue::read(&mut root.section("queue"));
    let queues = queue::read_rules(&mut root);
    let mut config = Config {
        data_dir,
        tenant,
        log,
        log_json,
        worker,
        store,
        normal_durability,
        retention,
        inference,
        bucket,
        s3,
        queue,
        queues,
        limits,
        secrets: BTreeMap::new(),
        abort_at: None,
        settings: Vec::new(),
    };
    for (key, named) in ["queue.url", "queue.next"].into_iter().zip(stores) {
        check_table(&mut config, key, named, problems);
    }
    check_queues(&config, problems);
    config
}

/// A table as queue names a store: the one that is set, or else it sets it.
fn check_table(config: &mut Config, key: &str, named: Option<StoreAt>, problems: &Problems) {
    match (&config.store, named) {
        (_, None) => {}
        (None, named) => config.store = named,
        (Some(set), Some(named)) if *set == named => {}
        (Some(_), Some(_)) => {
            let text = format!(
                "is the table of another database than store.dsn ({}); expected one of the two, or both the same",
                problems.origin("store.dsn")
            );
            problems.add(key, &format!("{:?}", config.store), text);
        }
    }
}

/// What brokers' queues ask of the store, as far as it can be told without a pipeline.
fn check_queues(config: &Config, problems: &Problems) {
    let queue = &config.queue;
    let keys = [("queue.url", &queue.url, true), ("queue.next", &queue.next, !queue.next_foreign)];
    for (key, at, is_ours) in keys {
        if let Some(QueueAt::Named(name)) = at
            && config.broker(&QueueAt::Named(name.clone())).is_none()
        {
            problems.add(key, name, format!("no such queue: there is no [queues.{name}]; {}", queue::EXPECTED));
        }
        let Some(at) = at.as_ref().and_then(|at| config.broker(at)) else { continue };
        if let Some(why) = config.not_shared().filter(|_| is_ours) {
            problems.add(key, &at.name(), why);
        }
        if config.normal_durability {
            let text =
                format!("is not for the broker's queue {}: a power cut would forget what was acknowledged there; expected full", at.name());
            problems.add("store.durability", "\"normal\"", text);
        }
    }
}

fn read_worker(mut section: Section<'_>, cores: u64) -> WorkerConfig {
    WorkerConfig {
        concurrency: section.number_or("concurrency", 1, 4096, cores) as u32,
        lease: section.duration_or("lease", Duration::from_secs(90)).max(Duration::from_millis(500)),
        grace: section.duration_or("grace", Duration::from_secs(30)),
        max_attempts: section.number_or("max_attempts", 1, 1000, 5) as u32,
        retry: read_retry(section.section("retry"), RetryPolicy::default()).over(RetryPolicy::default()),
        fed_idle: section.duration_or("fed_idle", Duration::from_secs(300)),
        single: section.flag_or("single", false),
    }
}

fn read_s3(section: &mut Section<'_>) -> S3At {
    let mut text = |key: &'static str| {
        let text = section.text(key);
        section.note(key, text, |text| Json::from(text.as_str()))
    };
    let (endpoint, region) = (text("endpoint"), text("region"));
    let path_style = section.flag("path_style");
    let path_style = section.note("path_style", path_style, |flag| Json::from(*flag));
    let is_http = |text: &String| text.starts_with("http://") || text.starts_with("https://");
    if let Some(bad) = endpoint.as_ref().filter(|text| !is_http(text)) {
        section.fault("endpoint", bad, "expected http://HOST:PORT or https://HOST");
    }
    S3At { endpoint, region, path_style, in_environment: false }
}

fn read_inference(mut section: Section<'_>, cores: u64) -> InferenceConfig {
    let backends = [("auto", "auto"), ("rten", "rten"), ("onnxruntime", "onnxruntime")];
    let backend = section.choice_or("backend", &backends, ("auto", "auto"));
    let onnxruntime = section.text("onnxruntime");
    let onnxruntime = section.note("onnxruntime", onnxruntime, |path| Json::from(path.as_str()));
    InferenceConfig {
        backend: backend.to_owned(),
        onnxruntime: onnxruntime.map(PathBuf::from),
        threads: section.number_or("threads", 1, 1024, cores) as u32,
        parallel: section.number_or("parallel", 1, 1024, cores) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_environment_over_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "data_dir = 'd'\n[worker]\nlease = '9s'\nconcurrency = 7\nmax_attempts = 2").unwrap();
        let overrides = Overrides {
            file: Some(file),
            environment: [("WASM_WORKER_LEASE", "8s"), ("WASM_WORKER_CONCURRENCY", "6"), ("PATH", "x")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            flags: vec![("worker.lease".into(), "7s".into())],
        };
        let config = Config::load(&overrides).unwrap();
        assert_eq!((config.worker.lease.as_secs(), config.worker.concurrency, config.worker.max_attempts), (7, 6, 2));
        assert_eq!(config.data_dir, folder.path().join("d"));
        assert!(config.bucket.as_str().ends_with("/d/objects/"));
    }

    #[test]
    fn a_problem_names_where_its_value_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "log_format = 'xml'\n[worker]\nlease = 'short'\ngrace = 'long'\nconcurrency = 0").unwrap();
        let overrides = Overrides {
            file: Some(file.clone()),
            environment: [("WASM_WORKER_GRACE".to_owned(), "soon".to_owned())].into(),
            flags: vec![("worker.concurrency".into(), "many".into()), ("worker.retry.first".into(), "0s".into())],
        };
        let ConfigError(problems) = Config::load(&overrides).unwrap_err();
        let origins: BTreeMap<&str, (&str, &str)> =
            problems.iter().map(|p| (p.key.as_str(), (p.value.as_str(), p.source.as_str()))).collect();
        let in_file = file.to_str().unwrap();
        let expected = BTreeMap::from([
            ("log_format", ("\"xml\"", in_file)),
            ("worker.lease", ("\"short\"", in_file)),
            ("worker.grace", ("\"soon\"", "environment variable WASM_WORKER_GRACE")),
            ("worker.concurrency", ("\"many\"", "command line")),
            ("worker.retry.first", ("\"0s\"", "command line")),
        ]);
        assert_eq!(origins, expected);
    }

    #[test]
    fn a_slip_in_the_environment_is_named() {
        let overrides = Overrides {
            environment: [("WASM_WORKER_LAESE", "8s"), ("WASM_WORKER_ABORT_AT", "lunch")].map(|(k, v)| (k.into(), v.into())).into(),
            flags: vec![("worker.concurency".into(), "1".into()), ("log_format".into(), "xml".into())],
            ..Overrides::default()
        };
        let text = Config::load(&overrides).unwrap_err().to_string();
        for part in
            ["did you mean WASM_WORKER_LEASE?", "did you mean 'concurrency'?", "one of text, json", "known: after-receive, after-claim, "]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
