//! Each variable that is wrong says so: by its name, within five seconds, without what is secret in it.

use super::*;
use std::net::TcpListener;

/// A port where nobody listens.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asserts that a worker does not start, and how it says why.
fn refuses(place: &Place, environment: &Environment, parts: &[&str]) {
    let probe = guest("probe");
    let began = Instant::now();
    let told = run(place, environment, &["run", probe.to_str().unwrap()]);
    let took = began.elapsed();
    assert!(matches!(told.code, Some(1 | 2)), "{:?}: {}{}", told.code, told.out, told.err);
    for part in parts {
        assert!(told.err.contains(part), "'{part}' in: {}", told.err);
    }
    assert!(told.err.contains("error: ") && !told.err.contains("secret") && !told.err.contains("panicked"), "{}", told.err);
    assert!(took < TOLD, "{took:?}: {}", told.err);
}

#[test]
fn queues() {
    let place = Place::new();
    let base = vec![("WASM_WORKER_SINGLE", "true".to_owned())];
    let queue = |url: &str| with(&base, "QUEUE_URL", url);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at_silent = silent.local_addr().unwrap();
    refuses(&place, &queue(&format!("redis://u:secret@127.0.0.1:{}?stream=s", dead_port())), &["QUEUE_URL: redis://127.0.0.1:"]);
    refuses(&place, &queue("redis://u:secret@no-such-host.invalid?stream=s"), &["QUEUE_URL: redis://no-such-host.invalid"]);
    refuses(&place, &queue(&format!("redis://u:secret@{at_silent}?stream=s")), &["QUEUE_URL: redis://127.0.0.1:"]);
    refuses(&place, &queue("redis://u:secret@h:port?stream=s"), &["environment variable QUEUE_URL: queue.url", "invalid port"]);
    refuses(&place, &queue("amqp://u:secret@h/q"), &["QUEUE_URL", "scheme 'amqp'", "redis://HOST:PORT?stream=NAME"]);
    refuses(&place, &queue("redis://u:secret@h"), &["QUEUE_URL", "?stream=NAME"]);
    refuses(
        &place,
        &vec![("QUEUE_URL", "redis://u:secret@h?stream=s".to_owned())],
        &["QUEUE_URL", "DB_DSN=postgres://", "WASM_WORKER_SINGLE=true"],
    );
    let next = with(&base, "NEXT_QUEUE_URL", format!("redis://u:secret@127.0.0.1:{}?stream=s", dead_port()));
    refuses(&place, &next, &["NEXT_QUEUE_URL: redis://127.0.0.1:"]);
    let file = place.write("url", &format!("redis://u:secret@127.0.0.1:{}?stream=s\n", dead_port()));
    refuses(&place, &with(&base, "QUEUE_URL_FILE", file.to_str().unwrap()), &["QUEUE_URL_FILE: redis://127.0.0.1:"]);
    if let Some(redis) = redis::Server::shared() {
        refuses(
            &place,
            &queue(&format!("redis://u:secret@127.0.0.1:{}?stream=s", redis.port())),
            &["QUEUE_URL: redis://127.0.0.1:", "password"],
        );
    }
}

#[test]
fn queues_and_buckets_of_aws() {
    let place = Place::new();
    let aws = |endpoint: String| {
        let own = [
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("WASM_WORKER_SINGLE", "true"),
        ];
        let own = own.map(|(name, value)| (name, value.to_owned()));
        own.into_iter().chain([("AWS_ENDPOINT_URL", endpoint)]).collect::<Environment>()
    };
    let dead = format!("http://127.0.0.1:{}", dead_port());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at_silent = format!("http://{}", silent.local_addr().unwrap());
    refuses(&place, &with(&aws(dead.clone()), "QUEUE_URL", format!("{dead}/123456789012/q")), &["QUEUE_URL: http://127.0.0.1:"]);
    refuses(&place, &with(&aws(dead.clone()), "QUEUE_URL", format!("{at_silent}/123456789012/q")), &["QUEUE_URL: http://127.0.0.1:"]);
    refuses(&place, &with(&aws(dead.clone()), "QUEUE_URL", format!("{dead}/q")), &["QUEUE_URL", "/ACCOUNT/NAME"]);
    refuses(&place, &with(&aws(dead.clone()), "BUCKET", "pages"), &["BUCKET: s3://pages/"]);
    refuses(&place, &with(&aws(at_silent), "BUCKET", "pages"), &["BUCKET: s3://pages/"]);
    refuses(&place, &with(&aws(dead.clone()), "BUCKET", "gs://pages"), &["BUCKET", "scheme 'gs'"]);
    refuses(&place, &with(&aws(dead), "BUCKET", "out/here"), &["BUCKET", "./out/here"]);
    refuses(&place, &vec![("BUCKET", "/proc/nowhere".to_owned())], &["BUCKET: file:///proc/nowhere/"]);
    if let Some(moto) = moto::Server::shared() {
        refuses(&place, &with(&aws(moto.url()), "BUCKET", "no-such-bucket"), &["BUCKET: s3://no-such-bucket/", "no-such-bucket"]);
        let queue = with(&aws(moto.url()), "QUEUE_URL", format!("{}/123456789012/no-such-queue", moto.url()));
        refuses(&place, &queue, &["QUEUE_URL: http://127.0.0.1:", "no-such-queue"]);
    }
}

