//! The bench's guest: nothing in, nothing out, no children. What is left is what the host and the boundary cost.

use wasm_worker_guest::{Error, Hooks, Output, Setup, Task};

struct Noop;

/// Any table at all: keys are skipped, none is kept.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Anything {}

impl Hooks for Noop {
    type Config = Anything;
    type Params = Anything;
    const NAME: &str = "noop";

    fn load_pipeline(_: Setup<Anything>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn process(&mut self, _: &Task<Anything>) -> Result<Output, Error> {
        Ok(Output::none())
    }
}

wasm_worker_guest::export!(Noop);
