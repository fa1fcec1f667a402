//! What the worker knows of a broker's queue, and what a message of it may ask for.

use super::step::StepSpec;
use crate::queue::Queue;
use crate::task::children::Delivery;
use crate::task::message::{Message, MessageBounds};
use crate::task::pointer::Violation;
use crate::task::root::{Origin, Root};
use crate::task::uri::Uri;
use crate::task_store::{Feed, NewJob};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One queue as the worker serves it.
#[derive(Clone)]
pub struct QueueSpec {
    /// The name by which rows and the outbox know it.
    pub name: String,
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Whose messages it carries.
    pub tenant: String,
    /// Whether a message may name another tenant.
    pub trusted: bool,
    /// Steps that its messages may name; the first is that of a message that names none. None: it is only sent to.
    pub steps: Vec<String>,
    /// Below it lie the outputs: a tenant's own area is `<bucket>/<tenant>/`.
    pub bucket: Uri,
    /// What a message may name as its input besides the tenant's own area and what its step may read.
    pub inputs: Vec<Uri>,
}

impl fmt::Debug for QueueSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSpec").field("name", &self.name).field("tenant", &self.tenant).field("steps", &self.steps).finish()
    }
}

/// What a message turned out to be.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A task. With violations it is none that anybody may put here, but it may be one that is known already: an input that the
    /// submitter of its job answered for travels on with the children, and a child that its step cannot take ends as that task, with
    /// the reason.
    Task(Box<NewJob>, Vec<Violation>),
    /// Written for a later version of the host.
    Newer(u64),
}

/// What messages are read against.
pub(super) struct Context<'a> {
    /// The pipeline that is served.
    pub pipeline: &'a str,
    /// Its steps.
    pub steps: &'a BTreeMap<String, Arc<StepSpec>>,
    /// Unix milliseconds.
    pub now_ms: i64,
}

impl QueueSpec {
    /// Reads a message; every violation at once where it can never be a task.
    pub(super) fn read(&self, body: &[u8], context: &Context<'_>) -> Result<Arrival, Vec<Violation>> {
        let bounds = MessageBounds::default();
        let message = match Message::decode(body, &bounds) {
            Ok(message) => message,
            // A newer one never is read as one of today's.
            Err(faults) => return Message::newer_version(body, &bounds).map(Arrival::Newer).ok_or(faults),
        };
        let mut faults = Vec::new();
        let mut fault = |pointer: &str, text: String| faults.push(Violation::at(pointer, text));
        let name = message.step.as_ref().or(self.steps.first());
        let known = name.filter(|name| self.steps.contains(name)).and_then(|name| context.steps.get(name));
        let tenant = message.tenant.clone().unwrap_or_else(|| self.tenant.clone());
        if tenant != self.tenant && !self.trusted {
            fault("/tenant", format!("queue '{}' carries no messages of tenant '{tenant}'", self.name));
        }
        let Some(step) = known.map(Arc::clone) else {
            fault("/step", format!("'{}' is no step of queue '{}' (it has {})", name.map_or("", |n| n), self.name, self.steps.join(", ")));
            return Err(faults);
        };
        // One more than children may reach: the failure task of the furthest one.
        if message.hops > step.limits.hops.saturating_add(1) {
            fault("/hops", format!("more than {} steps in a row (limits.hops)", step.limits.hops));
        }
        let mut trespass = step.faults(&message);
        let feed = Feed::Open { queue: Some(self.name.clone()), tasks: message.job_tasks };
        let job_id = message.job_id.clone();
        let origin = Origin {
            tenant: &tenant,
            step: &step.name,
            routes: &step.routes,
            bucket: &self.bucket,
            job_prefix: None,
            now_ms: context.now_ms,
        };
        let root = origin.fed(message, Delivery::Queue(self.name.clone())).map_err(|more| faults.extend(more)).ok();
        if let Some(root) = &root {
            trespass.extend(self.trespass(&root.task.message, &step, &origin, &root.job_prefix));
        }
        let Some(Root { job_prefix, task }) = root.filter(|_| faults.is_empty()) else {
            // Told too, although that alone would not refuse a task that is known already.
            faults.extend(trespass);
            return Err(faults);
        };
        let prefix = job_prefix.as_str().to_owned();
        let job = NewJob { tenant, job_id, pipeline: context.pipeline.to_owned(), prefix, root: task, feed };
        Ok(Arrival::Task(Box::new(job), trespass))
    }

    /// Addresses that a producer of this queue has no say over.
    fn trespass(&self, message: &Message, step: &StepSpec, origin: &Origin<'_>, job_prefix: &Uri) -> Vec<Violation> {
        if message.output_prefix.is_none() && message.input_uri.is_none() {
            return Vec::new();
        }
        let area = match origin.area() {
            Ok(area) => area,
            Err(why) => return vec![Violation::at("/tenant", why)],
        };
        let mut violations = Vec::new();
        let parsed = |text: &Option<String>| text.as_deref().and_then(|text| Uri::parse(text).ok());
        if let Some(prefix) = parsed(&message.output_prefix) {
            let of_jobs = area.join("jobs/").is_ok_and(|jobs| jobs.covers(&prefix) || prefix.covers(&jobs));
            if !area.covers(&prefix) || (of_jobs && !job_prefix.covers(&prefix)) {
                let text = format!("must lie below {}, and among the jobs only below {}", area.shown(), job_prefix.shown());
                violations.push(Violation::at("/output_prefix", text));
            }
            // The host puts tasks below the names of steps, and what is its own below such as begin with `_`.
            let within = prefix.as_str().strip_prefix(job_prefix.as_str()).and_then(|rest| rest.split('/').next());
            if let Some(name) = within.filter(|name| step.routes.steps.contains(*name) || name.starts_with('_')) {
                let text = format!("'{name}/' of a job is where the host puts what it names itself; name another folder");
                violations.push(Violation::at("/output_prefix", text));
            }
        }
        if let Some(input) = parsed(&message.input_uri) {
            let mut readable = std::iter::once(&area).chain(&step.read).chain(&self.inputs);
            if !readable.any(|granted| granted.covers(&input)) {
                let text = format!("'{}' is nothing that messages of queue '{}' may name", input.shown(), self.name);
                violations.push(Violation::at("/input_uri", text));
            }
        }
        violations
    }
}
