//! The scripted guest: does what its params say, the same way for every run of one attempt of one task, and another way for the next
//! attempt. It is hostile where that tells something: it reaches for other tenants, names other children each time, ignores requests to
//! stop, and goes on for a moment after it was stopped.

use super::coverage::Step;
use super::process::{Gated, Process};
use super::world::{LEASE, World};
use async_trait::async_trait;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use wasm_worker::guest::scope::Failure;
use wasm_worker::guest::{Guest, GuestFault, Guests, Scope};
use wasm_worker::task::hooks::{FanOut, HookError, NextTask, Output, Payload, TaskError, Work};
use wasm_worker::task::id::TaskKey;

/// The step whose guest never loads.
pub const BROKEN: &str = "broken";

/// The step that another system serves.
pub const FOREIGN: &str = "away";

/// Larger than what rides inside a commit.
const LARGE: usize = 66_000;

/// How long a guest that waits for a request to stop does so.
const PATIENCE: Duration = Duration::from_secs(40);

/// Longest that a stopped guest goes on before it notices, milliseconds: real ones are stopped at their next tick.
const LINGER_MS: u64 = 30;

/// Where scripted guests come from.
pub struct Cast {
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

struct Scripted {
    world: Arc<World>,
    process: Arc<Process>,
}

fn load_failed() -> GuestFault {
    GuestFault::Host(TaskError::new("load", "simulated"))
}

fn hook_failed() -> GuestFault {
    GuestFault::Hook(HookError::retryable("simulated", "simulated", None))
}

#[async_trait]
impl Guests for Cast {
    async fn instance(&self, step: &str) -> Result<Box<dyn Guest>, GuestFault> {
        let (world, process) = (Arc::clone(&self.world), Arc::clone(&self.process));
        let effect = async {
            if step == BROKEN {
                return Err(load_failed());
            }
            Ok(Box::new(Scripted { world: Arc::clone(&self.world), process: Arc::clone(&self.process) }) as Box<dyn Guest>)
        };
        world.call(&process, Step::Instance, load_failed, effect).await
    }

    fn give_back(&self, _: &str, _: Box<dyn Guest>) {}

    async fn enter(&self, work: BoxFuture<'static, ()>) {
        let mut task = StopSoon(Some(tokio::spawn(Gated::new(&self.process, work))));
        if let Some(task) = &mut task.0 {
            let _ = task.await;
        }
        task.0 = None;
    }

    fn release(&self, _: &str) -> String {
        "scripted".into()
    }
}

/// A guest whose caller has gone: it is stopped at its next tick, not at once.
struct StopSoon(Option<JoinHandle<()>>);

impl Drop for StopSoon {
    fn drop(&mut self) {
        let Some(task) = self.0.take() else { return };
        let linger = Duration::from_millis(fastrand::u64(0..=LINGER_MS));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                sleep(linger).await;
                task.abort();
            });
        }
    }
}

/// One run of a hook.
struct Hook<'a> {
    world: &'a World,
    process: &'a Process,
    work: &'a Work,
    scope: &'a Arc<Scope>,
    params: Value,
    rng: fastrand::Rng,
    owner: String,
}

impl<'a> Hook<'a> {
    /// Begins a hook: its lease must hold.
    fn begin(guest: &'a Scripted, name: &'static str, work: &'a Work, scope: &'a Arc<Scope>) -> Self {
        let folder = scope.attempt_folder();
        let owner = folder.trim_start_matches("_attempts/").trim_end_matches('/').split_once('-').map(|(_, owner)| owner.to_owned());
        let digest = wasm_worker::task::id::digest(&[&work.tenant, &work.task_id, &work.attempt.to_string(), name]);
        let seed = u64::from_str_radix(&digest[..16], 16).unwrap() ^ guest.world.seed;
        let hook = Self {
            world: &guest.world,
            process: &guest.process,
            work,
            scope,
            params: serde_json::from_str(&work.params).unwrap(),
            rng: fastrand::Rng::with_seed(seed),
            owner: owner.unwrap_or_default(),
        };
        hook.note(name);
        if !hook.holds() {
            hook.world.ledger().violate(10, format_args!("{name} of {} begins after its lease is over", work.task_id));
        }
        hook
    }

    fn note(&self, what: &'static str) {
        let (tenant, task) = (&self.work.tenant, self.work.task_id.get(..10).unwrap_or(&self.work.task_id));
        self.world.ledger().note(&self.process.name, what, format_args!("{tenant}/{task} attempt {}", self.work.attempt));
    }

