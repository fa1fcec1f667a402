//! One task's hooks, run apart from the task store: nothing is committed, everything is kept for comparison.

use super::super::inspect::why;
use crate::app::{App, routes_of};
use crate::config::{Pipeline, Step};
use crate::guest::{Grants, Guest, GuestFault, Guests, Scope, WasmGuests};
use crate::task::children::{self, Children, Parent};
use crate::task::hooks::{FanOut, Output, TaskError, Work};
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task::message::{DEFAULT_PRIORITY, Message};
use crate::task::outputs::ManifestEntry;
use crate::task::uri::Uri;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A task to rehearse.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub message: Message,
    /// The job's own prefix.
    pub job_prefix: Uri,
    /// The task's.
    pub prefix: Uri,
    pub is_root: bool,
    /// Inputs of a `then` task.
    pub input_count: u32,
}

/// What came of it.
pub(super) struct Rehearsal {
    /// How `process` ended.
    pub process: Result<Output, GuestFault>,
    /// What it wrote.
    pub entries: Vec<ManifestEntry>,
    /// Why writes of `process` were refused.
    pub refused: Vec<String>,
    /// What `publish-next` answered; none where `process` gave it nothing to go on.
    pub published: Option<Published>,
}

/// What came of `publish-next`.
pub(super) struct Published {
    pub first: Result<FanOut, GuestFault>,
    /// The same, asked again.
    pub again: Result<FanOut, GuestFault>,
    /// Why writes were refused that it tried.
    pub refused: Vec<String>,
    /// The children, where they resolve.
    pub children: Result<Children, TaskError>,
}

impl Published {
    /// What is wrong with it.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.refused.iter().map(|why| format!("tried to write: {why}")).collect();
        match (&self.first, &self.again) {
            (Err(fault), _) => faults.push(why(fault)),
            (Ok(_), Err(fault)) => faults.push(format!("asked again, it failed: {}", why(fault))),
            (Ok(first), Ok(again)) if first != again => faults.push("asked again about the same task, it answered otherwise".to_owned()),
            (Ok(_), Ok(_)) => {
                if let Err(error) = &self.children {
                    faults.push(format!("{}: {}", error.code, error.message));
                }
            }
        }
        faults
    }
}

/// Runs the hooks once, in a fresh instance. `run` tells rehearsals of one sample apart.
pub(super) async fn rehearse(
    app: &App,
    guests: &Arc<WasmGuests>,
    pipeline: &Pipeline,
    step: &Step,
    sample: &Sample,
    run: u64,
) -> Result<Rehearsal, GuestFault> {
    let tenant = app.config.tenant.clone();
    let key = TaskKey::new(&tenant, &sample.message.task_id);
    let lease = Lease { key, epoch: run, owner: "rehearsal".to_owned() };
    let work = Arc::new(work(&tenant, step, sample));
    let input = sample.message.input_uri.as_deref().and_then(|text| Uri::parse(text).ok());
    let reserved = if sample.is_root { pipeline.steps.iter().map(|s| s.name.clone()).collect() } else { BTreeSet::new() };
    let secrets = step.grant.secrets.iter().filter_map(|name| Some((name.clone(), app.config.secrets.get(name)?.clone())));
    let confirm = input.clone().map(|input| (input, step.accept.clone()));
    let read = step.grant.read.iter().cloned().chain(input).collect();
    let grants = Grants { read, confirm, secrets: secrets.collect(), reserved };
    let scope = Scope::new(app.services(), lease, step.limits.clone(), sample.prefix.clone(), grants, &work);
    let guest = guests.fresh(&step.name).await?;
    let (tell, told) = oneshot::channel();
    let (within, seen) = (Arc::clone(&work), Arc::clone(&scope));
    guests.enter(Box::pin(async move { drop(tell.send(call(guest, &within, &seen).await)) })).await;
    let cut_short = || GuestFault::Host(TaskError::new("host", "the guest's run was cut short by a failure of the host"));
    let called = told.await.map_err(|_| cut_short())?;
    let refused_late = scope.refused_writes().get(called.refused.len()..).unwrap_or_default().to_vec();
    let published = match (&called.process, called.published) {
        (Ok(output), Some((first, again))) => {
            let children = plan(app, pipeline, step, sample, output, &first, &scope);
            Some(Published { first, again, refused: refused_late, children })
        }
        _ => None,
    };
    Ok(Rehearsal { process: called.process, entries: scope.take_outputs(), refused: called.refused, published })
}

