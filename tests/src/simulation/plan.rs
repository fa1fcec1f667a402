//! What one seed asks of its world: jobs of every shape for two tenants under the same ids, and what people do meanwhile: cancel, put
//! back, drain.

use super::guest::BROKEN;
use serde_json::{Value, json};
use std::time::Duration;

/// Two tenants with the same ids throughout.
pub const TENANTS: [&str; 2] = ["t1", "t2"];

/// Workers of one world.
pub const WORKERS: usize = 3;

/// How long faults strike.
pub const FAULTS_FOR: Duration = Duration::from_secs(45);

/// A job to be submitted.
#[derive(Debug, Clone)]
pub struct Job {
    pub tenant: &'static str,
    pub job_id: String,
    pub task_id: String,
    pub step: &'static str,
    pub params: Value,
    pub delay_ms: u64,
    pub priority: Option<u8>,
    /// How many tasks feed it; none: it has one root.
    pub fed: Option<u64>,
}

/// What somebody outside does.
#[derive(Debug, Clone)]
pub enum Act {
    /// Puts a message into the first queue, and now and then twice.
    Send(Job),
    /// Puts something into the first queue that is no message.
    SendRubbish(String),
    /// Submits, and now and then once more, not knowing whether it worked.
    Submit(Job),
    CancelJob(&'static str, String),
    CancelTask(&'static str, String),
    /// Puts back every dead task of a tenant.
    Redrive(&'static str),
    /// Seals a fed job.
    Seal(&'static str, String),
    /// Stops a worker in good order.
    Drain(usize),
}

/// A moment within the first `seconds`.
fn within(seconds: u64) -> Duration {
    Duration::from_millis(fastrand::u64(0..seconds * 1000))
}

/// Everything, in the order in which it happens.
pub fn plan(with_queues: bool) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    for tenant in TENANTS {
        jobs(tenant, with_queues, &mut acts);
        fed(tenant, with_queues, &mut acts);
        acts.push((Duration::from_secs(20) + within(25), Act::Redrive(tenant)));
        acts.push((FAULTS_FOR + within(10), Act::Redrive(tenant)));
    }
    if with_queues {
        for body in ["rubbish", r#"{"job_id": "j", "task_id": "t", "params": {}, "step": "none"}"#] {
            acts.push((within(30), Act::SendRubbish(body.into())));
        }
    }
    for worker in 0..WORKERS {
        acts.push((within(45), Act::Drain(worker)));
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}

fn jobs(tenant: &'static str, with_queues: bool, acts: &mut Vec<(Duration, Act)>) {
    let shapes = [
        ("nested", "root", json!({"fan": 3, "depth": 2, "then": true, "large": true})),
        ("chain", "root", json!({"chain": 3, "away": with_queues})),
        ("stopped", "root", json!({"fan": 3, "then": true, "ms": 300})),
        ("fatal", "root", json!({"fatal": true})),
        ("waits", "root", json!({"until_cancelled": true})),
        ("deaf", "root", json!({"deaf": true})),
        ("long", "root", json!({"long": true, "large": true})),
        ("fails", "root", json!({"fail": 2, "large": true})),
        ("mortal", "root", json!({"fan": 2, "mortal": true, "then": true})),
        ("empty", "root", json!({"then": true, "outcome": fastrand::bool().then_some("odd")})),
    ];
    for (job_id, step, params) in shapes {
        let job = Job {
            tenant,
            job_id: job_id.into(),
            task_id: format!("{job_id}-root"),
            step,
            params,
            delay_ms: if fastrand::u32(0..4) == 0 { fastrand::u64(0..4000) } else { 0 },
            priority: fastrand::bool().then(|| fastrand::u8(0..=9)),
            fed: None,
        };
        let at = within(12);
        acts.push((at, Act::Submit(job)));
        let later = at + within(8);
        match job_id {
            "stopped" => acts.push((later, Act::CancelJob(tenant, job_id.into()))),
            "waits" | "deaf" => acts.push((later, Act::CancelTask(tenant, format!("{job_id}-root")))),
            _ => {}
        }
    }
    if fastrand::u32(0..8) == 0 {
        let job = Job { step: BROKEN, ..of("unloadable", tenant, json!({})) };
        acts.push((within(5), Act::Submit(job)));
    }
}

fn of(job_id: &str, tenant: &'static str, params: Value) -> Job {
    let task_id = format!("{job_id}-root");
    Job { tenant, job_id: job_id.into(), task_id, step: "root", params, delay_ms: 0, priority: None, fed: None }
}

/// A job fed with several roots: closed by its count, by a seal, or by nobody, and then because nothing comes any more.
fn fed(tenant: &'static str, with_queues: bool, acts: &mut Vec<(Duration, Act)>) {
    let count = fastrand::u64(1..=3);
    let known = fastrand::bool();
    for index in 0..count {
        let mut job = of("fed", tenant, json!({"ms": 100, "chain": fastrand::u64(0..2)}));
        job.task_id = format!("fed-{index}");
        job.fed = Some(if known { count } else { 0 });
        acts.push((within(10), if with_queues { Act::Send(job) } else { Act::Submit(job) }));
    }
    if !known && fastrand::bool() {
        acts.push((Duration::from_secs(12) + within(20), Act::Seal(tenant, "fed".into())));
    }
}
