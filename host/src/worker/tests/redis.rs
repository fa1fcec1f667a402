//! The worker over a real Redis: restarts, a broker that forgets, duplicates, a second worker.

use super::*;
use crate::queue::{Queue as _, RedisQueue};
use crate::servers::redis::Server;
use serde_json::json;
use tokio::task::{JoinHandle, block_in_place};

/// A queue on a server, a place for tasks, and workers over both.
struct Site {
    place: Place,
    server: Server,
    stream: String,
    queue: Arc<RedisQueue>,
}

struct Running {
    drain: CancellationToken,
    run: JoinHandle<Summary>,
}

impl Site {
    /// None where there is no Redis, and then that has been said.
    async fn new() -> Option<Self> {
        let server = block_in_place(Server::private)?;
        let address = server.queue();
        let stream = address.rsplit_once('=').unwrap().1.to_owned();
        let queue = Arc::new(RedisQueue::open(&address.parse().unwrap()).await.unwrap());
        Some(Self { place: Place::in_memory(), server, stream, queue })
    }

    /// A worker of the queue; one that only sends to it where it serves no step.
    fn worker(&self, serves: bool, lease: Duration) -> Running {
        let spec = QueueSpec {
            name: "q".into(),
            queue: Arc::clone(&self.queue) as _,
            tenant: "t".into(),
            trusted: false,
            steps: if serves { vec!["s".into()] } else { Vec::new() },
            bucket: Uri::of_folder(&self.place.folder.path().join("bucket")).unwrap(),
            inputs: Vec::new(),
        };
        let worker = self.place.worker_as(Setting { queues: vec![spec], lease, concurrency: 8, ..Setting::default() });
        let drain = CancellationToken::new();
        let stop = drain.clone();
        Running { drain, run: tokio::spawn(async move { worker.run(Until::Stopped, None, stop).await }) }
    }

    /// Puts a message in as another system would: with a plain XADD.
    fn put(&self, id: &str, params: serde_json::Value) {
        let body = json!({"job_id": format!("job-{id}"), "task_id": id, "params": params}).to_string();
        block_in_place(|| self.server.ask(&["XADD", &self.stream, "*", "body", &body]));
    }

    async fn left(&self) -> u64 {
        self.queue.depth().await.map_or(u64::MAX, |depth| depth.waiting + depth.in_flight)
    }

    async fn answered(&self) {
        let waiting = async {
            while self.left().await > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(40), waiting).await.expect("every message is acknowledged");
    }
}

impl Running {
    async fn stop(self) -> Summary {
        self.drain.cancel();
        timeout(Duration::from_secs(20), self.run).await.expect("the worker comes to an end").unwrap()
    }
}

/// Of a hundred deliveries at once one runs; what comes after the end is acknowledged, and so is what is no task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_of_other_producers_are_one_run() {
    let Some(site) = Site::new().await else { return };
    for _ in 0..100 {
        site.put("same", json!({"sleep_ms": 100}));
    }
    block_in_place(|| site.server.ask(&["XADD", &site.stream, "*", "job_id", "x", "task_id", "y"]));
    let (one, two) = (site.worker(true, LEASE), site.worker(true, LEASE));
    site.answered().await;
    site.put("same", json!({"sleep_ms": 100}));
    site.answered().await;
    let runs = one.stop().await.runs + two.stop().await.runs;
    assert_eq!((runs, site.place.script.runs.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(site.place.ended("same").await, (TaskState::Done, vec!["committed".to_owned()]));
    let letters = site.place.store.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.message.as_str()).collect::<Vec<_>>(), [r#"["job_id","x","task_id","y"]"#]);
}

/// The server is killed in mid-run and comes back: the worker goes on by itself, and nothing is lost or run twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_loses_nothing() {
    let Some(site) = Site::new().await else { return };
    for i in 0..200 {
        site.put(&format!("m{i}"), json!({"sleep_ms": 100}));
    }
    // Longer than what the file may lack.
    sleep(Duration::from_secs(2)).await;
    let running = site.worker(true, Duration::from_secs(3));
    site.place.wait_for("m30", TaskState::Done).await;
    block_in_place(|| site.server.kill());
    sleep(Duration::from_millis(500)).await;
    block_in_place(|| site.server.start());
    site.answered().await;
    running.stop().await;
    for i in 0..200 {
        assert_eq!(site.place.ended(&format!("m{i}")).await.0, TaskState::Done);
    }
    assert_eq!(site.place.script.runs.load(Ordering::Relaxed), 200);
}

/// What Redis has confirmed and forgotten is sent again: the store knows the task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_is_told_again() {
    let Some(site) = Site::new().await else { return };
    let mut job = site.place.job("forgotten", json!({}), None, "forgotten");
    job.root.delivery = Delivery::Queue("q".into());
    site.place.store.submit(vec![job]).await.unwrap();
    let relaying = site.worker(false, LEASE);
    let sent = async {
        while site.left().await == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), sent).await.expect("its message is sent");
    relaying.stop().await;
    block_in_place(|| site.server.ask(&["FLUSHALL"]));
    assert_eq!(site.left().await, 0);
    let running = site.worker(true, LEASE);
    let ended = async {
        while site.place.ended("forgotten").await.0 != TaskState::Done {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), ended).await.expect("it is sent again, and runs");
    site.answered().await;
    running.stop().await;
    assert_eq!(site.place.script.runs.load(Ordering::Relaxed), 1);
}

/// A worker that is cut off in mid-run acknowledges nothing: another one runs its tasks once lease and visibility are over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_workers_messages_are_run_by_another() {
    let Some(site) = Site::new().await else { return };
    for i in 0..6 {
        site.put(&format!("m{i}"), json!({"sleep_ms": 1500}));
    }
    let crashing = site.worker(true, Duration::from_secs(2));
    site.place.wait_for("m5", TaskState::Processing).await;
    crashing.run.abort();
    let running = site.worker(true, Duration::from_secs(2));
    site.answered().await;
    running.stop().await;
    for i in 0..6 {
        let (state, claims) = site.place.ended(&format!("m{i}")).await;
        assert_eq!((state, claims.last().map(String::as_str)), (TaskState::Done, Some("committed")));
    }
    assert_eq!(site.place.script.runs.load(Ordering::Relaxed), 12);
}
