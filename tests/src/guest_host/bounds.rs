//! Guests that take too much: time, memory, stack, space in answers. The host lives, and others are not disturbed.

use super::{Bed, component, hooks, work};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasm_worker::guest::{GuestFault, Guests, StopReason};
use wasm_worker::task::hooks::HookError;
use wasm_worker::task::limits::{Limits, MAX_ERROR_TEXT};

const SECOND: Duration = Duration::from_secs(1);

async fn bed(change: impl FnOnce(&mut Limits)) -> Bed {
    Bed::with(component("probe").await, |setup| change(&mut setup.limits)).await
}

#[tokio::test]
async fn an_endless_loop_ends_at_the_wall_limit_in_every_hook() {
    let bed = bed(|limits| limits.wall = Duration::from_millis(300)).await;
    for hook in ["process", "publish_next"] {
        let start = Instant::now();
        let ran = bed.run(json!({"action": "loop", "hook": hook})).await;
        assert_eq!(ran.fault().code, "wall-limit");
        assert_eq!(ran.fault().message, "stopped after 300ms, the step's wall limit (limits.wall)");
        assert!(start.elapsed() < SECOND && !ran.reusable, "{:?}", start.elapsed());
        assert!(ran.figures().cpu_ms > 50.0, "{} ms", ran.figures().cpu_ms);
    }
    let slept = bed.run(json!({"action": "sleep", "ms": 60_000})).await;
    assert_eq!(slept.fault().code, "wall-limit");
    assert!(slept.figures().cpu_ms < 50.0);
}

#[tokio::test]
async fn an_endless_load_ends_at_the_wall_limit() {
    for config in [json!({"load": "loop"}), json!({"load_sleep_ms": 60_000})] {
        let bed = Bed::with(component("probe").await, |setup| {
            setup.limits.wall = Duration::from_millis(200);
            setup.config = config.to_string();
        })
        .await;
        let start = Instant::now();
        let ran = bed.run(json!({"action": "none"})).await;
        assert!(matches!(&ran.answer, Err(GuestFault::Host(error)) if error.code == "wall-limit"), "{:?}", ran.answer);
        assert!(start.elapsed() < SECOND);
    }
}

