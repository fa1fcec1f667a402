//! What one instance's store holds: the scope of the run it serves, its resources, its streams and its bounds.

use super::console::{Console, Stream};
use super::limiter::{Limiter, TensorQuota};
use super::pool::StepSetup;
use super::scope::Scope;
use crate::inference::Models;
use std::sync::Arc;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// Most random bytes of one call.
const MAX_RANDOM: u64 = 16 << 20;

/// The data of a guest's store: every import gets hold of this and nothing else.
pub(super) struct State {
    /// The run it serves. Between runs, the scope of `load-pipeline`, in which nothing can be written.
    pub scope: Arc<Scope>,
    /// What the step's pipeline file says.
    pub step: Arc<StepSetup>,
    /// Where models come from.
    pub models: Arc<Models>,
    /// Tensors, graphs, readers, streams, ...
    pub table: ResourceTable,
    /// Linear memory and tables.
    pub limiter: Limiter,
    /// Bytes of tensors.
    pub tensors: TensorQuota,
    /// Standard output and error.
    pub console: Arc<Console>,
    /// Readers and writers that may still be open.
    pub open_streams: usize,
    wasi: WasiCtx,
}

impl State {
    /// The state of a new instance. `scope` is that of `load-pipeline`.
    pub fn new(step: &Arc<StepSetup>, models: &Arc<Models>, scope: &Arc<Scope>) -> Self {
        let console = Arc::new(Console::default());
        let mut table = ResourceTable::new();
        table.set_max_capacity(step.limits.resources as usize);
        // Nothing is granted: no arguments, environment, folders; name look-ups and sockets are refused.
        let wasi = WasiCtxBuilder::new()
            .stdout(console.stream(Stream::Stdout))
            .stderr(console.stream(Stream::Stderr))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(MAX_RANDOM)
            .build();
        Self {
            scope: Arc::clone(scope),
            limiter: Limiter::new(&step.limits),
            tensors: TensorQuota::new(&step.limits),
            step: Arc::clone(step),
            models: Arc::clone(models),
            table,
            console,
            open_streams: 0,
            wasi,
        }
    }

    /// A call begins: host calls go to `scope` from now on, until [`State::detach`].
    pub fn attach(&mut self, scope: &Arc<Scope>) {
        self.limiter.begin();
        if self.console.is_for(scope) {
            return;
        }
        self.close_streams();
        self.console.attach(scope);
        self.scope = Arc::clone(scope);
    }

    /// The run has ended. `idle` is a scope in which nothing can be done.
    pub fn detach(&mut self, idle: &Arc<Scope>) {
        self.close_streams();
        self.console.detach();
        self.scope = Arc::clone(idle);
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
