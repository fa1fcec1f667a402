//! Breaks the line "the same task gives the same answer": result and child key are drawn anew each time.

use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;
use wasm_worker_guest::{Error, FanOut, Hooks, NextTask, Nothing, Output, Setup, Task};

struct NotIdempotent;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Params {
    /// Set on its own children, so that they have none.
    #[serde(default)]
    leaf: bool,
}

/// A number nobody can foretell: the time, under a seed from the host's random source.
fn draw() -> u64 {
    RandomState::new().hash_one(SystemTime::now())
}

impl Hooks for NotIdempotent {
    type Config = Nothing;
    type Params = Params;
    const NAME: &str = "not-idempotent";

    fn load_pipeline(_: Setup<Nothing>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn process(&mut self, _: &Task<Params>) -> Result<Output, Error> {
        Output::json(&json!({ "drawn": draw() }))
    }

    fn publish_next(&mut self, task: &Task<Params>, _: &Output) -> Result<FanOut, Error> {
        if task.params.leaf {
            return Ok(FanOut::none());
        }
        let child = NextTask::new(format!("c-{:016x}", draw())).step(&task.step).params(&json!({ "leaf": true }))?;
        Ok(FanOut::of([child]))
    }
}

wasm_worker_guest::export!(NotIdempotent);
