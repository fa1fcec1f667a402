//! What an operator does to tasks and jobs while workers run, or between their runs: dead letters, cancelling, retries, order, turns.

use crate::binary::{Place, Running, guest};
use serde_json::{Value, json};

/// A pipeline file whose steps all run the probe: `(step, the rest of its table)`.
fn pipeline(place: &Place, steps: &[(&str, &str)]) -> String {
    let probe = guest("probe");
    let tables = steps.iter().map(|(name, rest)| format!("[steps.{name}]\nguest = {:?}\n{rest}\n", probe.to_str().unwrap()));
    place.write("pipeline.toml", &format!("name = \"op\"\n{}", tables.collect::<String>())).to_str().unwrap().to_owned()
}

fn submit(place: &Place, pipeline: &str, job: &str, params: &Value) {
    place.run(&["submit", pipeline, "--job-id", job, "--params", &params.to_string()]).ok();
}

fn task(place: &Place, id: &str) -> Value {
    place.run(&["tasks", "show", id, "--json"]).ok().json()
}

fn tasks_of(place: &Place, job: &str) -> Vec<Value> {
    place.run(&["tasks", "list", "--job", job, "--json"]).ok().json().as_array().unwrap().clone()
}

fn job(place: &Place, id: &str) -> Value {
    place.run(&["jobs", "show", id, "--json"]).ok().json()
}

fn wait_for(place: &Place, id: &str, state: &str) -> Value {
    crate::binary::until(&format!("task {id} to be {state}"), || Some(task(place, id)).filter(|task| task["state"] == state))
}

fn run_down(place: &Place, pipeline: &str, settings: &[(&str, &str)]) {
    let mut worker = place.command(&["run", pipeline, "--until-empty"]);
    let ended: crate::binary::Printed = worker.envs(settings.iter().copied()).output().unwrap().into();
    ended.ok();
}

#[test]
fn dead_letters_are_listed_shown_and_put_back() {
    let place = Place::new();
    let of = |wall: &str| pipeline(&place, &[("work", &format!("max_attempts = 1\nlimits = {{ wall = \"{wall}\" }}"))]);
    let file = of("300ms");
    submit(&place, &file, "slow", &json!({"action": "spin", "ms": 1500}));
    submit(&place, &file, "wrong", &json!({"action": "invalid", "n": 2}));
    submit(&place, &file, "lost", &json!({"action": "fatal", "code": "probe-lost", "message": "for \u{1b}[31mgood"}));
    run_down(&place, &file, &[]);
    let letters = place.run(&["dlq", "list", "--json"]).ok().json();
    let of_job = |name: &str| letters.as_array().unwrap().iter().find(|l| l["job_id"] == name).unwrap_or_else(|| panic!("{letters}"));
    let codes = ["slow", "wrong", "lost"].map(|name| of_job(name)["error"]["code"].as_str().unwrap());
    assert_eq!(codes, ["wall-limit", "invalid", "probe-lost"]);
    let text = place.run(&["dlq", "show", "lost"]).ok().out;
    assert!(text.contains("probe-lost") && text.contains("\"action\": \"fatal\"") && !text.contains('\u{1b}'), "{text}");
    assert_eq!(
        place.run(&["dlq", "list", "--code", "invalid", "--json"]).ok().json()[0]["error"]["violations"].as_array().unwrap().len(),
        2
    );
    for (words, code) in [(&["dlq", "redrive"][..], 2), (&["dlq", "purge"], 2), (&["dlq", "show", "nobody"], 1)] {
        let refused = place.run(words);
        assert_eq!(refused.code, Some(code), "{words:?}: {}", refused.err);
        assert!(refused.err.contains("help:"), "{}", refused.err);
    }
    // A dry run names them and changes nothing.
    let dry = place.run(&["dlq", "redrive", "--all", "--dry-run", "--json"]).ok().json();
    assert_eq!((&dry["dry_run"], dry["redriven"].as_array().unwrap().len()), (&json!(true), 3));
    assert_eq!(task(&place, "slow")["state"], "DEAD");
    // Mended by a wider limit; the others die again, as new letters.
    let file = of("60s");
    let back = place.run(&["dlq", "redrive", "--task", "slow", "--json"]).ok().json();
    assert_eq!(back["redriven"].as_array().unwrap().len(), 1);
    let waiting = task(&place, "slow");
    assert_eq!((&waiting["state"], &waiting["attempts"], &waiting["epoch"]), (&json!("QUEUED"), &json!(0), &json!(1)));
    assert_eq!(job(&place, "slow")["state"], "PROCESSING");
    let _worker = Running::start(&place, &["run", &file], &[]);
    wait_for(&place, "slow", "DONE");
    // A worker that waits for work is woken by what is put back.
    place.run(&["dlq", "redrive", "--code", "probe-lost"]).ok();
    crate::binary::until("the task to die again", || {
        Some(()).filter(|()| task(&place, "lost")["epoch"] == 2 && task(&place, "lost")["state"] == "DEAD")
    });
    let done = task(&place, "slow");
    assert_eq!((&done["state"], &done["epoch"]), (&json!("DONE"), &json!(2)));
    assert_eq!((&job(&place, "slow")["state"], &job(&place, "lost")["state"]), (&json!("DONE"), &json!("FAILED")));
    let left = place.run(&["dlq", "list", "--json"]).ok().json();
    let left: Vec<&Value> = left.as_array().unwrap().iter().map(|l| &l["job_id"]).collect();
    assert_eq!(left, ["lost", "wrong"], "newest first");
}

