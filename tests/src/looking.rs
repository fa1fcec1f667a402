//! Commands that look: they create nothing, say when there is nothing, and agree on their words.

use crate::binary::{Place, guest};
use serde_json::{Value, json};

#[test]
fn where_nothing_was_submitted_nothing_is_made() {
    let place = Place::new();
    let lists: [(&[&str], Value); 9] = [
        (&["jobs", "list"], json!([])),
        (&["tasks", "list"], json!([])),
        (&["dlq", "list"], json!([])),
        (&["jobs", "cancel", "--all"], json!([])),
        (&["tasks", "cancel", "--state", "queued"], json!([])),
        (&["dlq", "redrive", "--all"], json!({"dry_run": false, "redriven": []})),
        (&["dlq", "purge", "--all", "--dry-run"], json!({"dry_run": true, "purged": []})),
        (&["prune"], json!({"dry_run": false, "jobs": 0, "tasks": 0, "unswept": 0})),
        (&["prune", "--dry-run"], json!({"dry_run": true, "jobs": 0, "tasks": 0, "unswept": 0})),
    ];
    for (words, empty) in lists {
        let told = place.run(words).ok();
        assert!(
            told.out.is_empty() && told.err.contains("nothing was submitted yet") && told.err.contains("data"),
            "{words:?}: {}",
            told.err
        );
        assert_eq!(place.run(&[words, &["--json"]].concat()).ok().json(), empty, "{words:?}");
    }
    let named = [
        &["jobs", "show", "x"][..],
        &["jobs", "seal", "x"],
        &["jobs", "cancel", "x"],
        &["tasks", "show", "x"],
        &["tasks", "logs", "x"],
        &["tasks", "cancel", "x"],
        &["dlq", "show", "7"],
    ];
    for words in named {
        let told = place.run(words);
        assert_eq!(told.code, Some(1), "{words:?}: {}", told.err);
        assert!(told.err.contains("error: nothing was submitted yet") && told.err.contains("--data-dir"), "{words:?}: {}", told.err);
    }
    assert!(!place.path().join("data").exists(), "a command that looks made the data directory");
}

#[test]
fn a_state_is_called_so_everywhere() {
    let place = Place::new();
    let probe = guest("probe");
    let probe = probe.to_str().unwrap();
    let record = place.run(&["run", probe, "--params", r#"{"action": "json", "value": 1}"#, "--json"]).ok().json();
    assert_eq!((&record["state"], &record["status"], &record["tasks"][0]["state"]), (&json!("DONE"), &json!("DONE"), &json!("DONE")));
    assert_eq!((&record["open"], &record["expected"]), (&json!(false), &Value::Null));
    let job = record["job_id"].as_str().unwrap();
    for (words, at) in [
        (&["jobs", "show", job][..], "/state"),
        (&["jobs", "list"], "/0/state"),
        (&["tasks", "list"], "/0/state"),
        (&["tasks", "show", job], "/state"),
    ] {
        assert_eq!(place.run(&[words, &["--json"]].concat()).ok().json().pointer(at), Some(&json!("DONE")), "{words:?}");
    }
    // As a task of 64 hex digits is found by a beginning of it, so is a job; and what has ended is left as it is.
    let cancelled = place.run(&["jobs", "cancel", &job[..30], "--json"]).ok().json();
    assert_eq!(cancelled, json!([{"job_id": job, "live_tasks": 0, "state": "DONE"}]));
    let cancelled = place.run(&["tasks", "cancel", job, "--json"]).ok().json();
    assert_eq!(cancelled, json!([{"task_id": job, "job_id": job, "state": "DONE"}]));
    place.run(&["submit", probe, "--params", r#"{"action": "none"}"#, "--job-id", "waits"]).ok();
    // One slip among several ids: nothing is cancelled.
    for noun in ["jobs", "tasks"] {
        assert_eq!(place.run(&[noun, "cancel", "waits", "no-such"]).code, Some(1));
    }
    assert_eq!(place.run(&["tasks", "show", "waits", "--json"]).ok().json()["state"], "QUEUED");
    let told = place.run(&["tasks", "cancel", "--state", "queued"]).ok();
    assert_eq!(told.out, "task waits is CANCELLED\n");
}

/// One answer of the store is bounded; commands that change things go on until nothing is left, and lists say that there may be more.
#[test]
fn more_than_one_answer_holds() {
    let place = Place::new();
    let noop = guest("noop");
    let submit = ["submit", noop.to_str().unwrap(), "--params", "{}", "--repeat", "10030"];
    place.run(&submit).ok();
    let listed = place.run(&["jobs", "list", "--json"]).ok();
    assert_eq!(listed.json().as_array().unwrap().len(), 10_000);
    assert!(listed.err.contains("10000 shown; there may be more"), "{}", listed.err);
    assert_eq!(place.run(&["jobs", "list", "--limit", "7", "--json"]).ok().err, "", "it is as many as were asked for");
    assert_eq!(place.run(&["tasks", "cancel", "--state", "queued"]).ok().out, "10030 tasks: 10030 CANCELLED\n");
    place.run(&submit).ok();
    assert_eq!(place.run(&["jobs", "cancel", "--all", "--json"]).ok().json().as_array().unwrap().len(), 10_030);
    assert_eq!(place.run(&["tasks", "list", "--state", "queued", "--json"]).ok().json(), json!([]));
    assert_eq!(place.run(&["prune", "--older-than", "1ms"]).ok().out, "20060 jobs with 20060 tasks removed\n");
}
