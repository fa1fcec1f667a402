//! ONNX Runtime, loaded from a shared library that the operator names.
//!
//! `ort` lends a session to one run at a time. A model that may run in parallel has as many sessions, opened when first
//! needed. Left out: graphics cards, which would need another build of the library and are refused.

mod library;

use std::borrow::Cow;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use bytemuck::Pod;
use half::{bf16, f16};
use ort::ep;
use ort::logging::LogLevel;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, Shape, TensorElementType, TensorRef};

use self::library::OLDEST_MINOR_VERSION;
use super::model::shortened;
use super::onnx::Graph;
use super::{Backend, Device, ElementType, InferenceError, LoadOptions, Port, Session, Stop, Tensor};

/// Most bytes of model files that the sessions of one model hold together, as each has its own copy of the weights. A model
/// larger than half of this has one session, and its runs wait for each other.
const MAX_SESSION_BYTES: usize = 1 << 30;

/// ONNX Runtime as a backend.
#[derive(Clone, Debug)]
pub struct OnnxRuntimeBackend {
    path: PathBuf,
    version: String,
}

impl OnnxRuntimeBackend {
    /// Opens the library at `path`. One library per process: a second, different one is refused.
    pub fn open(path: &Path) -> Result<Self, InferenceError> {
        static OPENED: Mutex<Option<OnnxRuntimeBackend>> = Mutex::new(None);
        let unavailable = |what: String| {
            InferenceError::Unavailable(format!(
                "ONNX Runtime cannot be used: {what}; name the library of ONNX Runtime 1.{OLDEST_MINOR_VERSION} or newer \
                 (libonnxruntime.so) in inference.onnxruntime or ORT_DYLIB_PATH, or use --backend rten"
            ))
        };
        let path = fs::canonicalize(path).map_err(|error| unavailable(format!("no library at {path:?} ({error})")))?;
        // Held to the end: two threads that come at once must not both start it.
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = opened.as_ref().filter(|opened| opened.path == path) {
            return Ok(same.clone());
        }
        let version = library::version_of(&path).map_err(unavailable)?;
        if let Some(other) = opened.as_ref() {
            return Err(unavailable(format!("{path:?} cannot be opened beside {:?}, which this process uses", other.path)));
        }
        library::link(&path).map_err(unavailable)?;
        library::start(&path).map_err(unavailable)?;
        let backend = Self { path, version };
        *opened = Some(backend.clone());
        Ok(backend)
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Backend for OnnxRuntimeBackend {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn open(&self, bytes: Vec<u8>, graph: &Arc<Graph>, options: &LoadOptions) -> Result<Box<dyn Session>, InferenceError> {
        if options.device != Device::Cpu {
            return Err(InferenceError::Unsupported("this host runs ONNX Runtime on the processor only".to_owned()));
        }
        let fixed = graph.inputs.iter().all(|port| port.dims.as_ref().is_some_and(|dims| dims.iter().all(Option::is_some)));
        let most = options.parallel.min(MAX_SESSION_BYTES / bytes.len().max(1)).max(1);
        let opener = Opener { bytes, threads: options.threads, memory_pattern: fixed };
        let first = opener.open().map_err(|error| InferenceError::InvalidEncoding(text("cannot load the model", &error)))?;
        let sessions = Sessions { idle: vec![first], open: 1 };
        // The file is only kept for sessions that are still to come.
        let opener = (most > 1).then_some(opener);
        Ok(Box::new(OrtModel { graph: Arc::clone(graph), opener, most, sessions: Mutex::new(sessions), returned: Condvar::new() }))
    }
}

/// Opens sessions of one model.
struct Opener {
    bytes: Vec<u8>,
    threads: usize,
    memory_pattern: bool,
}

impl Opener {
    fn open(&self) -> ort::Result<ort::session::Session> {
        ort::session::Session::builder()?
            // Named, so that the library does not choose a device by itself.
            .with_execution_providers([ep::CPU::default().with_arena_allocator(true).build()])?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.threads)?
            .with_inter_threads(1)?
            .with_parallel_execution(false)?
            // Threads that wait for work by spinning burn whole cores between runs.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // A pattern is kept for each input shape ever seen: only worth it where there is one.
            .with_memory_pattern(self.memory_pattern)?
            .with_config_entry("session.load_model_format", "ONNX")?
            .with_log_level(LogLevel::Warning)?
            .commit_from_memory(&self.bytes)
    }
}

struct OrtModel {
    graph: Arc<Graph>,
    opener: Option<Opener>,
    most: usize,
    sessions: Mutex<Sessions>,
    returned: Condvar,
}

struct Sessions {
    idle: Vec<ort::session::Session>,
    /// Idle ones and those at work.
    open: usize,
}

/// A session at work. It goes back to the idle ones unless its run panicked.
struct Lease<'a> {
    model: &'a OrtModel,
    session: Option<ort::session::Session>,
}

