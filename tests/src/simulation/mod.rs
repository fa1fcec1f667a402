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
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use std::{panic, thread};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 2000;

/// How often each cell of the table must be hit in so many seeds.
const HITS: u64 = 100;

/// Fewest tasks that a seed may have.
const FEWEST_TASKS: usize = 20;

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
    failed: Option<Outcome>,
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
                    let outcome = panic::catch_unwind(|| run::run(seed, false)).unwrap_or_else(|_| Outcome::of_panic(seed));
                    let mut sum = sum.lock().unwrap();
                    sum.hits.add(&outcome.hits);
                    sum.seeds += 1;
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
        let outcome = run::run(seed, true);
        println!("seed {seed}: {}, history {:016x}", outcome.violation.as_deref().unwrap_or("nothing wrong"), outcome.history);
        assert!(outcome.violation.is_none());
        return;
    }
    let (seeds, began) = (number(SEEDS_VARIABLE).unwrap_or(SEEDS), Instant::now());
    let sum = run_all(seeds);
    println!("{}", sum.hits.table());
    println!("{} seeds in {:.1} s: {:?}", sum.seeds, began.elapsed().as_secs_f64(), sum.totals);
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
        let (first, second) = (run::run(seed, false), run::run(seed, false));
        assert!(first.violation.is_none() && first.totals.tasks >= FEWEST_TASKS, "{}", report(&first));
        assert_eq!(first.history, second.history, "{}\n\n{}", report(&first), report(&second));
    }
}