#[test]
fn databases() {
    let place = Place::new();
    let dsn = |dsn: &str| vec![("DB_DSN", dsn.to_owned())];
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at_silent = silent.local_addr().unwrap();
    refuses(&place, &dsn(&format!("postgres://u:secret@127.0.0.1:{}/d", dead_port())), &["DB_DSN: ", "127.0.0.1"]);
    refuses(&place, &dsn(&format!("postgres://u:secret@{at_silent}/d")), &["DB_DSN: ", "127.0.0.1"]);
    refuses(&place, &dsn("postgres://u:secret@no-such-host.invalid/d"), &["DB_DSN: ", "no-such-host.invalid"]);
    refuses(&place, &dsn("mysql://u:secret@h/d"), &["environment variable DB_DSN: store.dsn", "postgres://USER"]);
    refuses(&place, &dsn("sqlite:/proc/nowhere/t.db"), &["DB_DSN: "]);
    let both = with(&dsn("postgres://u:secret@h/d"), "QUEUE_URL", "postgres://u:secret@h/other");
    refuses(&place, &both, &["QUEUE_URL", "another database", "DB_DSN"]);
    if let Some(postgres) = postgres::Server::shared() {
        let at = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", postgres.port());
        refuses(&place, &dsn(&at("locked:secret", "postgres")), &["DB_DSN: ", "password"]);
        refuses(&place, &dsn(&at("tester", "nowhere")), &["DB_DSN: ", "nowhere"]);
    }
}

/// The same by the command that is made for it: everything at once, and what to do.
#[test]
fn the_doctor_says_what_to_do() {
    let place = Place::new();
    let dead = format!("redis://u:secret@127.0.0.1:{}?stream=s", dead_port());
    let environment = vec![
        ("QUEUE_URL", dead),
        ("BUCKET", "/proc/nowhere".to_owned()),
        ("DB_DSN", format!("postgres://u:secret@127.0.0.1:{}/d", dead_port())),
        ("ORT_DYLIB_PATH", "/no/such.so".to_owned()),
    ];
    let began = Instant::now();
    let told = run(&place, &environment, &["doctor", "--json"]);
    assert!(began.elapsed() < TOLD + Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(told.code, Some(1), "{}", told.err);
    let json = told.json();
    let findings = json["findings"].as_array().unwrap();
    let failed: Vec<&Value> = findings.iter().filter(|finding| finding["verdict"] == "fail").collect();
    assert_eq!(failed.len(), 4, "{json}");
    assert!(failed.iter().all(|finding| finding["help"].as_str().is_some_and(|help| !help.is_empty())), "{json}");
    for name in ["QUEUE_URL", "BUCKET", "DB_DSN", "ORT_DYLIB_PATH"] {
        assert!(failed.iter().any(|finding| finding.to_string().contains(name)), "{name} in {json}");
    }
    assert!(!told.out.contains("secret"), "{}", told.out);
    let text = run(&place, &environment, &["doctor"]);
    assert!(text.code == Some(1) && text.out.contains("help: ") && text.out.contains("4 failed"), "{}", text.out);
}

/// Where nothing was set up there is nothing to fail.
#[test]
fn the_doctor_finds_a_bare_machine_well() {
    let place = Place::new();
    let told = run(&place, &Vec::new(), &["doctor"]).ok();
    assert!(told.out.contains("0 failed") && told.out.contains("none yet") && told.out.contains("SQLite 3."), "{}", told.out);
    let probe = guest("probe");
    run(&place, &Vec::new(), &["run", probe.to_str().unwrap(), "--params", r#"{"action": "none"}"#]).ok();
    let told = run(&place, &Vec::new(), &["doctor", probe.to_str().unwrap()]).ok();
    assert!(told.out.contains("schema ") && told.out.contains("guest of step probe"), "{}", told.out);
    assert_eq!(run(&place, &Vec::new(), &["doctor", "no/such.toml"]).code, Some(2));
}
