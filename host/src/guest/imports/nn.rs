//! `wasi:nn`, the standard's: tensors, graphs by their declared names, and runs on the host.
//!
//! A guest can put anything into a tensor, and its constructor cannot fail: what is wrong with one is kept beside it, and
//! said when it is used. Models themselves check names, types and shapes before a backend sees them.

use crate::guest::bindings::wasi::nn::{errors, graph, inference, tensor};
use crate::guest::scope::Scope;
use crate::guest::state::State;
use crate::inference::{ElementType, InferenceError, Limits, LoadOptions, Model, RtenBackend, Tensor};
use crate::task::limits::{MAX_ERROR_TEXT, cut};
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::Resource;

/// A `tensor` of the guest.
pub struct HeldTensor {
    ty: tensor::TensorType,
    content: Content,
    /// Bytes taken from the instance's quota.
    charged: u64,
}

enum Content {
    /// Ready for use.
    Good(Tensor),
    /// As the guest made it, and why it cannot be used.
    Bad { dims: Vec<u32>, bytes: Vec<u8>, why: InferenceError },
}

/// A `graph` of the guest: a model, shared by all instances.
pub struct Graph(Arc<Model>);

/// A `graph-execution-context` of the guest.
pub struct Context(Arc<Model>);

/// An `error` of the guest.
pub struct NnError {
    code: errors::ErrorCode,
    text: String,
}

/// Tensors by their names.
type Named = Vec<(String, Tensor)>;

type Answer<T> = wasmtime::Result<Result<T, Resource<NnError>>>;

impl State {
    fn refuse<T>(&mut self, error: &InferenceError) -> Answer<T> {
        let code = match error {
            InferenceError::InvalidArgument(_) => errors::ErrorCode::InvalidArgument,
            InferenceError::InvalidEncoding(_) => errors::ErrorCode::InvalidEncoding,
            InferenceError::NotFound(_) => errors::ErrorCode::NotFound,
            InferenceError::TooLarge(_) => errors::ErrorCode::TooLarge,
            InferenceError::Unsupported(_) => errors::ErrorCode::UnsupportedOperation,
            InferenceError::Security(_) => errors::ErrorCode::Security,
            InferenceError::Stopped => errors::ErrorCode::Timeout,
            InferenceError::Runtime(_) | InferenceError::Unavailable(_) => errors::ErrorCode::RuntimeError,
        };
        Ok(Err(self.table.push(NnError { code, text: cut(&error.to_string(), MAX_ERROR_TEXT) })?))
    }

    fn hold(&mut self, dims: Vec<u32>, ty: tensor::TensorType, bytes: Vec<u8>) -> HeldTensor {
        let size = (bytes.len() + dims.len() * size_of::<u32>()) as u64;
        if let Err(why) = self.tensors.take(size) {
            // Over the quota nothing is kept, not even the sizes.
            return HeldTensor {
                ty,
                content: Content::Bad { dims: Vec::new(), bytes: Vec::new(), why: InferenceError::TooLarge(why) },
                charged: 0,
            };
        }
        let content = match check(&dims, ty, bytes) {
            Ok(tensor) => Content::Good(tensor),
            Err((bytes, why)) => Content::Bad { dims, bytes, why },
        };
        HeldTensor { ty, content, charged: size }
    }

    /// Takes the inputs of a run out of the table, and how many bytes they hold. All handles are used up, also if one is bad.
    fn take_inputs(&mut self, inputs: Vec<inference::NamedTensor>) -> wasmtime::Result<(Result<Named, InferenceError>, u64)> {
        let mut taken = Ok(Vec::with_capacity(inputs.len()));
        let mut charged = 0;
        for (name, handle) in inputs {
            let held = self.table.delete(handle)?;
            charged += held.charged;
            match (held.content, &mut taken) {
                (Content::Good(tensor), Ok(list)) => list.push((name, tensor)),
                (Content::Bad { why, .. }, Ok(_)) => taken = Err(why),
                (_, Err(_)) => {}
            }
        }
        Ok((taken, charged))
    }

