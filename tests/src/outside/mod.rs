//! The worker and the services outside: `QUEUE_URL`, `NEXT_QUEUE_URL`, `BUCKET`, `DB_DSN` and `AWS_*` as they stand, against real servers;
//! and what each of them says when it is wrong.

mod aws;
mod chain;
mod ocr;
mod works;
mod wrong;

use crate::binary::{Place, Printed, guest, program, until};
use crate::servers::{moto, postgres, redis};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that a person waits to be told that something is not there.
const TOLD: Duration = Duration::from_secs(5);

/// Names and values of the environment; there is nothing else in it but `PATH`.
type Environment = Vec<(&'static str, String)>;

fn command(place: &Place, environment: &Environment, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.current_dir(place.path()).args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
    command
}

fn run(place: &Place, environment: &Environment, words: &[&str]) -> Printed {
    command(place, environment, words).output().unwrap().into()
}

/// A worker that ends with the test.
struct Serving(Child);

impl Serving {
    fn start(place: &Place, environment: &Environment, guest: &Path, log: &str) -> Self {
        let log = std::fs::File::create(place.path().join(log)).unwrap();
        let mut command = command(place, environment, &["run", guest.to_str().unwrap()]);
        Self(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same environment with another value for one of its variables.
fn with(environment: &Environment, name: &'static str, value: impl Into<String>) -> Environment {
    let others = environment.iter().filter(|(other, _)| *other != name).cloned();
    others.chain([(name, value.into())]).collect()
}

/// A message as a producer without our command line writes it.
fn message(id: &str, params: &Value) -> String {
    json!({"job_id": format!("job-{id}"), "task_id": id, "params": params, "job_tasks": 1}).to_string()
}

fn task(place: &Place, environment: &Environment, id: &str) -> Option<Value> {
    let shown = run(place, environment, &["tasks", "show", id, "--json"]);
    (shown.code == Some(0)).then(|| shown.json())
}

fn wait_for(place: &Place, environment: &Environment, id: &str, state: &str) -> Value {
    until(&format!("task {id} to be {state}"), || task(place, environment, id).filter(|task| task["state"] == state))
}

/// What a step's task is named after: the last part of its queue.
fn stream_of(queue: &str) -> &str {
    queue.rsplit_once("stream=").unwrap().1
}

/// What any client of AWS sends, and the body of the answer. moto checks no signature, but wants to see one, and which service is meant.
fn of_aws(moto: &moto::Server, request: &str, service: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", moto.port())).unwrap();
    let scope = format!("AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0");
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: {scope}\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    answer.split_off(end + 4)
}

fn sqs(moto: &moto::Server, action: &str, body: &Value) -> Value {
    let headers = format!("Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: AmazonSQS.{action}\r\n");
    serde_json::from_slice(&of_aws(moto, "POST /", "sqs", &headers, body.to_string().as_bytes())).unwrap()
}
