//! Breaks the line "the result fits the schema that the guest describes": it says a text, and answers a list.

use wasm_worker_guest::{Error, Function, Hooks, Nothing, Output, Setup, Task};

struct BadResult;

impl Hooks for BadResult {
    type Config = Nothing;
    type Params = Nothing;
    const NAME: &str = "bad-result";

    fn load_pipeline(_: Setup<Nothing>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn process(&mut self, _: &Task<Nothing>) -> Result<Output, Error> {
        Output::json(&[1, 2, 3])
    }

    fn functions() -> Vec<Function> {
        vec![Function::new::<Nothing>(Self::NAME).output::<String>()]
    }
}

wasm_worker_guest::export!(BadResult);
