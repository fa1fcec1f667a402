//! What `process` + `publish-next` cost with a guest that does nothing: through our host, through the bare generated bindings
//! of the same engine settings, and as a native call of the same trait; on a warm instance, and with a fresh one per task.

use super::median;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wasm_worker::app::App;
use wasm_worker::config::{Config, Overrides};
use wasm_worker::guest::{Component, Grants, Guest, GuestEngine, GuestFault, Scope, StepGuest, StepSetup, WasmGuests};
use wasm_worker::task::hooks::{FanOut, Output, Work};
use wasm_worker::task::id::TaskKey;
use wasm_worker::task::lease::Lease;
use wasm_worker::task::limits::Limits;
use wasm_worker::task::uri::Uri;
use wasmtime::Store;
use wasmtime::component::{Component as RawComponent, Linker};

mod bare {
    //! The same bindings as the host's, without the host.
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "step",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use bare::exports::wasm_worker::pipeline::hooks;

/// Rounds, in turn; calls per round on a warm instance, and with a fresh one.
const ROUNDS: usize = 31;
const WARM: u32 = 2_000;
const FRESH: u32 = 100;

/// The same trait, compiled in.
struct Native;

#[async_trait::async_trait]
impl Guest for Native {
    async fn process(&mut self, _: &Arc<Work>, _: &Arc<Scope>) -> Result<Output, GuestFault> {
        Ok(Output::default())
    }

    async fn publish_next(&mut self, _: &Arc<Work>, _: Output, _: &Arc<Scope>) -> Result<FanOut, GuestFault> {
        Ok(FanOut::default())
    }

    fn is_reusable(&self) -> bool {
        true
    }
}

fn work() -> Arc<Work> {
    Arc::new(Work {
        tenant: "default".into(),
        job_id: "job".into(),
        task_id: "task".into(),
        step: "noop".into(),
        function: None,
        input_uri: Some("file:///in/picture.png".into()),
        input: None,
        input_count: 0,
        output_prefix: "file:///out/job/".into(),
        params: r#"{"threshold": 0.3, "language": "en"}"#.into(),
        priority: 5,
        attempt: 1,
        max_attempts: 5,
        deadline_ms: 60_000,
        traceparent: None,
        metadata: [("label".to_owned(), "value".to_owned())].into(),
    })
}

/// The task as the bare bindings want it; the values of [`work`].
fn raw_task<'a>(work: &'a Work, metadata: &'a [(&'a str, &'a str)]) -> hooks::Task<'a> {
    hooks::Task {
        tenant: &work.tenant,
        job_id: &work.job_id,
        task_id: &work.task_id,
        step: &work.step,
        function: None,
        input_uri: work.input_uri.as_deref(),
        input: None,
        input_count: 0,
        output_prefix: &work.output_prefix,
        params: &work.params,
        priority: work.priority,
        attempt: work.attempt,
        max_attempts: work.max_attempts,
        deadline_ms: Some(work.deadline_ms),
        traceparent: None,
        metadata,
        extras: &[],
    }
}

struct Bench {
    app: App,
    engine: Arc<GuestEngine>,
    guests: Arc<WasmGuests>,
    raw: bare::StepPre<()>,
}

impl Bench {
    fn scope(&self, work: &Work) -> Arc<Scope> {
        let lease = Lease { key: TaskKey::new("default", "task"), epoch: 1, owner: "bench".into() };
        Scope::new(self.app.services(), lease, Limits::default(), Uri::parse("file:///out/job/").unwrap(), Grants::default(), work)
    }

    fn store(&self) -> Store<()> {
        let mut store = Store::new(self.engine.wasmtime(), ());
        store.set_epoch_deadline(u64::MAX / 2);
        store
    }

    /// Two calls through the trait, with a scope as every task gets one; microseconds per task.
    async fn ours(&self, guest: &mut dyn Guest, calls: u32) -> f64 {
        let work = work();
        let began = Instant::now();
        for _ in 0..calls {
            let scope = self.scope(&work);
            let output = guest.process(&work, &scope).await.unwrap();
            guest.publish_next(&work, output, &scope).await.unwrap();
        }
        micros(began, calls)
    }

