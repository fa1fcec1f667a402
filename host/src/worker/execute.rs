//! The way of one task, from a claim to its end. [`execute`] reads top to bottom; `ARCHITECTURE.md` numbers the steps.

use super::Worker;
use super::deliveries::Delivery;
use super::load::Slot;
use super::settle::{Left, close, settle, tell};
use super::step::StepSpec;
use crate::failpoint::{Point, reach};
use crate::guest::scope::Failure;
use crate::guest::{Guest, GuestFault, Scope, StopReason};
use crate::object_store::ObjectError;
use crate::task::children::{self, Children, Parent};
use crate::task::hooks::{FanOut, HookError, Payload, TaskError, Work};
use crate::task::id::sha256;
use crate::task::limits::cut;
use crate::task::outcome::Fault;
use crate::task::outputs::{self, INLINE_OUTPUT, METRICS_NAME, Manifest, ManifestEntry, Place, RunIdentity};
use crate::task::pointer::Violation;
use crate::task::schema::ParamsSchema;
use crate::task::state::TaskState;
use crate::task::uri::Uri;
use crate::task_store::{Applied, Claimed, Commit, StoreError, Unfinished};
use futures::FutureExt as _;
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

/// One claim being run.
struct Run {
    step: Arc<StepSpec>,
    claimed: Claimed,
    work: Arc<Work>,
    scope: Arc<Scope>,
    prefix: Uri,
    /// A commit was sent.
    committing: AtomicBool,
}

/// What the two hooks answered.
struct Answer {
    outcome: Option<String>,
    payload: Option<Payload>,
    metrics: Option<String>,
    fan_out: FanOut,
}

/// Runs one claimed task to its end, and returns the state it is left in. `sent`: when the claim was sent. `delivery`: the message
/// that brought it, where one did. A claim stands for steps 1 and 3: what it brings is decoded and leased already.
pub(super) async fn execute(worker: &Arc<Worker>, claimed: Claimed, sent: Instant, slot: Slot, delivery: Option<Delivery>) -> TaskState {
    let left = run(worker, claimed, sent, slot).await;
    close(worker, left, delivery).await
}

/// Finishes what another worker committed: its message came again.
pub(super) async fn finish(worker: &Worker, unfinished: &Unfinished, slot: Slot, delivery: Option<Delivery>) -> TaskState {
    let state = super::finalise::finish(worker, unfinished).await;
    drop(slot);
    close(worker, Left::at(state), delivery).await
}

async fn run(worker: &Arc<Worker>, claimed: Claimed, sent: Instant, slot: Slot) -> Left {
    let (step, prefix) = match place(worker, &claimed) {
        Ok(place) => place,
        Err(fault) => return settle(worker, &claimed, String::new(), fault).await,
    };
    let work = Arc::new(step.work(&claimed));
    let grants = step.grants(&claimed);
    let scope = Scope::new(worker.services.clone(), claimed.lease.clone(), step.limits.clone(), prefix.clone(), grants, &work);
    let run = Run { step, claimed, work, scope, prefix, committing: AtomicBool::new(false) };
    match result(worker, &run, sent, slot).await {
        Ok(manifest) => {
            reach(Point::AfterCommit);
            let key = run.claimed.lease.key.clone();
            let committed = Unfinished { key, output_prefix: run.claimed.output_prefix.clone(), manifest };
            let state = super::finalise::finish(worker, &committed).await;
            tell(worker, &run.claimed, state, None, Some(run.scope.started().elapsed()));
            Left::at(state)
        }
        Err(fault) => {
            let left = settle(worker, &run.claimed, run.scope.log_text(), fault).await;
            // The task is somebody else's.
            if left.state == TaskState::Processing && !may_have_committed(worker, &run).await {
                discard(worker, &run).await;
            }
            left
        }
    }
}

/// The step and the output prefix of a task.
fn place(worker: &Worker, claimed: &Claimed) -> Result<(Arc<StepSpec>, Uri), Fault> {
    let step = worker.steps.get(&claimed.step).cloned();
    let step = step.ok_or_else(|| Fault::Host(TaskError::new("unknown-step", format!("this worker has no step '{}'", claimed.step))))?;
    let prefix = Uri::parse(&claimed.output_prefix).map_err(|e| Fault::Broken(TaskError::new("bad-prefix", e)))?;
    Ok((step, prefix))
}

