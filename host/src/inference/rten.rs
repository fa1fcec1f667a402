//! The embedded backend: rten, in pure Rust and safe with hostile files.
//!
//! It computes in 32 bits. Integers of 64 bits that fit are narrowed and widened; those that do not fit are refused, and so
//! are models that want halves, brain floats or doubles, because an answer in another precision would look like the right
//! one. It cannot be stopped in the middle of a run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rten::{ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::{AsView, Layout};

use super::model::shortened;
use super::onnx::Graph;
use super::{Backend, Device, ElementType, InferenceError, LoadOptions, Port, Session, Stop, Tensor};

/// rten as a backend. It is always there.
#[derive(Debug, Default)]
pub struct RtenBackend {
    pools: Arc<Pools>,
}

/// Idle pools of threads, by their number of threads. Each run takes one of its own, else parallel runs would queue for the
/// threads of one pool. There come to be as many as runs went on at once.
#[derive(Debug, Default)]
struct Pools {
    idle: Mutex<HashMap<usize, Vec<Arc<ThreadPool>>>>,
}

impl Pools {
    fn take(&self, threads: usize) -> Arc<ThreadPool> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&threads).and_then(Vec::pop);
        idle.unwrap_or_else(|| Arc::new(ThreadPool::with_num_threads(threads)))
    }

    fn put_back(&self, threads: usize, pool: Arc<ThreadPool>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).entry(threads).or_default().push(pool);
    }
}

impl Backend for RtenBackend {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn open(&self, bytes: Vec<u8>, graph: &Arc<Graph>, options: &LoadOptions) -> Result<Box<dyn Session>, InferenceError> {
        if options.device != Device::Cpu {
            return Err(InferenceError::Unsupported("rten runs on the processor only".to_owned()));
        }
        for (what, port) in graph.inputs.iter().map(|port| ("input", port)).chain(graph.outputs.iter().map(|port| ("output", port))) {
            if matches!(port.ty, ElementType::F16 | ElementType::BF16 | ElementType::F64) {
                return Err(InferenceError::Unsupported(format!(
                    "{what} {:?} is {}, and rten computes in 32 bits; use onnxruntime for this model",
                    port.name, port.ty
                )));
            }
        }
        let model = ModelOptions::with_all_ops()
            .prepack_weights(true)
            .load(bytes)
            .map_err(|error| InferenceError::InvalidEncoding(shortened(&format!("rten cannot load the model: {error}"))))?;
        let ids = |ports: &[Port]| ports.iter().map(|port| model.node_id(&port.name)).collect::<Result<Vec<_>, _>>().map_err(failed);
        let (inputs, outputs) = (ids(&graph.inputs)?, ids(&graph.outputs)?);
        let threads = options.threads;
        Ok(Box::new(RtenSession { model, graph: Arc::clone(graph), inputs, outputs, threads, pools: Arc::clone(&self.pools) }))
    }
}

/// Equal to what `Cargo.lock` holds, as a test sees to.
const VERSION: &str = "0.27.0";

struct RtenSession {
    model: rten::Model,
    graph: Arc<Graph>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    threads: usize,
    pools: Arc<Pools>,
}

impl Session for RtenSession {
    fn run(&self, inputs: &[Tensor], max_output_bytes: usize, _stop: &Stop) -> Result<Vec<Tensor>, InferenceError> {
        let borrowed = self.graph.inputs.iter().zip(inputs).map(|(port, tensor)| Input::of(port, tensor)).collect::<Result<Vec<_>, _>>()?;
        let views = self
            .inputs
            .iter()
            .zip(inputs.iter().zip(&borrowed))
            .map(|(id, (tensor, input))| Ok((*id, input.view(tensor)?)))
            .collect::<Result<Vec<_>, InferenceError>>()?;
        let pool = self.pools.take(self.threads);
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&pool)));
        let values = self.model.run(views, &self.outputs, Some(options));
        // Not reached after a panic: then the pool is dropped with the run.
        self.pools.put_back(self.threads, pool);
        let values = values.map_err(failed)?;
        let mut left = max_output_bytes;
        self.graph.outputs.iter().zip(values).map(|(port, value)| output(port, &value, &mut left)).collect()
    }
}

