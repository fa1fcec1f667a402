//! `submit`: puts jobs into the task store, for a worker to run; waits for them where asked.

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals};
use super::render::text;
use super::source::{Source, pair};
use super::terminal::{Terminal, note, print, print_json};
use super::{input, jsonl, progress, signals};
use crate::app::{App, Receipt, Submission};
use crate::task::id;
use crate::task::root::MAX_DELAY;
use crate::task::state::JobState;
use crate::task_store::{StoreError, Submitted};
use clap::Args;
use serde_json::json;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  wasm-worker submit pipeline.toml page1.png page2.png
  wasm-worker submit pipeline.toml *.png --params '{\"language\": \"en\"}' --wait
  wasm-worker submit pipeline.toml --jsonl jobs.jsonl
  wasm-worker submit noop.wasm --repeat 1000

  A line of jobs.jsonl, of which every key may be left out:
    {\"input\": \"page.png\", \"params\": {}, \"job_id\": \"page-1\", \"step\": \"detect\", \"function\": \"read\", \"priority\": 7,
     \"max_attempts\": 3, \"delay_ms\": 500, \"output\": \"out/page-1\", \"metadata\": {\"source\": \"scan\"}}

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
    let pipeline = args.source.load(&config.limits)?;
    let mut submissions = submissions(args)?;
    let app = App::open(config).await?;
    if let Some(folder) = &args.output {
        place_outputs(&app, folder, &mut submissions).await?;
    }
    let receipts = app.submit(&pipeline, submissions).await?;
    let refused = refused(&receipts);
    if !args.wait || refused.is_some() {
        tell(&receipts, &HashMap::new(), globals.json)?;
    }
    if let Some(failure) = refused {
        return Err(failure);
    }
    if args.wait { wait(&app, &receipts, globals.json).await } else { Ok(Exit::Done) }
}

/// The error for receipts of jobs that were not taken, if there are any.
pub fn refused(receipts: &[Receipt]) -> Option<Failure> {
    let ids = |what: Submitted| {
        let ids: Vec<&str> = receipts.iter().filter(|r| r.submitted == what).map(|r| r.job_id.as_str()).collect();
        (!ids.is_empty()).then(|| text::line(&ids.join(", "), 400))
    };
    if let Some(ids) = ids(Submitted::Conflict) {
        let failure = Failure::failed(format!("taken by another job, or by another content: {ids}"));
        return Some(failure.help("choose another id; the other jobs, if any, were submitted"));
    }
    let ids = ids(Submitted::Occupied)?;
    let failure = Failure::failed(format!("the outputs would mix with those of a job that still runs: {ids}"));
    Some(failure.help("name another --output, or wait for that job; the other jobs, if any, were submitted"))
}

/// What is asked for, before outputs have a place.
fn submissions(args: &SubmitArgs) -> Result<Vec<Submission>, Failure> {
    let once = match &args.jsonl {
        Some(file) if file == Path::new("-") => jsonl::read(std::io::stdin().lock(), "standard input")?,
        Some(file) => {
            let shown = file.display().to_string();
            let opened = File::open(file).map_err(|e| Failure::usage(format!("{shown} cannot be read: {e}")))?;
            jsonl::read(BufReader::new(opened), &shown)?
        }
        None => of_files(args)?,
    };
    let many = once.len() * args.repeat as usize;
    if let Some(id) = &args.job_id {
        id::check("--job-id", id).map_err(Failure::usage)?;
        if many != 1 {
            return Err(
                Failure::usage(format!("--job-id '{id}' names one job, and there are {many}")).help("give ids line by line, with --jsonl")
            );
        }
    }
    if args.repeat > 1 && once.iter().any(|s| s.job_id.is_some()) {
        return Err(Failure::usage("--repeat would submit one job_id several times").help("leave job_id out of the lines"));
    }
    let labels = |own: &Submission| args.labels.iter().cloned().chain(own.metadata.clone()).collect();
    let completed = |own: &Submission| Submission {
        priority: own.priority.or(args.priority),
        function: own.function.clone().or_else(|| args.function.clone()),
        max_attempts: own.max_attempts.or(args.max_attempts),
        delay: own.delay.or(args.delay),
        job_id: own.job_id.clone().or_else(|| args.job_id.clone()),
        metadata: labels(own),
        ..own.clone()
    };
    Ok((0..args.repeat).flat_map(|_| once.iter().map(completed)).collect())
}