impl OrtModel {
    fn lease(&self) -> Result<Lease<'_>, InferenceError> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(session) = sessions.idle.pop() {
                return Ok(Lease { model: self, session: Some(session) });
            }
            if sessions.open < self.most
                && let Some(opener) = &self.opener
            {
                sessions.open += 1;
                drop(sessions);
                let mut lease = Lease { model: self, session: None };
                // Dropping the lease without a session counts it off again.
                lease.session = Some(opener.open().map_err(|error| InferenceError::Runtime(text("cannot open the model again", &error)))?);
                return Ok(lease);
            }
            sessions = self.returned.wait(sessions).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut sessions = self.model.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        match self.session.take() {
            // The only session is kept even then, else no run could ever follow.
            Some(session) if !thread::panicking() || self.model.opener.is_none() => sessions.idle.push(session),
            _ => sessions.open -= 1,
        }
        self.model.returned.notify_one();
    }
}

impl Session for OrtModel {
    fn run(&self, inputs: &[Tensor], max_output_bytes: usize, stop: &Stop) -> Result<Vec<Tensor>, InferenceError> {
        let values = self.graph.inputs.iter().zip(inputs).map(|(port, tensor)| Ok((port.name.as_str(), value(port, tensor)?)));
        let values =
            values.collect::<ort::Result<Vec<_>>>().map_err(|error| InferenceError::InvalidArgument(text("refuses an input", &error)))?;
        let options = Arc::new(RunOptions::new().map_err(|error| failed(&error))?);
        let mut lease = self.lease()?;
        let Some(session) = lease.session.as_mut() else {
            return Err(InferenceError::Runtime("no session of ONNX Runtime is left".to_owned()));
        };
        let stopped = Arc::clone(&options);
        let _hook = stop.on_stop(move || {
            // It can only fail for want of memory, and then the run goes on to its own end.
            let _ = stopped.terminate();
        });
        let outputs = session.run_with_options(values, &*options).map_err(|error| failed(&error))?;
        let mut left = max_output_bytes;
        self.graph
            .outputs
            .iter()
            .map(|port| {
                let value = outputs.get(&port.name).ok_or_else(|| InferenceError::Runtime(format!("output {:?} is missing", port.name)))?;
                output(port, value, &mut left)
            })
            .collect()
    }
}

fn failed(error: &ort::Error) -> InferenceError {
    match error.code() {
        ort::ErrorCode::InvalidArgument => InferenceError::InvalidArgument(text("refuses the inputs", error)),
        _ => InferenceError::Runtime(text("failed", error)),
    }
}

fn text(what: &str, error: &ort::Error) -> String {
    shortened(&format!("onnxruntime {what}: {error}"))
}

/// Lends an input's bytes to the library.
fn value<'a>(port: &Port, tensor: &'a Tensor) -> ort::Result<SessionInputValue<'a>> {
    match tensor.ty() {
        ElementType::F16 => typed::<f16>(tensor),
        ElementType::F32 => typed::<f32>(tensor),
        ElementType::F64 => typed::<f64>(tensor),
        ElementType::BF16 => typed::<bf16>(tensor),
        ElementType::U8 if port.boolean => {
            let booleans: Vec<bool> = tensor.data().iter().map(|byte| *byte != 0).collect();
            owned(tensor, booleans)
        }
        ElementType::U8 => typed::<u8>(tensor),
        ElementType::I32 => typed::<i32>(tensor),
        ElementType::I64 => typed::<i64>(tensor),
    }
}

fn typed<'a, T: PrimitiveTensorElementType + Pod + Debug>(tensor: &'a Tensor) -> ort::Result<SessionInputValue<'a>> {
    let elements = tensor.elements::<T>().map_err(ort::Error::wrap)?;
    match elements {
        Cow::Borrowed(elements) if !elements.is_empty() => Ok(TensorRef::from_array_view((shape(tensor), elements))?.into()),
        elements => owned(tensor, elements.into_owned()),
    }
}

