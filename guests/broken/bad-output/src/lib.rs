//! Breaks the line "outputs stay under the output prefix": it climbs out of it.

use wasm_worker_guest::{Error, Hooks, Nothing, Output, Setup, Task, storage};

struct BadOutput;

impl Hooks for BadOutput {
    type Config = Nothing;
    type Params = Nothing;
    const NAME: &str = "bad-output";

    fn load_pipeline(_: Setup<Nothing>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn process(&mut self, _: &Task<Nothing>) -> Result<Output, Error> {
        storage::write("../x", "text/plain", b"over the wall")?;
        Ok(Output::none())
    }
}

wasm_worker_guest::export!(BadOutput);
