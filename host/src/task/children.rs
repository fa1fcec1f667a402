//! From what `publish-next` answered to the tasks that will exist: steps, ids, prefixes, and what is refused.
//!
//! The list is fixed by the commit and inserted by the end; nothing here sends anything.

use super::checks;
use super::hooks::{FanOut, NextTask, TaskError, parse_object};
use super::id;
use super::limits::Limits;
use super::message::{DEFAULT_PRIORITY, Message};
use super::uri::Uri;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// A task about to exist. Tenant, job and group come from its parent or its job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    /// Its id.
    pub task_id: String,
    /// The step as resolved.
    pub step: String,
    /// Its name among its siblings; the step's name for a root task.
    pub key: String,
    /// The complete message. Whoever makes the task and whoever runs it read the same one.
    #[serde(with = "shared")]
    pub message: Arc<Message>,
    /// See [`Message::payload_hash`].
    pub payload_hash: String,
    /// 0 to 9.
    pub priority: u8,
    /// Attempts before it is given up.
    pub max_attempts: u32,
    /// Wait before it may run, milliseconds.
    pub delay_ms: u64,
    /// Where its outputs go; ends with `/`.
    pub output_prefix: String,
    /// What carries its message.
    #[serde(default, skip_serializing_if = "Delivery::is_table")]
    pub delivery: Delivery,
    /// What follows where it is given up (DEAD); none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<FailureRoute>,
    /// The pipeline that has its step; none: that of its parent or its job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
}

/// A message that is shared, as JSON.
mod shared {
    use super::{Arc, Message};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(message: &Arc<Message>, to: S) -> Result<S::Ok, S::Error> {
        message.as_ref().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Message>, D::Error> {
        Message::deserialize(from).map(Arc::new)
    }
}

/// What carries the message of a task to the worker that runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Its row: the table is the queue.
    #[default]
    Table,
    /// This queue of a broker, by the outbox.
    Queue(String),
    /// This queue of a broker, which another system reads: it has no row, and nothing here waits for it.
    Foreign(String),
}

impl Delivery {
    /// Whether the row is all there is.
    pub fn is_table(&self) -> bool {
        *self == Self::Table
    }
}

/// The task that the host itself creates where another is given up: `failure` in the transitions of its step. It gets the same
/// input and params, and `error`; given up itself, it is followed by nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRoute {
    /// Its step.
    pub step: String,
    /// Its attempts.
    pub max_attempts: u32,
    /// What carries its message.
    #[serde(default, skip_serializing_if = "Delivery::is_table")]
    pub delivery: Delivery,
}

/// All that follows a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Children {
    /// In fan-out order.
    pub tasks: Vec<NewTask>,
    /// Runs once none of `tasks`, nor what follows from them, is live.
    pub then: Option<NewTask>,
}

impl Children {
    /// True when nothing follows.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.then.is_none()
    }

    /// How many of them become rows where their ids are free.
    pub fn rows(&self) -> usize {
        self.tasks.iter().chain(&self.then).filter(|task| !matches!(task.delivery, Delivery::Foreign(_))).count()
    }
}

/// Where a step's children go.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// Default step of children.
    pub next: Option<String>,
    /// Default step of the fan-in.
    pub then: Option<String>,
    /// Step by outcome; `success` stands for none.
    pub transitions: BTreeMap<String, String>,
    /// Every step of the pipeline.
    pub steps: BTreeSet<String>,
    /// `max_attempts` of each step that sets one.
    pub max_attempts: BTreeMap<String, u32>,
    /// `max_attempts` of the others.
    pub default_max_attempts: u32,
    /// Steps whose messages a broker carries.
    pub deliveries: BTreeMap<String, Delivery>,
    /// The `failure` transition of each step that has one.
    pub failures: BTreeMap<String, String>,
    /// The pipeline of these steps, where a parent may be of another one: its queue is read by a worker that it does not know.
    pub pipeline: Option<String>,
}

impl Routes {
    /// Attempts before a task of a step is given up.
    pub fn attempts_of(&self, step: &str) -> u32 {
        self.max_attempts.get(step).copied().unwrap_or(self.default_max_attempts)
    }

    /// What carries the messages of a step.
    pub fn delivery_of(&self, step: &str) -> Delivery {
        self.deliveries.get(step).cloned().unwrap_or_default()
    }