#[test]
fn what_waits_is_cancelled_at_once_and_what_runs_kindly_then_hard() {
    let place = Place::new();
    let file = pipeline(&place, &[("work", "limits = { cancel_grace = \"1s\", wall = \"120s\" }")]);
    let _worker = Running::start(&place, &["run", &file], &[("WASM_WORKER_LEASE", "3s"), ("WASM_WORKER_CONCURRENCY", "2")]);
    submit(&place, &file, "kind", &json!({"action": "until_cancelled", "poll_ms": 10}));
    submit(&place, &file, "deaf", &json!({"action": "sleep", "ms": 100_000}));
    for id in ["kind", "deaf"] {
        wait_for(&place, id, "PROCESSING");
    }
    submit(&place, &file, "waits", &json!({"action": "none"}));
    let cancelled = place.run(&["tasks", "cancel", "waits", "--json"]).ok().json();
    assert_eq!(cancelled, json!([{"task_id": "waits", "job_id": "waits", "state": "CANCELLED"}]));
    let asked = place.run(&["tasks", "cancel", "kind", "deaf"]).ok();
    assert_eq!(asked.out.matches("its worker stops it").count(), 2, "{}", asked.out);
    let ran = |id: &str| {
        let task = wait_for(&place, id, "CANCELLED");
        assert_eq!((&task["claims"][0]["ended"], &task["result_uri"], &task["attempts"]), (&json!("cancelled"), &Value::Null, &json!(0)));
        task["ended_at"].as_i64().unwrap()
    };
    // Both were told by the same heartbeat; the one that listens does not use its grace.
    let (kind, deaf) = (ran("kind"), ran("deaf"));
    assert!(deaf - kind > 500, "the deaf one ended {} ms after the kind one", deaf - kind);
    // Nobody cancelled their jobs, which have ended with them; what they came to is said all the same.
    for id in ["waits", "kind"] {
        let list = place.run(&["jobs", "list"]).ok().out;
        let line = list.lines().find(|line| line.starts_with(id)).unwrap();
        assert!(line.contains(" DONE ") && line.contains(" 1 CANCELLED "), "{line}");
        let shown = place.run(&["jobs", "show", id]).ok().out;
        assert!(shown.lines().any(|line| line.split_whitespace().take(3).eq(["work", "1", "CANCELLED"])), "{shown}");
        let shown = job(&place, id);
        assert_eq!((&shown["state"], &shown["tasks"][0]["state"]), (&json!("DONE"), &json!("CANCELLED")));
    }
    // The slots are free again.
    submit(&place, &file, "after", &json!({"action": "json", "value": 1}));
    wait_for(&place, "after", "DONE");
}

#[test]
fn a_cancelled_job_stops_growing_and_others_go_on() {
    let place = Place::new();
    let file =
        pipeline(&place, &[("root", "next = \"each\"\nthen = \"all\""), ("each", "limits = { cancel_grace = \"500ms\" }"), ("all", "")]);
    let child = json!({"action": "until_cancelled", "poll_ms": 10});
    submit(&place, &file, "doomed", &json!({"action": "fan_out", "n": 12, "child": child, "then": {"action": "sum"}}));
    let _worker = Running::start(&place, &["run", &file], &[("WASM_WORKER_LEASE", "3s"), ("WASM_WORKER_CONCURRENCY", "3")]);
    let running = |n: usize| {
        let tasks = tasks_of(&place, "doomed");
        Some(()).filter(|()| tasks.iter().filter(|t| t["state"] == "PROCESSING").count() == n)
    };
    crate::binary::until("three children to run", || running(3));
    let steps = ["--job", "doomed", "--step", "each", "--state", "queued"];
    let some = place.run(&[&["tasks", "cancel", "--json"], &steps[..]].concat()).ok().json();
    assert_eq!(some.as_array().unwrap().len(), 9, "{some}");
    submit(&place, &file, "healthy", &json!({"action": "fan_out", "n": 2, "then": {"action": "sum"}}));
    let cancelled = place.run(&["jobs", "cancel", "doomed", "--json"]).ok().json();
    assert_eq!(cancelled, json!([{"job_id": "doomed", "live_tasks": 4, "state": "PROCESSING"}]), "three that run, and the `then`");
    let ended = crate::binary::until("the job to end", || Some(job(&place, "doomed")).filter(|job| job["state"] != "PROCESSING"));
    assert_eq!((&ended["state"], &ended["task_count"]), (&json!("CANCELLED"), &json!(14)));
    let states: Vec<Value> = tasks_of(&place, "doomed").into_iter().filter(|t| t["step"] != "root").map(|t| t["state"].clone()).collect();
    assert_eq!(states, vec![json!("CANCELLED"); 13]);
    let healthy = crate::binary::until("the other job to end", || Some(job(&place, "healthy")).filter(|job| job["state"] != "PROCESSING"));
    assert_eq!((&healthy["state"], &healthy["result"]["count"]), (&json!("DONE"), &json!(2)));
}