    fn holds(&self) -> bool {
        self.world.ledger().holds(&self.owner)
    }

    /// A host call: what is served must have been asked for while the lease held.
    async fn host<T>(&self, name: &'static str, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let held = self.holds();
        let served = call.await;
        if served.is_ok() && !held {
            self.world.ledger().violate(10, format_args!("{name} is served to {} after its lease is over", self.work.task_id));
        }
        served
    }

    fn flag(&self, name: &str) -> bool {
        self.params[name] == true
    }

    fn number(&self, name: &str) -> u64 {
        self.params[name].as_u64().unwrap_or(0)
    }

    async fn process(&mut self) -> Result<Output, GuestFault> {
        if self.work.input_count > 0 {
            self.read_inputs().await?;
        }
        if self.rng.u32(0..8) == 0 {
            self.trespass().await;
        }
        self.wait().await;
        let payload = self.write().await?;
        if self.number("fail") >= u64::from(self.work.attempt) {
            let after = self.rng.bool().then_some(500);
            return Err(GuestFault::Hook(HookError::retryable("busy", "on purpose", after)));
        }
        if self.flag("fatal") {
            return Err(GuestFault::Hook(HookError::fatal("broken", "on purpose")));
        }
        if self.flag("until_cancelled") && self.scope.is_cancel_requested() {
            return Err(GuestFault::Hook(HookError::Cancelled));
        }
        let metrics = self.rng.bool().then(|| json!({"attempt": self.work.attempt}).to_string());
        let bare = self.flag("bare");
        let outcome = self.params["outcome"].as_str().map(str::to_owned);
        Ok(Output { outcome, payload: payload.filter(|_| !bare), metrics: metrics.filter(|_| !bare), extras: Vec::new() })
    }

    /// As long as the params say: a moment, beyond the lease, or until somebody asks it to stop.
    async fn wait(&mut self) {
        let long = if self.flag("long") { LEASE.mul_f64(1.3) } else { Duration::ZERO };
        sleep(long + Duration::from_millis(self.number("ms") + self.rng.u64(0..200))).await;
        if self.flag("deaf") {
            sleep(PATIENCE).await;
        }
        let mut waited = Duration::ZERO;
        while self.flag("until_cancelled") && !self.scope.is_cancel_requested() && waited < PATIENCE {
            let step = Duration::from_millis(300);
            sleep(step).await;
            waited += step;
            let progress = self.scope.emit(&Payload::Json("1".into()));
            let _ = self.host("emit", async { progress }).await;
        }
    }

    /// Outputs small and large; some rewritten. Returns the payload, which is large too where the params say so.
    async fn write(&mut self) -> Result<Option<Payload>, GuestFault> {
        let large = self.flag("large");
        for index in 0..if self.flag("bare") { 0 } else { self.rng.u32(0..3) } {
            let size = if large && index == 0 { LARGE } else { self.rng.usize(40..400) };
            let (name, bytes) = (format!("out{}.bin", index % 2), self.bytes(size, index));
            let write = self.scope.write(&name, "application/octet-stream", bytes);
            self.host("write", write).await.map_err(|failure| failed(&failure))?;
            // Nothing awaited in between: what was stopped meanwhile must be noticed by the next call.
            sleep(Duration::from_millis(self.rng.u64(0..20))).await;
        }
        let size = if large { LARGE } else { 60 };
        let bytes = self.bytes(size, 9);
        Ok(match self.rng.u32(0..4) {
            0 => None,
            1 => Some(Payload::Json(json!({(self.work.tenant.as_str()): self.work.attempt}).to_string())),
            _ => Some(Payload::Body { content_type: "application/octet-stream".into(), bytes }),
        })
    }

    /// Bytes that say whose they are.
    fn bytes(&self, size: usize, index: u32) -> Vec<u8> {
        let mark = format!("{}/{}/{}/{index}/", self.work.tenant, self.work.task_id, self.work.attempt);
        mark.bytes().cycle().take(size.max(mark.len())).collect()
    }

