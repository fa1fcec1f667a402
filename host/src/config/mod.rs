//! Configuration: what belongs to a machine ([`Config`]) and what belongs to a pipeline ([`Pipeline`]).
//!
//! Both are read as a whole before anything starts: unknown keys are refused with the nearest known one, and every problem
//! is reported at once with its key, its value, where it came from and what was expected.

mod bucket;
mod environment;
mod file;
mod host;
mod pipeline;
mod placed;
mod queue;
mod section;
mod sources;
mod store;
#[cfg(test)]
mod tests;

pub use environment::{CONFIG, ENVIRONMENT, Variable};
pub use host::{Config, InferenceConfig, S3At, WorkerConfig};
pub use pipeline::{Elsewhere, Grant, MadeUp, ModelDecl, Pipeline, Step, StepRetry};
pub use queue::{BrokerAt, QueueAt, QueueConfig, QueueRules};
pub use section::{ConfigError, Problem, Setting};
pub use sources::Overrides;
pub use store::{Dsn, StoreAt};
