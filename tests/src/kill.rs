//! Workers killed with `kill -9` in mid-run: every task ends, committed once, with the files its manifest names.

use crate::binary::{Place, guest};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const JOBS: usize = 120;

/// Checks files and claims of every task against its manifest; returns how many tasks there were.
pub fn check_tasks(place: &Place) -> usize {
    let tasks = place.run(&["tasks", "list", "--limit", "100000", "--json"]).ok().json();
    let tasks = tasks.as_array().unwrap().clone();
    for task in &tasks {
        assert_eq!(task["state"], "DONE", "{task}");
        let folder = task["output_prefix"].as_str().unwrap().trim_start_matches("file://").to_owned();
        for entry in task["manifest"]["entries"].as_array().into_iter().flatten() {
            let file = Path::new(&folder).join(entry["name"].as_str().unwrap());
            let bytes = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_eq!(hex::encode(Sha256::digest(&bytes)), entry["sha256"].as_str().unwrap(), "{}", file.display());
        }
    }
    tasks.len()
}

/// Every claim of a task ended one way, and exactly one of them with a commit.
fn check_claims(place: &Place, task: &Value) {
    let shown = place.run(&["tasks", "show", task["task_id"].as_str().unwrap(), "--json"]).ok().json();
    let claims = shown["claims"].as_array().unwrap();
    let commits = claims.iter().filter(|c| c["ended"] == "committed").count();
    assert_eq!(commits, 1, "{shown}");
    let epochs: Vec<i64> = claims.iter().map(|c| c["epoch"].as_i64().unwrap()).collect();
    assert!(epochs.windows(2).all(|w| w[0] < w[1]), "{epochs:?}");
}

/// Waits until so many tasks are DONE: the workers are at work, and not yet at the end.
fn wait_for_done(place: &Place, count: usize) {
    let began = Instant::now();
    loop {
        let done = place.run(&["tasks", "list", "--state", "DONE", "--limit", "100000", "--json"]).ok().json();
        if done.as_array().unwrap().len() >= count {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "only {} tasks are done", done.as_array().unwrap().len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn attempts_left(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let mut left = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|n| n == "_attempts") {
            left += fs::read_dir(&path).map_or(0, Iterator::count);
        } else if path.is_dir() {
            left += attempts_left(&path);
        }
    }
    left
}

#[test]
fn nothing_is_lost_and_nothing_happens_twice() {
    let place = Place::new();
    let probe = guest("probe");
    let steps = ["first", "each", "all"].map(|s| format!("[steps.{s}]\nguest = {:?}\n", probe.to_str().unwrap()));
    let pipeline = place.write("pipeline.toml", &format!("name = \"kill\"\n{}", steps.concat()));
    let pipeline = pipeline.to_str().unwrap();
    let fan = r#"{"action": "fan_out", "n": 3, "step": "each", "then": {"action": "sum", "read_outputs": true}, "then_step": "all",
        "child": {"action": "write", "files": [{"name": "a.bin", "bytes": 300000, "piece": 10000}, {"name": "b.txt", "bytes": 900}]}}"#;
    place.run(&["submit", pipeline, "--params", fan, "--repeat", &JOBS.to_string()]).ok();
    let settings = [("WASM_WORKER_LEASE", "2s"), ("WASM_WORKER_CONCURRENCY", "3")];
    let mut workers: Vec<_> = (0..3).map(|i| place.start(&["run", pipeline, "--until-empty"], &format!("w{i}.log"), &settings)).collect();
    for (round, victim) in workers.iter_mut().enumerate() {
        wait_for_done(&place, 60 * (round + 1));
        victim.kill().unwrap();
        victim.wait().unwrap();
        *victim = place.start(&["run", pipeline, "--until-empty"], &format!("again{round}.log"), &settings);
    }
    let began = Instant::now();
    for worker in &mut workers {
        while worker.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(120), "the workers do not come to an end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert_eq!(check_tasks(&place), JOBS * 5);
    assert_eq!(place.run(&["dlq", "list", "--json"]).ok().json().as_array().unwrap().len(), 0);
    let tasks = place.run(&["tasks", "list", "--limit", "100000", "--json"]).ok().json();
    let (often, once): (Vec<Value>, Vec<Value>) = tasks.as_array().unwrap().iter().cloned().partition(|t| t["epoch"].as_i64() > Some(1));
    assert!(!often.is_empty(), "no kill hit a running task: the test shows nothing");
    often.iter().chain(once.iter().take(20)).for_each(|task| check_claims(&place, task));
    // A worker that lives on sweeps what the dead ones left: two leases after the last end nothing is there.
    let mut sweeper = place.start(&["run", pipeline], "sweeper.log", &settings);
    std::thread::sleep(Duration::from_secs(6));
    sweeper.kill().unwrap();
    sweeper.wait().unwrap();
    assert_eq!(attempts_left(&place.path().join("data")), 0);
}
