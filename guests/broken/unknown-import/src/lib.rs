//! Breaks the line "every import is granted": it asks for `acme:teleport/beam`, which no host has. Everything else works.

use wasm_worker_guest::{Error, Hooks, Nothing, Output, Setup, Task};

/// The stray import.
mod stray {
    #![allow(unsafe_code, missing_docs)]
    wit_bindgen::generate!({ path: "wit", world: "traveller" });
}

struct UnknownImport;

impl Hooks for UnknownImport {
    type Config = Nothing;
    type Params = Nothing;
    const NAME: &str = "unknown-import";

    fn load_pipeline(_: Setup<Nothing>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn process(&mut self, task: &Task<Nothing>) -> Result<Output, Error> {
        Output::json(&stray::acme::teleport::beam::up(&task.step))
    }
}

wasm_worker_guest::export!(UnknownImport);
