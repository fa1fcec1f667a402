//! A worker over SQS: how many tasks a second, and how many calls of AWS a task costs, by operation; for tasks without a child and with
//! one. The fake of the tests stands for SQS, so the rate is that of this machine and not of AWS; the calls are what AWS would bill.

use super::broker::Broker;
use super::figures::Figures;
use super::{CONCURRENCY, ONE_RUN, on_a_runtime};
use crate::median;
use crate::servers::sqs::{Config, Fake};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::Arc;
use wasm_worker::queue::{SqsAddress, SqsCalls, SqsQueue};

/// Messages and rounds where nothing else is asked for.
const MESSAGES: u32 = 10_000;
const ROUNDS: usize = 3;

/// Most calls per message that receiving and deleting may take in all, without a child; and all calls with one.
const TARGETS: [f64; 2] = [0.25, 0.35];

/// Measures and prints.
pub fn measure(words: &[&str]) {
    let (mut messages, mut rounds) = (MESSAGES, ROUNDS);
    for pair in words.chunks(2) {
        match pair {
            ["--tasks", n] => messages = n.parse().expect("--tasks takes a number"),
            ["--rounds", n] => rounds = n.parse().expect("--rounds takes a number"),
            other => panic!("{other:?}: only --tasks N and --rounds N are known after --sqs"),
        }
    }
    assert!(messages >= 100 && rounds > 0, "a run has 100 messages at least, and there is one round at least");
    println!(
        "{messages} messages of 200 bytes over SQS (a fake of it), SQLite (FULL) as store; {CONCURRENCY} at once; median of {rounds} rounds:"
    );
    for child in [false, true] {
        let runs: Vec<(Figures, SqsCalls)> = (0..rounds).map(|_| run_apart(messages, child)).collect();
        print(&runs, f64::from(messages) * if child { 2.0 } else { 1.0 }, child);
    }
}

fn run_apart(messages: u32, child: bool) -> (Figures, SqsCalls) {
    let fake = Fake::start(Config::default());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ONE_RUN, "sqs", &fake.url(), &messages.to_string(), if child { "child" } else { "alone" }]);
    command.env("AWS_ACCESS_KEY_ID", "bench").env("AWS_SECRET_ACCESS_KEY", "bench").env("AWS_REGION", "us-east-1");
    let run = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(run.status.success(), "{}", run.status);
    let text = String::from_utf8(run.stdout).unwrap();
    let (figures, calls) = text.trim().split_once('\n').expect("a run prints two lines");
    let [receive, delete, hide, send, attributes] = serde_json::from_str(calls).unwrap();
    (Figures::parse(figures), SqsCalls { receive, delete, hide, send, attributes })
}

/// One run, in this process: prints its figures and its calls, a line each.
pub fn run_here(words: &[&str]) {
    let &[url, messages, child] = words else { panic!("{ONE_RUN} sqs URL MESSAGES alone|child") };
    let (address, messages, child) = (url.parse::<SqsAddress>().unwrap(), messages.parse().unwrap(), child == "child");
    on_a_runtime(async move {
        let queue = Arc::new(SqsQueue::open(&address, &wasm_worker::aws::load(address.region()).await).await.unwrap());
        let broker = Broker::filled(Arc::clone(&queue) as _, messages, child, CONCURRENCY).await;
        let before = queue.calls();
        let figures = broker.run().await;
        let after = queue.calls();
        // The last look for messages that are left is not the worker's.
        let attributes = after.attributes - before.attributes - 1;
        let calls: Value = json!([
            after.receive - before.receive,
            after.delete - before.delete,
            after.hide - before.hide,
            after.send - before.send,
            attributes
        ]);
        println!("{}\n{calls}", figures.line());
    });
}

fn print(runs: &[(Figures, SqsCalls)], tasks: f64, child: bool) {
    let of = |figure: &dyn Fn(&(Figures, SqsCalls)) -> f64| median(runs.iter().map(figure).collect());
    let (rate, cpu) = (of(&|run| run.0.tasks_per_s), of(&|run| run.0.cpu_us));
    let per_task = |calls: fn(&SqsCalls) -> u64| of(&|run| calls(&run.1) as f64 / tasks);
    let [receive, delete, hide, send] = [per_task(|c| c.receive), per_task(|c| c.delete), per_task(|c| c.hide), per_task(|c| c.send)];
    let all = per_task(|c| c.receive + c.delete + c.hide + c.send + c.attributes);
    println!("  {}", if child { "each with one child" } else { "without children" });
    println!("    tasks                       {rate:8.0} tasks/s   {cpu:6.1} µs of processor per task");
    println!("    calls per task              {all:8.3}   receive {receive:.3}   delete {delete:.3}   send {send:.3}   hide {hide:.3}");
    println!("    at most                     {:8.3}", TARGETS[usize::from(child)]);
}
