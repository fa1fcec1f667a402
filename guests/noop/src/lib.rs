//! The bench's guest: nothing in, nothing out, and one child where the params ask for it. What is left is what the host and the
//! boundary cost.

use std::collections::BTreeMap;
use wasm_worker_guest::{Error, FanOut, Hooks, NextTask, Output, Setup, Task};

struct Noop;

/// Any table at all: keys are skipped, none is kept.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Anything {}

/// Any params at all; one key counts.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Params {
    /// Whether one task of the same step follows.
    #[serde(default)]
    child: bool,
}

impl Hooks for Noop {
    type Config = Anything;
    type Params = Params;
    const NAME: &str = "noop";

    fn load_pipeline(_: Setup<Anything>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn process(&mut self, _: &Task<Params>) -> Result<Output, Error> {
        Ok(Output::none())
    }

    fn publish_next(&mut self, task: &Task<Params>, _: &Output) -> Result<FanOut, Error> {
        if !task.params.child {
            return Ok(FanOut::none());
        }
        Ok(FanOut::of([NextTask::new("next").params(&BTreeMap::from([("child", false)]))?]))
    }
}

wasm_worker_guest::export!(Noop);