/// From the first hook to the commit. The lease is kept alive up to the commit, and not beyond: a heartbeat never meets a
/// committed task. Nor is its place kept longer: another task's hooks may run while the store commits this one.
async fn result(worker: &Arc<Worker>, run: &Run, sent: Instant, slot: Slot) -> Result<Manifest, Fault> {
    let held = worker.heartbeats.hold(run.claimed.lease.clone(), Arc::clone(&run.scope), sent);
    let (answer, children) = answer(worker, run).await?;
    let manifest = stage(worker, run, &answer).await?;
    reach(Point::AfterStaging);
    drop(held);
    drop(slot);
    reach(Point::BeforeCommit);
    run.committing.store(true, Ordering::Relaxed);
    commit(worker, run, answer.outcome, manifest, children).await
}

/// Whether what this run has staged may be needed: a commit was sent, and its claim does not say that the run ended otherwise. That is
/// final; a claim that is still open, or cannot be read, tells nothing.
async fn may_have_committed(worker: &Worker, run: &Run) -> bool {
    if !run.committing.load(Ordering::Relaxed) {
        return false;
    }
    let lease = &run.claimed.lease;
    let Ok(task) = worker.services.tasks.task(&lease.key.tenant, &lease.key.task_id).await else { return true };
    let own = task.claims.iter().find(|claim| claim.epoch == lease.epoch && claim.owner == lease.owner);
    own.and_then(|claim| claim.ended.as_deref()).is_none_or(|ended| ended == "committed")
}

/// Tries to remove what a lost run has staged, over some twelve seconds: longer than storage is busy, and no longer than a drain may wait.
const DISCARD_TRIES: u32 = 8;

/// The pause after the first; it doubles.
const DISCARD_PAUSE: Duration = Duration::from_millis(50);

