//! A guest that spins delays nobody: not the leases of its neighbours, not their work, not its own end.

use crate::binary::{Place, guest};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Three guests that loop for ever beside an honest one, on four slots, with a short lease and one attempt.
#[test]
fn loops_end_at_their_limit_and_honest_work_is_done() {
    let place = Place::new();
    let probe = guest("probe");
    let pipeline = place.write(
        "pipeline.toml",
        &format!(
            "name = \"spin\"\n[steps.loop]\nguest = {0:?}\nmax_attempts = 1\nlimits = {{ wall = \"6s\" }}\n[steps.honest]\nguest = {0:?}\nlimits = {{ wall = \"120s\" }}\n",
            probe.to_str().unwrap()
        ),
    );
    let pipeline = pipeline.to_str().unwrap();
    let jobs = place.write(
        "jobs.jsonl",
        &format!(
            "{0}{0}{0}{1}",
            "{\"params\": {\"action\": \"loop\", \"hook\": \"process\"}, \"step\": \"loop\"}\n",
            "{\"params\": {\"action\": \"spin\", \"ms\": 8000}, \"step\": \"honest\"}\n"
        ),
    );
    place.run(&["submit", pipeline, "--jsonl", jobs.to_str().unwrap()]).ok();
    let began = Instant::now();
    let settings = [("WASM_WORKER_LEASE", "3s"), ("WASM_WORKER_CONCURRENCY", "4")];
    let mut worker = place.command(&["run", pipeline, "--until-empty"]);
    let ended: crate::binary::Printed = worker.envs(settings).output().unwrap().into();
    ended.ok();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let tasks = place.run(&["tasks", "list", "--json"]).ok().json();
    let tasks: Vec<&Value> = tasks.as_array().unwrap().iter().collect();
    assert_eq!(tasks.len(), 4);
    for task in tasks {
        assert_eq!(task["epoch"], 1, "{task}");
        let ran = task["ended_at"].as_i64().unwrap() - task["claimed_at"].as_i64().unwrap();
        if task["step"] == "honest" {
            assert_eq!(task["state"], "DONE", "{task}");
        } else {
            assert_eq!((task["state"].as_str(), task["error"]["code"].as_str()), (Some("DEAD"), Some("wall-limit")), "{task}");
            assert!(task["error"]["message"].as_str().unwrap().contains("6s"), "{task}");
            assert!((6000..8000).contains(&ran), "stopped after {ran} ms: {task}");
        }
    }
}