struct Called {
    process: Result<Output, GuestFault>,
    refused: Vec<String>,
    published: Option<(Result<FanOut, GuestFault>, Result<FanOut, GuestFault>)>,
}

async fn call(mut guest: Box<dyn Guest>, work: &Arc<Work>, scope: &Arc<Scope>) -> Called {
    scope.started();
    let process = guest.process(work, scope).await;
    let refused = scope.refused_writes();
    scope.forbid_writes();
    let published = match &process {
        Ok(output) => {
            let first = guest.publish_next(work, output.clone(), scope).await;
            let again = match &first {
                Ok(_) => guest.publish_next(work, output.clone(), scope).await,
                Err(fault) => Err(fault.clone()),
            };
            Some((first, again))
        }
        Err(_) => None,
    };
    Called { process, refused, published }
}

fn plan(
    app: &App,
    pipeline: &Pipeline,
    step: &Step,
    sample: &Sample,
    output: &Output,
    fan_out: &Result<FanOut, GuestFault>,
    scope: &Scope,
) -> Result<Children, TaskError> {
    let Ok(fan_out) = fan_out else { return Ok(Children::default()) };
    let parent = Parent {
        tenant: &app.config.tenant,
        message: &sample.message,
        step: &step.name,
        priority: sample.message.priority.unwrap_or(DEFAULT_PRIORITY),
        outcome: output.outcome.as_deref(),
        job_prefix: &sample.job_prefix,
    };
    let routes = routes_of(pipeline, step, app.config.worker.max_attempts);
    children::plan(&parent, fan_out, &routes, &step.limits, &|uri| scope.grants_read(uri))
}

fn work(tenant: &str, step: &Step, sample: &Sample) -> Work {
    let message = &sample.message;
    Work {
        tenant: tenant.to_owned(),
        job_id: message.job_id.clone(),
        task_id: message.task_id.clone(),
        step: step.name.clone(),
        function: message.function.clone(),
        input_uri: message.input_uri.clone(),
        input: message.payload(),
        input_count: sample.input_count,
        output_prefix: sample.prefix.as_str().to_owned(),
        params: Value::Object(message.params.clone()).to_string(),
        priority: message.priority.unwrap_or(DEFAULT_PRIORITY),
        attempt: 1,
        max_attempts: 1,
        deadline_ms: step.limits.wall.as_millis() as u64,
        traceparent: message.traceparent.clone(),
        metadata: message.metadata.clone(),
    }
}

/// How two rehearsals of one sample differ.
pub(super) fn differences(a: &Rehearsal, b: &Rehearsal) -> Vec<String> {
    let mut found = Vec::new();
    match (&a.process, &b.process) {
        (Ok(x), Ok(y)) => {
            if x.outcome != y.outcome {
                found.push(format!("the outcome was {:?}, then {:?}", x.outcome, y.outcome));
            }
            if x.payload != y.payload {
                found.push("the result differs".to_owned());
            }
        }
        (Ok(_), Err(fault)) => found.push(format!("the second run failed: {}", why(fault))),
        (Err(_), Ok(_)) => found.push("the first run failed, the second did not".to_owned()),
        (Err(x), Err(y)) if why(x) != why(y) => found.push(format!("the error was '{}', then '{}'", why(x), why(y))),
        (Err(_), Err(_)) => {}
    }
    let files = |r: &Rehearsal| r.entries.iter().map(|e| (e.name.clone(), e.sha256.clone())).collect::<BTreeSet<_>>();
    let names: BTreeSet<String> = files(a).symmetric_difference(&files(b)).map(|(name, _)| name.clone()).collect();
    found.extend(names.iter().take(5).map(|name| format!("output '{name}' differs")));
    let children = |r: &Rehearsal| {
        let children = r.published.as_ref().and_then(|p| p.children.as_ref().ok());
        let tasks = children.into_iter().flat_map(|c| c.tasks.iter().chain(&c.then));
        tasks.map(|t| (t.task_id.clone(), t.key.clone(), t.payload_hash.clone())).collect::<BTreeSet<_>>()
    };
    let keys: BTreeSet<String> = children(a).symmetric_difference(&children(b)).map(|(_, key, _)| key.clone()).collect();
    found.extend(keys.iter().take(5).map(|key| format!("child '{key}' differs")));
    found
}
