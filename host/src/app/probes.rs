//! Tries every place outside that this machine's configuration names, all at once and none for long: is it there, does it let us in, can
//! it be written. Nothing is taken from a queue, and what is written is removed again.

use super::queues::{connect, late, setting_of};
use super::{AppError, DATABASE, objects, worker_name};
use crate::config::{BrokerAt, Config, Pipeline, Step, StoreAt};
use crate::inference::Models;
use crate::task_store::{Durability, PostgresTaskStore, SqliteTaskStore, StoreError};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Longest that one probe may take.
const PROBE: Duration = Duration::from_secs(5);

/// Longest that loading a model for a look may take: large ones take their time, and nothing is wrong with that.
const LOAD: Duration = Duration::from_secs(60);

/// A disk with less left is as good as full: a task's outputs alone may be so large by default.
const LEAST_SPACE: u64 = 1 << 30;

/// How a probe came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works.
    Ok,
    /// It does not, and something needs it.
    Fail,
    /// There is nothing to try.
    Skipped,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was tried.
    pub what: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen, or what is wrong.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// What a probe says: what it saw, or what is wrong and what to do about it.
type Answer = Result<Seen, (String, String)>;

enum Seen {
    Well(String),
    Nothing(String),
}

/// Tries them all; in a fixed order, whichever answers first.
pub async fn examine(config: &Config, pipeline: Option<&Pipeline>) -> Vec<Finding> {
    let mut probes: Vec<BoxFuture<'_, Finding>> = vec![
        probe("versions".to_owned(), PROBE, versions()).boxed(),
        probe("data directory".to_owned(), PROBE, data_dir(config.data_dir.clone())).boxed(),
        probe("task store".to_owned(), PROBE, store(config)).boxed(),
        probe(format!("bucket {}", config.bucket), PROBE, bucket(config)).boxed(),
        probe("inference".to_owned(), PROBE, inference(config)).boxed(),
    ];
    let mut brokers: Vec<(BrokerAt, String)> = Vec::new();
    let named = config.queues.iter().map(|rules| (&rules.at, "queues".to_owned()));
    let used =
        pipeline.into_iter().flat_map(|pipeline| pipeline.brokers().into_iter().map(move |at| (at, setting_of(config, pipeline, at))));
    let entry = config.brokers().into_iter().map(|(key, at)| (at, config.named(key)));
    for (at, setting) in used.chain(entry).chain(named) {
        if !brokers.iter().any(|(other, _)| other.name() == at.name()) {
            brokers.push((at.clone(), setting));
        }
    }
    for (at, setting) in brokers {
        probes.push(probe(format!("queue {}", at.name()), PROBE, queue(config, at, setting)).boxed());
    }
    if let Some(pipeline) = pipeline {
        let models = super::models(config);
        for step in &pipeline.steps {
            probes.push(probe(format!("guest of step {}", step.name), PROBE, guest(step)).boxed());
        }
        for name in pipeline.models.keys() {
            probes.push(probe(format!("model {name}"), LOAD, model(config, pipeline, Arc::clone(&models), name)).boxed());
        }
    }
    join_all(probes).await
}

async fn probe(what: String, patience: Duration, answer: impl Future<Output = Answer>) -> Finding {
    let answer = timeout(patience, answer).await;
    let answer = answer.unwrap_or_else(|_| Err((late(patience), "see whether it is up, and whether a firewall is in between".to_owned())));
    let (verdict, detail, help) = match answer {
        Ok(Seen::Well(detail)) => (Verdict::Ok, detail, None),
        Ok(Seen::Nothing(detail)) => (Verdict::Skipped, detail, None),
        Err((detail, help)) => (Verdict::Fail, detail, Some(help)),
    };
    Finding { what, verdict, detail, help }
}

async fn versions() -> Answer {
    let (ours, wasmtime) = (env!("CARGO_PKG_VERSION"), env!("WASMTIME_VERSION"));
    let sqlite = SqliteTaskStore::library().await.map_err(|e| (e.to_string(), "this build is broken; use another".to_owned()))?;
    Ok(Seen::Well(format!("wasm-worker {ours}, wasmtime {wasmtime}, {sqlite}, worker name {}", worker_name())))
}

async fn data_dir(folder: PathBuf) -> Answer {
    let shown = folder.display().to_string();
    let looked = spawn_blocking(move || writable(&folder)).await.map_err(|e| (format!("{shown}: {e}"), String::new()))?;
    let free = looked.map_err(|e| (format!("{shown}: {e}"), "--data-dir (WASM_WORKER_DATA_DIR) names another folder".to_owned()))?;
    let free_text = bytesize::ByteSize(free).display().iec().to_string();
    if free < LEAST_SPACE {
        let help = "make room: prune jobs that ended long ago (`wasm-worker prune`) and remove outputs that nobody needs";
        return Err((format!("{shown}: {free_text} free"), help.to_owned()));
    }
    Ok(Seen::Well(format!("{shown}: writable, {free_text} free")))
}

