//! Configuration: what belongs to a machine ([`Config`]) and what belongs to a pipeline ([`Pipeline`]).
//!
//! Both are read as a whole before anything starts: unknown keys are refused with the nearest known one, and every problem
//! is reported at once with its key, its value, where it came from and what was expected.

mod host;
mod pipeline;
mod section;
mod store;

pub use host::{Config, ENVIRONMENT, InferenceConfig, Overrides, WorkerConfig};
pub use pipeline::{Grant, MadeUp, ModelDecl, Pipeline, Step, StepRetry};
pub use section::{ConfigError, Problem};
pub use store::{Dsn, StoreAt};
