//! The clock that takes the processor away from guests: it raises the engine's epoch while guests run, and sleeps while
//! none does. What happens at a tick is the stores' affair (they yield).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;
use wasmtime::{Engine, EngineWeak};

/// How long a guest may hold a thread. Short enough that guests on one thread take turns without being noticed, long enough
/// that a switch (some microseconds) costs nothing.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Ticks without a guest before the thread sleeps: waking it costs a system call, so it outlasts short pauses.
const IDLE_TICKS: u32 = 50;

struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    closed: AtomicBool,
}

/// See the head of this file. Its thread ends with it.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

impl Ticker {
    /// Starts the thread. It holds no strong reference to the engine.
    pub(super) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { running: AtomicUsize::new(0), asleep: AtomicBool::new(false), closed: AtomicBool::new(false) });
        let (seen, engine) = (Arc::clone(&shared), engine.weak());
        let handle = thread::Builder::new().name("guest-ticker".into()).spawn(move || tick(&seen, &engine))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Ticks at least as long as the answer lives.
    pub(super) fn running(&self) -> Running<'_> {
        // Both sides write one flag and then read the other, all in one total order: either the thread sees the guest, or the
        // guest sees the thread asleep.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared.running)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Says that a guest is being run.
pub(super) struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(shared: &Shared, engine: &EngineWeak) {
    let mut idle = 0;
    while !shared.closed.load(Ordering::SeqCst) {
        thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        drop(engine);
        idle = if shared.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        if idle > IDLE_TICKS {
            shared.asleep.store(true, Ordering::SeqCst);
            while shared.running.load(Ordering::SeqCst) == 0 && !shared.closed.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}
