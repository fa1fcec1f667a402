//! The actions that need no real host, on the SDK's host in memory.

use super::*;
use wasm_worker_guest::testing::{Host, Message, Run};
use wasm_worker_guest::{Input, Payload};

fn run(host: &Host, params: Value) -> Result<Run, Error> {
    host.run::<Probe>(json!({}), Message::new().params(params))
}

#[test]
fn a_tree_gathers_what_its_leaves_answered() {
    let run_ = run(&Host::new(), json!({ "action": "chain", "depth": 2, "width": 3, "then_step": "gather" })).unwrap();
    assert_eq!(run_.next.tasks.len(), 3);
    assert_eq!(run_.next.then.as_ref().and_then(|t| t.step.as_deref()), Some("gather"));
    assert!(run_.next.tasks[2].params.contains(r#""depth":1"#));

    let host = Host::new();
    for (key, value) in [("c0000", json!({ "sum": 3 })), ("c0001", json!({ "value": 4 })), ("c0002", json!({}))] {
        host.input(Input::done(key, Some(Payload::json(&value).unwrap())));
    }
    let sum = run(&host, json!({ "action": "sum" })).unwrap().json();
    assert_eq!(sum["sum"], 7);
    assert_eq!(sum["keys"], json!(["c0000", "c0001", "c0002"]));
}

#[test]
fn failures_are_those_of_the_contract() {
    let retry = json!({ "action": "retry", "times": 2, "after_ms": 1500 });
    let host = Host::new();
    let error = run(&host, retry.clone()).unwrap_err();
    assert_eq!(error, Error::retryable("probe-retry", "attempt 1 of 2 to fail").after(Duration::from_millis(1500)));
    let third = host.run::<Probe>(json!({}), Message::new().params(retry).attempt(3)).unwrap();
    assert_eq!(third.json()["attempt"], 3);
    let Error::Invalid(violations) = run(&host, json!({ "action": "invalid", "n": 3 })).unwrap_err() else { panic!("not invalid") };
    assert_eq!(violations[2].pointer, "/probe/2");
    assert!(matches!(run(&host, json!({ "action": "nonsense" })), Err(Error::Invalid(_))));
    assert!(matches!(run(&host, json!({ "action": "sleep", "ms": 1, "typo": 2 })), Err(Error::Invalid(_))));
}

#[test]
fn an_instance_counts_its_tasks() {
    let host = Host::new();
    let mut probe = host.load::<Probe>(json!({})).unwrap();
    let count = |leave| Message::new().params(json!({ "action": "count", "leave": leave }));
    assert_eq!(probe.run(count("a")).unwrap().json(), json!({ "begun": 1, "before": null }));
    assert_eq!(probe.run(count("b")).unwrap().json(), json!({ "begun": 2, "before": "a" }));
    assert_eq!(host.load::<Probe>(json!({ "load": "fatal" })).unwrap_err(), Error::fatal("probe-load", "asked to fail to load"));
}

#[test]
fn the_schema_knows_every_action() {
    let described = serde_json::to_value(Probe::describe()).unwrap();
    let actions = described["functions"][0]["params"]["oneOf"].as_array().unwrap();
    for name in ["none", "fan_out", "infer", "until_cancelled"] {
        assert!(actions.iter().any(|a| a["properties"]["action"]["const"] == name), "{name}");
    }
}
