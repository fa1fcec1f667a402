//! Breaks the line "describe answers a JSON object": it answers half of one. Everything else works.
//! On the raw bindings, because the SDK would not let it.

use wasm_worker_guest::bindings::exports::wasm_worker::pipeline::{discovery, hooks};
use wasm_worker_guest::bindings::wasm_worker::pipeline::types::{Error, FanOut, Output, Setup, Task};

#[cfg_attr(not(target_family = "wasm"), expect(dead_code, reason = "exported from components only"))]
struct BadDescribe;

impl discovery::Guest for BadDescribe {
    fn describe() -> String {
        r#"{"name": "bad-describe", "functions": ["#.to_owned()
    }
}

impl hooks::Guest for BadDescribe {
    fn load_pipeline(_: Setup) -> Result<(), Error> {
        Ok(())
    }

    fn process(_: Task) -> Result<Output, Error> {
        Ok(Output { outcome: None, payload: None, metrics: None, extras: Vec::new() })
    }

    fn publish_next(_: Task, _: Output) -> Result<FanOut, Error> {
        Ok(FanOut { tasks: Vec::new(), then: None, extras: Vec::new() })
    }
}

#[cfg(target_family = "wasm")]
wasm_worker_guest::bindings::export_component!(BadDescribe with_types_in wasm_worker_guest::bindings);
