//! `wasm-worker`: runs queued tasks through WebAssembly components.
//!
//! The rooms and the floors they stand on are described in `ARCHITECTURE.md`: an import points down, never up.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod app;
pub mod aws;
pub mod cli;
pub mod config;
pub mod failpoint;
pub mod guest;
pub mod inference;
pub mod object_store;
pub mod queue;
pub mod task;
pub mod task_store;
pub mod telemetry;
pub mod worker;

/// Rows, messages and results are made on one thread and dropped on another, which the C library's allocator does slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Servers that the tests of several rooms talk to.
#[cfg(test)]
#[path = "../../tests/src/servers/mod.rs"]
mod servers;
