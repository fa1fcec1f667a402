//! The models of this process: each opened once, checked against its digest, shared by all instances, and run on threads
//! where blocking is allowed.
//!
//! Left out: where files come from (they are on disk by now), and taking models out of memory again.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use super::model::MAX_MODEL_BYTES;
use super::{Backend, Device, InferenceError, Limits, LoadOptions, Model, OnnxRuntimeBackend, RtenBackend, Stop, Tensor};

/// Which backend a model asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendChoice {
    /// ONNX Runtime if its library was given and opens, else rten.
    #[default]
    Auto,
    /// The embedded one.
    Rten,
    /// ONNX Runtime, or an error.
    OnnxRuntime,
}

impl std::str::FromStr for BackendChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "rten" => Ok(Self::Rten),
            "onnxruntime" => Ok(Self::OnnxRuntime),
            other => Err(format!("unknown backend {other:?}; expected auto, rten or onnxruntime")),
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Rten => "rten",
            Self::OnnxRuntime => "onnxruntime",
        })
    }
}

/// A model as a pipeline declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Short name, for guests and messages.
    pub name: String,
    /// The file, resolved against the pipeline file.
    pub path: PathBuf,
    /// Expected SHA-256 of the file, 64 hex digits.
    pub sha256: Option<String>,
    /// Which backend runs it.
    pub backend: BackendChoice,
    /// Where it runs.
    pub device: Device,
    /// Threads of one run; none for the host's default.
    pub threads: Option<usize>,
}

/// What belongs to the machine rather than to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelsConfig {
    /// Library of ONNX Runtime: the config's path, else `ORT_DYLIB_PATH`, else none.
    pub onnxruntime: Option<PathBuf>,
    /// Runs of all models together that may go on at once; more wait.
    pub max_concurrent_runs: usize,
    /// Runs of one model that may go on at once. ONNX Runtime holds a copy of the model for each.
    pub parallel: usize,
    /// Threads of one run, for models that do not say.
    pub threads: usize,
    /// Bounds of each run.
    pub limits: Limits,
}

impl ModelsConfig {
    /// For a machine of so many cores: as many runs at once, of one thread each, which finishes most work in a given time.
    pub fn for_cores(cores: usize) -> Self {
        Self { onnxruntime: None, max_concurrent_runs: cores.max(1), parallel: cores.max(1), threads: 1, limits: Limits::default() }
    }
}

/// A backend, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendStatus {
    /// Its name.
    pub name: &'static str,
    /// The version, or why it cannot be used.
    pub version: Result<String, String>,
}

/// What tells two loaded models apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    digest: [u8; 32],
    backend: &'static str,
    options: LoadOptions,
}

/// What tells whether a file is still the one whose digest is known.
type FileState = (u64, Option<SystemTime>);

/// All models of this process. Cheap to share behind an `Arc`.
pub struct Models {
    config: ModelsConfig,
    rten: RtenBackend,
    onnxruntime: OnceLock<Result<OnnxRuntimeBackend, InferenceError>>,
    loaded: Mutex<HashMap<Key, Arc<OnceCell<Arc<Model>>>>>,
    digests: Mutex<HashMap<PathBuf, (FileState, [u8; 32])>>,
    permits: Arc<Semaphore>,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Models {
    /// Opens nothing yet.
    pub fn new(config: ModelsConfig) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(config.max_concurrent_runs.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self {
            config,
            rten: RtenBackend::default(),
            onnxruntime: OnceLock::new(),
            loaded: Mutex::default(),
            digests: Mutex::default(),
            permits,
        })
    }

    /// The model, loaded on its first use. A load that failed is tried again on the next use.
    pub async fn get(self: &Arc<Self>, spec: &ModelSpec) -> Result<Arc<Model>, InferenceError> {
        let (models, asked) = (Arc::clone(self), spec.clone());
        let key = blocking(move || models.key(&asked)).await?;
        let cell = Arc::clone(self.loaded.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default());
        let load = || {
            let (models, asked) = (Arc::clone(self), spec.clone());
            blocking(move || models.load(&asked, &key))
        };
        cell.get_or_try_init(load).await.cloned()
    }