    fn hand_over(&mut self, outputs: Named) -> Answer<Vec<inference::NamedTensor>> {
        let mut held = Vec::with_capacity(outputs.len());
        let mut charged = 0;
        for (name, tensor) in outputs {
            let size = tensor.data().len() as u64;
            if let Err(why) = self.tensors.take(size) {
                self.tensors.give_back(charged);
                return self.refuse(&InferenceError::TooLarge(format!("output {name:?}: {why}")));
            }
            charged += size;
            held.push((name, HeldTensor { ty: type_of(tensor.ty()), content: Content::Good(tensor), charged: size }));
        }
        let named = held.into_iter().map(|(name, tensor)| Ok((name, self.table.push(tensor)?))).collect::<wasmtime::Result<Vec<_>>>()?;
        Ok(Ok(named))
    }
}

/// A tensor of the guest's bytes, or the bytes and what is wrong with them. The sizes are checked before they are used.
fn check(dims: &[u32], ty: tensor::TensorType, bytes: Vec<u8>) -> Result<Tensor, (Vec<u8>, InferenceError)> {
    let element = element(ty);
    let expected = dims.iter().try_fold(element.size() as u64, |product, dim| product.checked_mul(u64::from(*dim)));
    if expected != Some(bytes.len() as u64) {
        let shown = dims.iter().take(16).collect::<Vec<_>>();
        let says = expected.map_or("more bytes than can be counted".to_owned(), |bytes| format!("{bytes} bytes"));
        let why = format!("a tensor of shape {shown:?} and type {element} has {says}, but {} were given", bytes.len());
        return Err((bytes, InferenceError::InvalidArgument(why)));
    }
    // By now only its own bounds can be in the way.
    Tensor::new(dims.to_vec(), element, bytes).map_err(|why| (Vec::new(), why))
}

fn element(ty: tensor::TensorType) -> ElementType {
    match ty {
        tensor::TensorType::Fp16 => ElementType::F16,
        tensor::TensorType::Fp32 => ElementType::F32,
        tensor::TensorType::Fp64 => ElementType::F64,
        tensor::TensorType::Bf16 => ElementType::BF16,
        tensor::TensorType::U8 => ElementType::U8,
        tensor::TensorType::I32 => ElementType::I32,
        tensor::TensorType::I64 => ElementType::I64,
    }
}

fn type_of(element: ElementType) -> tensor::TensorType {
    match element {
        ElementType::F16 => tensor::TensorType::Fp16,
        ElementType::F32 => tensor::TensorType::Fp32,
        ElementType::F64 => tensor::TensorType::Fp64,
        ElementType::BF16 => tensor::TensorType::Bf16,
        ElementType::U8 => tensor::TensorType::U8,
        ElementType::I32 => tensor::TensorType::I32,
        ElementType::I64 => tensor::TensorType::I64,
    }
}

impl tensor::Host for State {}

impl tensor::HostTensor for State {
    fn new(&mut self, dims: Vec<u32>, ty: tensor::TensorType, bytes: Vec<u8>) -> wasmtime::Result<Resource<HeldTensor>> {
        let held = self.hold(dims, ty, bytes);
        Ok(self.table.push(held)?)
    }

    fn dimensions(&mut self, handle: Resource<HeldTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(match &self.table.get(&handle)?.content {
            Content::Good(tensor) => tensor.dims().to_vec(),
            Content::Bad { dims, .. } => dims.clone(),
        })
    }

    fn ty(&mut self, handle: Resource<HeldTensor>) -> wasmtime::Result<tensor::TensorType> {
        Ok(self.table.get(&handle)?.ty)
    }

    fn data(&mut self, handle: Resource<HeldTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(match &self.table.get(&handle)?.content {
            Content::Good(tensor) => tensor.data().to_vec(),
            Content::Bad { bytes, .. } => bytes.clone(),
        })
    }

    fn drop(&mut self, handle: Resource<HeldTensor>) -> wasmtime::Result<()> {
        let held = self.table.delete(handle)?;
        self.tensors.give_back(held.charged);
        Ok(())
    }
}

impl errors::Host for State {}

