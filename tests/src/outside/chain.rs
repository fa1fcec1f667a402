//! Two workers with a guest each, and a queue between them: no file names both.

use super::*;

/// The first guest's children are the second one's tasks, in one job; a killed second worker loses none.
#[test]
fn two_lone_guests_are_a_chain() {
    let (Some(redis), Some(postgres)) = (redis::Server::shared(), postgres::Server::shared()) else { return };
    let place = Place::new();
    let (pages, words) = (redis.queue(), redis.queue());
    let out = place.path().join("out").to_str().unwrap().to_owned();
    let first =
        vec![("QUEUE_URL", pages.clone()), ("NEXT_QUEUE_URL", words.clone()), ("BUCKET", out.clone()), ("DB_DSN", postgres.database())];
    let second = with(&first, "QUEUE_URL", words.clone()).into_iter().filter(|(name, _)| *name != "NEXT_QUEUE_URL").collect::<Vec<_>>();
    let _one = Serving::start(&place, &first, &guest("probe"), "first.log");
    redis.ask(&["XADD", stream_of(&pages), "*", "body", &message("root", &json!({"action": "fan_out", "n": 3}))]);
    wait_for(&place, &first, "root", "DONE");
    let tasks = || run(&place, &first, &["tasks", "list", "--job", "job-root", "--json"]).ok().json().as_array().unwrap().clone();
    let children: Vec<Value> = tasks().into_iter().filter(|task| task["task_id"] != "root").collect();
    assert_eq!(children.len(), 3);
    for child in &children {
        assert_eq!((&child["step"], &child["pipeline"], &child["state"]), (&json!(stream_of(&words)), &json!("probe"), &json!("QUEUED")));
    }
    let _two = Serving::start(&place, &second, &guest("noop"), "second.log");
    let ended = until("the job to end", || {
        let job = run(&place, &first, &["jobs", "show", "job-root", "--json"]).ok().json();
        (job["state"] != "PROCESSING").then_some(job)
    });
    assert_eq!(ended["state"], "DONE", "{ended}");
    assert!(tasks().iter().all(|task| task["state"] == "DONE"), "{:?}", tasks());
    assert_eq!(run(&place, &first, &["dlq", "list", "--json"]).ok().json(), json!([]));
}

/// One more guest in a pipeline file of another name: what follows there waits in its own table, and the job ends with it.
#[test]
fn a_pipeline_takes_over_from_a_lone_guest() {
    let (Some(redis), Some(postgres)) = (redis::Server::shared(), postgres::Server::shared()) else { return };
    let place = Place::new();
    let (pages, words) = (redis.queue(), redis.queue());
    let out = place.path().join("out").to_str().unwrap().to_owned();
    let step = stream_of(&words).to_owned();
    let file = place.write(
        "p.yaml",
        &format!(
            "name: reader\nsteps:\n  {step}:\n    guest: {:?}\n    queue: {words:?}\n    next: rest\n  rest:\n    guest: {:?}\n",
            guest("noop"),
            guest("noop")
        ),
    );
    let first = vec![("QUEUE_URL", pages.clone()), ("NEXT_QUEUE_URL", words), ("BUCKET", out), ("DB_DSN", postgres.database())];
    let second: Environment = first.iter().filter(|(name, _)| !name.ends_with("QUEUE_URL")).cloned().collect();
    let _one = Serving::start(&place, &first, &guest("probe"), "first.log");
    let _two = Serving::start(&place, &second, &file, "second.log");
    let spread = json!({"action": "fan_out", "n": 2, "child": {"child": true}});
    redis.ask(&["XADD", stream_of(&pages), "*", "body", &message("root", &spread)]);
    let ended = until("the job to end", || {
        let job = run(&place, &first, &["jobs", "show", "job-root", "--json"]);
        Some(job).filter(|job| job.code == Some(0)).map(|job| job.json()).filter(|job| job["state"] != "PROCESSING")
    });
    assert_eq!(ended["state"], "DONE", "{ended}");
    let tasks = run(&place, &first, &["tasks", "list", "--job", "job-root", "--json"]).ok().json();
    let of = |step: &str| {
        tasks.as_array().unwrap().iter().filter(|task| task["step"] == step).map(|t| t["pipeline"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((of(&step), of("rest")), (vec![json!("probe"); 2], vec![json!("reader"); 2]), "{tasks}");
}

/// What another system reads is sent and waited for by nobody, with nothing but an embedded store here.
#[test]
fn a_foreign_queue_gets_what_follows() {
    let Some(redis) = redis::Server::shared() else { return };
    let place = Place::new();
    let queue = redis.queue();
    let environment = vec![("NEXT_QUEUE_URL", queue.clone()), ("NEXT_QUEUE_FOREIGN", "true".to_owned())];
    let probe = guest("probe");
    let words = ["run", probe.to_str().unwrap(), "--params", r#"{"action": "fan_out", "n": 3}"#, "--json"];
    let ran = run(&place, &environment, &words).ok().json();
    assert_eq!(ran["status"], "DONE", "{ran}");
    assert_eq!(redis.ask(&["XLEN", stream_of(&queue)]).number(), 3);
}
