//! One seed, from an empty world to the last check.

use super::check::Totals;
use super::coverage::Hits;
use super::guest::{BROKEN, Cast, FOREIGN};
use super::ledger::shown;
use super::objects::FaultyObjectStore;
use super::plan::{Act, FAULTS_FOR, Job, TENANTS, WORKERS, plan};
use super::process::{Gated, Process};
use super::queue::{Broker, FaultyQueue};
use super::store::FaultyTaskStore;
use super::world::{Clock, LEASE, World};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use wasm_worker::guest::Services;
use wasm_worker::object_store::{MemoryObjectStore, ObjectStore};
use wasm_worker::queue::{MemoryQueue, Queue};
use wasm_worker::task::children::{self, Delivery, Routes};
use wasm_worker::task::id::TaskKey;
use wasm_worker::task::limits::Limits;
use wasm_worker::task::message::Message;
use wasm_worker::task::retry::RetryPolicy;
use wasm_worker::task::uri::Uri;
use wasm_worker::task_store::{DeadLetterFilter, Feed, MemoryTaskStore, NewJob, StoreError, Submitted, TaskStore};
use wasm_worker::worker::{QueueSpec, Settings, StepSpec, Until, Worker};

/// Every step of the pipeline.
const STEPS: [&str; 7] = ["root", "each", "all", "more", "mend", BROKEN, FOREIGN];

/// The queues of the broker, and the steps that each carries. Roots come over the first, and by submission.
const QUEUES: [(&str, &[&str]); 4] = [("q-in", &["root"]), ("q-each", &["each"]), ("q-more", &["more", "mend"]), (FOREIGN_QUEUE, &[])];

/// The queue that another system reads.
const FOREIGN_QUEUE: &str = "q-away";

/// Below it lie the outputs of all tenants.
pub const BUCKET: &str = "file:///sim/";

const PIPELINE: &str = "p";

const MAX_ATTEMPTS: u32 = 4;

/// Longest that a world may take to come to rest, by its own clock: some clocks went wrong by an hour.
const REST_WITHIN: Duration = Duration::from_secs(3 * 3600);

/// What a seed came to.
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<String>,
    /// The last events before the end.
    pub events: Vec<String>,
    pub history: u64,
    pub hits: Hits,
    pub totals: Totals,
    /// Calls of its workers.
    pub calls: u64,
}

impl Outcome {
    /// Of a seed that broke the simulation itself.
    pub fn of_panic(seed: u64) -> Self {
        let violation = Some("panicked; what it said stands above".to_owned());
        Self { seed, violation, events: Vec::new(), history: 0, hits: Hits::default(), totals: Totals::default(), calls: 0 }
    }
}

/// Runs a seed on a runtime of its own, on a clock that stands still while anything moves.
pub fn run(seed: u64, verbose: bool) -> Outcome {
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(simulate(seed, verbose));
    drop(runtime);
    outcome
}

async fn simulate(seed: u64, verbose: bool) -> Outcome {
    let (tasks, objects, clock) = stores();
    let world = World::new(seed, tasks, objects, clock, FAULTS_FOR, verbose);
    // Half of all worlds have a broker beside the table.
    let brokers: Arc<Vec<Arc<Broker>>> =
        Arc::new(if fastrand::bool() { QUEUES.map(|(name, _)| Broker::new(name, queue())).into() } else { Vec::new() });
    let drains: Arc<Vec<Mutex<CancellationToken>>> = Arc::new((0..WORKERS).map(|_| Mutex::default()).collect());
    let mut workers = JoinSet::new();
    for index in 0..WORKERS {
        workers.spawn(keep_working(Arc::clone(&world), index, Arc::clone(&drains), Arc::clone(&brokers)));
    }
    let acting = act(&world, &drains, &brokers);
    tokio::select! { biased; () = broken(&world) => {}, () = acting => {} }
    world.calm();
    tokio::select! { biased; () = broken(&world) => {}, () = rest(&world, &brokers) => {} }
    let totals = if world.ledger().violation().is_none() { world.check_all().await } else { Totals::default() };
    workers.shutdown().await;
    let ledger = world.ledger();
    Outcome {
        seed,
        violation: ledger.violation().cloned(),
        events: ledger.events().cloned().collect(),
        history: ledger.history(),
        hits: world.hits(),
        totals,
        calls: world.budget.spent(),
    }
}