/// Removes what this run has staged, once it is certain that it has not committed: a sweeper may have been here before, and nobody
/// would come for it again. Folders are named by owner, so that nothing of another run goes.
async fn discard(worker: &Worker, run: &Run) {
    let Ok(folder) = run.prefix.join(&run.scope.attempt_folder()) else { return };
    let mut pause = DISCARD_PAUSE;
    for tries in 1..=DISCARD_TRIES {
        let Err(error) = worker.services.objects.delete_prefix(&folder).await else { return };
        tracing::debug!(%error, tries, "what a lost run has staged could not be removed");
        tokio::select! {
            biased;
            () = worker.hurry.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause *= 2;
    }
}

/// Steps 1, 2, 4 and 5: validate, instance, process, publish-next; and the plan of the children.
async fn answer(worker: &Arc<Worker>, run: &Run) -> Result<(Answer, Children), Fault> {
    validate(run).await?;
    if run.claimed.cancelled {
        return Err(Fault::Cancelled);
    }
    let _company = tokio::select! {
        biased;
        company = worker.company(run.claimed.alone) => company,
        () = run.scope.stopped() => return Err(fault_of(GuestFault::Stopped, &run.scope)),
    };
    let answer = hooks(worker, run).await?;
    if answer.fan_out == FanOut::default() {
        return Ok((answer, Children::default()));
    }
    let listed = run.scope.list_inputs().await;
    listed.map_err(|e| if run.scope.stop_reason().is_some() { fault_of(GuestFault::Stopped, &run.scope) } else { host_fault(e) })?;
    let children = plan(worker, run, &answer)?;
    Ok((answer, children))
}

/// Step 1. The schema is the guest's own, and so is what its check costs: it may take a thread, and a moment, but not more.
async fn validate(run: &Run) -> Result<(), Fault> {
    let mut violations = run.step.faults(&run.claimed.message);
    let Some(schema) = run.step.schema(&run.claimed.message).ok().flatten().map(Arc::clone) else {
        return if violations.is_empty() { Ok(()) } else { Err(Fault::Broken(TaskError::invalid(violations))) };
    };
    let params = Value::Object(run.claimed.message.params.clone());
    violations.extend(if schema.is_costly(&params) { check_aside(schema, params).await? } else { schema.check(&params) });
    if violations.is_empty() { Ok(()) } else { Err(Fault::Broken(TaskError::invalid(violations))) }
}

/// Longest check of a task's params against the guest's schema: two seconds, in pieces. Where the process stood still, it is one piece
/// that was lost, and not the task.
const VALIDATION_PIECE: Duration = Duration::from_millis(100);
const MAX_VALIDATION_PIECES: u32 = 20;

/// A check on a thread of its own.
async fn check_aside(schema: Arc<ParamsSchema>, params: Value) -> Result<Vec<Violation>, Fault> {
    let code = "schema-cost";
    if schema.is_given_up() {
        // That may be the other's fault alone.
        return Err(Fault::Host(TaskError::new(code, "the guest's JSON Schema is still being checked for the params of another task")));
    }
    let (goes_on, checking) = (Arc::new(()), Arc::clone(&schema));
    let held = Arc::clone(&goes_on);
    let mut check = spawn_blocking(move || {
        let _held = held;
        checking.check(&params)
    });
    for _ in 0..MAX_VALIDATION_PIECES {
        match timeout(VALIDATION_PIECE, &mut check).await {
            Ok(Ok(violations)) => return Ok(violations),
            Ok(Err(_)) => break,
            Err(_) => {}
        }
    }
    schema.give_up(Arc::downgrade(&goes_on));
    Err(Fault::Broken(TaskError::new(code, "the guest's JSON Schema for params takes too long to check")))
}

/// Steps 2, 4 and 5, where guests run. A stopped run is left at once; its guest is not used again.
async fn hooks(worker: &Arc<Worker>, run: &Run) -> Result<Answer, Fault> {
    let (tell, told) = oneshot::channel();
    let (host, step) = (Arc::clone(worker), Arc::clone(&run.step));
    let (work, scope) = (Arc::clone(&run.work), Arc::clone(&run.scope));
    let phase = async move {
        let _ = tell.send(on_an_instance(&host, &step.name, &work, &scope).await);
    };
    tokio::select! {
        biased;
        () = worker.guests.enter(Box::pin(phase)) => {}
        () = run.scope.stopped() => return Err(fault_of(GuestFault::Stopped, &run.scope)),
    }
    let Ok(called) = told.await else {
        return Err(Fault::Host(TaskError::new("host", "the guest's run was cut short by a failure of the host")));
    };
    if run.scope.check().is_err() {
        return Err(fault_of(GuestFault::Stopped, &run.scope));
    }
    if run.scope.is_cancel_requested() {
        return Err(Fault::Cancelled);
    }
    called.map_err(|fault| fault_of(fault, &run.scope))
}

/// With other tasks held off where it is to run alone: setting an instance up may be what kills the process.
///
/// An instance is taken by who has a thread for it, and no sooner: of tasks that begin together most would hold one that waits, and
/// each would need its own.
async fn on_an_instance(worker: &Worker, step: &str, work: &Arc<Work>, scope: &Arc<Scope>) -> Result<Answer, GuestFault> {
    // A panic of the host in there counts as a failure to make one.
    let made = AssertUnwindSafe(worker.guests.instance(step)).catch_unwind().await;
    let panicked = |_| Err(GuestFault::Host(TaskError::new("host", "making an instance failed in the host itself")));
    let guest = match made.unwrap_or_else(panicked) {
        Ok(guest) => guest,
        Err(fault) => {
            if !matches!(fault, GuestFault::Stopped) {
                worker.rest(step);
            }
            return Err(fault);
        }
    };
    worker.wake(step);
    let (guest, called) = call(guest, work, scope).await;
    worker.guests.give_back(step, guest);
    called
}

async fn call(mut guest: Box<dyn Guest>, work: &Arc<Work>, scope: &Arc<Scope>) -> (Box<dyn Guest>, Result<Answer, GuestFault>) {
    scope.started();
    // The way here may have taken longer than the lease: a hook begins only while it holds.
    if scope.check().is_err() {
        return (guest, Err(GuestFault::Stopped));
    }
    reach(Point::BeforeProcess);
    let output = match guest.process(work, scope).await {
        Ok(output) => output,
        Err(fault) => return (guest, Err(fault)),
    };
    scope.forbid_writes();
    reach(Point::AfterProcess);
    if scope.check().is_err() {
        return (guest, Err(GuestFault::Stopped));
    }
    let (outcome, payload, metrics) = (output.outcome.clone(), output.payload.clone(), output.metrics.clone());
    let fan_out = guest.publish_next(work, output, scope).await;
    reach(Point::AfterPublishNext);
    (guest, fan_out.map(|fan_out| Answer { outcome, payload, metrics, fan_out }))
}

fn fault_of(fault: GuestFault, scope: &Scope) -> Fault {
    match fault {
        GuestFault::Hook(HookError::Cancelled) if scope.is_cancel_requested() => Fault::Cancelled,
        GuestFault::Hook(error) => Fault::Hook(error),
        GuestFault::Guest(error) => Fault::Guest(error),
        GuestFault::Host(error) => Fault::Host(error),
        GuestFault::Stopped => match scope.stop_reason() {
            Some(StopReason::Cancelled) => Fault::Cancelled,
            Some(StopReason::Drained) => Fault::Drained,
            Some(StopReason::LeaseLost) | None => Fault::LeaseLost,
        },
    }
}

fn host_fault(failure: Failure) -> Fault {
    Fault::Host(TaskError::new(failure.code, failure.message))
}

/// From the guest's answer to the tasks that will exist, each small enough for the queue that carries it.
fn plan(worker: &Worker, run: &Run, answer: &Answer) -> Result<Children, Fault> {
    let claimed = &run.claimed;
    let job_prefix = Uri::parse(&claimed.job_prefix).map_err(|e| Fault::Broken(TaskError::new("bad-prefix", e)))?;
    let parent = Parent {
        tenant: &claimed.lease.key.tenant,
        message: &claimed.message,
        step: &claimed.step,
        priority: claimed.priority,
        outcome: answer.outcome.as_deref(),
        job_prefix: &job_prefix,
    };
    let readable = |uri: &Uri| run.scope.grants_read(uri);
    let children = children::plan(&parent, &answer.fan_out, &run.step.routes, &run.step.limits, &readable).map_err(Fault::Broken)?;
    let large = children.tasks.iter().chain(&children.then).find_map(|child| worker.too_large(child));
    large.map_or(Ok(children), |error| Err(Fault::Broken(error)))
}

/// Step 7: fixes the result. From here on the guest does not run again for this task.
async fn commit(worker: &Worker, run: &Run, outcome: Option<String>, manifest: Manifest, children: Children) -> Result<Manifest, Fault> {
    let commit = Commit {
        lease: run.claimed.lease.clone(),
        manifest: manifest.clone(),
        children,
        outcome,
        figures: run.scope.figures(run.claimed.queue_wait),
        log: run.scope.log_text(),
    };
    let mut wait = Duration::from_millis(20);
    loop {
        match worker.services.tasks.commit(commit.clone()).await {
            Ok(Applied::Yes) => return Ok(manifest),
            Ok(Applied::Lost) => {
                discard(worker, run).await;
                return Err(Fault::LeaseLost);
            }
            // The answer may be lost and the commit not: asking again reads it back.
            Err(StoreError::Unavailable(error)) if !run.scope.has_lapsed() => {
                tracing::warn!(error, task_id = run.work.task_id, "commit has no known outcome; asking again");
                sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
            Err(StoreError::Unavailable(_)) => return Err(Fault::LeaseLost),
            Err(error) => return Err(Fault::Host(TaskError::new("store", error.to_string()))),
        }
    }
}

/// Step 6, the manifest: what the guest wrote, what it returned, and `metrics.json` last. Small bytes ride inside it.
async fn stage(worker: &Worker, run: &Run, answer: &Answer) -> Result<Manifest, Fault> {
    let mut entries = run.scope.take_outputs();
    if let Some(payload) = &answer.payload {
        entries.push(stage_result(worker, run, payload).await?);
    }
    let guest = match &answer.metrics {
        Some(text) => Some(serde_json::from_str(text).map_err(|e| Fault::Guest(TaskError::new("bad-answer", format!("metrics: {e}"))))?),
        None => None,
    };
    if !entries.is_empty() || guest.is_some() {
        let release = worker.guests.release(&run.step.name);
        let who = RunIdentity {
            job_id: &run.work.job_id,
            task_id: &run.work.task_id,
            step: &run.work.step,
            release: &release,
            attempt: run.work.attempt,
            payload_hash: &run.claimed.payload_hash,
        };
        let rendered = outputs::render_metrics(&who, &run.scope.figures(run.claimed.queue_wait), guest.as_ref());
        entries.push(ManifestEntry::inline(METRICS_NAME, "application/json", rendered));
    }
    Ok(Manifest { folder: run.scope.attempt_folder(), entries })
}

async fn stage_result(worker: &Worker, run: &Run, payload: &Payload) -> Result<ManifestEntry, Fault> {
    let (content_type, bytes) = match payload {
        Payload::Json(text) => ("application/json", text.clone().into_bytes()),
        Payload::Body { content_type, bytes } => (content_type.as_str(), bytes.clone()),
    };
    let name = format!("result.{}", outputs::extension_of(content_type));
    let content_type = cut(content_type, 255);
    if bytes.len() <= INLINE_OUTPUT {
        return Ok(ManifestEntry::inline(name, content_type, bytes));
    }
    let broken = |e: String| Fault::Broken(TaskError::new("bad-prefix", e));
    let at = run.prefix.join(&format!("{}result", run.scope.attempt_folder())).map_err(broken)?;
    // The process may have stood still since the hooks: what is staged after the lease is seen by no sweep.
    if run.scope.check().is_err() {
        return Err(fault_of(GuestFault::Stopped, &run.scope));
    }
    worker.services.objects.put(&at, &bytes).await.map_err(|e| storage_fault(&e))?;
    Ok(ManifestEntry { name, content_type, size: bytes.len() as u64, sha256: sha256(&bytes), place: Place::Staged("result".into()) })
}

fn storage_fault(error: &ObjectError) -> Fault {
    Fault::Host(TaskError::new("storage", error.to_string()))
}