#[test]
fn retries_keep_the_guests_wait_and_the_steps_own() {
    let place = Place::new();
    let steps = [("named", "max_attempts = 3"), ("own", "max_attempts = 4\nretry = { first = \"40ms\", max = \"80ms\" }")];
    let file = pipeline(&place, &steps);
    submit(&place, &file, "named", &json!({"action": "retry", "times": 2, "after_ms": 700}));
    let lines: String = (0..12)
        .map(|i| {
            format!(
                "{{\"job_id\": \"own-{i}\", \"step\": \"own\", \"params\": {{\"action\": \"retry\", \"times\": 3, \"after_ms\": null}}}}\n"
            )
        })
        .collect();
    let lines = place.write("own.jsonl", &lines);
    place.run(&["submit", &file, "--jsonl", lines.to_str().unwrap()]).ok();
    run_down(&place, &file, &[]);
    // From the failure to when it may run again, by the store's own clock.
    let last_wait = |task: &Value| {
        let claims = task["claims"].as_array().unwrap();
        task["not_before"].as_i64().unwrap() - claims[claims.len() - 2]["ended_at"].as_i64().unwrap()
    };
    let named = task(&place, "named");
    assert_eq!((&named["state"], &named["attempts"], &named["epoch"]), (&json!("DONE"), &json!(2), &json!(3)));
    assert_eq!(last_wait(&named), 700);
    let gap = |i: usize| named["claims"][i + 1]["claimed_at"].as_i64().unwrap() - named["claims"][i]["ended_at"].as_i64().unwrap();
    assert!(gap(0) >= 700 && gap(1) >= 700, "{} {}", gap(0), gap(1));
    for i in 0..12 {
        let own = task(&place, &format!("own-{i}"));
        assert_eq!((&own["state"], &own["attempts"]), (&json!("DONE"), &json!(3)));
        assert!((0..=80).contains(&last_wait(&own)), "waited {} ms, with a bound of 80", last_wait(&own));
    }
}

#[test]
fn priority_then_arrival_and_a_delay_holds_back() {
    let place = Place::new();
    let file = pipeline(&place, &[("work", "")]);
    let line = |id: &str, more: &str| format!("{{\"job_id\": \"{id}\", \"params\": {{\"action\": \"none\"}}{more}}}\n");
    let later = line("later", ", \"priority\": 9, \"delay_ms\": 2500");
    let lines = [line("low", ", \"priority\": 1"), line("first", ""), later, line("second", ""), line("high", ", \"priority\": 9")];
    let lines = place.write("order.jsonl", &lines.concat());
    place.run(&["submit", &file, "--jsonl", lines.to_str().unwrap()]).ok();
    run_down(&place, &file, &[("WASM_WORKER_CONCURRENCY", "1")]);
    let claimed = |id: &str| task(&place, id)["claimed_at"].as_i64().unwrap();
    // Two that one transaction leased have the same time.
    let order = ["high", "first", "second", "low"].map(claimed);
    assert!(order.is_sorted(), "{order:?}");
    let later = task(&place, "later");
    let waited = later["claimed_at"].as_i64().unwrap() - later["created_at"].as_i64().unwrap();
    assert!((2500..10_000).contains(&waited), "{waited} ms");
}

#[test]
fn a_small_job_does_not_wait_for_a_big_one() {
    let place = Place::new();
    let file = pipeline(&place, &[("root", "next = \"each\""), ("each", "")]);
    let fan = |n: u32| json!({"action": "fan_out", "n": n, "child": {"action": "spin", "ms": 10}});
    submit(&place, &file, "big", &fan(80));
    submit(&place, &file, "small", &fan(4));
    run_down(&place, &file, &[("WASM_WORKER_CONCURRENCY", "1")]);
    let claimed = |job: &str| {
        let children = tasks_of(&place, job).into_iter().filter(|t| t["step"] == "each");
        children.map(|t| t["claimed_at"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let (big, small) = (claimed("big"), claimed("small"));
    assert_eq!((big.len(), small.len()), (80, 4));
    let last = small.iter().max().unwrap();
    let before = big.iter().filter(|at| *at < last).count();
    assert!(before <= 12, "{before} of the big job's 80 tasks ran before the small job's 4 had");
}