fn of_files(args: &SubmitArgs) -> Result<Vec<Submission>, Failure> {
    let params = args.params.as_deref().map(input::params).transpose()?.unwrap_or_default();
    let of = |input| Submission { input, params: params.clone(), ..Submission::default() };
    if args.files.is_empty() {
        if args.params.is_none() {
            return Err(
                Failure::usage("nothing to submit").help("name files, or give --params '{}' for a job without one, or --jsonl FILE")
            );
        }
        return Ok(vec![of(None)]);
    }
    let (mut jobs, mut faults) = (Vec::new(), Vec::new());
    for file in &args.files {
        match input::input(file) {
            Ok(uri) => jobs.push(of(Some(uri))),
            Err(failure) => faults.push(failure),
        }
    }
    match faults.pop() {
        None => Ok(jobs),
        Some(only) if faults.is_empty() => Err(only),
        Some(last) => {
            let all: Vec<String> = faults.iter().chain([&last]).map(|f| f.to_string()).collect();
            let errors = all.iter().flat_map(|f| f.lines()).filter_map(|line| line.strip_prefix("error: "));
            Err(Failure::usage(errors.collect::<Vec<_>>().join("\n")).help("nothing was submitted"))
        }
    }
}

/// `--output`: the folder itself for one job, a folder in it named by the job's id for several.
async fn place_outputs(app: &App, folder: &Path, submissions: &mut [Submission]) -> Result<(), Failure> {
    if let [only] = submissions {
        let own = match &only.job_id {
            Some(id) => match app.tasks.job(&app.config.tenant, id).await {
                Ok(job) => Some(job.prefix),
                Err(StoreError::NotFound(_)) => None,
                Err(e) => return Err(e.into()),
            },
            None => None,
        };
        only.output = Some(input::output_folder(folder, own.as_deref())?);
        return Ok(());
    }
    let base = input::output_folder(folder, None)?;
    for submission in submissions.iter_mut().filter(|s| s.output.is_none()) {
        let job_id = submission.job_id.get_or_insert_with(|| uuid::Uuid::now_v7().to_string()).clone();
        submission.output = Some(base.join(&format!("{job_id}/")).map_err(Failure::usage)?);
    }
    Ok(())
}

fn tell(receipts: &[Receipt], ended: &HashMap<String, JobState>, json: bool) -> Result<(), Failure> {
    if json {
        let each = |r: &Receipt| {
            let submitted = match r.submitted {
                Submitted::Created => "created",
                Submitted::Repeated => "repeated",
                Submitted::Conflict => "conflict",
                Submitted::Occupied => "occupied",
                Submitted::Sealed => "sealed",
            };
            let mut line = json!({"job_id": r.job_id, "task_id": r.task_id, "submitted": submitted});
            if let (Some(state), Some(object)) = (ended.get(&r.job_id), line.as_object_mut()) {
                object.insert("status".to_owned(), json!(state));
            }
            line
        };
        return print_json(&receipts.iter().map(each).collect::<Vec<_>>());
    }
    let line = |r: &Receipt| match (ended.get(&r.job_id), r.submitted) {
        (_, Submitted::Conflict | Submitted::Occupied | Submitted::Sealed) => String::new(),
        (Some(state), _) => format!("{} {state}\n", r.job_id),
        (None, _) => format!("{}\n", r.job_id),
    };
    print(&receipts.iter().map(line).collect::<String>())
}

async fn wait(app: &App, receipts: &[Receipt], json: bool) -> Result<Exit, Failure> {
    let terminal = Terminal::detect();
    let stop = signals::listen("no longer waiting; the jobs go on")?;
    let ids: Vec<String> = receipts.iter().map(|r| r.job_id.clone()).collect();
    note(&format!(
        "submitted {}; waiting for a worker to run {}",
        text::count(ids.len() as u64, "job"),
        if ids.len() == 1 { "it" } else { "them" }
    ));
    let ended = progress::follow(app.tasks.as_ref(), &app.config.tenant, &ids, terminal.shows_progress && !json, &stop).await?;
    tell(receipts, &ended, json)?;
    if stop.is_cancelled() && ended.len() < ids.len() {
        return Ok(Exit::Interrupted);
    }
    let all_well = ended.values().all(|state| *state == JobState::Done);
    Ok(if all_well { Exit::Done } else { Exit::Failed })
}
