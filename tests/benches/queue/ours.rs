//! The real worker until nothing is left: with the component, and with its hooks compiled in.

use super::CONCURRENCY;
use super::load::{Place, STEP};
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use wasm_worker::guest::{Component, Guest, GuestEngine, GuestFault, Guests, Scope, StepGuest, StepSetup, WasmGuests};
use wasm_worker::task::hooks::{FanOut, NextTask, Output, Work};
use wasm_worker::worker::{StepSpec, Until, Worker};

/// The hooks of `guests/noop`, compiled in.
struct Native;

#[async_trait::async_trait]
impl Guest for Native {
    async fn process(&mut self, _: &Arc<Work>, _: &Arc<Scope>) -> Result<Output, GuestFault> {
        Ok(Output::default())
    }

    async fn publish_next(&mut self, work: &Arc<Work>, _: Output, _: &Arc<Scope>) -> Result<FanOut, GuestFault> {
        let params: Value = serde_json::from_str(&work.params).unwrap();
        if params["child"] != true {
            return Ok(FanOut::default());
        }
        let next = NextTask { key: "next".into(), params: r#"{"child":false}"#.into(), ..NextTask::default() };
        Ok(FanOut { tasks: vec![next], then: None })
    }

    fn is_reusable(&self) -> bool {
        true
    }
}

/// As many of them as are asked for.
struct Natives;

#[async_trait::async_trait]
impl Guests for Natives {
    async fn instance(&self, _: &str) -> Result<Box<dyn Guest>, GuestFault> {
        Ok(Box::new(Native))
    }

    fn give_back(&self, _: &str, _: Box<dyn Guest>) {}

    async fn enter(&self, work: Pin<Box<dyn Future<Output = ()> + Send + 'static>>) {
        work.await;
    }

    fn release(&self, _: &str) -> String {
        "native".to_owned()
    }
}

/// Instances of the component.
pub fn guests(place: &Place, engine: Arc<GuestEngine>, spec: &StepSpec, component: Arc<Component>) -> Arc<dyn Guests> {
    let setup = StepSetup { warm: CONCURRENCY as usize, ..StepSetup::bare(STEP, spec.limits.clone()) };
    WasmGuests::new(engine, place.app.services(), place.app.models(), vec![StepGuest { component, setup }])
}

/// With the component.
pub async fn wasm(place: &Place) {
    let engine = place.app.engine().unwrap();
    let (spec, component) = place.step(&engine).await;
    let guests = guests(place, engine, &spec, component);
    run(Worker::new(place.settings(), place.app.services(), guests, vec![spec], Vec::new()), place).await;
}

/// With its hooks compiled in.
pub async fn native(place: &Place) {
    let (spec, _) = place.step(&place.app.engine().unwrap()).await;
    run(Worker::new(place.settings(), place.app.services(), Arc::new(Natives), vec![spec], Vec::new()), place).await;
}

async fn run(worker: Arc<Worker>, place: &Place) {
    let summary = worker.run(Until::Empty, None, CancellationToken::new()).await;
    assert_eq!(summary.ended.get("DONE"), Some(&u64::from(place.tasks)), "{summary:?}");
}
