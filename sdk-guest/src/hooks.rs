//! The trait a service implements. The host calls `load_pipeline` once per instance, then the two other hooks for each task.

use crate::description::{Description, Function};
use crate::error::Error;
use crate::output::{FanOut, Output};
use crate::task::{Setup, Task};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A service. Its value is the state of one instance: what `load_pipeline` prepared and later tasks find again.
///
/// An instance runs one task at a time and belongs to one tenant, but what a task leaves in `self` may be gone at the next one:
/// the host makes and drops instances as it likes.
pub trait Hooks: Sized + 'static {
    /// The step's `config` table, typed. [`Nothing`] where there is none.
    type Config: DeserializeOwned + JsonSchema;
    /// The task's params, typed. [`Nothing`] where there are none.
    type Params: DeserializeOwned + JsonSchema;

    /// The service's name, and the name of its only function unless [`functions`](Self::functions) says otherwise.
    const NAME: &str;
    /// Its version, semver. `env!("CARGO_PKG_VERSION")` is a good value.
    const VERSION: &str = "0.1.0";

    /// Once per instance, before its first task: load graphs, build tables. A config that does not fit its type never gets here.
    fn load_pipeline(setup: Setup<Self::Config>) -> Result<Self, Error>;

    /// The work. Files are written from here only. Params that do not fit their type never get here.
    fn process(&mut self, task: &Task<Self::Params>) -> Result<Output, Error>;

    /// What follows, given what `process` made; nothing by default. Must give the same answer each time it is asked about the same task.
    fn publish_next(&mut self, task: &Task<Self::Params>, output: &Output) -> Result<FanOut, Error> {
        let _ = (task, output);
        Ok(FanOut::none())
    }

    /// What it can do; one function of the service's own name by default.
    fn functions() -> Vec<Function> {
        vec![Function::new::<Self::Params>(Self::NAME).models(Self::models().iter().copied())]
    }

    /// Short names of the models it loads.
    fn models() -> &'static [&'static str] {
        &[]
    }

    /// Outcomes it may name.
    fn outcomes() -> &'static [&'static str] {
        &[]
    }

    /// Its manifest, made of all the above by default.
    fn describe() -> Description {
        let mut description = Description::new::<Self::Config>(Self::NAME, Self::VERSION);
        description.functions = Self::functions();
        description.models = Self::models().iter().map(|m| (*m).to_owned()).collect();
        description.outcomes = Self::outcomes().iter().map(|o| (*o).to_owned()).collect();
        description
    }
}

/// An empty table, for services without config or params. A key in it is a mistake of whoever wrote it, and is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