    /// Why a step cannot be that of a `then`; none where it can. A `then` is a row that waits for its siblings; what another system reads
    /// has no row, would not wait, and could not ask for its inputs.
    pub fn cannot_join(&self, step: &str) -> Option<String> {
        let Some(Delivery::Foreign(queue)) = self.deliveries.get(step) else { return None };
        Some(format!(
            "step '{step}' cannot be the `then` of a fan-out: another system reads its queue '{queue}'; name a step that runs here, \
             which may go on to '{step}'"
        ))
    }

    /// What follows a task of a step that is given up. That may be a step of another system: its message carries the error.
    pub fn on_failure_of(&self, step: &str) -> Option<FailureRoute> {
        let to = self.failures.get(step)?;
        Some(FailureRoute { step: to.clone(), max_attempts: self.attempts_of(to), delivery: self.delivery_of(to) })
    }
}

/// What a plan needs to know of the parent.
#[derive(Debug)]
pub struct Parent<'a> {
    /// Its tenant.
    pub tenant: &'a str,
    /// Its message.
    pub message: &'a Message,
    /// Its step.
    pub step: &'a str,
    /// Its priority as resolved.
    pub priority: u8,
    /// The outcome it named.
    pub outcome: Option<&'a str>,
    /// The job's own prefix; ends with `/`.
    pub job_prefix: &'a Uri,
}

/// Turns a fan-out into tasks, or says why the guest is at fault. `readable` tells which addresses a child may be given.
pub fn plan(
    parent: &Parent<'_>,
    fan_out: &FanOut,
    routes: &Routes,
    limits: &Limits,
    readable: &dyn Fn(&Uri) -> bool,
) -> Result<Children, TaskError> {
    if fan_out.tasks.len() > limits.children as usize {
        let text = format!("{} children, over the limit of {} (limits.children)", fan_out.tasks.len(), limits.children);
        return Err(TaskError::new("fan-out-limit", text));
    }
    let empty = fan_out.tasks.is_empty() && fan_out.then.is_none();
    if !empty && parent.message.hops >= limits.hops {
        let text = format!("more than {} steps in a row (limits.hops): does the pipeline go round in circles?", limits.hops);
        return Err(TaskError::new("hop-limit", text));
    }
    let by_outcome = routes.transitions.get(parent.outcome.unwrap_or("success"));
    if parent.outcome.is_some() && by_outcome.is_none() && fan_out.tasks.iter().any(|t| t.step.is_none()) {
        let text = format!("outcome '{}' has no entry in the step's transitions", parent.outcome.unwrap_or_default());
        return Err(TaskError::new("no-transition", text));
    }
    let mut seen = HashSet::new();
    let mut make = |next: &NextTask, default: Option<&String>, which: &str| {
        let step = next.step.as_ref().or(default).ok_or_else(|| {
            TaskError::new(
                "no-next-step",
                format!("child '{}' names no step, and step '{}' has no `{which}` in its pipeline file", next.key, parent.step),
            )
        })?;
        let child = child_of(parent, next, step, routes, limits, readable)?;
        if !seen.insert((child.step.clone(), child.key.clone())) {
            let text = format!("two children have key '{}' in step '{}'; keys are unique per step", child.key, child.step);
            return Err(TaskError::new("duplicate-child", text));
        }
        Ok(child)
    };
    let tasks = fan_out.tasks.iter().map(|t| make(t, by_outcome.or(routes.next.as_ref()), "next")).collect::<Result<Vec<_>, _>>()?;
    let then = fan_out.then.as_ref().map(|t| make(t, routes.then.as_ref(), "then")).transpose()?;
    if let Some(why) = then.as_ref().and_then(|then| routes.cannot_join(&then.step)) {
        return Err(TaskError::new("foreign-then", why));
    }
    Ok(Children { tasks, then })
}

