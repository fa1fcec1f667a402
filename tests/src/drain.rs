//! A worker that is asked to stop: what runs may finish, the rest is handed back at no cost, and a second signal ends it at once and
//! loses nothing.

use crate::binary::{Place, guest};
use serde_json::Value;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What waits for a worker takes at most this long on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn pipeline(place: &Place) -> String {
    let text = format!("name = \"drain\"\n[steps.work]\nguest = {:?}\nlimits = {{ wall = \"300s\" }}\n", guest("probe").to_str().unwrap());
    place.write("pipeline.toml", &text).to_str().unwrap().to_owned()
}

/// Submits one job under an id of our own.
fn submit(place: &Place, pipeline: &str, id: &str, params: &str) {
    let line = format!("{{\"job_id\": \"{id}\", \"params\": {params}}}\n");
    let file = place.write("job.jsonl", &line);
    place.run(&["submit", pipeline, "--jsonl", file.to_str().unwrap()]).ok();
}

fn task(place: &Place, id: &str) -> Value {
    place.run(&["tasks", "show", id, "--json"]).ok().json()
}

fn wait_for(place: &Place, id: &str, state: &str) {
    let began = Instant::now();
    while task(place, id)["state"] != state {
        assert!(began.elapsed() < PATIENCE, "{id} does not become {state}: {}", task(place, id));
        sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn end_of(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the worker does not end");
        }
        sleep(Duration::from_millis(10));
    }
}

fn counters(task: &Value) -> [i64; 3] {
    ["attempts", "handbacks", "crashes"].map(|name| task[name].as_i64().unwrap())
}

fn ends_of_claims(task: &Value) -> Vec<&str> {
    task["claims"].as_array().unwrap().iter().map(|claim| claim["ended"].as_str().unwrap_or("-")).collect()
}

#[test]
fn what_runs_may_finish_and_the_rest_is_handed_back_at_no_cost() {
    let place = Place::new();
    let pipeline = pipeline(&place);
    submit(&place, &pipeline, "endless", r#"{"action": "loop", "hook": "process"}"#);
    submit(&place, &pipeline, "brief", r#"{"action": "spin", "ms": 2500}"#);
    submit(&place, &pipeline, "waits", r#"{"action": "spin", "ms": 1}"#);
    let settings = [("WASM_WORKER_GRACE", "6s"), ("WASM_WORKER_CONCURRENCY", "2"), ("WASM_WORKER_LEASE", "60s")];
    let mut worker = place.start(&["run", &pipeline], "w.log", &settings);
    wait_for(&place, "endless", "PROCESSING");
    wait_for(&place, "brief", "PROCESSING");
    signal(&worker, "TERM");
    let asked = Instant::now();
    assert_eq!(end_of(&mut worker).code(), Some(0));
    assert!(asked.elapsed() >= Duration::from_secs(5), "running tasks have the grace time: ended after {:?}", asked.elapsed());
    let (endless, brief, waits) = (task(&place, "endless"), task(&place, "brief"), task(&place, "waits"));
    assert_eq!((brief["state"].as_str(), ends_of_claims(&brief)), (Some("DONE"), vec!["committed"]), "{brief}");
    assert_eq!((endless["state"].as_str(), ends_of_claims(&endless)), (Some("QUEUED"), vec!["given-back"]), "{endless}");
    assert_eq!(counters(&endless), [0, 0, 0], "{endless}");
    assert_eq!((waits["state"].as_str(), waits["epoch"].as_i64()), (Some("QUEUED"), Some(0)), "nothing is begun in a drain: {waits}");
}

#[test]
fn an_idle_worker_ends_at_once() {
    let place = Place::new();
    let pipeline = pipeline(&place);
    for name in ["TERM", "INT"] {
        let mut worker = place.start(&["run", &pipeline], "w.log", &[]);
        submit(&place, &pipeline, name, r#"{"action": "spin", "ms": 1}"#);
        wait_for(&place, name, "DONE");
        signal(&worker, name);
        let asked = Instant::now();
        assert_eq!(end_of(&mut worker).code(), Some(0), "{name}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{name}: {:?}", asked.elapsed());
    }
}

#[test]
fn a_second_signal_ends_it_at_once_and_loses_nothing() {
    let place = Place::new();
    let pipeline = pipeline(&place);
    submit(&place, &pipeline, "brief", r#"{"action": "spin", "ms": 3000}"#);
    let settings = [("WASM_WORKER_GRACE", "120s"), ("WASM_WORKER_LEASE", "2s")];
    let mut worker = place.start(&["run", &pipeline], "w.log", &settings);
    wait_for(&place, "brief", "PROCESSING");
    signal(&worker, "TERM");
    // The first is heard before the second is sent: two of one kind that wait together are one.
    let (log, began) = (place.path().join("w.log"), Instant::now());
    while !std::fs::read_to_string(&log).unwrap_or_default().contains("draining") {
        assert!(began.elapsed() < PATIENCE, "the first signal is not told");
        sleep(Duration::from_millis(5));
    }
    signal(&worker, "TERM");
    let asked = Instant::now();
    assert_eq!(end_of(&mut worker).code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(task(&place, "brief")["state"], "PROCESSING", "as a crash leaves it");
    let mut other = place.start(&["run", &pipeline, "--until-empty"], "again.log", &settings);
    assert_eq!(end_of(&mut other).code(), Some(0));
    let brief = task(&place, "brief");
    assert_eq!((brief["state"].as_str(), ends_of_claims(&brief)), (Some("DONE"), vec!["lapsed", "committed"]), "{brief}");
}
