//! A worker over Redis beside Celery and Dramatiq over the same server, each at a do-nothing task of 200 bytes: tasks per second from a
//! queue that was full, and commands of Redis per task. Ours also commits each task to a store that loses nothing at a power cut (SQLite,
//! FULL); the peers keep no state. Every run has a server of its own (append-only file, fsync every second).
//!
//! All are measured alike, from outside: by what is left in Redis, from the first tenth on, so that starting up counts for nobody. One
//! worker of ours stands beside one worker of each peer: of Celery in the best of its pools, which a short trial finds, of Dramatiq as it
//! starts by itself. Beside that both are measured at the best that was found in any way: for tasks that do nothing that is several workers
//! of Celery, each without a pool, and more threads of Dramatiq than it takes by itself.

use super::broker::Broker;
use super::figures::Figures;
use super::{ONE_RUN, on_a_runtime};
use crate::median;
use crate::servers::redis::{Answer, Server, ask};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasm_worker::queue::{Queue as _, RedisQueue, ToSend};

/// Tasks and rounds where nothing else is asked for. A peer gets a part of the tasks: its rate does not depend on them.
const TASKS: u32 = 50_000;
const ROUNDS: usize = 3;
const PEERS_PART: u32 = 5;

/// Tasks of ours at once: as with the peers, what is best here.
const AT_ONCE: u32 = 512;

/// Tasks of a peer's trial.
const TRIAL: u32 = 2_000;

/// Messages whose way is timed.
const PICKUPS: u32 = 300;

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(5);

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A peer: how it is started in which configurations, how much is left in its queue, and how many times as fast ours is to be.
struct Peer {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// Each with how many workers of it are started.
    configurations: &'static [(usize, &'static str)],
    left: &'static [&'static [&'static str]],
    target: Option<f64>,
}

const CELERY: Peer = Peer {
    name: "celery",
    program: "celery",
    arguments: &["-A", "celery_noop", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"],
    configurations: &[(1, "-P prefork -c 2"), (1, "-P threads -c 8"), (1, "-P gevent -c 100"), (1, "-P solo")],
    left: &[&["LLEN", "celery"], &["HLEN", "unacked"]],
    target: Some(8.0),
};

const CELERY_AT_BEST: Peer = Peer { configurations: &[(2, "-P solo"), (3, "-P solo"), (2, "-P threads -c 4")], ..CELERY };

/// A process for each processor, with eight threads each.
const DRAMATIQ: Peer = Peer {
    name: "dramatiq",
    program: "dramatiq",
    arguments: &["dramatiq_noop"],
    configurations: &[(1, "")],
    left: &[&["HLEN", "dramatiq:default.msgs"]],
    target: Some(3.0),
};

/// Its threads wait for each other more than they work: with more of them it does more.
const DRAMATIQ_AT_BEST: Peer = Peer {
    configurations: &[(1, "--processes 2 --threads 16"), (1, "--processes 2 --threads 32"), (1, "--processes 3 --threads 16")],
    target: None,
    ..DRAMATIQ
};

const PEERS: [Peer; 4] = [CELERY, DRAMATIQ, CELERY_AT_BEST, DRAMATIQ_AT_BEST];

/// What one run came to.
struct Run {
    tasks_per_s: f64,
    /// Commands that came over the wire, and with those that scripts gave, per task.
    requests: f64,
    commands: f64,
}

/// Measures and prints. `--python FILE`: the peers' Python; without it, ours alone is measured.
pub fn measure(words: &[&str]) {
    let (mut tasks, mut rounds, mut python) = (TASKS, ROUNDS, None);
    for pair in words.chunks(2) {
        match pair {
            ["--tasks", n] => tasks = n.parse().expect("--tasks takes a number"),
            ["--rounds", n] => rounds = n.parse().expect("--rounds takes a number"),
            ["--python", file] => python = Some(PathBuf::from(file)),
            other => panic!("{other:?}: only --tasks N, --rounds N and --python FILE are known after --redis"),
        }
    }
    assert!(tasks >= 1000 && rounds > 0, "a run has 1000 tasks at least, and there is one round at least");
    println!("do-nothing tasks of 200 bytes over Redis (fsync every second); {AT_ONCE} at once here; median of {rounds} rounds in turn:");
    let peers = python.as_deref().map(|python| PEERS.map(|peer| (best(&peer, python), peer, python)));
    let (mut ours, mut theirs): (Vec<(Run, Figures)>, [Vec<Run>; PEERS.len()]) = Default::default();
    for _ in 0..rounds {
        let Some(run) = run_ours(tasks, false) else { return println!("  not here: nothing measured") };
        ours.push(run);
        for ((configuration, peer, python), runs) in peers.iter().flatten().zip(&mut theirs) {
            runs.push(run_peer(peer, *configuration, python, tasks / PEERS_PART));
        }
    }
    let with_child: Vec<_> = (0..rounds).filter_map(|_| run_ours(tasks / 2, true)).collect();
    let [half, most] = pickup();
    println!("  a message on an idle queue is there after {half:.2} ms (median), {most:.2} ms (90th percentile)");
    let rate = print("wasm-worker, SQLite FULL", &ours);
    print("  each with one child", &with_child);
    for ((configuration, peer, _), runs) in peers.iter().flatten().zip(&theirs) {
        let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
        let (theirs, requests) = (of(|r| r.tasks_per_s), of(|r| r.requests));
        let target = peer.target.map(|target| format!("at least {target}")).unwrap_or_default();
        println!("  {:<26} {theirs:8.0} tasks/s   {requests:6.2} requests per task   ({})", peer.name, shown(configuration));
        println!("  {:<26} {:8.1} x         {target}", "", rate / theirs);
    }
}

fn print(name: &str, runs: &[(Run, Figures)]) -> f64 {
    let of = |figure: fn(&(Run, Figures)) -> f64| median(runs.iter().map(figure).collect());
    let (rate, requests, commands, cpu) = (of(|r| r.0.tasks_per_s), of(|r| r.0.requests), of(|r| r.0.commands), of(|r| r.1.cpu_us));
    println!(
        "  {name:<26} {rate:8.0} tasks/s   {requests:6.3} requests, {commands:.2} commands per task   {cpu:.1} µs of processor per task"
    );
    rate
}

/// Ours; none where there is no Redis. That each task ran exactly once is checked in the process that runs them.
fn run_ours(messages: u32, child: bool) -> Option<(Run, Figures)> {
    let server = Server::private()?;
    let address = server.queue();
    let stream = address.rsplit_once('=')?.1.to_owned();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ONE_RUN, "redis", &address, &server.port().to_string(), &messages.to_string(), if child { "child" } else { "alone" }]);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let tasks = messages * (1 + u32::from(child));
    // Children come and go meanwhile: what is left tells nothing of those.
    let rate = if child { f64::NAN } else { drained(&server, &[&["XLEN", &stream]], messages, std::slice::from_mut(&mut running)) };
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let figures = Figures::parse(&String::from_utf8(output.stdout).unwrap());
    let tasks_per_s = if child { figures.tasks_per_s } else { rate };
    Some((run(&server, tasks_per_s, tasks), figures))
}