fn owned<'a, T>(tensor: &Tensor, elements: Vec<T>) -> ort::Result<SessionInputValue<'a>>
where
    T: PrimitiveTensorElementType + Clone + Debug + 'static,
{
    if elements.is_empty() {
        // Tensors made from data may not be empty, new ones may.
        return Ok(ort::value::Tensor::<T>::new(&Allocator::default(), Shape::new(shape(tensor)))?.into());
    }
    Ok(ort::value::Tensor::from_array((shape(tensor), elements))?.into())
}

fn shape(tensor: &Tensor) -> Vec<i64> {
    tensor.dims().iter().map(|dim| i64::from(*dim)).collect()
}

/// Copies an output out, if it still fits into what is `left` of the bytes allowed.
fn output(port: &Port, value: &DynValue, left: &mut usize) -> Result<Tensor, InferenceError> {
    let unexpected = || InferenceError::Runtime(format!("output {:?} came as {}, not {}", port.name, value.dtype(), port.ty));
    let shape = value.dtype().tensor_shape().ok_or_else(unexpected)?;
    let dims = shape.iter().map(|dim| u32::try_from(*dim)).collect::<Result<Vec<_>, _>>();
    let dims = dims.map_err(|_| InferenceError::TooLarge(format!("output {:?} has a size of more than 32 bits", port.name)))?;
    let bytes = super::tensor::byte_length(&dims, port.ty);
    *left = bytes.and_then(|bytes| left.checked_sub(bytes)).ok_or_else(|| {
        InferenceError::TooLarge(format!("outputs exceed the allowed bytes at {:?}, which has the shape {dims:?}", port.name))
    })?;
    match (value.dtype().tensor_type(), port.ty) {
        (Some(TensorElementType::Float16), ElementType::F16) => copied::<f16>(port, dims, value),
        (Some(TensorElementType::Float32), ElementType::F32) => copied::<f32>(port, dims, value),
        (Some(TensorElementType::Float64), ElementType::F64) => copied::<f64>(port, dims, value),
        (Some(TensorElementType::Bfloat16), ElementType::BF16) => copied::<bf16>(port, dims, value),
        (Some(TensorElementType::Uint8), ElementType::U8) => copied::<u8>(port, dims, value),
        (Some(TensorElementType::Int32), ElementType::I32) => copied::<i32>(port, dims, value),
        (Some(TensorElementType::Int64), ElementType::I64) => copied::<i64>(port, dims, value),
        (Some(TensorElementType::Bool), ElementType::U8) => {
            let (_, booleans) = value.try_extract_tensor::<bool>().map_err(|error| failed(&error))?;
            Tensor::new(dims, port.ty, booleans.iter().map(|boolean| u8::from(*boolean)).collect())
        }
        _ => Err(unexpected()),
    }
}

fn copied<T: PrimitiveTensorElementType + Pod>(port: &Port, dims: Vec<u32>, value: &DynValue) -> Result<Tensor, InferenceError> {
    let (_, elements) = value.try_extract_tensor::<T>().map_err(|error| failed(&error))?;
    Tensor::from_elements(dims, port.ty, elements)
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn what_is_not_the_library_is_refused_by_name_and_leaves_the_process_usable() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let cases = [
            (folder.path().join("nowhere.so"), "no library at"),
            (folder.path().to_owned(), "is not a library file"),
            (file("text.so", b"hello"), "is not ONNX Runtime"),
            (file("empty.so", b""), "is not ONNX Runtime"),
            (file("old.so", b"\x7fELF OrtGetApiBase VERS_1.14.1\0"), "version 1.14.1, which is too old"),
        ];
        for (path, expected) in cases {
            let error = OnnxRuntimeBackend::open(&path).unwrap_err();
            let InferenceError::Unavailable(text) = &error else { panic!("{error:?}") };
            assert!(text.contains(expected) && text.contains(path.to_str().unwrap()), "{expected}: {text}");
            assert!(text.contains("inference.onnxruntime") && text.contains("--backend rten"), "{text}");
        }
        let opened = OnnxRuntimeBackend::open(&conformance::library()).unwrap();
        assert!(opened.version().starts_with("1."), "{}", opened.version());
        assert_eq!(OnnxRuntimeBackend::open(&conformance::library()).unwrap().path(), opened.path());
        let copy = file("copy.so", &fs::read(opened.path()).unwrap());
        let error = OnnxRuntimeBackend::open(&copy).unwrap_err();
        assert!(error.to_string().contains("which this process uses"), "{error}");
    }
}
