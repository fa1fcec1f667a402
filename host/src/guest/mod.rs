//! Guests: one WebAssembly component per step, its instances, and what they may reach.
//!
//! [`Guest`] is all the worker knows: the hooks. The wasmtime side of it stands in the files beside this one; a test may put
//! a scripted guest in its place. A guest reaches the outside only through floor 1: object store, task store, inference.

mod bindings;
mod bounded;
mod cache;
pub mod component;
mod console;
mod convert;
pub mod engine;
mod fault;
mod imports;
mod instance;
mod limiter;
pub mod pool;
mod runtime;
pub mod scope;
mod state;
mod ticker;

pub use component::{Component, ComponentError, Inspection};
pub use engine::{EngineConfig, EngineError, GuestEngine};
pub use instance::WasmGuest;
pub use pool::{StepGuest, StepSetup, WasmGuests};
pub use scope::{Grants, Scope, Services, StagedOutput, StopReason};

use crate::task::hooks::{FanOut, Output, TaskError, Work};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::sync::Arc;

/// How a hook ended, other than well.
#[derive(Debug, Clone, PartialEq)]
pub enum GuestFault {
    /// The hook answered with an error.
    Hook(crate::task::hooks::HookError),
    /// A trap, a limit, an answer against the contract; the instance is not used again.
    Guest(TaskError),
    /// The host's own fault: it could not make an instance, reach a model or storage.
    Host(TaskError),
    /// Stopped because the scope was stopped: cancelled, drained, or the lease lost. The scope knows which.
    Stopped,
}

/// An instance that has run `load-pipeline`.
#[async_trait]
pub trait Guest: Send {
    /// The work. Ends within the step's wall limit, whatever the guest does.
    async fn process(&mut self, work: &Arc<Work>, scope: &Arc<Scope>) -> Result<Output, GuestFault>;

    /// What follows. Storage is read-only by now; the wall limit goes on from `process`.
    async fn publish_next(&mut self, work: &Arc<Work>, output: Output, scope: &Arc<Scope>) -> Result<FanOut, GuestFault>;

    /// Whether it may serve another task: no trap, not yet due to be replaced.
    fn is_reusable(&self) -> bool;
}

/// Where instances come from.
#[async_trait]
pub trait Guests: Send + Sync {
    /// A warm instance for the step, or a new one after `load-pipeline`.
    async fn instance(&self, step: &str) -> Result<Box<dyn Guest>, GuestFault>;

    /// Takes an instance back for the next task of its step; drops it if it is not reusable.
    fn give_back(&self, step: &str, guest: Box<dyn Guest>);

    /// Runs `work` where guests run, and waits for it: a guest that spins there holds up no heartbeat. Dropping the returned
    /// future stops the work.
    async fn enter(&self, work: BoxFuture<'static, ()>);

    /// The digest of the step's guest, for records.
    fn release(&self, step: &str) -> String;
}
