//! What a service says about itself: the JSON that `describe` answers, and that `wasm-worker inspect` prints.

use schemars::{JsonSchema, Schema};
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the shape of a [`Description`]. A reader ignores keys it does not know.
pub const SCHEMA_VERSION: u32 = 1;

/// Hosts that serve the contract of this crate.
pub const HOST_RANGE: &str = ">=0.1.0, <0.2.0";

/// A service's own manifest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Host versions it runs on, as a semver requirement.
    pub host: String,
    /// Its name.
    pub name: String,
    /// Its version, semver.
    pub version: String,
    /// JSON Schema of the step's `config` table.
    pub config: Schema,
    /// What it can do; a step with one function need not name it in its messages.
    pub functions: Vec<Function>,
    /// Short names of the models it loads.
    pub models: Vec<String>,
    /// Limits it asks for, by their names in the pipeline file, such as `memory` = `512MiB`. The pipeline file has the last word.
    pub limits: BTreeMap<String, String>,
    /// Outcomes it may name, for `transitions`.
    pub outcomes: Vec<String>,
    /// Steps that it names by itself in its children.
    pub next: Vec<String>,
}

impl Description {
    /// A service with nothing but its names and the schema of its config.
    pub fn new<Config: JsonSchema>(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            host: HOST_RANGE.to_owned(),
            name: name.into(),
            version: version.into(),
            config: schemars::schema_for!(Config),
            functions: Vec::new(),
            models: Vec::new(),
            limits: BTreeMap::new(),
            outcomes: Vec::new(),
            next: Vec::new(),
        }
    }

    /// Asks for a limit, by its name in the pipeline file.
    #[must_use]
    pub fn limit(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.limits.insert(name.into(), value.into());
        self
    }

    /// Adds a step that the service names by itself.
    #[must_use]
    pub fn next_step(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }
}

/// One thing a service can do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Function {
    /// Its name; messages choose it by `function`.
    pub name: String,
    /// JSON Schema of the task's params. The host refuses what does not fit before the service sees it.
    pub params: Schema,
    /// JSON Schema of `result.json`, where the service gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Schema>,
    /// Short names of the models it needs.
    pub models: Vec<String>,
}

impl Function {
    /// A function whose params are a `P`.
    pub fn new<P: JsonSchema>(name: impl Into<String>) -> Self {
        Self { name: name.into(), params: schemars::schema_for!(P), output: None, models: Vec::new() }
    }

    /// Says that it answers with a `T` as JSON.
    #[must_use]
    pub fn output<T: JsonSchema>(mut self) -> Self {
        self.output = Some(schemars::schema_for!(T));
        self
    }

    /// The models it needs, by short name.
    #[must_use]
    pub fn models<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.models = names.into_iter().map(str::to_owned).collect();
        self
    }
}
