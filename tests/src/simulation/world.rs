//! One simulated world: the real stores in memory, the clock they go by, and the dice. Every call that leaves a worker goes through
//! [`World::call`], which decides what befalls it.

use super::coverage::{Fault, Hits, Step, inapplicable};
use super::ledger::Ledger;
use super::process::{Budget, Process};
use std::future::Future;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use wasm_worker::object_store::ObjectStore;
use wasm_worker::task_store::TaskStore;

/// Length of a lease.
pub const LEASE: Duration = Duration::from_secs(6);

/// Most milliseconds that an undisturbed call takes.
const LATENCY_MS: u64 = 3;

/// Longest delay of a delayed call: longer than a heartbeat may take, and now and then longer than a lease.
const MAX_DELAY_MS: u64 = 9_000;

/// Longest jump of the store's clock in an ordinary fault; one in a hundred is of an hour.
const MAX_JUMP_MS: i64 = 20_000;

/// Moves the clock of a store: milliseconds by which it goes before the virtual one.
pub type Clock = Box<dyn Fn(i64) + Send + Sync>;

/// See the head of this file.
pub struct World {
    /// The task store itself, without faults: what is asked of it here is the truth.
    pub tasks: Arc<dyn TaskStore>,
    /// The object store itself.
    pub objects: Arc<dyn ObjectStore>,
    pub seed: u64,
    pub budget: Arc<Budget>,
    clock: Clock,
    dice: Mutex<Dice>,
    ledger: Mutex<Ledger>,
}

/// When faults strike, and which ones did.
struct Dice {
    until: Instant,
    skew_ms: i64,
    hits: Hits,
}

impl World {
    /// `faults_for`: how long from now faults strike.
    pub fn new(
        seed: u64,
        tasks: Arc<dyn TaskStore>,
        objects: Arc<dyn ObjectStore>,
        clock: Clock,
        faults_for: Duration,
        verbose: bool,
    ) -> Arc<Self> {
        let now = Instant::now();
        let dice = Dice { until: now + faults_for, skew_ms: 0, hits: Hits::default() };
        let budget = Arc::default();
        Arc::new(Self { tasks, objects, seed, budget, clock, dice: Mutex::new(dice), ledger: Mutex::new(Ledger::new(now, verbose)) })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub fn hits(&self) -> Hits {
        self.dice.lock().unwrap().hits.clone()
    }

    /// Whether something goes wrong with this call, and what. `kinds`: what can be done to it here.
    pub fn draw(&self, step: Step, kinds: &[Fault]) -> Option<Fault> {
        if !self.faults_strike() || fastrand::u32(0..1000) >= step.per_mille() {
            return None;
        }
        let kinds = kinds.iter().copied().filter(|fault| inapplicable(step, *fault).is_none());
        let mut place = fastrand::u32(0..kinds.clone().map(|fault| fault.weight(step)).sum::<u32>().max(1));
        let drawn = kinds.into_iter().find(|fault| {
            let here = place < fault.weight(step);
            place = place.saturating_sub(fault.weight(step));
            here
        })?;
        self.strike(step, drawn);
        Some(drawn)
    }

    /// Counts a fault that strikes.
    pub fn strike(&self, step: Step, fault: Fault) {
        self.dice.lock().unwrap().hits.count(step, fault);
        self.ledger().note("fault", step.name(), fault.name());
    }

    pub fn faults_strike(&self) -> bool {
        Instant::now() < self.dice.lock().unwrap().until
    }

    /// The store's clock goes wrong by another amount.
    fn jump(&self) {
        let mut dice = self.dice.lock().unwrap();
        let hour = 3_600_000;
        dice.skew_ms = match fastrand::u32(0..100) {
            0 => {
                if fastrand::bool() {
                    hour
                } else {
                    -hour
                }
            }
            1..40 => 0,
            _ => fastrand::i64(-MAX_JUMP_MS..=MAX_JUMP_MS),
        };
        (self.clock)(dice.skew_ms);
    }

    /// Faults are over: the clock is right again.
    pub fn calm(&self) {
        let mut dice = self.dice.lock().unwrap();
        dice.until = Instant::now();
        dice.skew_ms = 0;
        (self.clock)(0);
    }

    /// One call of a worker. `effect` does it and writes it into the ledger; `refused` is what the worker is told when it goes wrong.
    pub async fn call<T, E>(
        &self,
        process: &Process,
        step: Step,
        refused: impl Fn() -> E,
        effect: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let fault = self.draw(step, &ORDINARY);
        let before = fastrand::bool();
        if fastrand::bool() {
            sleep(Duration::from_millis(fastrand::u64(0..=LATENCY_MS))).await;
        }
        process.gate().await;
        match fault {
            Some(Fault::CrashBefore) => return die(process).await,
            Some(Fault::Error) => return Err(refused()),
            Some(Fault::ClockJump) => self.jump(),
            Some(fault @ (Fault::Pause | Fault::Delay)) if before => hold_up(process, fault).await,
            _ => {}
        }
        process.gate().await;
        let done = effect.await;
        match fault {
            Some(Fault::CrashAfter) => return die(process).await,
            Some(fault @ (Fault::Pause | Fault::Delay)) if !before => hold_up(process, fault).await,
            _ => {}
        }
        process.gate().await;
        if fault == Some(Fault::LostReply) { Err(refused()) } else { done }
    }
}

/// What may befall any call.
const ORDINARY: [Fault; 7] =
    [Fault::CrashBefore, Fault::CrashAfter, Fault::Pause, Fault::Error, Fault::LostReply, Fault::Delay, Fault::ClockJump];

async fn die<T>(process: &Process) -> T {
    process.kill();
    pending().await
}

/// The call takes long, or the whole process stands still.
async fn hold_up(process: &Process, fault: Fault) {
    match fault {
        Fault::Pause => process.pause(LEASE.mul_f64(0.2 + 2.3 * fastrand::f64())),
        _ => sleep(Duration::from_millis(fastrand::u64(1..=if fastrand::u32(0..4) == 0 { MAX_DELAY_MS } else { 500 }))).await,
    }
}
