//! `submit`: puts jobs into the task store, for a worker to run; waits for them where asked.

mod told;
mod wanted;

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals};
use super::source::{Source, pair};
use super::terminal::note;
use crate::app::{App, Receipt};
use crate::task::message::MAX_JOB_TASKS;
use crate::task::root::MAX_DELAY;
use clap::Args;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;
pub use told::refused;

const EXAMPLES: &str = "\
Examples:
  wasm-worker submit pipeline.toml page1.png page2.png
  wasm-worker submit pipeline.toml *.png --params '{\"language\": \"en\"}' --wait
  wasm-worker submit pipeline.toml --jsonl jobs.jsonl
  wasm-worker submit noop.wasm --repeat 1000
  wasm-worker submit pipeline.toml --feed --job-id album *.png      one job of many tasks, open for more: `jobs seal` ends that
  wasm-worker submit pipeline.toml --feed --seal *.png --wait       one job of many tasks

  A line of jobs.jsonl, of which every key may be left out:
    {\"input\": \"page.png\", \"params\": {}, \"job_id\": \"page-1\", \"step\": \"detect\", \"function\": \"read\", \"priority\": 7,
     \"max_attempts\": 3, \"delay_ms\": 500, \"output\": \"out/page-1\", \"metadata\": {\"source\": \"scan\"}}
  Lines of one job, which ends once it has had that many tasks and none is live:
    {\"job_id\": \"album\", \"task_id\": \"album-1\", \"job_tasks\": 2, \"input\": \"a.png\"}
    {\"job_id\": \"album\", \"task_id\": \"album-2\", \"job_tasks\": 2, \"input\": \"b.png\"}

A job submitted again with the same --job-id and content has no effect. Job ids go to standard output, one per line.";

/// Arguments of `submit`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, after_help = "`wasm-worker submit --help` has examples.")]
pub struct SubmitArgs {
    #[command(flatten)]
    source: Source,
    /// Files to work on: a job each. Without any (and without --jsonl): one job with parameters only
    #[arg(value_name = "FILE", conflicts_with = "jsonl")]
    files: Vec<String>,
    /// Parameters of every job, a JSON object, or @FILE
    #[arg(long, value_name = "JSON|@FILE", conflicts_with = "jsonl")]
    params: Option<String>,
    /// Jobs as JSON lines (- reads standard input)
    #[arg(long, value_name = "FILE|-")]
    jsonl: Option<PathBuf>,
    /// Submits all of it this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
    /// Waits until every job has ended; exit 1 if one failed. A worker has to run elsewhere
    #[arg(long)]
    wait: bool,
    /// 0 (last) to 9 (first) [default: 5]
    #[arg(long, value_name = "0-9", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// The function, where the guest has several
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Attempts before a task is given up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_attempts: Option<u32>,
    /// Not before this long from now, such as 90s
    #[arg(long, value_name = "TIME", value_parser = delay)]
    delay: Option<Duration>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Folder for the outputs, new or empty; several jobs get a folder each in it
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The job's id; of one job only
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Everything is tasks of one job, which stays open for more until it is sealed
    #[arg(long, help_heading = "Jobs of many tasks")]
    feed: bool,
    /// How many tasks the job is to get in all; the last one to arrive seals it
    #[arg(long, value_name = "N", requires = "feed", value_parser = clap::value_parser!(u64).range(1..=MAX_JOB_TASKS), help_heading = "Jobs of many tasks")]
    job_tasks: Option<u64>,
    /// Seals the job: this was all of it
    #[arg(long, requires = "feed", help_heading = "Jobs of many tasks")]
    seal: bool,
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = humantime::parse_duration(text).map_err(|e| format!("{e}; expected a time such as 90s or 2h"))?;
    if delay > MAX_DELAY {
        return Err(format!("is further away than {} days", MAX_DELAY.as_secs() / 86_400));
    }
    Ok(delay)
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &SubmitArgs) -> Result<Exit, Failure> {
    let config = globals.open(Chatter::Command, &[])?;
    let pipeline = args.source.load(&config)?;
    let mut submissions = wanted::submissions(args)?;
    let app = App::open(config).await?;
    if let Some(folder) = &args.output {
        wanted::place_outputs(&app, folder, &mut submissions).await?;
    }
    let receipts = app.submit(&pipeline, submissions).await?;
    let refused = refused(&receipts);
    // A worker of that queue sends what could not be sent from here: it is on record.
    if let Err(error) = app.send(&pipeline).await {
        note(&format!("submitted, but not sent yet: {error}; a worker that reaches the queue sends it"));
    }
    if refused.is_none() && args.seal {
        seal(&app, &receipts).await?;
    }
    if !args.wait || refused.is_some() {
        told::tell(&receipts, &HashMap::new(), globals.json)?;
    }
    if let Some(failure) = refused {
        return Err(failure);
    }
    if args.wait { told::wait(&app, &receipts, globals.json).await } else { Ok(Exit::Done) }
}

/// All that there will be was submitted: the jobs end with their tasks.
async fn seal(app: &App, receipts: &[Receipt]) -> Result<(), Failure> {
    let jobs: BTreeSet<&str> = receipts.iter().map(|receipt| receipt.job_id.as_str()).collect();
    for job_id in jobs {
        app.tasks.seal(&app.config.tenant, job_id).await?;
    }
    Ok(())
}