impl errors::HostError for State {
    fn code(&mut self, handle: Resource<NnError>) -> wasmtime::Result<errors::ErrorCode> {
        Ok(self.table.get(&handle)?.code)
    }

    fn data(&mut self, handle: Resource<NnError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&handle)?.text.clone())
    }

    fn drop(&mut self, handle: Resource<NnError>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

impl graph::Host for State {
    async fn load(
        &mut self,
        builder: Vec<Vec<u8>>,
        encoding: graph::GraphEncoding,
        target: graph::ExecutionTarget,
    ) -> Answer<Resource<Graph>> {
        if !self.step.allow_load {
            let why = format!("step '{}' may not load models from bytes; declare the model and use load-by-name", self.step.step);
            return self.refuse(&InferenceError::Security(why));
        }
        if !matches!(encoding, graph::GraphEncoding::Onnx | graph::GraphEncoding::Autodetect) {
            return self.refuse(&InferenceError::InvalidEncoding(format!("{encoding:?} models are not taken; onnx ones are")));
        }
        if target != graph::ExecutionTarget::Cpu {
            return self.refuse(&InferenceError::Unsupported(format!("{target:?} is not offered for models loaded from bytes; cpu is")));
        }
        let Ok([bytes]) = <[Vec<u8>; 1]>::try_from(builder) else {
            return self.refuse(&InferenceError::InvalidArgument("an onnx model has one part".to_owned()));
        };
        let load = move || Model::load(&RtenBackend::default(), bytes, &LoadOptions::default(), Limits::default());
        let loaded = tokio::task::spawn_blocking(load).await;
        match loaded.unwrap_or_else(|error| Err(InferenceError::Runtime(error.to_string()))) {
            Ok(model) => Ok(Ok(self.table.push(Graph(Arc::new(model)))?)),
            Err(error) => self.refuse(&error),
        }
    }

    async fn load_by_name(&mut self, name: String) -> Answer<Resource<Graph>> {
        let (step, models) = (Arc::clone(&self.step), Arc::clone(&self.models));
        let Some(spec) = step.models.get(&name) else {
            let declared = step.models.keys().cloned().collect::<Vec<_>>().join(", ");
            let declared = if declared.is_empty() { "none".to_owned() } else { declared };
            let why = format!("no model '{}' is declared for step '{}'; declared: {declared}", cut(&name, 128).escape_debug(), step.step);
            return self.refuse(&InferenceError::NotFound(why));
        };
        match models.get(spec).await {
            Ok(model) => Ok(Ok(self.table.push(Graph(model))?)),
            Err(error) => self.refuse(&error),
        }
    }
}

impl graph::HostGraph for State {
    fn init_execution_context(&mut self, handle: Resource<Graph>) -> Answer<Resource<Context>> {
        let model = Arc::clone(&self.table.get(&handle)?.0);
        Ok(Ok(self.table.push(Context(model))?))
    }

    fn drop(&mut self, handle: Resource<Graph>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

impl inference::Host for State {}

impl inference::HostGraphExecutionContext for State {
    async fn compute(&mut self, handle: Resource<Context>, inputs: Vec<inference::NamedTensor>) -> Answer<Vec<inference::NamedTensor>> {
        let model = Arc::clone(&self.table.get(&handle)?.0);
        let (inputs, charged) = self.take_inputs(inputs)?;
        let outputs = match inputs {
            Ok(inputs) => {
                let clock = InferenceClock { scope: Arc::clone(&self.scope), since: Instant::now() };
                let models = Arc::clone(&self.models);
                let outputs = models.run(&model, inputs).await;
                drop(clock);
                outputs
            }
            Err(why) => Err(why),
        };
        self.tensors.give_back(charged);
        match outputs {
            Ok(outputs) => self.hand_over(outputs),
            Err(error) => self.refuse(&error),
        }
    }

    fn drop(&mut self, handle: Resource<Context>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

/// Counts the time of a run, also of one that is stopped.
struct InferenceClock {
    scope: Arc<Scope>,
    since: Instant,
}

impl Drop for InferenceClock {
    fn drop(&mut self) {
        self.scope.count_inference(self.since.elapsed());
    }
}
