//! The WebAssembly side of the host: guests of every kind, good and bad, through the port that the worker uses.

mod bounds;
mod components;
mod imports;
mod models;

use crate::binary;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wasm_worker::guest::{
    Component, EngineConfig, Grants, Guest, GuestEngine, GuestFault, Guests, Scope, Services, StepGuest, StepSetup, WasmGuests,
};
use wasm_worker::inference::{ModelSpec, Models, ModelsConfig};
use wasm_worker::object_store::FileObjectStore;
use wasm_worker::task::hooks::{FanOut, Output, Payload, TaskError, Work};
use wasm_worker::task::id::TaskKey;
use wasm_worker::task::lease::Lease;
use wasm_worker::task::limits::Limits;
use wasm_worker::task::uri::Uri;
use wasm_worker::task_store::MemoryTaskStore;

/// One engine for all tests of this binary, as a host has one.
pub fn engine() -> Arc<GuestEngine> {
    static ENGINE: OnceLock<Arc<GuestEngine>> = OnceLock::new();
    Arc::clone(ENGINE.get_or_init(|| GuestEngine::start(&EngineConfig::for_cores(2)).unwrap()))
}

/// A component of the test guests, compiled once.
pub async fn component(name: &str) -> Arc<Component> {
    static LOADED: tokio::sync::Mutex<BTreeMap<String, Arc<Component>>> = tokio::sync::Mutex::const_new(BTreeMap::new());
    let mut loaded = LOADED.lock().await;
    if !loaded.contains_key(name) {
        let component = Component::load(&engine(), &binary::guest(name)).await.unwrap();
        loaded.insert(name.to_owned(), component);
    }
    Arc::clone(&loaded[name])
}

/// One step served by one guest, and a folder for its outputs.
pub struct Bed {
    pub guests: Arc<WasmGuests>,
    pub folder: tempfile::TempDir,
    pub limits: Limits,
    pub grants: Grants,
    services: Services,
}

/// What one run left.
pub struct Ran {
    pub answer: Result<(Output, FanOut), GuestFault>,
    pub scope: Arc<Scope>,
    pub reusable: bool,
}

impl Ran {
    /// The JSON that `process` answered.
    pub fn json(&self) -> Value {
        match &self.answer {
            Ok((Output { payload: Some(Payload::Json(text)), .. }, _)) => serde_json::from_str(text).unwrap(),
            other => panic!("no JSON: {other:?}"),
        }
    }

    /// Name and text of a fault of the guest.
    pub fn fault(&self) -> &TaskError {
        match &self.answer {
            Err(GuestFault::Guest(error)) => error,
            other => panic!("no fault of the guest: {other:?}"),
        }
    }

    pub fn figures(&self) -> wasm_worker::task::outputs::Figures {
        self.scope.figures(Duration::ZERO)
    }
}

impl Bed {
    /// The probe, with default limits.
    pub async fn probe() -> Self {
        Self::with(component("probe").await, |_| {}).await
    }

    /// A step of `component`, as `change` leaves it.
    pub async fn with(component: Arc<Component>, change: impl FnOnce(&mut StepSetup)) -> Self {
        let services = Services { objects: Arc::new(FileObjectStore::new()), tasks: Arc::new(MemoryTaskStore::new()) };
        Self::on(component, services, change).await
    }

    /// The same over other services.
    pub async fn on(component: Arc<Component>, services: Services, change: impl FnOnce(&mut StepSetup)) -> Self {
        let mut setup = StepSetup::bare("probe", Limits::default());
        change(&mut setup);
        let (limits, grants) = (setup.limits.clone(), setup.grants.clone());
        let models = Models::new(ModelsConfig::for_cores(2));
        let guests = WasmGuests::new(engine(), services.clone(), models, vec![StepGuest { component, setup }]);
        Self { guests, folder: tempfile::tempdir().unwrap(), limits, grants, services }
    }

    /// A scope for one run.
    pub fn scope(&self) -> Arc<Scope> {
        let lease = Lease { key: TaskKey::new("tenant", "task"), epoch: 1, owner: "owner".into() };
        let prefix = Uri::of_folder(self.folder.path()).unwrap();
        Scope::new(self.services.clone(), lease, self.limits.clone(), prefix, self.grants.clone(), &work(&json!({})))
    }

    /// One task through both hooks, as the worker runs it.
    pub async fn run(&self, params: Value) -> Ran {
        let scope = self.scope();
        self.run_in(params, scope).await
    }

    /// The same in a scope that the test holds.
    pub async fn run_in(&self, params: Value, scope: Arc<Scope>) -> Ran {
        let guest = match self.guests.instance("probe").await {
            Ok(guest) => guest,
            Err(fault) => return Ran { answer: Err(fault), scope, reusable: false },
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        let (of_guest, of_test) = (Arc::clone(&scope), scope);
        let work = Arc::new(work(&params));
        let phase = async move {
            let _ = tell.send(hooks(guest, &work, &of_guest).await);
        };
        self.guests.enter(Box::pin(phase)).await;
        let (guest, answer) = told.await.unwrap();
        let reusable = guest.is_reusable();
        self.guests.give_back("probe", guest);
        Ran { answer, scope: of_test, reusable }
    }
}

async fn hooks(mut guest: Box<dyn Guest>, work: &Arc<Work>, scope: &Arc<Scope>) -> (Box<dyn Guest>, Result<(Output, FanOut), GuestFault>) {
    let output = match guest.process(work, scope).await {
        Ok(output) => output,
        Err(fault) => return (guest, Err(fault)),
    };
    let fan_out = guest.publish_next(work, output.clone(), scope).await;
    (guest, fan_out.map(|fan_out| (output, fan_out)))
}

/// A task with these params.
pub fn work(params: &Value) -> Work {
    Work {
        tenant: "tenant".into(),
        job_id: "job".into(),
        task_id: "task".into(),
        step: "probe".into(),
        function: None,
        input_uri: None,
        input: None,
        input_count: 0,
        output_prefix: "file:///out/".into(),
        params: params.to_string(),
        priority: 5,
        attempt: 1,
        max_attempts: 3,
        deadline_ms: 60_000,
        traceparent: None,
        metadata: BTreeMap::from([("colour".into(), "green".into())]),
    }
}

/// A declared model.
pub fn model(name: &str, path: &Path) -> ModelSpec {
    ModelSpec {
        name: name.into(),
        path: path.to_owned(),
        sha256: None,
        backend: "rten".parse().unwrap(),
        device: Default::default(),
        threads: None,
    }
}