    async fn bare_calls(store: &mut Store<()>, hooks: &hooks::Guest, work: &Work) {
        let labels: Vec<(&str, &str)> = work.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let output = hooks.call_process(&mut *store, raw_task(work, &labels)).await.unwrap().unwrap();
        let empty = bare::wasm_worker::pipeline::types::OutputParam {
            outcome: output.outcome.as_deref(),
            payload: None,
            metrics: None,
            extras: &[],
        };
        hooks.call_publish_next(&mut *store, raw_task(work, &labels), empty).await.unwrap().unwrap();
    }

    async fn bare_fresh(&self, work: &Work) -> (Store<()>, hooks::Guest) {
        let mut store = self.store();
        let hooks = self.raw.instantiate_async(&mut store).await.unwrap().wasm_worker_pipeline_hooks().clone();
        let setup = hooks::Setup { step: &work.step, functions: &[], models: &[], config: "{}", extras: &[] };
        hooks.call_load_pipeline(&mut store, setup).await.unwrap().unwrap();
        (store, hooks)
    }

    /// One round of everything, in turn.
    async fn round(&self) -> [f64; 5] {
        let work = work();
        let mut warm = self.guests.fresh("noop").await.unwrap();
        self.ours(warm.as_mut(), WARM / 10).await;
        let ours = self.ours(warm.as_mut(), WARM).await;
        let (mut store, hooks) = self.bare_fresh(&work).await;
        for _ in 0..WARM / 10 {
            Self::bare_calls(&mut store, &hooks, &work).await;
        }
        let began = Instant::now();
        for _ in 0..WARM {
            Self::bare_calls(&mut store, &hooks, &work).await;
        }
        let bare = micros(began, WARM);
        let native = self.ours(&mut Native, WARM).await;
        let began = Instant::now();
        for _ in 0..FRESH {
            let mut guest = self.guests.fresh("noop").await.unwrap();
            self.ours(guest.as_mut(), 1).await;
        }
        let ours_fresh = micros(began, FRESH);
        let began = Instant::now();
        for _ in 0..FRESH {
            let (mut store, hooks) = self.bare_fresh(&work).await;
            Self::bare_calls(&mut store, &hooks, &work).await;
        }
        [ours, bare, native, ours_fresh, micros(began, FRESH)]
    }
}

fn micros(began: Instant, calls: u32) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

async fn bench(folder: &Path) -> Arc<Bench> {
    let flags = vec![("data_dir".to_owned(), folder.to_str().unwrap().to_owned())];
    let app = App::open(Config::load(&Overrides { flags, ..Overrides::default() }).unwrap()).await.unwrap();
    let engine = app.engine().unwrap();
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let file = target.join("wasm32-wasip2/release/noop.wasm");
    let component = Component::load(&engine, &file).await.unwrap();
    let limits = Limits { recycle_after: u32::MAX, ..Limits::default() };
    let steps = vec![StepGuest { component, setup: StepSetup::bare("noop", limits) }];
    let guests = WasmGuests::new(Arc::clone(&engine), app.services(), app.models(), steps);
    let component = RawComponent::from_file(engine.wasmtime(), &file).unwrap();
    let mut linker = Linker::new(engine.wasmtime());
    // The guest calls none of its imports in these hooks.
    linker.define_unknown_imports_as_traps(&component).unwrap();
    let raw = bare::StepPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
    Arc::new(Bench { app, engine, guests, raw })
}

/// Measures and prints.
pub fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = bench(folder.path()).await;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let this = Arc::clone(&bench);
            // Where guests run, as in a worker.
            rounds.push(bench.engine.run(async move { this.round().await }).await.unwrap());
        }
        let [ours, bare, native, ours_fresh, bare_fresh] = [0, 1, 2, 3, 4].map(|i| median(rounds.iter().map(|r| r[i]).collect()));
        println!("process + publish-next, a guest that does nothing, median of {ROUNDS} rounds in turn:");
        println!("  warm instance    wasm-worker {ours:7.2} µs   bare bindings {bare:7.2} µs   {:.2} x", ours / bare);
        println!("                   native call of the same trait, with its scope {native:.2} µs");
        println!(
            "  fresh instance   wasm-worker {ours_fresh:7.2} µs   bare bindings {bare_fresh:7.2} µs   {:.2} x",
            ours_fresh / bare_fresh
        );
    });
}