    /// All inputs of a `then` task, page by page, with what they returned.
    async fn read_inputs(&mut self) -> Result<(), GuestFault> {
        let mut inputs = Vec::new();
        while (inputs.len() as u32) < self.work.input_count {
            let page = self.host("inputs", self.scope.inputs(inputs.len() as u32, 2)).await.map_err(|failure| failed(&failure))?;
            if page.is_empty() {
                let text = format_args!("{} was promised {} inputs and got {}", self.work.task_id, self.work.input_count, inputs.len())
                    .to_string();
                self.world.ledger().violate(4, text);
                break;
            }
            inputs.extend(page);
        }
        let key = TaskKey::new(&self.work.tenant, &self.work.task_id);
        let expected = self.world.ledger().record(&key).and_then(|record| record.inputs.clone());
        if expected.is_some_and(|expected| expected != inputs) {
            let keys: Vec<&str> = inputs.iter().map(|input| input.key.as_str()).collect();
            let text = format!("{} reads [{}], which is not what came before it", self.work.task_id, keys.join(", "));
            self.world.ledger().violate(4, text);
        }
        for input in &inputs {
            let payload = self.host("input", self.scope.input_payload(input)).await.map_err(|failure| failed(&failure))?;
            if let Some(Payload::Body { bytes, .. }) = payload
                && !bytes.starts_with(self.work.tenant.as_bytes())
            {
                self.world.ledger().violate(7, format_args!("{} reads an input of another tenant", self.work.task_id));
            }
        }
        Ok(())
    }

    /// Reaches for what is another tenant's, under the very same ids.
    async fn trespass(&self) {
        let (own, other) = if self.work.tenant == "t1" { ("/t1/", "/t2/") } else { ("/t2/", "/t1/") };
        let theirs = self.work.output_prefix.replacen(own, other, 1);
        if self.scope.read(&format!("{theirs}result.bin")).await.is_ok() {
            self.world.ledger().violate(7, format_args!("{} reads of another tenant", self.work.task_id));
        }
        if self.scope.write("../../theirs.bin", "x/y", vec![0]).await.is_ok() {
            self.world.ledger().violate(7, format_args!("{} writes outside its prefix", self.work.task_id));
        }
    }

    /// Children: by the params, and others on every attempt.
    fn fan_out(&mut self) -> FanOut {
        let attempt = self.work.attempt;
        let depth = self.number("depth");
        let child = |key: String, step: &str, params: Value| NextTask {
            key,
            step: Some(step.to_owned()),
            params: params.to_string(),
            ..NextTask::default()
        };
        let mut tasks = Vec::new();
        let width = self.number("fan");
        for index in 0..if width > 0 { width + self.rng.u64(0..2) } else { 0 } {
            let mut params = json!({"ms": self.rng.u64(0..1500), "large": self.rng.u32(0..4) == 0, "bare": self.rng.u32(0..4) == 0});
            if depth > 0 && index == 0 {
                params = json!({"fan": 1, "depth": depth - 1, "then": self.rng.bool()});
            }
            if self.flag("mortal") && index == 0 {
                params["fatal"] = json!(true);
            }
            let mut task = child(format!("k{index}-{attempt}"), "each", params);
            task.priority = self.rng.bool().then(|| self.rng.u8(0..=9));
            task.delay_ms = (self.rng.u32(0..4) == 0).then(|| self.rng.u64(1..3000));
            tasks.push(task);
        }
        if self.number("chain") > 0 {
            tasks.push(child("on".into(), "more", json!({"chain": self.number("chain") - 1, "ms": 50})));
        }
        if self.flag("away") {
            tasks.push(child("away".into(), FOREIGN, json!({})));
        }
        let then = self.flag("then").then(|| child("then".into(), "all", json!({"ms": 20, "large": self.rng.bool()})));
        FanOut { tasks, then }
    }
}

fn failed(failure: &Failure) -> GuestFault {
    GuestFault::Hook(HookError::retryable(failure.code, &failure.message, None))
}

#[async_trait]
impl Guest for Scripted {
    async fn process(&mut self, work: &Arc<Work>, scope: &Arc<Scope>) -> Result<Output, GuestFault> {
        let mut hook = Hook::begin(self, "process", work, scope);
        let key = TaskKey::new(&work.tenant, &work.task_id);
        hook.world.ledger().record_mut(&key).runs += 1;
        let (world, process) = (hook.world, hook.process);
        world.call(process, Step::Process, hook_failed, hook.process()).await
    }

    async fn publish_next(&mut self, work: &Arc<Work>, _: Output, scope: &Arc<Scope>) -> Result<FanOut, GuestFault> {
        let mut hook = Hook::begin(self, "publish-next", work, scope);
        let (world, process) = (hook.world, hook.process);
        world.call(process, Step::PublishNext, hook_failed, async { Ok(hook.fan_out()) }).await
    }

    fn is_reusable(&self) -> bool {
        true
    }
}