fn failed(error: impl std::fmt::Display) -> InferenceError {
    InferenceError::Runtime(shortened(&format!("rten failed: {error}")))
}

/// The elements of an input, as rten takes them.
enum Input<'a> {
    Floats(Cow<'a, [f32]>),
    Integers(Cow<'a, [i32]>),
    Bytes(&'a [u8]),
}

impl<'a> Input<'a> {
    fn of(port: &Port, tensor: &'a Tensor) -> Result<Self, InferenceError> {
        Ok(match tensor.ty() {
            ElementType::F32 => Self::Floats(tensor.elements()?),
            ElementType::I32 => Self::Integers(tensor.elements()?),
            ElementType::I64 => {
                let narrow = |number: &i64| i32::try_from(*number).map_err(|_| too_wide(port, *number));
                Self::Integers(tensor.elements::<i64>()?.iter().map(narrow).collect::<Result<Vec<_>, _>>()?.into())
            }
            ElementType::U8 if port.boolean => {
                Self::Integers(tensor.data().iter().map(|byte| i32::from(*byte != 0)).collect::<Vec<_>>().into())
            }
            ElementType::U8 => Self::Bytes(tensor.data()),
            other => {
                return Err(InferenceError::Unsupported(format!("rten takes no {other} tensors")));
            }
        })
    }

    fn view(&'a self, tensor: &Tensor) -> Result<ValueOrView<'a>, InferenceError> {
        let shape = tensor.dims().iter().map(|dim| usize::try_from(*dim)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        Ok(match self {
            Self::Floats(elements) => ValueView::from_shape(shape, elements).map_err(failed)?.into(),
            Self::Integers(elements) => ValueView::from_shape(shape, elements).map_err(failed)?.into(),
            Self::Bytes(elements) => ValueView::from_shape(shape, elements).map_err(failed)?.into(),
        })
    }
}

fn too_wide(port: &Port, number: i64) -> InferenceError {
    InferenceError::InvalidArgument(format!(
        "{number} in input {:?} does not fit 32 bits, in which rten computes; use onnxruntime for this model",
        port.name
    ))
}

/// Copies an output out, if it still fits into what is `left` of the bytes allowed.
fn output(port: &Port, value: &Value, left: &mut usize) -> Result<Tensor, InferenceError> {
    let shape = value.shape().iter().map(|dim| u32::try_from(*dim)).collect::<Result<Vec<_>, _>>();
    let dims = shape.map_err(|_| InferenceError::TooLarge(format!("output {:?} has a size of more than 32 bits", port.name)))?;
    let bytes = value.len().saturating_mul(port.ty.size());
    *left = left
        .checked_sub(bytes)
        .ok_or_else(|| InferenceError::TooLarge(format!("outputs exceed the allowed bytes at {:?}, which has {bytes}", port.name)))?;
    match (value, port.ty) {
        (Value::FloatTensor(tensor), ElementType::F32) => Tensor::from_elements(dims, port.ty, &in_order(tensor)),
        (Value::Int32Tensor(tensor), ElementType::I32) => Tensor::from_elements(dims, port.ty, &in_order(tensor)),
        (Value::Int32Tensor(tensor), ElementType::I64) => {
            let wide: Vec<i64> = tensor.iter().map(|number| i64::from(*number)).collect();
            Tensor::from_elements(dims, port.ty, &wide)
        }
        (Value::Int32Tensor(tensor), ElementType::U8) if port.boolean => {
            Tensor::new(dims, port.ty, tensor.iter().map(|number| u8::from(*number != 0)).collect())
        }
        (Value::UInt8Tensor(tensor), ElementType::U8) => Tensor::from_elements(dims, port.ty, &in_order(tensor)),
        _ => Err(InferenceError::Runtime(format!("output {:?} came as {:?}, not {}", port.name, value.dtype(), port.ty))),
    }
}

/// The elements in row-major order; borrowed unless the tensor is a transposed or sliced view.
fn in_order<T: Clone>(tensor: &rten_tensor::Tensor<T>) -> Cow<'_, [T]> {
    tensor.view().data().map_or_else(|| Cow::Owned(tensor.to_vec()), Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        let (_, rest) = lock.split_once("name = \"rten\"\nversion = \"").unwrap();
        assert_eq!(rest.split('"').next(), Some(super::VERSION));
    }
}