/// One run of ours, in this process: prints its figures as a line.
pub fn run_here(words: &[&str]) {
    let &[address, port, messages, child] = words else { panic!("{ONE_RUN} redis ADDRESS PORT MESSAGES alone|child") };
    let (address, port, messages, child) = (address.parse().unwrap(), port.parse().unwrap(), messages.parse().unwrap(), child == "child");
    on_a_runtime(async move {
        let queue = Arc::new(RedisQueue::open(&address).await.unwrap());
        let broker = Broker::filled(queue, messages, child, AT_ONCE).await;
        ask(port, &["CONFIG", "RESETSTAT"]).unwrap();
        println!("{}", broker.run().await.line());
    });
}

/// Milliseconds from before a message is sent until a waiting receiver has it: the median, and what nine of ten stay below.
fn pickup() -> [f64; 2] {
    let server = Server::private().expect("ours has run");
    let address = server.queue().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut took = runtime.block_on(async {
        let (receiver, sender) = (RedisQueue::open(&address).await.unwrap(), RedisQueue::open(&address).await.unwrap());
        let mut took = Vec::new();
        for number in 0..PICKUPS {
            let received = receiver.receive(1, PATIENCE, PATIENCE);
            let (received, sent) = tokio::join!(received, async {
                tokio::time::sleep(LOOK * 2).await;
                let at = Instant::now();
                let id = number.to_string();
                let message = ToSend { body: id.clone(), deduplication_id: id, group: String::new(), delay: Duration::ZERO };
                let answers = sender.send(vec![message]).await.unwrap();
                assert_eq!(answers, [Ok(())]);
                at
            });
            // The receiver has ended last, or the answer to the sender came after it: by less than a command takes.
            took.push(sent.elapsed().as_secs_f64() * 1000.0);
            receiver.acknowledge(vec![received.unwrap().remove(0).receipt]).await.unwrap();
        }
        took
    });
    took.sort_by(f64::total_cmp);
    [took[took.len() / 2], took[took.len() * 9 / 10]]
}

