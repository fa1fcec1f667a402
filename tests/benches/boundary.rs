//! What a task costs at the WebAssembly boundary: both hooks of the noop guest through this host, beside bare generated
//! bindings on the same engine, and with a fresh instance for every task.

use super::median;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wasm_worker::guest::{
    Component, EngineConfig, Grants, Guest, GuestEngine, Guests, Scope, Services, StepGuest, StepSetup, WasmGuests,
};
use wasm_worker::inference::{Models, ModelsConfig};
use wasm_worker::object_store::FileObjectStore;
use wasm_worker::task::hooks::Work;
use wasm_worker::task::id::TaskKey;
use wasm_worker::task::lease::Lease;
use wasm_worker::task::limits::Limits;
use wasm_worker::task::uri::Uri;
use wasm_worker::task_store::{Durability, SqliteTaskStore};
use wasmtime::component::Linker;
use wasmtime::Store;

/// Rounds, each of every kind in turn; and tasks in a round.
const ROUNDS: usize = 25;
const WARM: u32 = 5_000;
const FRESH: u32 = 300;

mod bare {
    wasmtime::component::bindgen!({ path: "../wit", world: "step", exports: { default: async } });
}

use bare::exports::wasm_worker::pipeline::hooks::{Setup, Task};

/// The bare minimum: a store, the generated bindings, no imports and no bounds.
struct Bare {
    store: Store<()>,
    hooks: bare::Step,
}

impl Bare {
    async fn start(engine: &wasmtime::Engine, file: &Path) -> Self {
        let component = wasmtime::component::Component::from_file(engine, file).unwrap();
        let mut linker = Linker::new(engine);
        linker.define_unknown_imports_as_traps(&component).unwrap();
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let hooks = bare::Step::instantiate_async(&mut store, &component, &linker).await.unwrap();
        let setup = Setup { step: "noop".into(), functions: vec![], models: vec![], config: "{}".into(), extras: vec![] };
        hooks.wasm_worker_pipeline_hooks().call_load_pipeline(&mut store, &setup).await.unwrap().unwrap();
        Self { store, hooks }
    }

    async fn run(&mut self, task: &Task) {
        let hooks = self.hooks.wasm_worker_pipeline_hooks();
        let output = hooks.call_process(&mut self.store, task).await.unwrap().unwrap();
        black_box(hooks.call_publish_next(&mut self.store, task, &output).await.unwrap().unwrap());
    }
}

fn work() -> Work {
    Work {
        tenant: "tenant".into(),
        job_id: "0199f0a0-0000-7000-8000-000000000000".into(),
        task_id: "0199f0a0-0000-7000-8000-000000000001".into(),
        step: "noop".into(),
        function: None,
        input_uri: Some("file:///in/picture.png".into()),
        input: None,
        input_count: 0,
        output_prefix: "file:///out/job/".into(),
        params: "{}".into(),
        priority: 5,
        attempt: 1,
        max_attempts: 5,
        deadline_ms: 60_000,
        traceparent: None,
        metadata: BTreeMap::new(),
    }
}

fn bare_task(work: &Work) -> Task {
    Task {
        tenant: work.tenant.clone(),
        job_id: work.job_id.clone(),
        task_id: work.task_id.clone(),
        step: work.step.clone(),
        function: None,
        input_uri: work.input_uri.clone(),
        input: None,
        input_count: 0,
        output_prefix: work.output_prefix.clone(),
        params: work.params.clone(),
        priority: work.priority,
        attempt: work.attempt,
        max_attempts: work.max_attempts,
        deadline_ms: Some(work.deadline_ms),
        traceparent: None,
        metadata: vec![],
        extras: vec![],
    }
}

async fn hooks(guest: &mut dyn Guest, work: &Arc<Work>, scope: &Arc<Scope>) {
    let output = guest.process(work, scope).await.unwrap();
    black_box(guest.publish_next(work, output, scope).await.unwrap());
}

/// Microseconds of one of `count`.
fn each(start: Instant, count: u32) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

/// Prints the medians and their ratio.
pub fn measure() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(all());
}

async fn all() {
    let folder = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/wasm32-wasip2/release/noop.wasm");
    let engine = GuestEngine::start(&EngineConfig::for_cores(2)).unwrap();
    let component = Component::load(&engine, &file).await.unwrap();
    let tasks = SqliteTaskStore::open(&folder.path().join("tasks.db"), Durability::Normal).await.unwrap();
    let services = Services { objects: Arc::new(FileObjectStore::new()), tasks: Arc::new(tasks) };
    let setup = StepSetup::bare("noop", Limits::default());
    let models = Models::new(ModelsConfig::for_cores(1));
    let guests = WasmGuests::new(Arc::clone(&engine), services.clone(), models, vec![StepGuest { component, setup }]);
    let work = Arc::new(work());
    let lease = Lease { key: TaskKey::new("tenant", "task"), epoch: 1, owner: "owner".into() };
    let prefix = Uri::of_folder(folder.path()).unwrap();
    let scope = Scope::new(services, lease, Limits::default(), prefix, Grants::default(), &work);

    // Everything runs where guests run, as a worker's phase does.
    let wasmtime = engine.wasmtime().clone();
    let measured = async move {
        let task = bare_task(&work);
        let mut bare = Bare::start(&wasmtime, &file).await;
        let mut warm = guests.instance("noop").await.unwrap();
        let (mut bares, mut ours, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for _ in 0..WARM {
                bare.run(&task).await;
            }
            bares.push(each(start, WARM));
            let start = Instant::now();
            for _ in 0..WARM {
                hooks(&mut *warm, &work, &scope).await;
            }
            ours.push(each(start, WARM));
            let start = Instant::now();
            for _ in 0..FRESH {
                hooks(&mut *guests.fresh("noop").await.unwrap(), &work, &scope).await;
            }
            fresh.push(each(start, FRESH));
        }
        (median(bares), median(ours), median(fresh))
    };
    let (bare, ours, fresh) = engine.run(measured).await.unwrap();
    println!("process + publish-next, noop guest, median of {ROUNDS} rounds");
    println!("  bare bindings, warm instance   {bare:8.2} us");
    println!("  this host, warm instance       {ours:8.2} us   {:.2} of bare", ours / bare);
    println!("  this host, fresh instance each {fresh:8.2} us");
}
