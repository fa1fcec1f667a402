//! The kill loop. The real binary works on real jobs while its processes are killed: by `kill -9` at random moments, by aborting
//! themselves at every failpoint, by signals that pause or end them, under a wall clock that jumps by an hour. Tasks wait in the table or
//! in a broker's queues; the broker is killed too, loses, repeats and refuses. Afterwards a checker that trusts nothing but the
//! database and the disk looks for whatever breaks the rules.
//!
//! `CRASH_KILLS` is how often to kill, `CRASH_SEED` repeats the choices of an earlier run; `cargo xtask crash` sets them.

mod broker;
mod check;
mod clock;
mod dice;
mod driver;
mod errands;
mod load;
mod probe;
mod producer;
mod report;
mod rows;
mod site;
mod worker;

use driver::{Driven, Driver};
use site::Site;
use std::time::{SystemTime, UNIX_EPOCH};

/// Kills of one store in the test command: with both stores more than a hundred.
const KILLS: u64 = 60;

/// Kills with one broker: each failpoint once comes to more.
const BROKER_KILLS: u64 = 20;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    number("CRASH_SEED").unwrap_or(since.as_millis() as u64)
}

fn survives(mut site: Site, seed: u64, kills: u64) {
    let Driven { jobs, mut report } = Driver::new(&mut site, seed).run(number("CRASH_KILLS").unwrap_or(kills));
    check::check(&site, &jobs, &mut report);
    println!("{report}");
    // Kills that hit nothing, or that end everything, would show nothing.
    let count = |counts: &std::collections::BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or_default();
    let (done, lapsed) = (count(&report.tasks, "DONE"), count(&report.claims, "lapsed"));
    if lapsed < report.kills() / 4 || done < report.tasks.values().sum::<u64>() / 2 {
        report.violations.push(format!("a weak run: {lapsed} lapsed leases, {done} tasks DONE"));
    }
    if !report.violations.is_empty() {
        panic!("{} violations; the folder is kept: {}\n{report}", report.violations.len(), site.keep().display());
    }
}

#[test]
fn sqlite_survives() {
    survives(Site::sqlite(), seed(), KILLS);
}

#[test]
fn postgres_survives() {
    if let Some(site) = Site::postgres() {
        survives(site, seed(), KILLS);
    }
}

#[test]
fn redis_survives() {
    if let Some(site) = Site::redis() {
        survives(site, seed(), BROKER_KILLS);
    }
}

#[test]
fn sqs_survives() {
    let seed = seed();
    if let Some(site) = Site::sqs(seed) {
        survives(site, seed, BROKER_KILLS);
    }
}
