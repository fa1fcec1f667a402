//! One instance of a guest: its three hooks, each within the step's bounds.
//!
//! An instance is used again only after a call that came to its own end. A call that trapped, was cut off or was dropped
//! leaves the store in the middle of something.

use super::bindings::exports::wasm_worker::pipeline::hooks;
use super::bounded::{Bounds, Cut, Meter, bounded};
use super::component::Component;
use super::engine::GuestEngine;
use super::pool::StepSetup;
use super::scope::{Scope, Services};
use super::state::State;
use super::{Guest, GuestFault, convert, fault};
use crate::inference::Models;
use crate::task::hooks::{FanOut, HookError, Output, TaskError, Work};
use crate::task::pointer;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wasmtime::Store;

/// See the head of this file. Its hooks run in place: callers bring them to the threads of guests.
pub struct WasmGuest {
    engine: Arc<GuestEngine>,
    store: Store<State>,
    hooks: hooks::Guest,
    /// Where host calls go between runs.
    idle: Arc<Scope>,
    /// When the run that it serves ends: `process` begins the wall limit, `publish-next` goes on with it.
    deadline: Option<Instant>,
    meter: Meter,
    served: u32,
    recycle_after: u32,
    /// False during a call, and after one that did not come to its own end.
    whole: bool,
}

impl WasmGuest {
    /// Makes an instance and runs `load-pipeline`, both together within the wall limit. Whatever fails here is the host's
    /// fault as far as tasks go: no task spends an attempt on it.
    pub(super) async fn start(
        component: &Component,
        setup: &Arc<StepSetup>,
        services: &Services,
        models: &Arc<Models>,
    ) -> Result<Self, GuestFault> {
        let scope = Scope::apart(Some(services.clone()), setup.limits.clone(), setup.grants.clone());
        let mut state = State::new(setup, models, &scope);
        state.attach(&scope);
        let mut store = component.store(state);
        let deadline = Instant::now().checked_add(setup.limits.wall);
        let engine = Arc::clone(component.engine());
        let mut meter = Meter::default();
        let (functions, names, extras) =
            (strs(&setup.functions), setup.models.keys().map(String::as_str).collect::<Vec<_>>(), setup.extras());
        let contract = hooks::Setup {
            step: &setup.step,
            functions: &functions,
            models: &names,
            config: &setup.config,
            extras: &convert::extras(&extras),
        };
        let call = async {
            let hooks = component.pre().instantiate_async(&mut store).await?.wasm_worker_pipeline_hooks().clone();
            let loaded = hooks.call_load_pipeline(&mut store, contract).await?;
            Ok((hooks, loaded))
        };
        let ended = bounded(call, Bounds { ticker: engine.ticker(), scope: &scope, deadline, meter: &mut meter }).await;
        let ended = settle(ended, &store, &scope).map_err(|fault| on_load(fault, setup));
        store.data_mut().detach(&scope);
        tell(&scope, setup);
        let (hooks, loaded) = ended?;
        loaded.map_err(|error| load_error(convert::hook_error(error), setup))?;
        Ok(Self {
            engine,
            store,
            hooks,
            idle: scope,
            deadline: None,
            meter,
            served: 0,
            recycle_after: setup.limits.recycle_after,
            whole: true,
        })
    }

    fn begin(&mut self, scope: &Arc<Scope>) {
        self.whole = false;
        self.store.set_epoch_deadline(1);
        self.store.data_mut().attach(scope);
    }

    /// Whatever the guest answered after the run was stopped is not used.
    fn end<T>(&mut self, ended: Result<wasmtime::Result<T>, Cut>, scope: &Scope) -> Result<T, GuestFault> {
        self.whole = matches!(ended, Ok(Ok(_)));
        scope.note_memory(self.store.data().limiter.used());
        let answer = settle(ended, &self.store, scope);
        if scope.check().is_err() { Err(GuestFault::Stopped) } else { answer }
    }

