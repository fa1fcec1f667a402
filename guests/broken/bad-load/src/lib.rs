//! Breaks the line "load-pipeline succeeds": it fails for good, whatever the config says.

use wasm_worker_guest::{Error, Hooks, Nothing, Output, Setup, Task};

struct BadLoad;

impl Hooks for BadLoad {
    type Config = Nothing;
    type Params = Nothing;
    const NAME: &str = "bad-load";

    fn load_pipeline(_: Setup<Nothing>) -> Result<Self, Error> {
        Err(Error::fatal("labels-missing", "labels.txt is not there"))
    }

    fn process(&mut self, _: &Task<Nothing>) -> Result<Output, Error> {
        Ok(Output::none())
    }
}

wasm_worker_guest::export!(BadLoad);
