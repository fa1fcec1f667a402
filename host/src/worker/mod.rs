//! The worker: takes due tasks, runs each through [`execute`], keeps their leases alive, sweeps up after crashes, and drains.
//!
//! It knows guests, stores and objects by their ports only, so that all of it runs with a scripted guest and a paused clock.

mod deliveries;
mod drain;
mod execute;
mod feed;
mod finalise;
mod heartbeat;
mod load;
mod queues;
mod receive;
mod relay;
mod run;
mod settle;
mod step;
mod sweep;
#[cfg(test)]
mod tests;

pub use load::Summary;
pub use queues::QueueSpec;
pub use relay::send_all;
pub use run::Until;
pub use step::StepSpec;

use crate::guest::{Guests, Services};
use crate::task::children::{Delivery, NewTask};
use crate::task::hooks::TaskError;
use crate::task::id::{JobKey, TaskKey};
use crate::task::retry::RetryPolicy;
use heartbeat::Heartbeats;
use load::Load;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long room, answers and messages are gathered for a queue that carries many in one call ([`Queue::batch`]): about what the way to
/// such a broker takes, so that a lone task is held up no longer than that, and at full load every call is full.
///
/// [`Queue::batch`]: crate::queue::Queue::batch
const GATHER: Duration = Duration::from_millis(20);

/// What a worker is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pipeline it serves.
    pub pipeline: String,
    /// Its name, for people: shown with every claim.
    pub name: String,
    /// Tasks at once.
    pub concurrency: u32,
    /// Length of a lease.
    pub lease: Duration,
    /// How long running tasks may go on once it is asked to stop.
    pub grace: Duration,
    /// Backoff of failed tasks.
    pub retry: RetryPolicy,
    /// False in a one-job run: a fault of the host fails the task at once.
    pub patient: bool,
    /// How long a fed job that nobody has sealed may have no live task, and its queue no message, before it is closed.
    pub fed_idle: Duration,
    /// Only tasks of this job.
    pub job: Option<JobKey>,
}

/// See the head of this file.
pub struct Worker {
    settings: Settings,
    services: Services,
    guests: Arc<dyn Guests>,
    steps: BTreeMap<String, Arc<StepSpec>>,
    order: Vec<String>,
    queues: Vec<Arc<QueueSpec>>,
    heartbeats: Heartbeats,
    resting: Mutex<BTreeMap<String, Resting>>,
    company: RwLock<()>,
    /// Cancelled when the grace time of a drain is over: what can be left to others is left.
    hurry: CancellationToken,
    /// Rung when tasks have ended here: the outbox may have something.
    ended: Notify,
    /// Tasks of which a lease lapsed: when their attempts were first removed.
    removed: Mutex<HashMap<TaskKey, Instant>>,
    /// Held while messages of the outbox are on their way.
    sending: tokio::sync::Mutex<()>,
}

/// While it is held: a task's hooks run beside others, or with nobody beside them.
enum Company<'a> {
    Others { _guard: RwLockReadGuard<'a, ()> },
    Nobody { _guard: RwLockWriteGuard<'a, ()> },
}

/// A step whose guest could not be set up: no tasks are taken for it until the wait is over.
#[derive(Debug, Clone, Copy)]
struct Resting {
    failures: u32,
    until: Instant,
}

impl Worker {
    /// A worker over the given ports. `steps` in the order in which they are first served; `queues`: those of brokers that it reads or
    /// only sends to, beside the table.
    pub fn new(settings: Settings, services: Services, guests: Arc<dyn Guests>, steps: Vec<StepSpec>, queues: Vec<QueueSpec>) -> Arc<Self> {
        let order = steps.iter().map(|s| s.name.clone()).collect();
        Arc::new(Self {
            heartbeats: Heartbeats::new(settings.lease),
            settings,
            services,
            guests,
            steps: steps.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect(),
            order,
            queues: queues.into_iter().map(Arc::new).collect(),
            resting: Mutex::default(),
            company: RwLock::new(()),
            hurry: CancellationToken::new(),
            ended: Notify::new(),
            removed: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
        })
    }

    /// Waits until a task's hooks may run. One that may be what kills workers runs with nobody beside it, so that it takes no
    /// neighbour along.
    async fn company(&self, alone: bool) -> Company<'_> {
        if alone { Company::Nobody { _guard: self.company.write().await } } else { Company::Others { _guard: self.company.read().await } }
    }

    /// Why the queue that is to carry a task's message would not take it, if so.
    fn too_large(&self, task: &NewTask) -> Option<TaskError> {
        let (Delivery::Queue(name) | Delivery::Foreign(name)) = &task.delivery else { return None };
        let queue = &self.queues.iter().find(|queue| queue.name == *name)?.queue;
        let (size, max) = (task.message.to_json().len(), queue.max_body());
        (size > max).then(|| {
            let text =
                format!("child '{}': its message has {size} bytes, and queue '{name}' takes {max}; put what is large in storage", task.key);
            TaskError::new("message-size", text)
        })
    }

    /// Notes that a step's guest could not be set up.
    fn rest(&self, step: &str) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = resting.get(step).map_or(1, |r| r.failures + 1);
        // Half jitter: two workers do not try in step, and neither tries at once.
        let wait = self.settings.retry.wait(failures, 0.5 + fastrand::f64() / 2.0);
        resting.insert(step.to_owned(), Resting { failures, until: Instant::now() + wait });
    }

    /// Notes that a step's guest is well.
    fn wake(&self, step: &str) {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).remove(step);
    }

    /// How many tasks of a step may begin now. Of one whose guest could not be set up the last time, one: it finds out for all.
    fn room_of_step(&self, step: &str, load: &Load) -> u32 {
        let Some(spec) = self.steps.get(step) else { return 0 };
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner).get(step).copied();
        let bound = match resting {
            Some(rest) if rest.until > Instant::now() => 0,
            Some(_) => 1,
            None => spec.concurrency.unwrap_or(u32::MAX),
        };
        bound.saturating_sub(load.of_step(step))
    }

    /// Until when a step rests, if it did at that time.
    fn rests_until(&self, step: &str, at: Instant) -> Option<Instant> {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.get(step).map(|r| r.until).filter(|until| *until > at)
    }
}