fn child_of(
    parent: &Parent<'_>,
    next: &NextTask,
    step: &str,
    routes: &Routes,
    limits: &Limits,
    readable: &dyn Fn(&Uri) -> bool,
) -> Result<NewTask, TaskError> {
    let fault = |code: &str, text: String| TaskError::new(code, format!("child '{}': {text}", next.key));
    id::check("key", &next.key).map_err(|e| TaskError::new("bad-child", e))?;
    if !routes.steps.contains(step) {
        let known = routes.steps.iter().cloned().collect::<Vec<_>>().join(", ");
        return Err(fault("unknown-step", format!("no step '{step}' in this pipeline (it has {known})")));
    }
    let task_id = id::child(parent.tenant, &parent.message.task_id, step, &next.key);
    let params = parse_object("params", &next.params).map_err(|e| fault("bad-child", e))?;
    let mut message = Message::new(&parent.message.job_id, &task_id, params);
    message.step = Some(step.to_owned());
    message.tenant = Some(parent.tenant.to_owned());
    message.traceparent = parent.message.traceparent.clone();
    message.hops = parent.message.hops + 1;
    message.metadata = next.metadata.iter().cloned().collect();
    if let Some(function) = &next.function {
        id::check("function", function).map_err(|e| fault("bad-child", e))?;
        message.function = Some(function.clone());
    }
    if let Some(text) = &next.input_uri {
        let uri = Uri::parse(text).and_then(|uri| checks::input_uri(&uri).map(|()| uri)).map_err(|e| fault("bad-child", e))?;
        if !readable(&uri) {
            let why = format!("input_uri '{}' is neither readable by its parent nor an output of it", uri.shown());
            return Err(fault("child-input-denied", why));
        }
        message.input_uri = Some(text.clone());
    }
    if let Some(input) = &next.input {
        if input.len() as u64 > limits.payload {
            let text = format!("inline input of {} bytes is over {} (limits.payload); put it in storage", input.len(), limits.payload);
            return Err(fault("payload-limit", text));
        }
        message.set_payload(input).map_err(|e| fault("bad-child", e))?;
    }
    checks::made(&message).map_err(|e| fault("bad-child", e))?;
    let priority = next.priority.unwrap_or(parent.priority);
    if priority > 9 {
        return Err(fault("bad-child", format!("priority {priority} is not 0 to 9")));
    }
    let payload_hash = message.payload_hash(step).map_err(|e| fault("bad-child", e))?;
    let output_prefix = prefix_of(parent.job_prefix, step, &next.key, &task_id).map_err(|e| fault("bad-child", e))?;
    Ok(NewTask {
        step: step.to_owned(),
        key: next.key.clone(),
        payload_hash,
        priority,
        max_attempts: routes.attempts_of(step),
        delivery: routes.delivery_of(step),
        on_failure: routes.on_failure_of(step),
        pipeline: routes.pipeline.clone(),
        delay_ms: next.delay_ms.unwrap_or(0),
        output_prefix: output_prefix.as_str().to_owned(),
        task_id,
        message: Arc::new(message),
    })
}

/// `<job prefix>/<step>/<key>-<12 hex of the task id>/`: no two tasks share or nest a prefix.
pub fn prefix_of(job_prefix: &Uri, step: &str, key: &str, task_id: &str) -> Result<Uri, String> {
    job_prefix.join(&format!("{step}/{key}-{}/", id::short(task_id)))
}

/// A task that is given up, as far as its failure task needs it.
#[derive(Debug)]
pub struct GivenUp<'a> {
    /// Its tenant.
    pub tenant: &'a str,
    /// Its message.
    pub message: &'a Message,
    /// Its priority as resolved.
    pub priority: u8,
    /// The job's own prefix; ends with `/`.
    pub job_prefix: &'a str,
    /// Why.
    pub error: &'a TaskError,
}

/// The key of a failure task.
pub const FAILURE: &str = "failure";

/// The task that follows one that was given up: the same input and params, and `error` as `{"code", "message"}` among the params.
/// Derived like every child, so that a second death of the same task names the same one.
///
/// # Errors
/// Where the message cannot be hashed or the prefix is none: something else wrote the row.
pub fn failure(dead: &GivenUp<'_>, route: &FailureRoute) -> Result<NewTask, String> {
    let task_id = id::child(dead.tenant, &dead.message.task_id, &route.step, FAILURE);
    let mut message = dead.message.clone();
    message.task_id = task_id.clone();
    message.step = Some(route.step.clone());
    message.tenant = Some(dead.tenant.to_owned());
    message.function = None;
    message.output_prefix = None;
    message.max_attempts = None;
    message.not_before = None;
    message.job_tasks = None;
    message.hops = dead.message.hops.saturating_add(1);
    let error = serde_json::json!({"code": dead.error.code, "message": dead.error.message});
    message.params.insert("error".to_owned(), error);
    let job_prefix = Uri::parse(dead.job_prefix)?;
    Ok(NewTask {
        payload_hash: message.payload_hash(&route.step)?,
        step: route.step.clone(),
        key: FAILURE.to_owned(),
        priority: dead.priority,
        max_attempts: route.max_attempts,
        delay_ms: 0,
        output_prefix: prefix_of(&job_prefix, &route.step, FAILURE, &task_id)?.as_str().to_owned(),
        delivery: route.delivery.clone(),
        on_failure: None,
        pipeline: None,
        task_id,
        message: Arc::new(message),
    })
}

