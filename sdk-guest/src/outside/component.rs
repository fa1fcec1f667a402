//! The host's imports, with this crate's types. One call here is one call to the host.

use crate::bindings::wasi::nn;
use crate::bindings::wasm_worker::pipeline::{context, storage, types};
use crate::context::{Level, Progress};
use crate::error::Failure;
use crate::inference::{Element, ErrorCode, InferenceError, Tensor};
use crate::payload::Payload;
use crate::task::Input;

pub(crate) fn read(uri: &str) -> Result<Vec<u8>, Failure> {
    Ok(storage::read(uri)?)
}

pub(crate) fn write(name: &str, content_type: &str, bytes: &[u8]) -> Result<String, Failure> {
    Ok(storage::write(name, content_type, bytes)?)
}

#[derive(Debug)]
pub(crate) struct Reader(storage::Reader);

impl Reader {
    pub(crate) fn open(uri: &str) -> Result<Self, Failure> {
        Ok(Self(storage::open(uri)?))
    }

    pub(crate) fn size(&self) -> Option<u64> {
        self.0.size()
    }

    pub(crate) fn read(&mut self, max: u64) -> Result<Vec<u8>, Failure> {
        Ok(self.0.read(max)?)
    }
}

#[derive(Debug)]
pub(crate) struct Writer(storage::Writer);

impl Writer {
    pub(crate) fn create(name: &str, content_type: &str) -> Result<Self, Failure> {
        Ok(Self(storage::create(name, content_type)?))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.0.write(bytes)?)
    }

    pub(crate) fn finish(self) -> Result<String, Failure> {
        Ok(storage::Writer::finish(self.0)?)
    }
}

impl From<types::Failure> for Failure {
    fn from(failure: types::Failure) -> Self {
        Self { code: failure.code, message: failure.message, retryable: failure.retryable }
    }
}

pub(crate) fn log(level: Level, message: &str, fields: &str) {
    let level = match level {
        Level::Trace => context::Level::Trace,
        Level::Debug => context::Level::Debug,
        Level::Info => context::Level::Info,
        Level::Warn => context::Level::Warn,
        Level::Error => context::Level::Error,
    };
    context::log(level, message, fields);
}

pub(crate) fn progress(progress: Progress) {
    context::progress(progress.done, progress.total, progress.phase.as_deref(), progress.metrics.as_deref());
}

pub(crate) fn is_cancelled() -> bool {
    context::is_cancelled()
}

pub(crate) fn emit(chunk: Payload) -> Result<(), Failure> {
    Ok(context::emit(&chunk.into())?)
}

pub(crate) fn inputs(offset: u32, limit: u32) -> Vec<Input> {
    context::inputs(offset, limit).into_iter().map(Input::from).collect()
}

pub(crate) fn secret(name: &str) -> Option<String> {
    context::secret(name)
}

/// The context is declared before its graph, so that it is dropped first.
#[derive(Debug)]
pub(crate) struct Graph {
    context: nn::inference::GraphExecutionContext,
    _graph: nn::graph::Graph,
}

impl Graph {
    pub(crate) fn load(name: &str) -> Result<Self, InferenceError> {
        let graph = nn::graph::load_by_name(name)?;
        Ok(Self { context: graph.init_execution_context()?, _graph: graph })
    }

    pub(crate) fn compute(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, OutputTensor)>, InferenceError> {
        let named = |(name, tensor): &(&str, Tensor)| {
            let raw = nn::tensor::Tensor::new(tensor.dims(), element_to_host(tensor.element()), tensor.bytes());
            ((*name).to_owned(), raw)
        };
        let outputs = self.context.compute(inputs.iter().map(named).collect())?;
        Ok(outputs.into_iter().map(|(name, raw)| (name, OutputTensor(raw))).collect())
    }
}

/// An output that still lies with the host.
#[derive(Debug)]
pub(crate) struct OutputTensor(nn::tensor::Tensor);

impl OutputTensor {
    pub(crate) fn fetch(&self) -> Result<Tensor, InferenceError> {
        Tensor::from_bytes(&self.0.dimensions(), element_from_host(self.0.ty()), self.0.data())
    }
}

fn element_to_host(element: Element) -> nn::tensor::TensorType {
    match element {
        Element::F16 => nn::tensor::TensorType::Fp16,
        Element::F32 => nn::tensor::TensorType::Fp32,
        Element::F64 => nn::tensor::TensorType::Fp64,
        Element::Bf16 => nn::tensor::TensorType::Bf16,
        Element::U8 => nn::tensor::TensorType::U8,
        Element::I32 => nn::tensor::TensorType::I32,
        Element::I64 => nn::tensor::TensorType::I64,
    }
}

fn element_from_host(element: nn::tensor::TensorType) -> Element {
    match element {
        nn::tensor::TensorType::Fp16 => Element::F16,
        nn::tensor::TensorType::Fp32 => Element::F32,
        nn::tensor::TensorType::Fp64 => Element::F64,
        nn::tensor::TensorType::Bf16 => Element::Bf16,
        nn::tensor::TensorType::U8 => Element::U8,
        nn::tensor::TensorType::I32 => Element::I32,
        nn::tensor::TensorType::I64 => Element::I64,
    }
}

impl From<nn::errors::Error> for InferenceError {
    fn from(error: nn::errors::Error) -> Self {
        use nn::errors::ErrorCode as Host;
        let code = match error.code() {
            Host::InvalidArgument => ErrorCode::InvalidArgument,
            Host::InvalidEncoding => ErrorCode::InvalidEncoding,
            Host::Timeout => ErrorCode::Timeout,
            Host::RuntimeError => ErrorCode::RuntimeError,
            Host::UnsupportedOperation => ErrorCode::UnsupportedOperation,
            Host::TooLarge => ErrorCode::TooLarge,
            Host::NotFound => ErrorCode::NotFound,
            Host::Security => ErrorCode::Security,
            Host::Unknown => ErrorCode::Unknown,
        };
        Self::new(code, error.data())
    }
}
