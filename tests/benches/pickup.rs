//! How soon a task is picked up that another process submits: from the return of its `submit` to the start of `process`, beside the
//! least that SQLite itself takes: a process that inserts, and one that looks for new rows as often as the store does. And what a
//! worker costs that has nothing to do.

use super::median;
use super::queue::figures::processor_us;
use super::queue::load::{Place, STEP, Store, open};
use serde_json::Map;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};
use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;
use wasm_worker::app::Submission;
use wasm_worker::guest::{Guest, GuestFault, Guests, Scope, StepGuest, StepSetup, WasmGuests};
use wasm_worker::task::hooks::{FanOut, Output, Work};
use wasm_worker::worker::{Settings, Until, Worker};

/// The words by which this binary is told to be the other process.
pub const SUBMIT: &str = "pickup-submit";
pub const WRITE: &str = "pickup-write";

/// Tasks submitted in a second.
const RATE: u32 = 1000;

/// Seconds of one round, and rounds, where nothing else is asked for.
const SECONDS: u32 = 5;
const ROUNDS: usize = 5;

/// How long a worker is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(10);

/// Tasks at once.
const CONCURRENCY: u32 = 64;

/// How often the bare reader looks: as often as the store does.
const LOOK: Duration = Duration::from_millis(5);

/// When something happened, by name; nanoseconds of the clock that both processes share.
type Times = HashMap<String, i128>;

fn unix_ns() -> i128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i128
}

/// Measures and prints.
pub fn measure(words: &[&str]) {
    let (mut seconds, mut rounds) = (SECONDS, ROUNDS);
    for pair in words.chunks(2) {
        match pair {
            ["--seconds", n] => seconds = n.parse().expect("--seconds takes a number"),
            ["--rounds", n] => rounds = n.parse().expect("--rounds takes a number"),
            other => panic!("{other:?}: only --seconds N and --rounds N are known"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (mut ours, mut bare, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (waits, core) = runtime.block_on(round(seconds));
        ours.push(waits);
        idle.push(core);
        bare.push(runtime.block_on(bare_round(seconds)));
    }
    let of =
        |rounds: &[Vec<f64>], share: f64| median(rounds.iter().map(|waits| waits[((waits.len() - 1) as f64 * share) as usize]).collect());
    let rate = |rounds: &[Vec<f64>]| median(rounds.iter().map(|waits| waits.len() as f64).collect()) / f64::from(seconds);
    println!(
        "{RATE} tasks/s from another process, one per transaction, SQLite NORMAL, {seconds} s; median of {rounds} rounds in turn, ms:"
    );
    for (name, rounds) in
        [("submit's return to the start of process", &ours), ("bare SQLite: a writer, and a reader that looks every 5 ms", &bare)]
    {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| of(rounds, share));
        println!("  {name:60} p50 {p50:6.2}   p90 {p90:6.2}   p99 {p99:6.2}   at {:.0} tasks/s", rate(rounds));
    }
    println!("  a worker with nothing to do: {:.2} % of a core", median(idle) * 100.0);
}

/// One round: the waits in order, milliseconds, and the share of a core that the worker took before anything came.
async fn round(seconds: u32) -> (Vec<f64>, f64) {
    let place = Place::filled(Store::SqliteNormal, 0).await;
    let began = Arc::new(Mutex::new(Times::new()));
    let worker = worker(&place, &began).await;
    let stop = CancellationToken::new();
    let drain = stop.clone();
    let running = tokio::spawn(async move { worker.run(Until::Stopped, None, drain).await });
    // What starting costs is over by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, since) = (processor_us(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let core = (processor_us() - before) / since.elapsed().as_micros() as f64;
    let submitted = other(SUBMIT, place.app.config.data_dir.clone(), seconds).await;
    let all = async {
        while began.lock().unwrap().len() < submitted.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("every task is picked up");
    stop.cancel();
    running.await.unwrap();
    let began = began.lock().unwrap();
    (waits(&submitted, &began), core)
}

fn waits(from: &Times, to: &Times) -> Vec<f64> {
    let mut waits: Vec<f64> = from.iter().map(|(name, at)| (to[name] - at) as f64 / 1e6).collect();
    waits.sort_by(f64::total_cmp);
    waits
}

/// Runs this binary as the other process; it prints what it did and when.
async fn other(word: &'static str, path: std::path::PathBuf, seconds: u32) -> Times {
    let run = move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(word).arg(path).arg(seconds.to_string()).stderr(Stdio::inherit()).output().unwrap()
    };
    let run = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(run.status.success(), "{word}: {}", run.status);
    serde_json::from_slice(&run.stdout).unwrap()
}

/// Does `once` at the rate, one after the other, and prints when each returned.
async fn steadily(seconds: &str, mut once: impl AsyncFnMut(u32) -> String) {
    let count = seconds.parse::<u32>().unwrap() * RATE;
    let (mut times, began) = (Times::new(), Instant::now());
    for number in 0..count {
        let due = began + Duration::from_secs(1) * number / RATE;
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        let name = once(number).await;
        times.insert(name, unix_ns());
        if began.elapsed().as_secs_f64() > f64::from(count / RATE) {
            break;
        }
    }
    println!("{}", serde_json::to_string(&times).unwrap());
}

/// The submitting process.
pub fn submit(folder: &str, seconds: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (app, pipeline) = open(Path::new(folder), "normal").await;
        steadily(seconds, async |_| {
            let submission = Submission { params: Map::new(), ..Submission::default() };
            app.submit(&pipeline, vec![submission]).await.unwrap().remove(0).task_id
        })
        .await;
    });
}

