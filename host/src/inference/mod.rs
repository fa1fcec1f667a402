//! Running models: the port, its values, and the adapters behind it.
//!
//! A model is opened once ([`Models`]) and shared by all instances. [`Model`] is the door: it checks every name, type,
//! shape and length before a backend sees them, and turns a backend's panic into an error. Behind it stands a
//! [`Session`], the adapter's half, which may trust its inputs.
//!
//! Left out: `wasi:nn` itself (that is `guest/`), fetching models, and graphics cards. A model runs in this process: what is
//! refused before a backend opens a file is listed in [`onnx`], but what a graph allocates or how long it computes is not
//! bounded (a constant shape may ask rten for gigabytes), so only models that an operator declared should get this far.

#[cfg(test)]
mod conformance;
mod model;
pub mod onnx;
mod onnxruntime;
mod protobuf;
mod registry;
mod rten;
mod stop;
mod tensor;
#[cfg(test)]
mod tiny;

use std::sync::Arc;

use thiserror::Error;

pub use self::model::{Limits, Model};
pub use self::onnx::Port;
pub use self::onnxruntime::OnnxRuntimeBackend;
pub use self::registry::{BackendChoice, BackendStatus, ModelSpec, Models, ModelsConfig};
pub use self::rten::RtenBackend;
pub use self::stop::Stop;
pub use self::tensor::{ElementType, MAX_RANK, MAX_TENSOR_BYTES, Tensor};

/// Why a model did not load or run. The variants follow the error codes of `wasi:nn`; texts are for a person.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InferenceError {
    /// A shape, type, length or name does not fit (`invalid-argument`).
    #[error("{0}")]
    InvalidArgument(String),
    /// Not a model that can be read (`invalid-encoding`).
    #[error("{0}")]
    InvalidEncoding(String),
    /// No such model or file (`not-found`).
    #[error("{0}")]
    NotFound(String),
    /// Over a limit (`too-large`).
    #[error("{0}")]
    TooLarge(String),
    /// A type, format or device that is not offered (`unsupported-operation`).
    #[error("{0}")]
    Unsupported(String),
    /// Refused: a digest that differs, or a model that reaches outside itself (`security`).
    #[error("{0}")]
    Security(String),
    /// The backend failed (`runtime-error`).
    #[error("{0}")]
    Runtime(String),
    /// The run was stopped before it ended (`timeout`).
    #[error("the run was stopped")]
    Stopped,
    /// A backend that was asked for is not there (`runtime-error`); the text says how to provide it.
    #[error("{0}")]
    Unavailable(String),
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// A graphics card. No backend here takes one: asking for it is an error, never a silent fall-back.
    Gpu,
}

/// How a model is opened. Part of what tells two loaded models apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoadOptions {
    /// Threads of one run, at least 1.
    pub threads: usize,
    /// Runs of this model that may go on at once, at least 1; more wait. A backend may hold resources for each.
    pub parallel: usize,
    /// Where it runs.
    pub device: Device,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { threads: 1, parallel: 1, device: Device::Cpu }
    }
}

/// A library that runs ONNX models.
pub trait Backend: Send + Sync {
    /// Short name, as written in a pipeline file.
    fn name(&self) -> &'static str;

    /// Version of the library, for people.
    fn version(&self) -> String;

    /// Opens a model. `graph` is what [`onnx::inspect`] found in the same `bytes`, so hostile files were refused before.
    fn open(&self, bytes: Vec<u8>, graph: &Arc<onnx::Graph>, options: &LoadOptions) -> Result<Box<dyn Session>, InferenceError>;
}

/// An open model, as an adapter sees it. Callers use [`Model`].
pub trait Session: Send + Sync {
    /// Runs the model on the calling thread. `inputs` are in the order of the graph's inputs, checked against them; the
    /// answer has the graph's outputs in order. Called from many threads at once. `max_output_bytes` bounds the sum of the
    /// outputs: an adapter checks it before it copies them out.
    fn run(&self, inputs: &[Tensor], max_output_bytes: usize, stop: &Stop) -> Result<Vec<Tensor>, InferenceError>;
}