#[tokio::test]
async fn spinning_guests_on_every_thread_hold_up_nobody() {
    let bed = Arc::new(bed(|limits| limits.wall = Duration::from_millis(800)).await);
    let spinning: Vec<_> = (0..8)
        .map(|_| {
            let bed = Arc::clone(&bed);
            tokio::spawn(async move { bed.run(json!({"action": "loop", "hook": "process"})).await.fault().code.clone() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // This test's runtime has one thread: what a worker's heartbeat would see.
    let mut longest = Duration::ZERO;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(400) {
        let before = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        longest = longest.max(before.elapsed());
    }
    assert!(longest < Duration::from_millis(250), "a timer of 5 ms took {longest:?}");
    // A healthy task gets its turn among them.
    let healthy = bed.run(json!({"action": "json", "value": 7})).await;
    assert_eq!(healthy.json(), 7);
    for spinner in spinning {
        assert_eq!(spinner.await.unwrap(), "wall-limit");
    }
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_stop_is_obeyed_at_once() {
    let bed = bed(|_| {}).await;
    for params in [json!({"action": "loop", "hook": "process"}), json!({"action": "sleep", "ms": 60_000})] {
        let scope = bed.scope();
        let stopper = Arc::clone(&scope);
        let start = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stopper.stop(StopReason::LeaseLost);
        });
        let ran = bed.run_in(params, scope).await;
        assert_eq!(ran.answer, Err(GuestFault::Stopped));
        assert!(start.elapsed() < SECOND && !ran.reusable);
    }
}

#[tokio::test]
async fn nobody_waits_so_the_guest_stops() {
    let bed = bed(|_| {}).await;
    let scope = bed.scope();
    let guest = bed.guests.instance("probe").await.unwrap();
    let held = Arc::clone(&scope);
    let phase = async move {
        let _never = hooks(guest, &Arc::new(work(&json!({"action": "loop", "hook": "process"}))), &held).await;
    };
    let waited = tokio::time::timeout(Duration::from_millis(100), bed.guests.enter(Box::pin(phase))).await;
    assert!(waited.is_err());
    let start = Instant::now();
    while Arc::strong_count(&scope) > 1 {
        assert!(start.elapsed() < SECOND, "the guest still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_guest_sees_that_it_is_to_cancel() {
    let bed = bed(|_| {}).await;
    let scope = bed.scope();
    scope.request_cancel();
    let ran = bed.run_in(json!({"action": "until_cancelled", "poll_ms": 1}), scope).await;
    assert_eq!(ran.answer, Err(GuestFault::Hook(HookError::Cancelled)));
    assert!(ran.reusable);
}

#[tokio::test]
async fn memory_ends_at_its_limit() {
    let bed = bed(|limits| limits.memory = 32 << 20).await;
    let ran = bed.run(json!({"action": "allocate", "bytes": 1u64 << 30})).await;
    assert_eq!(ran.fault().code, "memory-limit");
    assert!(ran.fault().message.contains("32.0 MiB (limits.memory)"), "{}", ran.fault().message);
    assert!(!ran.reusable && ran.figures().peak_memory <= 32 << 20);

    let ran = bed.run(json!({"action": "allocate", "bytes": 1u64 << 30, "polite": true})).await;
    let taken = ran.json()["taken"].as_u64().unwrap();
    assert!((16 << 20..32 << 20).contains(&taken) && ran.reusable, "{taken}");
    assert!(ran.figures().peak_memory >= taken);
}

#[tokio::test]
async fn traps_say_what_and_where() {
    let bed = bed(|_| {}).await;
    let ran = bed.run(json!({"action": "trap", "hook": "process"})).await;
    let text = &ran.fault().message;
    assert_eq!(ran.fault().code, "trap");
    assert!(text.contains("unreachable") && text.contains("probe: asked to trap in process") && text.contains("process"), "{text}");
    assert!(ran.scope.log_text().contains("probe: asked to trap in process"));
    assert!(!ran.reusable);

    let ran = bed.run(json!({"action": "recurse"})).await;
    assert_eq!(ran.fault().code, "trap");
    // The guest's own stack lies in its memory, before everything else; one without it would exhaust the host's.
    let text = &ran.fault().message;
    assert!(text.contains("out of bounds") && text.contains("in probe::burn::recurse") && text.len() <= MAX_ERROR_TEXT, "{text}");

    let after = bed.run(json!({"action": "count", "leave": null})).await;
    assert_eq!(after.json()["begun"], 1, "a new instance");
}

#[tokio::test]
async fn instances_are_used_again_until_they_are_due() {
    let bed = bed(|limits| limits.recycle_after = 2).await;
    let mut seen = Vec::new();
    for leave in ["a", "b", "c"] {
        let ran = bed.run(json!({"action": "count", "leave": leave})).await;
        seen.push((ran.json()["begun"].as_u64().unwrap(), ran.json()["before"].clone(), ran.reusable));
    }
    assert_eq!(seen, [(1, json!(null), true), (2, json!("a"), false), (1, json!(null), true)]);
}

#[tokio::test]
async fn the_warmest_instance_goes_first_and_no_more_are_kept_than_asked() {
    let bed = Bed::with(component("probe").await, |setup| setup.warm = 2).await;
    let mut out = Vec::new();
    for _ in 0..3 {
        out.push(bed.guests.instance("probe").await.unwrap());
    }
    for (n, guest) in out.into_iter().enumerate() {
        let (work, scope) = (Arc::new(work(&json!({"action": "count", "leave": n.to_string()}))), bed.scope());
        let (guest, answer) = hooks(guest, &work, &scope).await;
        answer.unwrap();
        bed.guests.give_back("probe", guest);
    }
    let ran = bed.run(json!({"action": "count", "leave": null})).await;
    assert_eq!(ran.json(), json!({"begun": 2, "before": "1"}));
}

#[tokio::test]
async fn answers_are_bounded_and_checked() {
    let bed = bed(|limits| limits.payload = 1000).await;
    let long = format!("\"{}\"", "x".repeat(2000));
    for (params, code) in [
        (json!({"action": "body", "content_type": "a/b", "bytes": 1001}), "payload-limit"),
        (json!({"action": "raw", "payload": long}), "payload-limit"),
        (json!({"action": "raw", "payload": "{"}), "bad-answer"),
        (json!({"action": "raw", "payload": "[".repeat(900)}), "bad-answer"),
        (json!({"action": "raw", "metrics": "7"}), "bad-answer"),
        (json!({"action": "raw", "outcome": "../up"}), "bad-answer"),
    ] {
        let ran = bed.run(params.clone()).await;
        assert_eq!(ran.fault().code, code, "{params}: {}", ran.fault().message);
    }
    let fits = bed.run(json!({"action": "body", "content_type": "a/b", "bytes": 1000})).await;
    assert!(fits.answer.is_ok());
}

#[tokio::test]
async fn error_texts_are_cut() {
    let ran = bed(|_| {}).await.run(json!({"action": "error_text", "bytes": 50 << 20})).await;
    let Err(GuestFault::Hook(HookError::Fatal { code, message })) = &ran.answer else { panic!("{:?}", ran.answer) };
    assert_eq!((code.as_str(), message.len() <= MAX_ERROR_TEXT), ("probe-text", true));
}

#[tokio::test]
async fn children_are_counted_before_they_are_looked_at() {
    let bed = bed(|limits| limits.children = 100).await;
    let ran = bed.run(json!({"action": "fan_out", "n": 100_000})).await;
    assert_eq!(ran.fault().code, "fan-out-limit");
    let ran = bed.run(json!({"action": "fan_out", "n": 100})).await;
    assert_eq!(ran.answer.unwrap().1.tasks.len(), 100);
}