/// A configuration for people.
fn shown((workers, options): &(usize, &str)) -> String {
    let options = if options.is_empty() { "as it starts by itself" } else { options };
    if *workers == 1 { options.to_owned() } else { format!("{workers} workers, each {options}") }
}

/// The configuration in which a peer is fastest here.
fn best(peer: &Peer, python: &Path) -> (usize, &'static str) {
    let tried = peer.configurations.iter().map(|configuration| {
        let rate = run_peer(peer, *configuration, python, TRIAL).tasks_per_s;
        eprintln!("  trial: {}, {}: {rate:.0} tasks/s", peer.name, shown(configuration));
        (rate, *configuration)
    });
    tried.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there is one").1
}

/// A peer: fills its queue, starts its worker, and has each task run exactly once.
fn run_peer(peer: &Peer, (workers, options): (usize, &str), python: &Path, tasks: u32) -> Run {
    let server = Server::private().expect("ours has run");
    let folder = tempfile::tempdir().unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/queue/peers");
    let programs = python.parent().expect("it lies in a folder");
    let start = |program: &Path| {
        let mut command = Command::new(program);
        command.env("BROKER", format!("{}/0", server.address())).env("RAN", folder.path()).env("PYTHONPATH", &scripts);
        // The folder of another program's settings, which it would read.
        command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(folder.path()).stdout(Stdio::null());
        command
    };
    let script = scripts.join(format!("{}_noop.py", peer.name));
    let filled = start(python).arg(script).args(["fill", &tasks.to_string()]).status().unwrap();
    assert!(filled.success(), "{}: {filled}", peer.name);
    server.ask(&["CONFIG", "RESETSTAT"]);
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let spawn = |_| {
        let mut worker = start(&programs.join(peer.program));
        worker.args(peer.arguments).args(options.split_whitespace()).stderr(log.try_clone().unwrap()).spawn().unwrap()
    };
    let mut workers: Vec<Child> = (0..workers).map(spawn).collect();
    let tasks_per_s = drained(&server, peer.left, tasks, &mut workers);
    let run = run(&server, tasks_per_s, tasks);
    for worker in &mut workers {
        Command::new("kill").arg(worker.id().to_string()).status().unwrap();
        worker.wait().unwrap();
    }
    let numbers: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|file| !file.ends_with("log"))
        .flat_map(|file| std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let distinct = numbers.iter().collect::<BTreeSet<_>>().len();
    assert_eq!((numbers.len(), distinct), (tasks as usize, tasks as usize), "{} has run each task once", peer.name);
    run
}

/// Waits until nothing is left: tasks per second from the first tenth on.
fn drained(server: &Server, left: &[&[&str]], tasks: u32, running: &mut [Child]) -> f64 {
    let began = Instant::now();
    let mut first: Option<(Instant, i64)> = None;
    let mut was_full = false;
    loop {
        let left: i64 = left.iter().map(|command| server.ask(command).number()).sum();
        was_full |= left == i64::from(tasks);
        if was_full && left < i64::from(tasks) * 9 / 10 {
            let (since, then) = *first.get_or_insert((Instant::now(), left));
            if left == 0 {
                return then as f64 / since.elapsed().as_secs_f64();
            }
        }
        assert!(began.elapsed() < PATIENCE, "{left} tasks are left");
        for running in &mut *running {
            if let Some(status) = running.try_wait().unwrap() {
                assert!(left == 0, "ended with {left} tasks left: {status}");
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// The figures that the server has of a run.
fn run(server: &Server, tasks_per_s: f64, tasks: u32) -> Run {
    let Answer::Text(info) = server.ask(&["INFO", "commandstats"]) else { panic!("a text") };
    let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<f64>().ok();
    let by_command = info.lines().filter_map(|line| {
        let name = line.strip_prefix("cmdstat_")?.split(':').next()?;
        Some((name.to_owned(), calls(line)?))
    });
    // What this watches with does not count; nor do, as requests, the commands of our scripts.
    let by_command: Vec<(String, f64)> =
        by_command.filter(|(name, _)| !matches!(name.as_str(), "llen" | "hlen" | "xlen" | "config|resetstat" | "info")).collect();
    let commands: f64 = by_command.iter().map(|(_, calls)| calls).sum();
    let ours = by_command.iter().any(|(name, _)| name == "xreadgroup");
    let is_request = |name: &str| !ours || matches!(name, "evalsha" | "xread" | "script|load");
    let requests: f64 = by_command.iter().filter(|(name, _)| is_request(name)).map(|(_, calls)| calls).sum();
    Run { tasks_per_s, requests: requests / f64::from(tasks), commands: commands / f64::from(tasks) }
}