/// The first task of a job: it owns the job's prefix.
pub fn root(message: Message, step: &str, max_attempts: u32, job_prefix: &Uri) -> Result<NewTask, String> {
    let payload_hash = message.payload_hash(step)?;
    Ok(NewTask {
        task_id: message.task_id.clone(),
        step: step.to_owned(),
        key: step.to_owned(),
        payload_hash,
        priority: message.priority.unwrap_or(DEFAULT_PRIORITY),
        max_attempts: message.max_attempts.unwrap_or(max_attempts),
        delay_ms: 0,
        output_prefix: job_prefix.as_prefix().as_str().to_owned(),
        delivery: Delivery::Table,
        on_failure: None,
        pipeline: None,
        message: Arc::new(message),
    })
}

#[cfg(test)]
mod tests {
    use super::super::hooks::Payload;
    use super::super::message::MessageBounds;
    use super::*;

    fn routes() -> Routes {
        Routes {
            next: Some("b".into()),
            then: Some("c".into()),
            transitions: [("odd".to_owned(), "c".to_owned())].into(),
            steps: ["a", "b", "c"].map(str::to_owned).into(),
            max_attempts: [("c".to_owned(), 2)].into(),
            default_max_attempts: 5,
            failures: [("b".to_owned(), "c".to_owned())].into(),
            ..Routes::default()
        }
    }

    fn child(key: &str) -> NextTask {
        NextTask { key: key.into(), params: "{}".into(), ..NextTask::default() }
    }

    fn planned(fan_out: FanOut, outcome: Option<&str>) -> Result<Children, TaskError> {
        planned_by(&routes(), fan_out, outcome)
    }

    fn planned_by(routes: &Routes, fan_out: FanOut, outcome: Option<&str>) -> Result<Children, TaskError> {
        let message = Message::new("job", "root", serde_json::Map::new());
        let job_prefix = Uri::parse("file:///out/job/").unwrap();
        let parent = Parent { tenant: "t", message: &message, step: "a", priority: 7, outcome, job_prefix: &job_prefix };
        plan(&parent, &fan_out, routes, &Limits::default(), &|uri| uri.as_str().starts_with("file:///out/"))
    }

    #[test]
    fn children_are_derived() {
        let fan_out = FanOut { tasks: vec![child("x"), child("y")], then: Some(child("all")) };
        let first = planned(fan_out.clone(), None).unwrap();
        assert_eq!(first, planned(fan_out, None).unwrap());
        assert_eq!((first.tasks[0].step.as_str(), first.tasks[0].priority, first.tasks[0].max_attempts), ("b", 7, 5));
        let then = first.then.unwrap();
        assert_eq!((then.step.as_str(), then.max_attempts), ("c", 2));
        assert_eq!(then.output_prefix, format!("file:///out/job/c/all-{}/", &then.task_id[..12]));
    }

