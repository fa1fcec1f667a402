//! The engine all guests share: compiler and allocator settings, what is linked, the ticker, and the threads guests run on.
//!
//! Instances come out of a pool of reserved address space, which makes a new one cheap. Where the system does not give that
//! much address space away, they are allocated one by one instead.

use super::GuestFault;
use super::bindings::Step;
use super::cache::CodeCache;
use super::imports;
use super::limiter::MAX_TABLE_ELEMENTS;
use super::runtime::GuestRuntime;
use super::state::State;
use super::ticker::Ticker;
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Component instances alive at once, warm ones included. Each reserves address space, not memory.
const MAX_INSTANCES: u32 = 1_000;

/// Core instances and tables in all. Components from Rust have two or three of each, interpreters some thirty.
const MAX_CORE_INSTANCES: u32 = 20_000;
const MAX_TABLES: u32 = 5_000;

/// Tables and memories of one core module. Compilers emit one of each.
const MAX_TABLES_PER_MODULE: u32 = 16;
const MAX_MEMORIES_PER_MODULE: u32 = 4;

/// Bytes of a memory that stay resident when its instance ends, for the next one: clearing them is cheaper than a page fault
/// for each page.
const KEEP_RESIDENT: usize = 128 << 10;

/// Settings of the machine, not of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Threads that guests run on.
    pub threads: usize,
    /// Where compiled code is kept; none keeps nothing.
    pub cache_dir: Option<PathBuf>,
    /// Whether instances come out of a pool.
    pub pooling: bool,
}

impl EngineConfig {
    /// For a machine of so many cores. At least two threads, so that a guest that never waits leaves one to the others.
    pub fn for_cores(cores: usize) -> Self {
        Self { threads: cores.max(2), cache_dir: None, pooling: true }
    }
}

/// The engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start: {0}")]
pub struct EngineError(String);

/// See the head of this file.
pub struct GuestEngine {
    engine: Engine,
    linker: Linker<State>,
    ticker: Ticker,
    runtime: GuestRuntime,
    cache: Option<CodeCache>,
    /// Components that could not be compiled in time, by digest, and why: not tried again by this process.
    bad: Mutex<HashMap<String, String>>,
}

impl GuestEngine {
    /// Starts the engine, its ticker and its threads. A cache folder that cannot be used is left alone, with a warning.
    pub fn start(config: &EngineConfig) -> Result<Arc<Self>, EngineError> {
        let fault = |what: &str, error: &dyn std::fmt::Display| EngineError(format!("{what}: {error}"));
        let engine = make_engine(config.pooling).map_err(|e| fault("settings", &format!("{e:#}")))?;
        let linker = link(&engine).map_err(|e| fault("imports", &format!("{e:#}")))?;
        let ticker = Ticker::start(&engine).map_err(|e| fault("ticker thread", &e))?;
        let runtime = GuestRuntime::start(config.threads).map_err(|e| fault("guest threads", &e))?;
        let cache = config.cache_dir.as_ref().and_then(|dir| match CodeCache::open(dir, &engine) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(folder = %dir.display(), %error, "compiled code is not kept");
                None
            }
        });
        Ok(Arc::new(Self { engine, linker, ticker, runtime, cache, bad: Mutex::default() }))
    }

    /// Runs `work` on the threads of guests, or in place if the caller is there already. Dropping the answer stops the work.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, GuestFault> {
        self.runtime.run(work).await
    }

    /// Drops `value` on the threads of guests: freeing an instance's memory may take milliseconds.
    pub(super) fn dispose<T: Send + 'static>(&self, value: T) {
        self.runtime.dispose(value);
    }

    /// wasmtime's own engine, for measuring the bare boundary under the same settings.
    pub fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn linker(&self) -> &Linker<State> {
        &self.linker
    }

    pub(super) fn ticker(&self) -> &Ticker {
        &self.ticker
    }

    pub(super) fn cache(&self) -> Option<&CodeCache> {
        self.cache.as_ref()
    }

    pub(super) fn bad(&self) -> &Mutex<HashMap<String, String>> {
        &self.bad
    }
}

/// The settings that code, stores and the bench's bare engine share.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Hooks are plain functions: without the machinery of concurrent calls a call costs half.
        .concurrency_support(false)
        .epoch_interruption(true)
        .parallel_compilation(true);
    config
}

fn make_engine(pooling: bool) -> wasmtime::Result<Engine> {
    if pooling {
        let mut config = settings();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        match Engine::new(&config) {
            Ok(engine) => return Ok(engine),
            Err(error) => tracing::warn!("no address space for a pool of instances, so each is allocated by itself: {error:#}"),
        }
    }
    Engine::new(&settings())
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(MAX_INSTANCES)
        .total_core_instances(MAX_CORE_INSTANCES)
        .total_memories(MAX_INSTANCES)
        .total_tables(MAX_TABLES)
        .total_stacks(MAX_INSTANCES)
        .max_tables_per_module(MAX_TABLES_PER_MODULE)
        .max_memories_per_module(MAX_MEMORIES_PER_MODULE)
        .table_elements(MAX_TABLE_ELEMENTS)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    pool
}

fn link(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    imports::wasi::link(&mut linker)?;
    Step::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}
