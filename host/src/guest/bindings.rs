//! Rust for the contract in `wit/`: the types that cross the boundary, a trait per import, and typed calls of the hooks.
//!
//! What goes into a guest is borrowed, so that a task is lowered straight from [`Work`](crate::task::hooks::Work); what
//! comes out is owned. Import functions that wait for the outside are async; the others answer at once.
#![allow(missing_docs)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "step",
    imports: {
        "wasm-worker:pipeline/context.inputs": async | trappable,
        "wasm-worker:pipeline/storage.read": async | trappable,
        "wasm-worker:pipeline/storage.open": async | trappable,
        "wasm-worker:pipeline/storage.write": async | trappable,
        "wasm-worker:pipeline/storage.create": async | trappable,
        "wasm-worker:pipeline/storage.[method]reader.read": async | trappable,
        "wasm-worker:pipeline/storage.[method]writer.write": async | trappable,
        "wasm-worker:pipeline/storage.[static]writer.finish": async | trappable,
        "wasi:nn/graph.load": async | trappable,
        "wasi:nn/graph.load-by-name": async | trappable,
        "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
    with: {
        "wasm-worker:pipeline/storage.reader": super::imports::storage::Reader,
        "wasm-worker:pipeline/storage.writer": super::imports::storage::Writer,
        "wasi:nn/tensor.tensor": super::imports::nn::HeldTensor,
        "wasi:nn/graph.graph": super::imports::nn::Graph,
        "wasi:nn/inference.graph-execution-context": super::imports::nn::Context,
        "wasi:nn/errors.error": super::imports::nn::NnError,
    },
});
