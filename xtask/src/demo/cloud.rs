//! `demo --cloud`: the same picture, read by two workers over real servers. SQS, S3 and Postgres, where moto stands for AWS; or Redis, a
//! folder and Postgres. Every command is printed as it can be typed, then run, and everything that was started ends with the demo.

use super::background::Background;
use super::outside;
use super::shown::{exported, typed};
use super::{Demo, show};
use crate::{servers, shell};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Workers, each of which serves every step.
const WORKERS: usize = 2;

/// The bucket's name in S3, and the folder's where there is none.
const BUCKET: &str = "ocr";

/// Where the picture lies in the bucket.
const PICTURE: &str = "default/in/picture";

/// The job's id: the database is new, so there is no other.
const JOB: &str = "page";

/// moto's account.
const ACCOUNT: &str = "123456789012";

/// Which broker the tasks go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// With S3 as bucket.
    Sqs,
    /// With a folder as bucket.
    Redis,
}

/// The environment of every command.
type Variables = Vec<(&'static str, String)>;

/// Reads the picture over that broker.
pub fn cloud(demo: &Demo, broker: Broker) -> Result<(), String> {
    let out = &demo.out;
    fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    let out = &out.canonicalize().map_err(|e| format!("{}: {e}", out.display()))?;
    let (bin, program) = shell::part("find the servers", || Ok((servers::postgres()?, program(broker)?)))?;
    println!();
    let (_postgres, dsn) = outside::postgres(&bin, out)?;
    let (_broker, python, variables) = match broker {
        Broker::Sqs => {
            let (moto, url) = outside::moto(&program, out)?;
            (moto, Some(program.with_file_name("python")), aws(&url))
        }
        Broker::Redis => {
            let (redis, url) = outside::redis(&program, out)?;
            (redis, None, of_redis(&url, out))
        }
    };
    let variables: Variables = variables.into_iter().chain([("DB_DSN", dsn)]).collect();
    println!();
    for (name, value) in &variables {
        exported(name, value);
    }
    let input = match &python {
        Some(python) => prepare(python, &demo.input, &variables)?,
        None => relative(&demo.input),
    };
    println!();
    let worker = |words: &[&str]| command(&demo.binary, &variables, words);
    told(&mut worker(&["doctor", super::PIPELINE]))?;
    let mut workers = Vec::new();
    for number in 1..=WORKERS {
        let log = out.join(format!("worker-{number}.log"));
        let mut run = worker(&["run", super::PIPELINE]);
        if demo.backend != "auto" {
            run.args(["--backend", demo.backend]);
        }
        print!("\n# worker {number} of {WORKERS}, in a terminal of its own; here its log is {}\n", relative(&log));
        typed(&run);
        workers.push(Background::start(&run, &log, "KILL", None, None)?);
    }
    for running in &workers {
        running.wait_for("at work", |log| log.contains("worker started").then_some(()))?;
    }
    println!();
    told(&mut worker(&["submit", super::PIPELINE, &input, "--job-id", JOB, "--wait"])).map_err(|e| with_logs(e, &workers))?;
    let mut record = worker(&["jobs", "show", JOB, "--json"]);
    typed(&record);
    let record: Value = serde_json::from_str(&shell::output(&mut record)?).map_err(|e| format!("the record is no JSON: {e}"))?;
    show(&record, Path::new(&input))?;
    if let Some(python) = &python {
        fetch(python, &record, out, &variables)?;
    }
    println!();
    for (number, running) in (1..).zip(&workers) {
        println!("worker {number} ran {} tasks", running.log().lines().filter(|line| line.contains("task ran")).count());
    }
    workers.into_iter().for_each(Background::stop);
    Ok(())
}

/// The broker's program.
fn program(broker: Broker) -> Result<PathBuf, String> {
    match (broker, std::env::var_os("REDIS_SERVER")) {
        (Broker::Sqs, _) => servers::moto(),
        (Broker::Redis, Some(named)) => Ok(named.into()),
        (Broker::Redis, None) => {
            servers::redis()?.ok_or_else(|| "no Redis here; install redis-server, or name it by REDIS_SERVER".to_owned())
        }
    }
}

fn aws(url: &str) -> Variables {
    vec![
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        // What boto3 reads instead.
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "demo".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "demo".to_owned()),
        ("QUEUE_URL", format!("{url}/{ACCOUNT}/pages")),
        ("NEXT_QUEUE_URL", format!("{url}/{ACCOUNT}/lines")),
        ("BUCKET", BUCKET.to_owned()),
    ]
}

fn of_redis(url: &str, out: &Path) -> Variables {
    vec![
        ("QUEUE_URL", format!("{url}/0?stream=pages")),
        ("NEXT_QUEUE_URL", format!("{url}/0?stream=lines")),
        ("BUCKET", format!("./{}", relative(&out.join(BUCKET)))),
    ]
}

/// Makes the queues and the bucket, as whoever runs an account of AWS does, and puts the picture there: its address.
fn prepare(python: &Path, input: &Path, variables: &Variables) -> Result<String, String> {
    let extension = input.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    let key = format!("{PICTURE}{extension}");
    for queue in ["pages", "lines"] {
        boto3(python, variables, &format!("boto3.client(\"sqs\").create_queue(QueueName=\"{queue}\")"), &[])?;
    }
    boto3(python, variables, &format!("boto3.client(\"s3\").create_bucket(Bucket=\"{BUCKET}\")"), &[])?;
    boto3(python, variables, "boto3.client(\"s3\").upload_file(*sys.argv[1:])", &[&relative(input), BUCKET, &key])?;
    Ok(format!("s3://{BUCKET}/{key}"))
}

/// Copies what the last task left in the bucket, which ends with the demo.
fn fetch(python: &Path, record: &Value, out: &Path, variables: &Variables) -> Result<(), String> {
    let result =
        record["result_uri"].as_str().and_then(|uri| uri.strip_prefix(&format!("s3://{BUCKET}/"))).ok_or("no result in the bucket")?;
    let folder = result.rsplit_once('/').map_or("", |(folder, _)| folder);
    println!();
    for name in super::OUTPUTS {
        let words = [BUCKET, &format!("{folder}/{name}"), &relative(&out.join(name))];
        boto3(python, variables, "boto3.client(\"s3\").download_file(*sys.argv[1:])", &words)?;
    }
    Ok(())
}

fn boto3(python: &Path, variables: &Variables, call: &str, words: &[&str]) -> Result<(), String> {
    let imports = if call.contains("sys.") { "import boto3, sys" } else { "import boto3" };
    told(command(python, variables, &["-c", &format!("{imports}; {call}")]).args(words))
}

/// A command at the repository's root, where `models` has put a wasm-worker.toml; with nothing of the caller's own settings.
fn command(program: &Path, variables: &Variables, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(shell::root()).args(words);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["AWS_", "WASM_WORKER_", "QUEUE_URL", "NEXT_QUEUE_", "BUCKET", "DB_DSN"].iter().any(|own| name.starts_with(own)) {
            command.env_remove(&*name);
        }
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
}

/// Prints the command, and what it prints.
fn told(command: &mut Command) -> Result<(), String> {
    typed(command);
    shell::run(command)
}

fn with_logs(error: String, workers: &[Background]) -> String {
    let logs: Vec<String> = workers.iter().map(Background::last).collect();
    format!("{error}\n{}", logs.join("\n"))
}

/// From the repository's root, where it lies in it.
fn relative(path: &Path) -> String {
    path.strip_prefix(shell::root()).map_or_else(|_| path.to_owned(), Path::to_owned).to_string_lossy().into_owned()
}
