//! What a task costs from claim to end, with a guest that does nothing: the real worker on a real store, beside the same worker
//! with the hook compiled in, and beside bare batched SQL over the same schema. Each run is a process of its own, so that
//! memory and processor time are its own too, with a server of its own where it needs one; the runs of a round come in turn.

mod bare;
mod broker;
pub mod figures;
pub mod load;
mod ours;
mod redis;
mod sqs;

use super::{median, servers::postgres::Server};
use figures::Figures;
use load::{Place, Store};
use std::process::{Command, Stdio};

/// Tasks at once.
const CONCURRENCY: u32 = 256;

/// Tasks and rounds where nothing else is asked for.
const TASKS: u32 = 100_000;
const ROUNDS: usize = 5;

/// The word by which this binary is told to do one run.
pub const ONE_RUN: &str = "queue-run";

/// What runs the tasks.
const LOOPS: [&str; 3] = ["wasm", "native", "bare"];

/// Where the tasks wait.
const STORES: [&str; 3] = ["sqlite-normal", "sqlite-full", POSTGRES];
const POSTGRES: &str = "postgres";

struct Wanted {
    tasks: u32,
    rounds: usize,
    stores: Vec<String>,
}

impl Wanted {
    fn read(words: &[&str]) -> Self {
        let mut wanted = Self { tasks: TASKS, rounds: ROUNDS, stores: STORES.map(str::to_owned).to_vec() };
        for pair in words.chunks(2) {
            match pair {
                ["--tasks", n] => wanted.tasks = n.parse().expect("--tasks takes a number"),
                ["--rounds", n] => wanted.rounds = n.parse().expect("--rounds takes a number"),
                ["--store", name] if STORES.contains(name) => wanted.stores = vec![(*name).to_owned()],
                other => panic!("{other:?}: only --tasks N, --rounds N and --store {} are known", STORES.join("|")),
            }
        }
        assert!(wanted.tasks >= 100 && wanted.rounds > 0, "a run has 100 tasks at least, and there is one round at least");
        wanted
    }
}

/// Measures and prints.
pub fn measure(words: &[&str]) {
    if let ["--redis", rest @ ..] = words {
        return redis::measure(rest);
    }
    if let ["--sqs", rest @ ..] = words {
        return sqs::measure(rest);
    }
    let wanted = Wanted::read(words);
    println!(
        "{} tasks of 200 bytes, half of those submitted with one child, no outputs; {CONCURRENCY} at once; median of {} rounds in turn:",
        wanted.tasks, wanted.rounds
    );
    for store in &wanted.stores {
        let mut runs: [Vec<Figures>; 3] = Default::default();
        for _ in 0..wanted.rounds {
            for (name, runs) in LOOPS.iter().zip(&mut runs) {
                runs.extend(run_apart(store, name, wanted.tasks));
            }
        }
        if runs.iter().any(Vec::is_empty) {
            println!("  {store}\n    not here: nothing measured");
        } else {
            print(store, &runs);
        }
    }
}

/// None where the server that it needs is not here. Each run has a server of its own: one that was used before still cleans up after
/// the runs before, and the loop that comes next would pay for it.
fn run_apart(store: &str, name: &str, tasks: u32) -> Option<Figures> {
    let server = if store == POSTGRES { Some(Server::private()?) } else { None };
    let dsn = server.as_ref().map(Server::database);
    let mut command = Command::new(std::env::current_exe().unwrap());
    let run = command.args([ONE_RUN, store, name, &tasks.to_string()]).args(dsn).stderr(Stdio::inherit()).output().unwrap();
    assert!(run.status.success(), "{store} {name}: {}", run.status);
    let figures = Figures::parse(&String::from_utf8(run.stdout).unwrap());
    eprintln!("  {store} {name}: {:.0} tasks/s, {:.1} µs", figures.tasks_per_s, figures.cpu_us);
    Some(figures)
}

/// One run, in this process: prints its figures as a line.
pub fn run_here(words: &[&str]) {
    if let ["redis", rest @ ..] = words {
        return redis::run_here(rest);
    }
    if let ["sqs", rest @ ..] = words {
        return sqs::run_here(rest);
    }
    let &[store, name, tasks, ref dsn @ ..] = words else { panic!("{ONE_RUN} STORE LOOP TASKS [DSN]") };
    let store = match (store, dsn) {
        ("sqlite-normal", []) => Store::SqliteNormal,
        ("sqlite-full", []) => Store::SqliteFull,
        (POSTGRES, [dsn]) => Store::Postgres((*dsn).to_owned()),
        other => panic!("no store {other:?}"),
    };
    let tasks: u32 = tasks.parse().unwrap();
    let name = name.to_owned();
    on_a_runtime(async move {
        let place = Place::filled(store, tasks).await;
        let watch = figures::Watch::start();
        match name.as_str() {
            "wasm" => ours::wasm(&place).await,
            "native" => ours::native(&place).await,
            _ => bare::run(&place).await,
        }
        println!("{}", watch.stop(&place).await.line());
    });
}

/// Runs it on a thread of a runtime, as the worker's own program does.
fn on_a_runtime(run: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(runtime.spawn(run)).unwrap();
}

fn print(store: &str, runs: &[Vec<Figures>; 3]) {
    let of = |index: usize, figure: fn(&Figures) -> f64| median(runs[index].iter().map(figure).collect());
    let [wasm, native, bare] = [0, 1, 2].map(|i| of(i, |f| f.tasks_per_s));
    let [wasm_cpu, native_cpu, bare_cpu] = [0, 1, 2].map(|i| of(i, |f| f.cpu_us));
    let [wasm_tenths, bare_tenths] = [0, 2].map(|i| of(i, |f| f.last_tenth_s / f.first_tenth_s));
    let [tenth, end, peak] = [of(0, |f| f.memory_tenth_mib), of(0, |f| f.memory_end_mib), of(0, |f| f.memory_peak_mib)];
    println!("  {store}");
    println!("    wasm-worker                 {wasm:8.0} tasks/s   {wasm_cpu:6.1} µs of processor per task");
    println!("    the hook compiled in        {native:8.0} tasks/s   {native_cpu:6.1} µs   {:.2} x", wasm / native);
    println!("    bare batched SQL            {bare:8.0} tasks/s   {bare_cpu:6.1} µs   {:.2} x", wasm / bare);
    println!("    last tenth over the first   {wasm_tenths:8.2}   bare SQL {bare_tenths:.2}   {:.2} x", wasm_tenths / bare_tenths);
    println!(
        "    memory, MiB                 {tenth:8.1} at a tenth   {end:.1} at the end   {:+.1} %   peak {peak:.1}",
        (end / tenth - 1.0) * 100.0
    );
}
