//! The machine's configuration: `wasm-worker.toml`, then the environment, then flags; one typed value in the end.

use super::pipeline::{read_limits, read_retry};
use super::section::{ConfigError, Problems, Section};
use super::store::{self, StoreAt};
use crate::failpoint::AbortAt;
use crate::task::limits::Limits;
use crate::task::message::nearest;
use crate::task::retry::RetryPolicy;
use crate::task::uri::Uri;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Table, Value};

/// The file that is read where none is named and it exists.
pub const DEFAULT_FILE: &str = "wasm-worker.toml";

/// Environment variables and the keys they set.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("WASM_WORKER_DATA_DIR", "data_dir"),
    ("WASM_WORKER_TENANT", "tenant"),
    ("WASM_WORKER_LOG", "log"),
    ("WASM_WORKER_LOG_FORMAT", "log_format"),
    ("WASM_WORKER_CONCURRENCY", "worker.concurrency"),
    ("WASM_WORKER_LEASE", "worker.lease"),
    ("WASM_WORKER_GRACE", "worker.grace"),
    ("WASM_WORKER_MAX_ATTEMPTS", "worker.max_attempts"),
    ("WASM_WORKER_DURABILITY", "store.durability"),
    ("WASM_WORKER_BACKEND", "inference.backend"),
    ("WASM_WORKER_THREADS", "inference.threads"),
    ("WASM_WORKER_ONNXRUNTIME", "inference.onnxruntime"),
    ("ORT_DYLIB_PATH", "inference.onnxruntime"),
    ("BUCKET", "storage.bucket"),
    ("DB_DSN", "store.dsn"),
];

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
    /// Bounds of every step that sets none of its own.
    pub limits: Limits,
    /// Secrets by name, from `WASM_WORKER_SECRET_<NAME>`. A step sees those it is granted.
    pub secrets: BTreeMap<String, String>,
    /// Where a developer wants this process to abort, from `WASM_WORKER_ABORT_AT`; never from a file.
    pub abort_at: Option<AbortAt>,
}

/// How long jobs that have ended are kept unless told otherwise: longer than any queue keeps a message of theirs.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// A variable that starts so holds a secret; the rest of its name is the secret's.
const SECRET: &str = "WASM_WORKER_SECRET_";

/// Arms a failpoint; see [`crate::failpoint`].
const ABORT_AT: &str = "WASM_WORKER_ABORT_AT";

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

/// What overrides the file: the environment and flags.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The file; none: `wasm-worker.toml` where it exists.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// `(dotted key, value)` of flags; they win.
    pub flags: Vec<(String, String)>,
}

impl Config {
    /// Reads file, environment and flags, and checks the whole.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let file = overrides.file.clone().or_else(|| default.is_file().then(|| default.to_owned()));
        let mut folder = PathBuf::from(".");
        let (mut table, mut source) = (Table::new(), "configuration".to_owned());
        if let Some(file) = &file {
            source = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| ConfigError::of(&source, format!("cannot be read: {e}")))?;
            table = text.parse().map_err(|e: toml::de::Error| ConfigError::of(&source, e.to_string()))?;
            folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        }
        let mut problems = Problems::new(&source);
        // A path in the file starts at the file; a path from elsewhere starts where the user stands.
        for key in ["data_dir", "inference.onnxruntime", "storage.bucket"] {
            anchor(&mut table, key, &folder);
        }
        store::anchor(&mut table, &folder);
        let (mut secrets, mut abort_at) = (BTreeMap::new(), None);
        for (name, value) in &overrides.environment {
            if let Some(secret) = name.strip_prefix(SECRET) {
                secrets.insert(secret.to_owned(), value.clone());
                continue;
            }
            if name == ABORT_AT {
                abort_at = value.parse().map_err(|e: String| problems.add(name, value, e)).ok();
                continue;
            }
            match ENVIRONMENT.iter().find(|(known, _)| known == name) {
                Some((_, key)) if !value.is_empty() => {
                    set(&mut table, key, value);
                    problems.set_origin(key, format!("environment variable {name}"));
                }
                None if name.starts_with("WASM_WORKER_") => {
                    let known: Vec<&str> = ENVIRONMENT.iter().map(|(n, _)| *n).collect();
                    let hint =
                        nearest(name, &known).map_or_else(|| format!("known: {}", known.join(", ")), |n| format!("did you mean {n}?"));
                    problems.add(name, value, format!("unknown environment variable; {hint}"));
                }
                _ => {}
            }
        }
        for (key, value) in &overrides.flags {
            set(&mut table, key, value);
            problems.set_origin(key, "command line".to_owned());
        }
        let mut config = read(Section::new(table, &problems), &problems);
        (config.secrets, config.abort_at) = (secrets, abort_at);
        problems.finish(config)
    }
}

