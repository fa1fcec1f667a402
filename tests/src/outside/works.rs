//! Three variables make a worker, and plain messages reach it.

use super::*;

#[test]
fn redis_postgres_and_a_folder() {
    let (Some(redis), Some(postgres)) = (redis::Server::shared(), postgres::Server::shared()) else { return };
    let place = Place::new();
    let queue = redis.queue();
    let out = place.path().join("out");
    let environment = vec![("QUEUE_URL", queue.clone()), ("BUCKET", out.to_str().unwrap().to_owned()), ("DB_DSN", postgres.database())];
    let _serving = Serving::start(&place, &environment, &guest("probe"), "worker.log");
    let stream = stream_of(&queue);
    redis.ask(&["XADD", stream, "*", "body", &message("one", &json!({"action": "json", "value": {"value": 7}}))]);
    let done = wait_for(&place, &environment, "one", "DONE");
    assert_eq!(done["step"], stream, "{done}");
    let below = out.join("default/jobs/job-one").join(stream);
    let folder = std::fs::read_dir(&below).unwrap().next().unwrap().unwrap().path();
    let result = std::fs::read_to_string(folder.join("result.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&result).unwrap(), json!({"value": 7}));
    // What was submitted by us goes the same way, and is waited for.
    let probe = guest("probe");
    let words = ["submit", probe.to_str().unwrap(), "--params", r#"{"action": "none"}"#, "--job-id", "ours", "--wait"];
    let submitted = run(&place, &environment, &words).ok();
    assert_eq!(submitted.out, "ours DONE\n");
    assert_eq!(task(&place, &environment, "ours").unwrap()["queue"], queue.as_str());
    // And all of it is well.
    let doctor = run(&place, &environment, &["doctor", probe.to_str().unwrap(), "--json"]).ok().json();
    let text = doctor.to_string();
    assert!(doctor["ok"] == true && text.contains("PostgreSQL") && text.contains("0 waiting") && text.contains("wasmtime 4"), "{doctor}");
}

#[test]
fn sqs_and_s3() {
    let (Some(moto), Some(postgres)) = (moto::Server::shared(), postgres::Server::shared()) else { return };
    let place = Place::new();
    let bucket = moto.bucket();
    sqs(moto, "CreateQueue", &json!({"QueueName": "pages"}));
    let environment = vec![
        ("QUEUE_URL", format!("{}/123456789012/pages", moto.url())),
        ("BUCKET", bucket.clone()),
        ("DB_DSN", postgres.database()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", moto.url()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
    ];
    let _serving = Serving::start(&place, &environment, &guest("probe"), "worker.log");
    let body = message("two", &json!({"action": "json", "value": {"value": 8}}));
    let queue = format!("{}/123456789012/pages", moto.url());
    let sent = sqs(moto, "SendMessage", &json!({"QueueUrl": queue, "MessageBody": body}));
    assert!(sent["MessageId"].is_string(), "{sent}");
    let done = wait_for(&place, &environment, "two", "DONE");
    assert_eq!(done["step"], "pages", "{done}");
    let listed = moto.ask(&format!("GET /{bucket}?list-type=2"));
    let key =
        listed.split("<Key>").filter_map(|part| part.split_once("</Key>")).map(|(key, _)| key).find(|key| key.ends_with("/result.json"));
    let key = key.unwrap_or_else(|| panic!("{listed}"));
    assert!(key.starts_with("default/jobs/job-two/pages/"), "{key}");
    let read = of_aws(moto, &format!("GET /{bucket}/{key}"), "s3", "", b"");
    assert_eq!(serde_json::from_slice::<Value>(&read).unwrap(), json!({"value": 8}));
    let doctor = run(&place, &environment, &["doctor", "--json"]).ok().json();
    assert!(doctor["ok"] == true && doctor.to_string().contains("written, read and removed"), "{doctor}");
    assert!(!moto.ask(&format!("GET /{bucket}?list-type=2")).contains("probe"), "it leaves nothing behind");
}

#[test]
fn what_is_in_force_is_shown_without_secrets() {
    let place = Place::new();
    let folder = place.path().join("config");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.yaml"), "worker:\n  lease: 30s\n").unwrap();
    std::fs::write(place.path().join("dsn"), "postgres://me:hidden@db/tasks\n").unwrap();
    let environment = vec![
        ("QUEUE_URL", "redis://u:hidden@h?stream=s".to_owned()),
        ("DB_DSN_FILE", "dsn".to_owned()),
        ("WASM_WORKER_SECRET_TOKEN", "hidden".to_owned()),
    ];
    let shown = run(&place, &environment, &["config", "show", "--json", "--set", "worker.grace=5s"]).ok();
    let of = |key: &str| shown.json().as_array().unwrap().iter().find(|s| s["key"] == key).unwrap_or_else(|| panic!("{key}")).clone();
    assert_eq!((of("worker.lease")["value"].clone(), of("worker.lease")["source"].clone()), (json!("30s"), json!("config/a.yaml")));
    assert_eq!((of("worker.grace")["source"].clone(), of("tenant")["default"].clone()), (json!("command line"), json!(true)));
    assert_eq!(
        (of("queue.url")["value"].clone(), of("queue.url")["source"].clone()),
        (json!("redis://h:6379/0?stream=s"), json!("environment variable QUEUE_URL"))
    );
    assert_eq!(of("store.dsn")["source"], "environment variable DB_DSN_FILE");
    let text = run(&place, &environment, &["config", "show"]).ok();
    assert!(text.out.contains("secrets.TOKEN") && !format!("{}{}{}", text.out, shown.out, shown.err).contains("hidden"), "{}", text.out);
    run(&place, &environment, &["config", "check"]).ok();
    // Every problem at once, of both files.
    let pipeline = place.write("p.yaml", "nmae: x\nsteps:\n  a: {guest: a.wasm, queue: 'amqp://u:hidden@h'}\n");
    std::fs::write(folder.join("b.toml"), "[worker]\nlaese = '1s'").unwrap();
    let words = ["config", "check", pipeline.to_str().unwrap()];
    let checked = run(&place, &environment, &words);
    assert_eq!(checked.code, Some(2));
    for part in ["config/b.toml: worker.laese: unknown key; did you mean 'lease'?", "p.yaml: nmae: unknown key", "scheme 'amqp'"] {
        assert!(checked.err.contains(part) && !checked.err.contains("hidden"), "{part} in {}", checked.err);
    }
    let json = run(&place, &environment, &[&words[..], &["--json"]].concat());
    assert_eq!((json.code, json.json()["problems"].as_array().unwrap().len()), (Some(2), 3));
    let listed = run(&place, &Vec::new(), &["config", "env"]);
    assert!(listed.out.contains("QUEUE_URL, QUEUE_URL_FILE") && listed.out.contains("AWS_REGION"), "{}", listed.out);
}
