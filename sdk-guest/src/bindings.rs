//! What wit-bindgen makes of `../wit` (world `described-step`), unchanged: for guests that need a call exactly as the contract has it.
//! Everything else of this crate is a friendlier face of this module.
//!
//! The folder is found beside this crate, here and wherever both are vendored together.

// Generated code: it calls the component ABI, and takes its names and comments from the contract.
#![allow(unsafe_code, missing_docs, clippy::all)]

wit_bindgen::generate!({
    path: "../wit",
    world: "described-step",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "wasm_worker_guest::bindings",
});
