//! Every environment variable there is, with what it is for: the reference, and what reads the environment.

use super::file;
use super::section::Problems;
use super::sources::Overrides;
use crate::failpoint::AbortAt;
use crate::task::message::nearest;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Table;

/// One environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The key that it sets; none: it is read elsewhere.
    pub key: Option<&'static str>,
    /// Whether `<name>_FILE` may name a file that holds the value, as secrets of containers are mounted.
    pub from_file: bool,
    /// What it is for.
    pub about: &'static str,
}

impl Variable {
    /// Its name as it is listed: with the one that names a file instead, where there is one.
    pub fn shown(&self) -> String {
        if self.from_file { format!("{0}, {0}_FILE", self.name) } else { self.name.to_owned() }
    }
}

const fn sets(name: &'static str, key: &'static str, about: &'static str) -> Variable {
    Variable { name, key: Some(key), from_file: false, about }
}

const fn secret(name: &'static str, key: &'static str, about: &'static str) -> Variable {
    Variable { name, key: Some(key), from_file: true, about }
}

const fn other(name: &'static str, about: &'static str) -> Variable {
    Variable { name, key: None, from_file: false, about }
}

/// All of them. Where two set one key, the later one wins.
pub const ENVIRONMENT: &[Variable] = &[
    secret("QUEUE_URL", "queue.url", "the queue of the pipeline's entry: redis://…?stream=NAME, the URL of an SQS queue, or a table"),
    secret("NEXT_QUEUE_URL", "queue.next", "the queue that the entry's children go to; a worker of ours reads it, unless it is foreign"),
    sets("NEXT_QUEUE_FOREIGN", "queue.next_foreign", "true: another system reads the next queue; its tasks have no rows here"),
    sets(
        "BUCKET",
        "storage.bucket",
        "where outputs go: a bucket's name, s3://NAME/PREFIX, file:///PATH, or a path that starts with . or /",
    ),
    secret("DB_DSN", "store.dsn", "where tasks are kept: postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:PATH"),
    sets("WASM_WORKER_DATA_DIR", "data_dir", "folder of the embedded task store, compiled guests and objects"),
    sets("WASM_WORKER_TENANT", "tenant", "whose jobs are submitted here, and whose messages queues carry"),
    sets("WASM_WORKER_LOG", "log", "log filter: info, or warn,wasm_worker=debug"),
    sets("WASM_WORKER_LOG_FORMAT", "log_format", "text, or json: a line of JSON each"),
    sets("WASM_WORKER_CONCURRENCY", "worker.concurrency", "tasks at once"),
    sets("WASM_WORKER_LEASE", "worker.lease", "length of a lease, renewed every third of it"),
    sets("WASM_WORKER_GRACE", "worker.grace", "how long running tasks may go on once the worker is asked to stop"),
    sets("WASM_WORKER_MAX_ATTEMPTS", "worker.max_attempts", "attempts before a task is given up"),
    sets("WASM_WORKER_SINGLE", "worker.single", "true: this is the only worker of its queue, so its task store need not be shared"),
    sets("WASM_WORKER_STEP", "queue.step", "the step of a lone guest that reads QUEUE_URL, where it is not the queue's own name"),
    sets("WASM_WORKER_NEXT_STEP", "queue.next_step", "the step of what goes to NEXT_QUEUE_URL, where it is not that queue's own name"),
    sets(
        "WASM_WORKER_INPUTS",
        "queue.inputs",
        "what messages may name as input beside their tenant's own area: buckets and prefixes, with commas",
    ),
    sets("WASM_WORKER_DURABILITY", "store.durability", "full, or normal: what a power cut may cost the embedded task store"),
    sets("WASM_WORKER_BACKEND", "inference.backend", "what runs models that do not say: auto, rten, onnxruntime"),
    sets("WASM_WORKER_THREADS", "inference.threads", "threads of one model run"),
    sets("ORT_DYLIB_PATH", "inference.onnxruntime", "the path of libonnxruntime.so"),
    sets("WASM_WORKER_ONNXRUNTIME", "inference.onnxruntime", "the same, and it wins"),
    Variable { name: "WASM_WORKER_SECRET_<NAME>", key: None, from_file: true, about: "a secret, seen by the steps that are granted NAME" },
    other(CONFIG, "the configuration file, or a folder of them: as --config-file"),
    other(ABORT_AT, "for developers: where this process is to abort"),
    other("AWS_REGION", "region of SQS and S3, where an address does not tell"),
    other("AWS_ENDPOINT_URL", "address of what speaks SQS and S3 instead of AWS"),
    other("AWS_ENDPOINT_URL_S3", "the same for S3 alone: MinIO, R2"),
    other("AWS_ACCESS_KEY_ID", "credentials; without them the usual chain: profile, web identity, container, instance"),
    other("AWS_SECRET_ACCESS_KEY", "their secret part"),
    other("AWS_SESSION_TOKEN", "of temporary ones"),
    other("AWS_PROFILE", "a profile of the files below"),
    other("AWS_CONFIG_FILE", "instead of ~/.aws/config"),
    other("AWS_SHARED_CREDENTIALS_FILE", "instead of ~/.aws/credentials"),
    other("NO_COLOR", "any text: no colours"),
];