/// Sets a dotted key to a text.
fn set(table: &mut Table, key: &str, value: &str) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), Value::from(value));
        }
        Some((head, rest)) => {
            if let Value::Table(inner) = table.entry(head).or_insert_with(|| Value::Table(Table::new())) {
                set(inner, rest, value);
            }
        }
    }
}

/// Makes a relative path in the file start at the file's folder.
fn anchor(table: &mut Table, key: &str, folder: &Path) {
    match key.split_once('.') {
        Some((head, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(head) {
                anchor(inner, rest, folder);
            }
        }
        None => {
            if let Some(Value::String(text)) = table.get_mut(key)
                && !text.contains("://")
                && Path::new(text.as_str()).is_relative()
            {
                *text = folder.join(text.as_str()).to_string_lossy().into_owned();
            }
        }
    }
}

fn read(mut root: Section<'_>, problems: &Problems) -> Config {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let data_dir = PathBuf::from(root.text("data_dir").unwrap_or_else(|| ".wasm-worker".to_owned()));
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    let tenant = root.text("tenant").unwrap_or_else(|| "default".to_owned());
    if let Err(e) = crate::task::id::check("tenant", &tenant) {
        root.fault("tenant", &tenant, e);
    }
    let log = root.text("log").unwrap_or_else(|| "info".to_owned());
    let log_json = root.choice("log_format", &[("text", false), ("json", true)]).unwrap_or(false);
    let limits = read_limits(root.section("limits"), &Limits::default());
    let worker = read_worker(root.section("worker"), cores);
    let mut store = root.section("store");
    let store_at = store::read_at(&mut store);
    let normal_durability = store.choice("durability", &[("full", false), ("normal", true)]).unwrap_or(false);
    let retention = store.duration("retention").unwrap_or(RETENTION);
    let mut inference = root.section("inference");
    let inference = InferenceConfig {
        backend: inference
            .choice("backend", &[("auto", "auto"), ("rten", "rten"), ("onnxruntime", "onnxruntime")])
            .unwrap_or("auto")
            .to_owned(),
        onnxruntime: inference.text("onnxruntime").map(PathBuf::from),
        threads: inference.number("threads", 1, 1024).unwrap_or(cores) as u32,
        parallel: inference.number("parallel", 1, 1024).unwrap_or(cores) as u32,
    };
    let bucket = read_bucket(root.section("storage"), &data_dir, problems);
    Config {
        data_dir,
        tenant,
        log,
        log_json,
        worker,
        store: store_at,
        normal_durability,
        retention,
        inference,
        bucket,
        limits,
        secrets: BTreeMap::new(),
        abort_at: None,
    }
}

fn read_worker(mut section: Section<'_>, cores: u64) -> WorkerConfig {
    WorkerConfig {
        concurrency: section.number("concurrency", 1, 4096).unwrap_or(cores) as u32,
        lease: section.duration("lease").unwrap_or(Duration::from_secs(90)).max(Duration::from_millis(500)),
        grace: section.duration("grace").unwrap_or(Duration::from_secs(30)),
        max_attempts: section.number("max_attempts", 1, 1000).unwrap_or(5) as u32,
        retry: read_retry(section.section("retry")).over(RetryPolicy::default()),
        fed_idle: section.duration("fed_idle").unwrap_or(Duration::from_secs(300)),
    }
}

fn read_bucket(mut section: Section<'_>, data_dir: &Path, problems: &Problems) -> Uri {
    let written = section.text("bucket");
    let parsed = match &written {
        None => Uri::of_folder(&data_dir.join("objects")),
        Some(text) if text.starts_with("file://") => Uri::parse(text).map(|u| u.as_prefix()),
        Some(text) if text.contains("://") => Err("only file:// and plain paths are built in yet".to_owned()),
        Some(text) => std::path::absolute(text).map_err(|e| e.to_string()).and_then(|p| Uri::of_folder(&p)),
    };
    parsed.unwrap_or_else(|e| {
        problems.add("storage.bucket", written.as_deref().unwrap_or_default(), e);
        // Never used: a problem was reported, so the whole is refused.
        Uri::root()
    })
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