/// Bytes that are free in a folder that can be written. One that is not there yet is looked for where it would be made.
fn writable(folder: &Path) -> Result<u64, String> {
    let there = folder.ancestors().find(|folder| folder.is_dir()).ok_or("there is no such folder, and none above it")?;
    let file = there.join(format!(".wasm-worker-probe-{}", uuid::Uuid::new_v4()));
    let written = std::fs::write(&file, b"probe");
    let removed = std::fs::remove_file(&file);
    written.and(removed).map_err(|e| format!("cannot be written: {e}"))?;
    let disk = rustix::fs::statvfs(there).map_err(|e| e.to_string())?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

async fn store(config: &Config) -> Answer {
    let durability = if config.normal_durability { Durability::Normal } else { Durability::Full };
    let of_file = |path: PathBuf| async move {
        if !path.exists() {
            return Ok(Err(format!("{}: none yet; the first submission or worker makes it", path.display())));
        }
        let about = SqliteTaskStore::open(&path, durability).await?.about().await?;
        Ok::<_, StoreError>(Ok((format!("sqlite:{}", path.display()), about)))
    };
    let asked = match &config.store {
        None => of_file(config.data_dir.join(DATABASE)).await,
        Some(StoreAt::File(path)) => of_file(path.clone()).await,
        Some(StoreAt::Server(dsn)) => {
            async {
                let about = PostgresTaskStore::open(dsn.reveal()).await?.about().await?;
                Ok(Ok((format!("{dsn:?}"), about)))
            }
            .await
        }
    };
    match asked {
        Ok(Ok((place, (database, schema)))) => Ok(Seen::Well(format!("{place}: {database}, schema {schema}"))),
        Ok(Err(none_yet)) => Ok(Seen::Nothing(none_yet)),
        Err(error) => {
            let help = match error {
                StoreError::Denied(_) => "check user, password and grants of DB_DSN; a file must be writable, and its folder too",
                StoreError::Unavailable(_) => "see whether the server is up, and whether a firewall is in between",
                _ => "check DB_DSN (store.dsn): postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:PATH",
            };
            Err((format!("{}: {error}", config.named("store.dsn")), help.to_owned()))
        }
    }
}

/// Writes an object, reads it and removes it.
async fn bucket(config: &Config) -> Answer {
    let help = || {
        "check BUCKET (storage.bucket), its permissions, and for S3 the AWS_ variables; the worker must read, write and delete".to_owned()
    };
    let wrong = |why: String| (format!("{}: {why}", config.named("storage.bucket")), help());
    let objects = objects::open(config).await.map_err(|e| (e.to_string(), help()))?;
    let name = format!(".wasm-worker-probe-{}", uuid::Uuid::new_v4());
    let at = config.bucket.join(&name).map_err(wrong)?;
    let said = b"wasm-worker doctor";
    objects.put(&at, said).await.map_err(|e| wrong(format!("cannot be written: {e}")))?;
    let read = objects.get(&at, said.len() as u64).await;
    let removed = objects.delete(&at).await;
    let read = read.map_err(|e| wrong(format!("cannot be read: {e}")))?;
    removed.map_err(|e| wrong(format!("what was written cannot be removed: {e}")))?;
    if read != said {
        return Err(wrong("what was read is not what was written".to_owned()));
    }
    Ok(Seen::Well("written, read and removed".to_owned()))
}

async fn queue(config: &Config, at: BrokerAt, setting: String) -> Answer {
    let help = || format!("check {setting}, and whether this machine may reach and use that queue");
    let wrong = |why: String| (format!("{setting}: {why}"), help());
    let queue = connect(config, &at).await.map_err(|e| wrong(e.to_string()))?;
    let depth = queue.depth().await.map_err(|e| wrong(e.to_string()))?;
    let oldest = depth.oldest.map_or_else(String::new, |age| format!(", the oldest for {} s", age.as_secs()));
    let (waiting, in_flight, max) =
        (depth.waiting, depth.in_flight, bytesize::ByteSize(queue.max_body() as u64).display().iec().to_string());
    Ok(Seen::Well(format!("{waiting} waiting{oldest}, {in_flight} in flight; messages of up to {max}")))
}

/// What runs models: the embedded backend, and ONNX Runtime where it is asked for.
async fn inference(config: &Config) -> Answer {
    let (models, settings) = (super::models(config), config.inference.clone());
    let help = || "name the library of ONNX Runtime (libonnxruntime.so) in ORT_DYLIB_PATH (inference.onnxruntime), or use rten".to_owned();
    let backends = spawn_blocking(move || models.describe_backends()).await.map_err(|e| (e.to_string(), help()))?;
    let is_wanted = |name: &str| settings.backend == name || (name == "onnxruntime" && settings.onnxruntime.is_some());
    let mut seen = Vec::new();
    for backend in backends {
        match backend.version {
            Ok(version) => seen.push(format!("{} {version}", backend.name)),
            Err(why) if is_wanted(backend.name) => return Err((why, help())),
            Err(_) => seen.push(format!("no {}", backend.name)),
        }
    }
    let library = settings.onnxruntime.map_or_else(String::new, |path| format!(" ({})", path.display()));
    Ok(Seen::Well(format!("{}{library}", seen.join(", "))))
}

async fn guest(step: &Step) -> Answer {
    let help = || "build it, or mend the step's `guest`; `wasm-worker check` tries it hook by hook".to_owned();
    let meta = tokio::fs::metadata(&step.guest).await.map_err(|e| (format!("{}: {e}", step.guest.display()), help()))?;
    if !meta.is_file() {
        return Err((format!("{} is no file", step.guest.display()), help()));
    }
    Ok(Seen::Well(format!("{}, {}", step.guest.display(), bytesize::ByteSize(meta.len()).display().iec())))
}

async fn model(config: &Config, pipeline: &Pipeline, models: Arc<Models>, name: &str) -> Answer {
    let help = || "look at the pipeline's [models] table: the file, its sha256, its backend".to_owned();
    let Some(spec) = super::model_spec(config, pipeline, name).map_err(|e: AppError| (e.to_string(), help()))? else {
        return Ok(Seen::Nothing("is not declared".to_owned()));
    };
    let model = models.get(&spec).await.map_err(|e| (e.to_string(), help()))?;
    Ok(Seen::Well(format!("{}, runs on {}", spec.path.display(), model.backend())))
}
