//! A small, strict SQS for tests: the real protocol (AWS JSON 1.0) over TCP to the real client, faults by seed, everything in memory.
//!
//! It refuses what SQS refuses, and where SQS is lenient it is not: a receipt is stale from the next delivery on. Left out are queues
//! made and removed over the wire, message attributes, checks of signatures (that there is one is checked), and MD5 sums, which the
//! client does not look at.

mod shelf;
mod wire;

use shelf::Shelf;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// The queue that is there without being asked for, and the one to which the redrive policy moves messages.
pub const QUEUE: &str = "queue";
pub const DEAD: &str = "dead";

/// The account that owns the queues.
const ACCOUNT: &str = "123456789012";

/// How it is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Of the faults.
    pub seed: u64,
    /// Largest body, and largest batch, in bytes.
    pub max_body: usize,
    /// Most deliveries of one queue that are neither deleted nor visible again.
    pub in_flight: usize,
    /// Longest that one delivery stays hidden in all.
    pub max_hold: Duration,
    /// For how long a FIFO queue drops a second message with one deduplication id.
    pub deduplicates_for: Duration,
    /// After so many deliveries a message moves to [`DEAD`]; none: never.
    pub redrive: Option<u32>,
    /// What goes wrong.
    pub faults: Faults,
}

/// Shares, from 0 to 1, of what goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Deliveries after which the message stays visible: somebody gets it a second time at once.
    pub duplicates: f64,
    /// Entries of batches that fail with a fault of the broker's own.
    pub entries: f64,
    /// Calls that are throttled.
    pub throttles: f64,
    /// Calls that fail with status 500 and do nothing.
    pub failures: f64,
    /// Calls that take effect and fail with status 500 nevertheless.
    pub lost_answers: f64,
    /// Messages that are lost though their sending was confirmed.
    pub forgets: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            max_body: 1 << 20,
            in_flight: 120_000,
            max_hold: Duration::from_secs(12 * 3600),
            deduplicates_for: Duration::from_secs(300),
            redrive: None,
            faults: Faults::default(),
        }
    }
}

/// A running one, on a thread of its own; gone when this is dropped.
pub struct Fake {
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    broker: Mutex<Broker>,
    /// Rung when a receiver may find something sooner than it thought.
    news: Notify,
}

struct Broker {
    config: Config,
    dice: fastrand::Rng,
    shelves: BTreeMap<String, Shelf>,
    calls: BTreeMap<String, u64>,
    forgotten: u64,
    made: BTreeMap<&'static str, u64>,
}

impl Broker {
    /// Whether a fault of this share strikes now.
    fn strikes(&mut self, share: f64, name: &'static str) -> bool {
        let strikes = self.dice.f64() < share;
        if strikes {
            *self.made.entry(name).or_default() += 1;
        }
        strikes
    }
}

impl Shared {
    fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fake {
    /// Starts one, with the queues [`QUEUE`] and [`DEAD`].
    pub fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shelves = [QUEUE, DEAD].map(|name| (name.to_owned(), Shelf::new(false))).into();
        let (dice, calls) = (fastrand::Rng::with_seed(config.seed), BTreeMap::new());
        let broker = Mutex::new(Broker { config, dice, shelves, calls, forgotten: 0, made: BTreeMap::new() });
        let shared = Arc::new(Shared { broker, news: Notify::new() });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = axum::serve(listener, wire::routes(served)) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { port, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of [`QUEUE`].
    pub fn url(&self) -> String {
        self.queue(QUEUE)
    }

    /// The URL of a queue, which is made if it is not there. One whose name ends with `.fifo` keeps order.
    pub fn queue(&self, name: &str) -> String {
        self.shared.broker().shelves.entry(name.to_owned()).or_insert_with(|| Shelf::new(name.ends_with(".fifo")));
        format!("{}/{ACCOUNT}/{name}", self.endpoint())
    }

    /// How often each operation was called.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.shared.broker().calls.clone()
    }

    /// Has other things go wrong from now on.
    pub fn set(&self, faults: Faults) {
        self.shared.broker().config.faults = faults;
    }

    /// Messages that ever came into [`QUEUE`].
    pub fn taken(&self) -> u64 {
        self.shared.broker().shelves[QUEUE].taken()
    }

    /// Messages that were confirmed and lost.
    pub fn forgotten(&self) -> u64 {
        self.shared.broker().forgotten
    }

    /// How often each of the faults struck a call, or an entry of one, beside the messages that were lost.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        let broker = self.shared.broker();
        let lost = std::iter::once(("messages lost", broker.forgotten));
        broker.made.iter().map(|(name, count)| (*name, *count)).chain(lost).collect()
    }

    /// Puts messages into [`QUEUE`], as a producer would, whatever goes wrong.
    pub fn put(&self, bodies: impl IntoIterator<Item = String>) {
        let now = Instant::now();
        let mut broker = self.shared.broker();
        let shelf = broker.shelves.get_mut(QUEUE).unwrap();
        for body in bodies {
            shelf.add(body, None, Duration::ZERO, now);
        }
        drop(broker);
        self.shared.news.notify_waiters();
    }

    /// Messages of [`QUEUE`] that are there, and those of them that can be received.
    pub fn left(&self) -> (usize, usize) {
        let broker = self.shared.broker();
        let counts = broker.shelves[QUEUE].counts(Instant::now());
        (counts.visible + counts.hidden + counts.delayed, counts.visible)
    }

    /// Messages of a queue that are there.
    pub fn left_in(&self, name: &str) -> usize {
        self.shared.broker().shelves.get(name).map_or(0, |shelf| shelf.bodies().len())
    }

    /// Bodies in [`DEAD`].
    pub fn dead(&self) -> Vec<String> {
        self.shared.broker().shelves[DEAD].bodies()
    }

    /// Makes every message of every queue visible, though somebody holds it, or its delay goes on.
    pub fn redeliver_all(&self) {
        let now = Instant::now();
        self.shared.broker().shelves.values_mut().for_each(|shelf| shelf.show_all(now));
        self.shared.news.notify_waiters();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed, and shows as calls that failed.
            let _ = thread.join();
        }
    }
}
