//! Breaks the line "three hooks": `publish-next` is not there. The world beside this file is the contract's, less that hook.

// The generated exports speak the component ABI.
#![allow(unsafe_code)]

mod bindings {
    #![allow(missing_docs)]
    wit_bindgen::generate!({ path: "wit", world: "half-step" });
}

use bindings::exports::wasm_worker::pipeline::hooks::Guest;
use bindings::wasm_worker::pipeline::types::{Error, Output, Setup, Task};

struct MissingHook;

impl Guest for MissingHook {
    fn load_pipeline(_: Setup) -> Result<(), Error> {
        Ok(())
    }

    fn process(_: Task) -> Result<Output, Error> {
        Ok(Output { outcome: None, payload: None, metrics: None, extras: Vec::new() })
    }
}

#[cfg(target_family = "wasm")]
bindings::export!(MissingHook with_types_in bindings);
