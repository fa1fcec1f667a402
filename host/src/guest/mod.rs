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
pub use scope::{Grants, Scope, Services, StagedOutput};

use crate::task::hooks::{FanOut, Output, TaskError, Work};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

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
    async fn publish_next(&mut self, work: &Arc<Work>, output: &Output, scope: &Arc<Scope>) -> Result<FanOut, GuestFault>;

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

    /// The digest of the step's guest, for records.
    fn release(&self, step: &str) -> String;

    /// Runs `phase` where guests run, so that no guest holds up its caller's thread; in place, for guests that are scripted.
    /// Dropping the answer stops the phase. Callers use [`enter`].
    fn run(&self, phase: BoxFuture<'static, ()>) -> BoxFuture<'_, Result<(), GuestFault>> {
        Box::pin(async move {
            phase.await;
            Ok(())
        })
    }
}

/// Runs a phase of work with a guest where guests run, and brings back its answer. Hooks run in place, so one phase should
/// hold all of them: instance, `process`, `publish-next`. Dropping the answer stops the phase within a tick.
pub async fn enter<T: Send + 'static>(guests: &dyn Guests, phase: impl Future<Output = T> + Send + 'static) -> Result<T, GuestFault> {
    let (sent, answer) = oneshot::channel();
    let phase = Box::pin(async move {
        // Nobody waits any more: the answer is of no use.
        let _ = sent.send(phase.await);
    });
    guests.run(phase).await?;
    answer.await.map_err(|_| GuestFault::Host(TaskError::new("shutting-down", "the guest's phase was given up")))
}