async fn connect(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    SqliteConnection::connect_with(&options.synchronous(SqliteSynchronous::Normal)).await.unwrap()
}

/// The process that only inserts.
pub fn write(file: &str, seconds: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut on = connect(Path::new(file)).await;
        steadily(seconds, async |number| {
            let insert = sqlx::query("INSERT INTO rows (id, payload) VALUES (?1, ?2)").bind(number).bind("x".repeat(200));
            insert.execute(&mut on).await.unwrap();
            number.to_string()
        })
        .await;
    });
}

async fn bare_round(seconds: u32) -> Vec<f64> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("bare.db");
    let mut on = connect(&file).await;
    sqlx::query("CREATE TABLE rows (id INTEGER PRIMARY KEY, payload TEXT NOT NULL)").execute(&mut on).await.unwrap();
    let writing = tokio::spawn(other(WRITE, file, seconds));
    let (mut seen, mut last) = (Times::new(), -1_i64);
    let mut look = async || {
        let new: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, payload FROM rows WHERE id > ?1 ORDER BY id").bind(last).fetch_all(&mut on).await.unwrap();
        let now = unix_ns();
        for (id, _) in new {
            last = id;
            seen.insert(id.to_string(), now);
        }
    };
    while !writing.is_finished() {
        look().await;
        tokio::time::sleep(LOOK).await;
    }
    look().await;
    waits(&writing.await.unwrap(), &seen)
}

/// Instances of the component, each of which notes when its `process` begins.
struct Noting {
    inner: Arc<WasmGuests>,
    idle: Mutex<Vec<Box<dyn Guest>>>,
    began: Arc<Mutex<Times>>,
}

struct Noted {
    inner: Box<dyn Guest>,
    began: Arc<Mutex<Times>>,
}

#[async_trait::async_trait]
impl Guest for Noted {
    async fn process(&mut self, work: &Arc<Work>, scope: &Arc<Scope>) -> Result<Output, GuestFault> {
        self.began.lock().unwrap().insert(work.task_id.clone(), unix_ns());
        self.inner.process(work, scope).await
    }

    async fn publish_next(&mut self, work: &Arc<Work>, output: Output, scope: &Arc<Scope>) -> Result<FanOut, GuestFault> {
        self.inner.publish_next(work, output, scope).await
    }

    fn is_reusable(&self) -> bool {
        self.inner.is_reusable()
    }
}

#[async_trait::async_trait]
impl Guests for Noting {
    async fn instance(&self, step: &str) -> Result<Box<dyn Guest>, GuestFault> {
        let warm = self.idle.lock().unwrap().pop();
        match warm {
            Some(guest) => Ok(guest),
            None => Ok(Box::new(Noted { inner: self.inner.instance(step).await?, began: Arc::clone(&self.began) })),
        }
    }

    fn give_back(&self, _: &str, guest: Box<dyn Guest>) {
        if guest.is_reusable() {
            self.idle.lock().unwrap().push(guest);
        }
    }

    async fn enter(&self, work: Pin<Box<dyn Future<Output = ()> + Send + 'static>>) {
        self.inner.enter(work).await;
    }

    fn release(&self, step: &str) -> String {
        self.inner.release(step)
    }
}

async fn worker(place: &Place, began: &Arc<Mutex<Times>>) -> Arc<Worker> {
    let engine = place.app.engine().unwrap();
    let (spec, component) = place.step(&engine).await;
    let setup = StepSetup { warm: CONCURRENCY as usize, ..StepSetup::bare(STEP, spec.limits.clone()) };
    let inner = WasmGuests::new(engine, place.app.services(), place.app.models(), vec![StepGuest { component, setup }]);
    let guests = Arc::new(Noting { inner, idle: Mutex::default(), began: Arc::clone(began) });
    let settings = Settings { concurrency: CONCURRENCY, ..place.settings() };
    Worker::new(settings, place.app.services(), guests, vec![spec], Vec::new())
}