    /// The run is over: what it left open is closed, and nothing of it is reached any more.
    fn finish<T>(&mut self, answer: Result<T, GuestFault>) -> Result<T, GuestFault> {
        self.store.data_mut().detach(&self.idle);
        answer
    }
}

#[async_trait]
impl Guest for WasmGuest {
    async fn process(&mut self, work: &Arc<Work>, scope: &Arc<Scope>) -> Result<Output, GuestFault> {
        self.served = self.served.saturating_add(1);
        // Counted from here, not from the claim: making an instance has a limit of its own.
        self.deadline = Instant::now().checked_add(scope.limits().wall);
        self.begin(scope);
        let deadline = self.deadline;
        let labels = convert::labels(work);
        let call = self.hooks.call_process(&mut self.store, convert::task(work, &labels, left_ms(deadline)));
        let ended = bounded(call, Bounds { ticker: self.engine.ticker(), scope, deadline, meter: &mut self.meter }).await;
        let answer = match self.end(ended, scope) {
            Ok(Ok(output)) => convert::output(output, scope.limits()).map_err(GuestFault::Guest),
            Ok(Err(error)) => Err(GuestFault::Hook(convert::hook_error(error))),
            Err(fault) => Err(fault),
        };
        if answer.is_ok() { answer } else { self.finish(answer) }
    }

    async fn publish_next(&mut self, work: &Arc<Work>, output: Output, scope: &Arc<Scope>) -> Result<FanOut, GuestFault> {
        scope.forbid_writes();
        self.begin(scope);
        let deadline = self.deadline;
        let (labels, extras) = (convert::labels(work), convert::extras(&output.extras));
        let task = convert::task(work, &labels, left_ms(deadline));
        let call = self.hooks.call_publish_next(&mut self.store, task, convert::output_in(&output, &extras));
        let ended = bounded(call, Bounds { ticker: self.engine.ticker(), scope, deadline, meter: &mut self.meter }).await;
        let answer = match self.end(ended, scope) {
            Ok(Ok(fan_out)) => convert::fan_out(fan_out, scope.limits()).map_err(GuestFault::Guest),
            Ok(Err(error)) => Err(GuestFault::Hook(convert::hook_error(error))),
            Err(fault) => Err(fault),
        };
        self.finish(answer)
    }

    fn is_reusable(&self) -> bool {
        self.whole && self.served < self.recycle_after
    }
}

/// How a call ended, as a fault where it did not come to its own end.
fn settle<T>(ended: Result<wasmtime::Result<T>, Cut>, store: &Store<State>, scope: &Scope) -> Result<T, GuestFault> {
    match ended {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(fault::of_error(&error, store.data())),
        Err(cut) => Err(fault::of_cut(cut, scope.limits())),
    }
}

fn left_ms(deadline: Option<Instant>) -> u64 {
    let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// A fault before the first task.
fn on_load(fault: GuestFault, setup: &StepSetup) -> GuestFault {
    match fault {
        GuestFault::Guest(error) | GuestFault::Host(error) => {
            GuestFault::Host(TaskError::new(error.code, format!("step '{}' does not load: {}", setup.step, error.message)))
        }
        other => other,
    }
}

/// An error that `load-pipeline` answered.
fn load_error(error: HookError, setup: &StepSetup) -> GuestFault {
    let text = match error {
        HookError::Retryable { code, message, .. } | HookError::Fatal { code, message } => format!("{code}: {message}"),
        HookError::Invalid(violations) => format!("invalid config: {}", pointer::join(&violations)),
        HookError::Cancelled => "cancelled".to_owned(),
    };
    GuestFault::Host(TaskError::new("load-pipeline", format!("step '{}': {text}", setup.step)))
}

/// What the guest logged while it loaded belongs to no task.
fn tell(scope: &Scope, setup: &StepSetup) {
    for line in scope.log_text().lines() {
        tracing::info!(step = setup.step, "load-pipeline: {line}");
    }
}
