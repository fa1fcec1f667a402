//! What the worker knows of a step: routes, bounds, grants and the shape of its parameters.

use crate::guest::Grants;
use crate::task::accept::Accept;
use crate::task::children::Routes;
use crate::task::hooks::Work;
use crate::task::limits::Limits;
use crate::task::message::Message;
use crate::task::pointer::Violation;
use crate::task::retry::RetryPolicy;
use crate::task::schema::ParamsSchema;
use crate::task::uri::Uri;
use crate::task_store::Claimed;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One step as the worker runs it.
#[derive(Debug, Clone)]
pub struct StepSpec {
    /// Its name.
    pub name: String,
    /// Tasks of it at once; none: only the worker's own bound.
    pub concurrency: Option<u32>,
    /// Backoff of its failed tasks; none: the worker's own.
    pub retry: Option<RetryPolicy>,
    /// Bounds.
    pub limits: Limits,
    /// Where its children go.
    pub routes: Arc<Routes>,
    /// What it may read besides the task's own.
    pub read: Vec<Uri>,
    /// Kinds of input it takes.
    pub accept: Accept,
    /// Secrets by name.
    pub secrets: BTreeMap<String, String>,
    /// Functions it may be asked for, each with the shape of its `params` where the guest describes it.
    pub functions: BTreeMap<String, Option<Arc<ParamsSchema>>>,
    /// The shape of `params` where a message names no function.
    pub params: Option<Arc<ParamsSchema>>,
}

impl StepSpec {
    /// The shape that the message's params must have, where the guest describes it; a violation if there is no such function.
    pub fn schema(&self, message: &Message) -> Result<Option<&Arc<ParamsSchema>>, Violation> {
        let Some(function) = &message.function else { return Ok(self.params.as_ref()) };
        self.functions.get(function).map(Option::as_ref).ok_or_else(|| {
            let known: Vec<&str> = self.functions.keys().map(String::as_str).collect();
            let text = format!("'{function}' is no function of step '{}' (it has: {})", self.name, known.join(", "));
            Violation::at("/function", text)
        })
    }

    /// What is wrong with what a message asks of this step, as far as it costs nothing to say: the function, the kind of its input,
    /// the size of an inline one. Params are checked against [`StepSpec::schema`].
    pub(super) fn faults(&self, message: &Message) -> Vec<Violation> {
        let mut faults = self.accept.check(message);
        faults.extend(self.schema(message).err());
        let size = message.payload().map_or(0, |payload| payload.len() as u64);
        if size > self.limits.payload {
            let text =
                format!("has {size} bytes, over {} (limits.payload of step '{}'); put it in storage", self.limits.payload, self.name);
            faults.push(Violation::at("/input", text));
        }
        faults
    }

    /// What one claim of one task may touch.
    pub(super) fn grants(&self, claimed: &Claimed) -> Grants {
        let input = claimed.message.input_uri.as_deref().and_then(|text| Uri::parse(text).ok());
        Grants {
            confirm: input.clone().map(|input| (input, self.accept.clone())),
            read: self.read.iter().cloned().chain(input).collect(),
            secrets: self.secrets.clone(),
            reserved: if claimed.is_root { self.routes.steps.clone() } else { BTreeSet::new() },
        }
    }

    /// The task as the hooks see it.
    pub(super) fn work(&self, claimed: &Claimed) -> Work {
        let message = &claimed.message;
        Work {
            tenant: claimed.lease.key.tenant.clone(),
            job_id: message.job_id.clone(),
            task_id: message.task_id.clone(),
            step: claimed.step.clone(),
            function: message.function.clone(),
            input_uri: message.input_uri.clone(),
            input: message.payload(),
            input_count: claimed.input_count,
            output_prefix: claimed.output_prefix.clone(),
            params: Value::Object(message.params.clone()).to_string(),
            priority: claimed.priority,
            attempt: claimed.counters.attempts + 1,
            max_attempts: claimed.counters.max_attempts,
            deadline_ms: self.limits.wall.as_millis() as u64,
            traceparent: message.traceparent.clone(),
            metadata: message.metadata.clone(),
        }
    }
}