/// Variables of the AWS tools that say that there is something to reach.
const AWS: &[&str] = &["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"];

/// Names the configuration file; not a key of the file itself.
pub const CONFIG: &str = "WASM_WORKER_CONFIG";

/// Arms a failpoint; see [`crate::failpoint`].
const ABORT_AT: &str = "WASM_WORKER_ABORT_AT";

/// A variable that starts so holds a secret; the rest of its name is the secret's.
const SECRET: &str = "WASM_WORKER_SECRET_";

/// A variable that ends so names a file that holds the value of the one without.
const FILE: &str = "_FILE";

/// What problems with variables are said to come from.
const WHERE: &str = "environment";

/// What begins so is ours, and a slip if it is not known.
const OURS: &str = "WASM_WORKER_";

/// Largest secret in a file, bytes: keys and certificates have a few thousand.
const MAX_SECRET: u64 = 64 << 10;

/// What the environment says beside keys.
#[derive(Default)]
pub(super) struct Told {
    pub secrets: BTreeMap<String, String>,
    pub abort_at: Option<AbortAt>,
    /// Whether anything says where AWS is, or what speaks like it.
    pub has_aws: bool,
}

/// Puts the environment's values over those of a table. An empty variable says nothing.
pub(super) fn lay_over(table: &mut Table, environment: &BTreeMap<String, String>, problems: &mut Problems) -> Told {
    let is_set = |name: &&str| environment.get(*name).is_some_and(|value| !value.is_empty());
    let mut told = Told { has_aws: AWS.iter().any(is_set), ..Told::default() };
    for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        if let Some(secret) = name.strip_prefix(SECRET) {
            let (secret, value) = match secret.strip_suffix(FILE) {
                Some(secret) => (secret, of_file(name, value, environment, problems)),
                None => (secret, Some(value.clone())),
            };
            told.secrets.extend(value.map(|value| (secret.to_owned(), value)));
        } else if name == ABORT_AT {
            told.abort_at = value.parse().map_err(|e: String| problems.add_from(WHERE, name, value, e)).ok();
        } else if let Some(file) = ENVIRONMENT.iter().find(|v| v.from_file && name.strip_suffix(FILE) == Some(v.name)) {
            let value = of_file(name, value, environment, problems);
            if let (Some(key), Some(value)) = (file.key, value) {
                set(table, key, &value);
                problems.set_origin(key, format!("environment variable {name}"));
            }
        } else if name.starts_with(OURS) && !ENVIRONMENT.iter().any(|v| v.name == name) {
            let known: Vec<&str> = ENVIRONMENT.iter().map(|v| v.name).filter(|known| known.starts_with(OURS)).collect();
            let hint = nearest(name, &known).map_or_else(|| format!("known: {}", known.join(", ")), |n| format!("did you mean {n}?"));
            // Without its value: it may have been meant to be a secret.
            problems.add_from(WHERE, name, "", format!("unknown environment variable; {hint}"));
        }
    }
    // In the order of the list, so that it is plain which one wins.
    for variable in ENVIRONMENT {
        if let (Some(key), Some(value)) = (variable.key, environment.get(variable.name).filter(|value| !value.is_empty())) {
            set(table, key, value);
            problems.set_origin(key, format!("environment variable {}", variable.name));
        }
    }
    told
}

/// The value that a file holds, without the newline at its end.
fn of_file(name: &str, path: &str, environment: &BTreeMap<String, String>, problems: &Problems) -> Option<String> {
    let whole = name.strip_suffix(FILE).unwrap_or(name);
    if environment.get(whole).is_some_and(|value| !value.is_empty()) {
        problems.add_from(WHERE, name, "", format!("{whole} is set as well; expected one of the two"));
        return None;
    }
    // Where somebody has put the value itself in the place of its file, it is not shown.
    let is_address = path.contains("://") || path.contains('@');
    let text = if is_address {
        Err("expected the path of a file that holds the value".to_owned())
    } else {
        file::text(Path::new(path), MAX_SECRET)
    };
    let shown = if is_address { "…" } else { path };
    let text = text.map_err(|e| problems.add_from(WHERE, name, shown, e)).ok()?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        problems.add_from(WHERE, name, path, "is empty; expected the value in it");
        return None;
    }
    Some(value.to_owned())
}

/// The variable that a secret came from.
pub(super) fn secret_variable(name: &str, overrides: &Overrides) -> String {
    let whole = format!("{SECRET}{name}");
    if overrides.environment.contains_key(&whole) { whole } else { format!("{whole}{FILE}") }
}

/// Sets a dotted key to a text.
pub(super) fn set(table: &mut Table, key: &str, value: &str) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), toml::Value::from(value));
        }
        Some((head, rest)) => {
            if let toml::Value::Table(inner) = table.entry(head).or_insert_with(|| toml::Value::Table(Table::new())) {
                set(inner, rest, value);
            }
        }
    }
}