    /// What a queue would refuse on arrival is the guest's fault before anything is sent: a child is never lost on its way.
    #[test]
    fn a_child_is_a_message_that_can_be_read() {
        let deep = |levels: usize| format!("{{\"x\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
        let labels = |n: usize, size: usize| (0..n).map(|i| (format!("k{i}"), "v".repeat(size))).collect::<Vec<_>>();
        let body = |kind: &str| Some(Payload::Body { content_type: kind.into(), bytes: vec![0, 1] });
        let good = [
            NextTask { params: deep(62), ..child("x") },
            NextTask { metadata: labels(256, 1024), ..child("x") },
            NextTask { input: body("image/png"), ..child("x") },
            NextTask { params: format!("{{\"x\":[{}1]}}", "1,".repeat(99_000)), ..child("x") },
        ];
        for next in good {
            let made = planned(FanOut { tasks: vec![next], then: None }, None).unwrap().tasks.remove(0);
            let read = Message::decode(made.message.to_json().as_bytes(), &MessageBounds::default());
            assert_eq!(read.as_ref(), Ok(&*made.message));
        }
        let bad = [
            NextTask { params: deep(63), ..child("x") },
            NextTask { input: Some(Payload::Json(deep(64))), ..child("x") },
            NextTask { metadata: labels(257, 1), ..child("x") },
            NextTask { metadata: labels(1, 1025), ..child("x") },
            NextTask { metadata: vec![(String::new(), "x".into())], ..child("x") },
            NextTask { input: body("png"), ..child("x") },
            NextTask { input: Some(Payload::Json(r#"{"content_type": "a/b", "base64": "?"}"#.into())), ..child("x") },
            NextTask { params: format!("{{\"x\":[{}1]}}", "1,".repeat(100_000)), ..child("x") },
            NextTask { input_uri: Some("file:///out/".into()), ..child("x") },
        ];
        for next in bad {
            let error = planned(FanOut { tasks: vec![next.clone()], then: None }, None).expect_err(&format!("{next:?}"));
            assert_eq!(error.code, "bad-child", "{error:?}");
        }
    }

    #[test]
    fn a_failure_task_keeps_the_input_and_gets_the_error() {
        let child = planned(FanOut { tasks: vec![child("x")], then: None }, None).unwrap().tasks.remove(0);
        let error = TaskError::new("bad", "very");
        let dead = GivenUp { tenant: "t", message: &child.message, priority: 3, job_prefix: "file:///out/job/", error: &error };
        let follows = failure(&dead, child.on_failure.as_ref().unwrap()).unwrap();
        assert_eq!(follows, failure(&dead, child.on_failure.as_ref().unwrap()).unwrap());
        assert_eq!((follows.step.as_str(), follows.priority, follows.max_attempts, follows.on_failure), ("c", 3, 2, None));
        assert_eq!(follows.message.params["error"], serde_json::json!({"code": "bad", "message": "very"}));
        assert_eq!(follows.output_prefix, format!("file:///out/job/c/failure-{}/", &follows.task_id[..12]));
        assert_eq!(follows.message.hops, child.message.hops + 1);
    }

    #[test]
    fn what_another_system_reads_joins_nothing() {
        let deliveries = [("b".to_owned(), Delivery::Foreign("theirs".into()))];
        let routes = Routes { deliveries: deliveries.into(), failures: [("c".to_owned(), "b".to_owned())].into(), ..routes() };
        let there = NextTask { step: Some("b".into()), ..child("all") };
        let refused = planned_by(&routes, FanOut { tasks: vec![child("x")], then: Some(there) }, None).unwrap_err();
        assert_eq!(refused.code, "foreign-then");
        assert!(refused.message.contains("'b'") && refused.message.contains("'theirs'"), "{}", refused.message);
        // Its tasks may go there, and what follows a failure.
        let children = planned_by(&routes, FanOut { tasks: vec![child("x")], then: Some(child("all")) }, None).unwrap();
        assert_eq!(children.tasks[0].delivery, Delivery::Foreign("theirs".into()));
        let then = children.then.unwrap();
        assert_eq!((then.step.as_str(), then.on_failure.unwrap().delivery), ("c", Delivery::Foreign("theirs".into())));
    }

    #[test]
    fn the_outcome_chooses_unless_the_guest_does() {
        let named = NextTask { step: Some("b".into()), ..child("y") };
        let children = planned(FanOut { tasks: vec![child("x"), named], then: None }, Some("odd")).unwrap();
        assert_eq!((children.tasks[0].step.as_str(), children.tasks[1].step.as_str()), ("c", "b"));
        assert_eq!(planned(FanOut { tasks: vec![child("x")], then: None }, Some("unknown")).unwrap_err().code, "no-transition");
    }

    #[test]
    fn what_a_guest_may_not_ask() {
        let code = |task: NextTask| planned(FanOut { tasks: vec![task], then: None }, None).unwrap_err().code;
        assert_eq!(planned(FanOut { tasks: vec![child("x"), child("x")], then: None }, None).unwrap_err().code, "duplicate-child");
        assert_eq!(code(NextTask { step: Some("zzz".into()), ..child("x") }), "unknown-step");
        assert_eq!(code(NextTask { input_uri: Some("file:///etc/passwd".into()), ..child("x") }), "child-input-denied");
        assert_eq!(code(NextTask { params: "[]".into(), ..child("x") }), "bad-child");
        assert_eq!(code(child("../x")), "bad-child");
        let deep = format!("{{\"x\": {}1{}}}", "[".repeat(100), "]".repeat(100));
        assert_eq!(code(NextTask { params: deep, ..child("x") }), "bad-child");
        assert_eq!(planned(FanOut { tasks: vec![child("x"); 10_001], then: None }, None).unwrap_err().code, "fan-out-limit");
    }
}
