//! Models that the step declares, run by the host through the standard `wasi:nn`.
//!
//! Left out: loading a model from the guest's own bytes, which the host refuses unless the step allows it; the standard's call is in
//! [`bindings`](crate::bindings).

mod error;
mod tensor;

pub use error::{ErrorCode, InferenceError};
pub use tensor::{Element, Tensor};

use crate::outside;

/// A model, ready to run. Load it once, in `load_pipeline`, and keep it.
#[derive(Debug)]
pub struct Graph {
    name: String,
    raw: outside::Graph,
}

impl Graph {
    /// Loads a model that the step declares, by its short name.
    pub fn load(name: &str) -> Result<Self, InferenceError> {
        Ok(Self { name: name.to_owned(), raw: outside::Graph::load(name)? })
    }

    /// Its short name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the model on all its inputs, by name.
    pub fn compute(&self, inputs: &[(&str, Tensor)]) -> Result<Outputs, InferenceError> {
        Ok(Outputs { model: self.name.clone(), tensors: self.raw.compute(inputs)? })
    }
}

/// What a run of a model gave. The elements stay with the host until they are asked for, so an output that is not read costs nothing.
#[derive(Debug)]
pub struct Outputs {
    model: String,
    tensors: Vec<(String, outside::OutputTensor)>,
}

impl Outputs {
    /// The output of that name; `not-found`, with the names there are, where it has none.
    pub fn get(&self, name: &str) -> Result<Tensor, InferenceError> {
        match self.tensors.iter().find(|(n, _)| n == name) {
            Some((_, tensor)) => tensor.fetch(),
            None => {
                let names = self.names().collect::<Vec<_>>().join(", ");
                Err(InferenceError::new(ErrorCode::NotFound, format!("model '{}' has no output '{name}' (it has: {names})", self.model)))
            }
        }
    }

    /// The output of a model that has exactly one; `invalid-argument` where it has none or several.
    pub fn only(&self) -> Result<Tensor, InferenceError> {
        match self.tensors.as_slice() {
            [(_, tensor)] => tensor.fetch(),
            several => Err(InferenceError::new(
                ErrorCode::InvalidArgument,
                format!("model '{}' has {} outputs, expected one", self.model, several.len()),
            )),
        }
    }

    /// The first output; `not-found` where the model gave none.
    pub fn first(&self) -> Result<Tensor, InferenceError> {
        match self.tensors.first() {
            Some((_, tensor)) => tensor.fetch(),
            None => Err(InferenceError::new(ErrorCode::NotFound, format!("model '{}' gave no output", self.model))),
        }
    }

    /// The names of the outputs, in the model's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }
}
