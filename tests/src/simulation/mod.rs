//! The simulation: workers as they are, with scripted guests, over stores in memory, on a clock of its own. One seed is one history; faults
//! strike at every await; the invariants are checked while it runs and at the end. `cargo xtask simulate` runs more seeds, or one again.

mod check;
mod coverage;
mod guest;
mod ledger;
mod messages;
mod objects;
mod plan;
mod process;
mod queue;
mod run;
mod store;
mod world;

use check::Totals;
use coverage::Hits;
use run::Outcome;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{panic, thread};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 2000;

/// How often each cell of the table must be hit in so many seeds.
const HITS: u64 = 100;

/// Fewest tasks that a seed may have.
const FEWEST_TASKS: usize = 20;

/// Longest that one seed may take on the machine's own clock. It takes some hundredths of a second; one that never comes to a point where
/// anything could stop it is named, and ends everything.
const STUCK: Duration = Duration::from_secs(120);

/// How many seeds.
const SEEDS_VARIABLE: &str = "SIMULATE_SEEDS";

/// This seed only, with its whole history.
const SEED_VARIABLE: &str = "SIMULATE_SEED";

/// Set where only violations count, as with a broken product: the table then says nothing.
const ONLY_VIOLATIONS_VARIABLE: &str = "SIMULATE_ONLY_VIOLATIONS";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: '{text}'")))
}

fn report(outcome: &Outcome) -> String {
    let violation = outcome.violation.as_deref().unwrap_or("nothing wrong");
    format!("{}\nseed {}: {violation}", outcome.events.join("\n"), outcome.seed)
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    hits: Hits,
    seeds: u64,
    totals: Totals,
    /// Of the busiest seed.
    most_calls: u64,
    failed: Option<Outcome>,
}

/// Ends the process, naming the seed, unless it is dropped in time.
struct Watched(Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>);

impl Watched {
    fn begin(seed: u64) -> Self {
        let (done, waits) = mpsc::channel();
        let watch = move || {
            if waits.recv_timeout(STUCK) == Err(RecvTimeoutError::Timeout) {
                eprintln!("seed {seed}: no end after {STUCK:?} of the machine's own time: something goes round without a call or a wait");
                std::process::exit(101);
            }
        };
        Self(Some((done, thread::spawn(watch))))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some((done, watch)) = self.0.take() else { return };
        drop(done);
        watch.join().ok();
    }
}

/// Runs one seed, with an eye on the time.
fn run_watched(seed: u64, verbose: bool) -> Outcome {
    let _watched = Watched::begin(seed);
    run::run(seed, verbose)
}

/// Runs seeds on every core until one fails.
fn run_all(seeds: u64) -> Sum {
    let (next, stop, sum) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let outcome = panic::catch_unwind(|| run_watched(seed, false)).unwrap_or_else(|_| Outcome::of_panic(seed));
                    let mut sum = sum.lock().unwrap();
                    sum.hits.add(&outcome.hits);
                    sum.seeds += 1;
                    sum.most_calls = sum.most_calls.max(outcome.calls);
                    sum.totals.add(outcome.totals);
                    assert!(outcome.violation.is_some() || outcome.totals.tasks >= FEWEST_TASKS, "too few tasks in seed {seed}");
                    if outcome.violation.is_some() {
                        stop.store(true, Ordering::Relaxed);
                        sum.failed.get_or_insert(outcome);
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

#[test]
fn every_seed_keeps_the_invariants() {
    if let Some(seed) = number(SEED_VARIABLE) {
        let outcome = run_watched(seed, true);
        println!("seed {seed}: {}, history {:016x}", outcome.violation.as_deref().unwrap_or("nothing wrong"), outcome.history);
        assert!(outcome.violation.is_none());
        return;
    }
    let (seeds, began) = (number(SEEDS_VARIABLE).unwrap_or(SEEDS), Instant::now());
    let sum = run_all(seeds);
    println!("{}", sum.hits.table());
    let (seconds, calls) = (began.elapsed().as_secs_f64(), sum.most_calls);
    println!("{} seeds in {seconds:.1} s: {:?}; {calls} calls in the busiest", sum.seeds, sum.totals);
    if let Some(failed) = &sum.failed {
        panic!("{}", report(failed));
    }
    if std::env::var_os(ONLY_VIOLATIONS_VARIABLE).is_some() {
        return;
    }
    let low = sum.hits.below(HITS * seeds / SEEDS);
    assert!(low.is_empty(), "cells hit too seldom: {}", low.join("; "));
}

#[test]
fn a_seed_has_one_history() {
    for seed in [3, 14, 159] {
        let (first, second) = (run_watched(seed, false), run_watched(seed, false));
        assert!(first.violation.is_none() && first.totals.tasks >= FEWEST_TASKS, "{}", report(&first));
        assert_eq!(first.history, second.history, "{}\n\n{}", report(&first), report(&second));
    }
}
