//! The whole OCR job, submitted to DONE with its files in place and models warm, beside the Python original in one warm process.

use super::median;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use wasm_worker::app::{App, Submission, WorkerOptions};
use wasm_worker::config::{Config, MadeUp, Overrides, Pipeline};
use wasm_worker::task::state::JobState;
use wasm_worker::task::uri::Uri;
use wasm_worker::worker::Until;

/// Pairs measured, after one that warms both.
const PAIRS: usize = 15;

struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &str, threads: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer.py");
        let mut command = Command::new(python);
        command.arg(script).arg(threads.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the Python peer starts");
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    /// One pass: seconds and lines read.
    fn read(&mut self, picture: &str) -> (f64, usize) {
        writeln!(self.to, "{picture}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        let (seconds, lines) = answer.trim().split_once(' ').unwrap_or_else(|| panic!("the Python peer answered {answer:?}"));
        (seconds.parse().unwrap(), lines.parse().unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Ours {
    app: App,
    pipeline: Pipeline,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Ours {
    async fn start(backend: &str, library: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags = [("data_dir", folder.path().to_str().unwrap()), ("inference.backend", backend), ("inference.onnxruntime", library)];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let config = Config::load(&Overrides { flags, ..Overrides::default() }).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/ocr/pipeline.toml");
        let pipeline = Pipeline::load(&path, &MadeUp::default(), &config.limits).unwrap();
        let app = App::open(config).await.unwrap();
        let worker = app.worker(&pipeline, WorkerOptions { job: None, patient: true }).await.unwrap();
        let stop = CancellationToken::new();
        let drain = stop.clone();
        tokio::spawn(async move { Arc::clone(&worker).run(Until::Stopped, None, drain).await });
        Self { app, pipeline, stop, _folder: folder }
    }

    /// One job, from submit to its end: seconds.
    async fn read(&self, picture: &str) -> f64 {
        let began = Instant::now();
        let submission = Submission { input: Some(Uri::of_file(Path::new(picture)).unwrap()), ..Submission::default() };
        let receipt = self.app.submit(&self.pipeline, vec![submission]).await.unwrap().remove(0);
        loop {
            let job = self.app.tasks.job(&self.app.config.tenant, &receipt.job_id).await.unwrap();
            if job.state.is_ended() {
                assert_eq!(job.state, JobState::Done);
                return began.elapsed().as_secs_f64();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Measures and prints.
pub fn measure(picture: &str, python: &str, library: &str) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut peer = Peer::start(python, threads);
        let ours = [Ours::start("onnxruntime", library).await, Ours::start("rten", library).await];
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for pair in 0..=PAIRS {
            let (theirs, lines) = peer.read(picture);
            assert!(lines > 0, "the Python peer read nothing");
            let round = [theirs, ours[0].read(picture).await, ours[1].read(picture).await];
            // The first round warms instances, models and caches.
            if pair > 0 {
                times.iter_mut().zip(round).for_each(|(times, time)| times.push(time));
            }
        }
        let [python, onnxruntime, rten] = times.map(median);
        println!("OCR of {picture}, {threads} threads, median of {PAIRS} rounds in turn, models warm:");
        println!("  Python original (onnxruntime)   {:8.1} ms", python * 1e3);
        println!("  wasm-worker, onnxruntime        {:8.1} ms   {:.2} x", onnxruntime * 1e3, onnxruntime / python);
        println!("  wasm-worker, rten               {:8.1} ms   {:.2} x", rten * 1e3, rten / python);
        ours.iter().for_each(|ours| ours.stop.cancel());
    });
}