/// Returns once an invariant is broken: what follows tells nothing.
async fn broken(world: &World) {
    while world.ledger().violation().is_none() {
        if world.budget.is_spent() {
            let at = world.ledger().elapsed();
            world.ledger().violate(8, format_args!("{} calls by {at:?} of its clock, and no end", world.budget.spent()));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Carries the plan out, and looks at the jobs all the while.
async fn act(world: &World, drains: &[Mutex<CancellationToken>], brokers: &[Arc<Broker>]) {
    let began = Instant::now();
    for (at, act) in plan(!brokers.is_empty()) {
        while began + at > Instant::now() {
            sleep_until((began + at).min(Instant::now() + Duration::from_secs(1))).await;
            world.check_jobs().await;
        }
        carry_out(world, drains, brokers, act).await;
    }
    sleep_until(began + FAULTS_FOR).await;
}

async fn carry_out(world: &World, drains: &[Mutex<CancellationToken>], brokers: &[Arc<Broker>], act: Act) {
    world.ledger().note("people", "act", format_args!("{act:?}"));
    match act {
        Act::Submit(job) => {
            world.ledger().expect_root(&TaskKey::new(job.tenant, &job.task_id));
            let times = fastrand::u32(1..=2);
            for _ in 0..times {
                let submitted = world.tasks.submit(vec![new_job(&job, !brokers.is_empty())]).await.unwrap();
                if job.fed.is_some() && submitted == [Submitted::Created] {
                    world.ledger().reopened(job.tenant, &job.job_id);
                }
            }
        }
        Act::Send(job) => {
            world.ledger().expect_root(&TaskKey::new(job.tenant, &job.task_id));
            for _ in 0..fastrand::u32(1..=2) {
                brokers[0].put(message_of(&job), Duration::from_millis(job.delay_ms)).await;
            }
        }
        Act::SendRubbish(body) => brokers[0].put(body, Duration::ZERO).await,
        Act::CancelJob(tenant, job_id) => match world.tasks.job(tenant, &job_id).await {
            Ok(job) if !job.state.is_ended() => {
                world.ledger().cancelled(tenant, &job_id);
                world.tasks.cancel_job(tenant, &job_id).await.unwrap();
                world.check_job(tenant, &job_id).await;
            }
            Ok(_) | Err(StoreError::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        },
        Act::CancelTask(tenant, task_id) => match world.tasks.cancel_task(TaskKey::new(tenant, task_id)).await {
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        },
        Act::Redrive(tenant) => redrive(world, tenant).await,
        Act::Seal(tenant, job_id) => match world.tasks.seal(tenant, &job_id).await {
            Ok(_) => world.check_job(tenant, &job_id).await,
            // The messages that feed it may all be late, or lost.
            Err(StoreError::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        },
        Act::Drain(worker) => drains[worker].lock().unwrap().cancel(),
    }
}

/// Puts back what is dead. Nothing runs between the look at the jobs and the ledger's note of it.
async fn redrive(world: &World, tenant: &str) {
    let filter = DeadLetterFilter { tenant: Some(tenant.into()), ..DeadLetterFilter::default() };
    let letters = world.tasks.redrive(filter, false).await.unwrap();
    let mut ledger = world.ledger();
    ledger.forget_inputs();
    for letter in letters {
        let (Some(task_id), Some(job_id)) = (letter.task_id, letter.job_id) else { continue };
        ledger.reopened(tenant, &job_id);
        let key = TaskKey::new(tenant, task_id);
        ledger.note("people", "redriven", shown(&key));
        let record = ledger.record_mut(&key);
        record.redriven += 1;
        record.redriven_at = Some(Instant::now());
    }
}

/// What a producer puts into a queue.
fn message_of(job: &Job) -> String {
    let mut message = Message::new(&job.job_id, &job.task_id, job.params.as_object().unwrap().clone());
    message.tenant = Some(job.tenant.to_owned());
    message.step = Some(job.step.to_owned());
    message.priority = job.priority;
    message.job_tasks = job.fed.filter(|tasks| *tasks > 0);
    message.to_json()
}

fn new_job(job: &Job, with_queues: bool) -> NewJob {
    let mut message = Message::new(&job.job_id, &job.task_id, job.params.as_object().unwrap().clone());
    message.priority = job.priority;
    let prefix = Uri::parse(&format!("{BUCKET}{}/jobs/{}/", job.tenant, job.job_id)).unwrap();
    let mut root = children::root(message, job.step, MAX_ATTEMPTS, &prefix).unwrap();
    root.delay_ms = job.delay_ms;
    root.delivery = routes(with_queues).delivery_of(job.step);
    root.on_failure = routes(with_queues).on_failure_of(job.step);
    let feed = job.fed.map_or(Feed::Single, |tasks| Feed::Open { queue: None, tasks: (tasks > 0).then_some(tasks) });
    if job.fed.is_some() {
        root.output_prefix = format!("{}{}/{}/", prefix.as_str(), job.step, job.task_id);
    }
    NewJob { tenant: job.tenant.into(), job_id: job.job_id.clone(), pipeline: PIPELINE.into(), prefix: prefix.as_str().into(), root, feed }
}

/// Waits until every job has ended, and whatever is swept later is swept.
async fn rest(world: &World, brokers: &[Arc<Broker>]) {
    let deadline = Instant::now() + REST_WITHIN;
    while world.check_jobs().await > 0 {
        if Instant::now() > deadline {
            let jobs = world.tasks.jobs(None, Some(wasm_worker::task::state::JobState::Processing), 10).await.unwrap();
            let names: Vec<String> = jobs.iter().map(|j| format!("{}/{} {:?}", j.tenant, j.job_id, j.tasks)).collect();
            return world.ledger().violate(8, format_args!("these jobs come to no end: {}", names.join(", ")));
        }
        sleep(Duration::from_secs(1)).await;
    }
    // Ended by a clock that was an hour ahead, a task keeps its stages for an hour and two leases.
    sleep(LEASE * 5).await;
    while Instant::now() < deadline && world.left_behind().await.is_some() {
        sleep(LEASE * 5).await;
    }
    // What was sent and not noted is sent again, messages of tasks that have ended are acknowledged as they come, and hidden ones come.
    while let Some(left) = under_way(world, brokers).await {
        if Instant::now() > deadline {
            return world.ledger().violate(8, format_args!("{left} never becomes empty"));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Where there still are messages, as far as can be seen.
async fn under_way<'a>(world: &World, brokers: &'a [Arc<Broker>]) -> Option<&'a str> {
    // Listed for no time: whoever sends them sees them too.
    if !world.tasks.outgoing(None, Duration::ZERO, 1).await.unwrap().is_empty() {
        return Some("the outbox");
    }
    for broker in brokers.iter().filter(|broker| broker.name != FOREIGN_QUEUE) {
        if broker.queue.depth().await.is_ok_and(|depth| depth.waiting + depth.in_flight > 0) {
            return Some(broker.name);
        }
    }
    None
}

/// Starts a worker again and again: after a crash, after a drain.
async fn keep_working(world: Arc<World>, index: usize, drains: Arc<Vec<Mutex<CancellationToken>>>, brokers: Arc<Vec<Arc<Broker>>>) {
    for incarnation in 1u32.. {
        let process = Process::new(format!("w{index}.{incarnation}"), Arc::clone(&world.budget));
        let drain = CancellationToken::new();
        *drains[index].lock().unwrap() = drain.clone();
        world.ledger().note(&process.name, "starts", "");
        let worker = worker(&world, &process, &brokers);
        let running = Gated::new(&process, async { worker.run(Until::Stopped, None, drain).await });
        tokio::select! {
            biased;
            () = process.died() => world.ledger().gone(&process.name, "crashes"),
            _ = running => world.ledger().gone(&process.name, "drained"),
        }
        process.kill();
        sleep(Duration::from_millis(fastrand::u64(10..4000))).await;
    }
}

fn worker(world: &Arc<World>, process: &Arc<Process>, brokers: &[Arc<Broker>]) -> Arc<Worker> {
    let settings = Settings {
        pipeline: PIPELINE.into(),
        name: process.name.clone(),
        concurrency: 4,
        lease: LEASE,
        grace: Duration::from_secs(1),
        retry: RetryPolicy { first: Duration::from_millis(500), max: Duration::from_secs(4) },
        patient: true,
        fed_idle: Duration::from_secs(20),
        job: None,
    };
    let services = Services {
        objects: Arc::new(FaultyObjectStore { world: Arc::clone(world), process: Arc::clone(process) }),
        tasks: Arc::new(FaultyTaskStore { world: Arc::clone(world), process: Arc::clone(process) }),
    };
    let guests = Cast { world: Arc::clone(world), process: Arc::clone(process) };
    let queues = brokers.iter().map(|broker| served(broker, world, process)).collect();
    Worker::new(settings, services, Arc::new(guests), steps(!brokers.is_empty()), queues)
}

/// A queue as a worker serves it: it carries both tenants, which its messages name.
fn served(broker: &Arc<Broker>, world: &Arc<World>, process: &Arc<Process>) -> QueueSpec {
    let steps = QUEUES.iter().find(|(name, _)| *name == broker.name).map_or(&[] as &[&str], |(_, steps)| *steps);
    QueueSpec {
        name: broker.name.to_owned(),
        queue: Arc::new(FaultyQueue { broker: Arc::clone(broker), world: Arc::clone(world), process: Arc::clone(process) }),
        tenant: TENANTS[0].into(),
        trusted: true,
        steps: steps.iter().map(|step| (*step).to_owned()).collect(),
        bucket: Uri::parse(BUCKET).unwrap(),
        inputs: Vec::new(),
    }
}

/// What carries each step's messages: with a broker, some of them.
fn routes(with_queues: bool) -> Routes {
    let carried = QUEUES.iter().filter(|_| with_queues).flat_map(|(name, steps)| steps.iter().map(move |step| (step, name)));
    let mut deliveries: BTreeMap<String, Delivery> = carried
        .filter(|(step, _)| **step != "root")
        .map(|(step, name)| ((*step).to_owned(), Delivery::Queue((*name).to_owned())))
        .collect();
    if with_queues {
        deliveries.insert(FOREIGN.into(), Delivery::Foreign(FOREIGN_QUEUE.into()));
    }
    Routes {
        deliveries,
        next: Some("more".into()),
        then: Some("all".into()),
        transitions: BTreeMap::from([("odd".into(), "more".into())]),
        steps: STEPS.map(str::to_owned).into(),
        default_max_attempts: MAX_ATTEMPTS,
        failures: BTreeMap::from([("root".into(), "mend".into())]),
        ..Routes::default()
    }
}

fn steps(with_queues: bool) -> Vec<StepSpec> {
    let routes = Arc::new(routes(with_queues));
    let step = |name: &str| StepSpec {
        name: name.to_owned(),
        concurrency: None,
        limits: Limits { cancel_grace: Duration::from_secs(2), ..Limits::default() },
        routes: Arc::clone(&routes),
        read: Vec::new(),
        accept: Default::default(),
        retry: None,
        secrets: BTreeMap::new(),
        functions: BTreeMap::new(),
        params: None,
    };
    STEPS.iter().filter(|name| **name != FOREIGN).map(|name| step(name)).collect()
}

/// A queue without faults.
fn queue() -> Arc<dyn Queue> {
    Arc::new(MemoryQueue::default())
}

/// The stores, without faults, and the task store's clock.
fn stores() -> (Arc<dyn TaskStore>, Arc<dyn ObjectStore>, Clock) {
    let tasks = MemoryTaskStore::new();
    let clock = tasks.clone();
    (Arc::new(tasks), Arc::new(MemoryObjectStore::new()), Box::new(move |ms| clock.skew(ms)))
}

#[test]
fn a_worker_that_goes_round_and_round_is_noticed() {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (tasks, objects, clock) = stores();
        let world = World::new(1, tasks, objects, clock, FAULTS_FOR, false);
        let process = Process::new("w0.1".into(), Arc::clone(&world.budget));
        // The clock stands still for as long as it goes on.
        let rounds = async {
            loop {
                process.gate().await;
            }
        };
        tokio::select! { biased; () = broken(&world) => {}, () = rounds => {} }
        assert!(world.ledger().violation().is_some_and(|what| what.starts_with("invariant 8: ") && what.contains("no end")));
    });
}
