//! The OCR pipeline over brokers: every step on a queue of its own, one worker that only recognizes and one that does the rest, and plain
//! messages that name a picture in the bucket. What comes out is, byte by byte, what one process makes of the same picture alone.

use super::*;
use crate::binary::root;
use std::fs;

/// Where the picture lies in the bucket: in the tenant's own area, so that a message may name it.
const PICTURE: &str = "default/in/picture.png";

/// What the last task leaves that depends on nothing but the picture. `metrics.json` tells times.
const RESULTS: [&str; 2] = ["result.json", "annotated.png"];

/// The lines on the picture, and so the tasks that recognize.
const LINES: usize = 7;

/// The pipeline's file as one of several workers has it. Steps that are not `here` have a queue and no guest; the first one that is has no
/// queue, as `QUEUE_URL` names it.
fn part(place: &Place, name: &str, here: &[&str], queues: &[(&str, String)]) -> PathBuf {
    let folder = root().join("guests/ocr");
    let text = fs::read_to_string(folder.join("pipeline.toml")).unwrap();
    let text = text.replace("\"file:", &format!("\"file:{}/", folder.display()));
    let text = text.replace("guest = \"", &format!("guest = \"{}/", folder.display()));
    let mut tables = text.split("\n[steps.");
    let mut part = tables.next().unwrap().to_owned();
    for table in tables {
        let (step, rest) = table.split_once("]\n").unwrap();
        part.push_str(&format!("\n[steps.{step}]\n"));
        if here.first() != Some(&step) {
            let (_, queue) = queues.iter().find(|(of, _)| *of == step).unwrap();
            part.push_str(&format!("queue = {queue:?}\n"));
        }
        part.push_str(if here.contains(&step) { rest } else { "" });
    }
    place.write(name, &part)
}

/// The outputs of a run by one process, with its tasks in a file and its outputs in a folder.
fn alone(place: &Place) -> Vec<Vec<u8>> {
    let (pipeline, out) = (root().join("guests/ocr/pipeline.toml"), place.path().join("alone"));
    let picture = root().join("out/test/picture.png");
    let words = ["run", pipeline.to_str().unwrap(), "--backend", "rten", "--json", "--output", out.to_str().unwrap()];
    let record = run(place, &Vec::new(), &[&words[..], &["--input", picture.to_str().unwrap()]].concat()).ok().json();
    let result = record["result_uri"].as_str().unwrap().strip_prefix("file://").unwrap();
    RESULTS.map(|name| fs::read(Path::new(result).with_file_name(name)).unwrap()).into()
}

/// Runs the job that `send` sends, with the queues of the three steps and what else the workers' environment holds; `fetch` reads an output.
fn over(queues: [String; 3], picture: &str, environment: &Environment, send: impl Fn(&str, &str), fetch: impl Fn(&str) -> Vec<u8>) {
    let place = Place::new();
    let wanted = alone(&place);
    let [pages, lines, texts] = queues;
    let steps = [("detect", pages.clone()), ("recognize", lines.clone()), ("assemble", texts)];
    let common = with(environment, "WASM_WORKER_BACKEND", "rten");
    let (first, second) = (with(&common, "QUEUE_URL", pages.clone()), with(&common, "QUEUE_URL", lines.clone()));
    let one = Serving::start(&place, &first, &part(&place, "pages.toml", &["detect", "assemble"], &steps), "pages.log");
    let two = Serving::start(&place, &second, &part(&place, "lines.toml", &["recognize"], &steps), "lines.log");
    send(&pages, &json!({"job_id": "page", "task_id": "page", "input_uri": picture, "params": {}, "job_tasks": 1}).to_string());
    let ended = until("the job to end", || {
        let shown = run(&place, &first, &["jobs", "show", "page", "--json"]);
        (shown.code == Some(0)).then(|| shown.json()).filter(|job| job["state"] != "PROCESSING")
    });
    assert_eq!(ended["state"], "DONE", "{ended}");
    let result = ended["result_uri"].as_str().unwrap();
    for (name, wanted) in RESULTS.iter().zip(&wanted) {
        let found = fetch(&result.replace("result.json", name));
        assert!(found == *wanted, "{name}: {}\nalone: {}", String::from_utf8_lossy(&found), String::from_utf8_lossy(wanted));
    }
    // Every task came by its step's queue, to the worker that serves the step, and once.
    let ids: Vec<&str> = ended["tasks"].as_array().unwrap().iter().map(|task| task["task_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), LINES + 2, "{ended}");
    for id in ids {
        let task = task(&place, &first, id).unwrap();
        let (step, queue) = steps.iter().find(|(step, _)| task["step"] == *step).unwrap();
        let worker = if *step == "recognize" { &two } else { &one };
        let ending = format!("-{}", worker.0.id());
        assert!(task["queue"] == queue.as_str() && task["claims"].as_array().unwrap().len() == 1, "{task}");
        assert!(task["claims"][0]["worker"].as_str().unwrap().ends_with(&ending), "{task}");
    }
    assert_eq!(run(&place, &first, &["dlq", "list", "--json"]).ok().json(), json!([]));
}

#[test]
fn over_redis_postgres_and_a_folder() {
    let (Some(redis), Some(postgres)) = (redis::Server::shared(), postgres::Server::shared()) else { return };
    let bucket = tempfile::tempdir().unwrap();
    let picture = bucket.path().join(PICTURE);
    fs::create_dir_all(picture.parent().unwrap()).unwrap();
    fs::copy(root().join("out/test/picture.png"), &picture).unwrap();
    let environment = vec![("BUCKET", bucket.path().to_str().unwrap().to_owned()), ("DB_DSN", postgres.database())];
    let send = |queue: &str, message: &str| {
        redis.ask(&["XADD", stream_of(queue), "*", "body", message]);
    };
    let fetch = |uri: &str| fs::read(uri.strip_prefix("file://").unwrap()).unwrap();
    over([(); 3].map(|()| redis.queue()), &format!("file://{}", picture.display()), &environment, send, fetch);
}

#[test]
fn over_sqs_s3_and_postgres() {
    let (Some(moto), Some(postgres)) = (moto::Server::shared(), postgres::Server::shared()) else { return };
    let bucket = moto.bucket();
    let queues = ["ocr-pages", "ocr-lines", "ocr-texts"].map(|name| {
        sqs(moto, "CreateQueue", &json!({"QueueName": name}));
        format!("{}/123456789012/{name}", moto.url())
    });
    let picture = fs::read(root().join("out/test/picture.png")).unwrap();
    of_aws(moto, &format!("PUT /{bucket}/{PICTURE}"), "s3", "", &picture);
    let environment = vec![
        ("BUCKET", bucket.clone()),
        ("DB_DSN", postgres.database()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", moto.url()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
    ];
    let send = |queue: &str, message: &str| {
        sqs(moto, "SendMessage", &json!({"QueueUrl": queue, "MessageBody": message}));
    };
    let fetch = |uri: &str| of_aws(moto, &format!("GET /{}", uri.strip_prefix("s3://").unwrap()), "s3", "", b"");
    over(queues, &format!("s3://{bucket}/{PICTURE}"), &environment, send, fetch);
}