    /// Runs a model, waiting for its turn. Dropping the future stops the run as soon as the backend can.
    pub async fn run(&self, model: &Arc<Model>, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, InferenceError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| InferenceError::Runtime("no model runs any more".to_owned()))?;
        let stop = StopOnDrop(Stop::default());
        let (model, stopped) = (Arc::clone(model), stop.0.clone());
        blocking(move || {
            // The run holds its turn to its own end, also when nobody waits for it any more.
            let _permit = permit;
            model.run(inputs, &stopped)
        })
        .await
    }

    /// All backends: name, and version or why it is missing. Opens ONNX Runtime, so it may take some 50 ms.
    pub fn describe_backends(&self) -> Vec<BackendStatus> {
        let onnxruntime = self.onnxruntime("").map(Backend::version).map_err(|error| match self.config.onnxruntime {
            Some(_) => error.to_string(),
            None => "no library was given; set inference.onnxruntime or ORT_DYLIB_PATH".to_owned(),
        });
        vec![
            BackendStatus { name: self.rten.name(), version: Ok(self.rten.version()) },
            BackendStatus { name: "onnxruntime", version: onnxruntime },
        ]
    }

    fn onnxruntime(&self, model: &str) -> Result<&OnnxRuntimeBackend, InferenceError> {
        let Some(path) = &self.config.onnxruntime else {
            return Err(InferenceError::Unavailable(format!(
                "onnxruntime was asked for by model {model:?} but no library was given; set inference.onnxruntime or \
                 ORT_DYLIB_PATH, or use --backend rten"
            )));
        };
        self.onnxruntime.get_or_init(|| OnnxRuntimeBackend::open(path)).as_ref().map_err(Clone::clone)
    }

    fn backend(&self, spec: &ModelSpec) -> Result<&dyn Backend, InferenceError> {
        match spec.backend {
            BackendChoice::Rten => Ok(&self.rten),
            BackendChoice::OnnxRuntime => Ok(self.onnxruntime(&spec.name)?),
            BackendChoice::Auto if self.config.onnxruntime.is_none() => Ok(&self.rten),
            BackendChoice::Auto => match self.onnxruntime(&spec.name) {
                Ok(backend) => Ok(backend),
                Err(error) => {
                    tracing::warn!(model = ?spec.name, %error, "running with rten");
                    Ok(&self.rten)
                }
            },
        }
    }

    fn key(&self, spec: &ModelSpec) -> Result<Key, InferenceError> {
        let backend = self.backend(spec)?.name();
        let digest = match &spec.sha256 {
            Some(text) => parse_digest(spec, text)?,
            None => self.digest(spec)?,
        };
        let threads = spec.threads.unwrap_or(self.config.threads).max(1);
        let options = LoadOptions { threads, parallel: self.config.parallel.max(1), device: spec.device };
        Ok(Key { digest, backend, options })
    }

    /// Digest of a file that no one pinned. Remembered as long as size and time of the file stay; a changed file is
    /// another model, and the old one leaves the memory with its last user.
    fn digest(&self, spec: &ModelSpec) -> Result<[u8; 32], InferenceError> {
        let state = file_state(spec)?;
        let known = self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(&spec.path).copied();
        match known {
            Some((then, digest)) if then == state => return Ok(digest),
            _ => {}
        }
        let digest: [u8; 32] = Sha256::digest(read(spec)?).into();
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.path.clone(), (state, digest));
        if let Some((_, before)) = known
            && before != digest
        {
            self.loaded.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.digest != before);
        }
        Ok(digest)
    }

    fn load(&self, spec: &ModelSpec, key: &Key) -> Result<Arc<Model>, InferenceError> {
        let bytes = read(spec)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        if digest != key.digest {
            return Err(InferenceError::Security(format!(
                "model {:?}: the file {} has SHA-256 {}, not {}",
                spec.name,
                spec.path.display(),
                hex::encode(digest),
                hex::encode(key.digest)
            )));
        }
        let model = Model::load(self.backend(spec)?, bytes, &key.options, self.config.limits);
        model.map(Arc::new).map_err(|error| named(&spec.name, error))
    }
}

/// Stops a run that nobody waits for any more.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, InferenceError> + Send + 'static) -> Result<T, InferenceError> {
    let joined = tokio::task::spawn_blocking(call).await;
    joined.unwrap_or_else(|error| Err(InferenceError::Runtime(format!("inference was interrupted: {error}"))))
}

fn parse_digest(spec: &ModelSpec, text: &str) -> Result<[u8; 32], InferenceError> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest)
        .map_err(|_| InferenceError::InvalidArgument(format!("model {:?}: sha256 {text:?} is not 64 hex digits", spec.name)))?;
    Ok(digest)
}

fn file_state(spec: &ModelSpec) -> Result<FileState, InferenceError> {
    let metadata = fs::metadata(&spec.path).map_err(|error| unreadable(&spec.name, &spec.path, &error))?;
    Ok((metadata.len(), metadata.modified().ok()))
}

fn read(spec: &ModelSpec) -> Result<Vec<u8>, InferenceError> {
    let unreadable = |error| unreadable(&spec.name, &spec.path, &error);
    let file = fs::File::open(&spec.path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the excess is seen.
    file.take(MAX_MODEL_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > MAX_MODEL_BYTES {
        return Err(InferenceError::TooLarge(format!("model {:?}: more than {MAX_MODEL_BYTES} bytes", spec.name)));
    }
    Ok(bytes)
}

fn unreadable(name: &str, path: &Path, error: &std::io::Error) -> InferenceError {
    InferenceError::NotFound(format!("model {name:?}: {} cannot be read: {error}", path.display()))
}

/// Puts the model's name before the text.
fn named(name: &str, error: InferenceError) -> InferenceError {
    use InferenceError as E;
    let with = |text: String| format!("model {name:?}: {text}");
    match error {
        E::InvalidArgument(text) => E::InvalidArgument(with(text)),
        E::InvalidEncoding(text) => E::InvalidEncoding(with(text)),
        E::NotFound(text) => E::NotFound(with(text)),
        E::TooLarge(text) => E::TooLarge(with(text)),
        E::Unsupported(text) => E::Unsupported(with(text)),
        E::Security(text) => E::Security(with(text)),
        E::Runtime(text) => E::Runtime(with(text)),
        E::Unavailable(text) => E::Unavailable(with(text)),
        E::Stopped => E::Stopped,
    }
}

#[cfg(test)]
mod tests;
