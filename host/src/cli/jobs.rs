//! `jobs`: lists, shows, seals and cancels jobs.

use super::failure::{Exit, Failure};
use super::globals::{Globals, list_limit, tell_if_cut};
use super::record::Record;
use super::render::{state, table, text, time};
use super::stores::Stores;
use super::terminal::{Terminal, note, print, print_json};
use crate::app::App;
use crate::task::state::JobState;
use crate::task_store::{JobView, MAX_ANSWER, StoreError};
use clap::{Args, Subcommand};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Requests on their way at once: the store takes many in one transaction.
const AT_ONCE: usize = 64;

const EXAMPLES: &str = "\
Examples:
  wasm-worker jobs list --state failed
  wasm-worker jobs show 0193b6
  wasm-worker jobs cancel 0193b6 0193b7";

const LIST: &str = "\
Examples:
  wasm-worker jobs list
  wasm-worker jobs list --state processing --limit 10
  wasm-worker jobs list --json | jq -r '.[] | select(.state == \"FAILED\") | .job_id'";

const SHOW: &str = "\
Examples:
  wasm-worker jobs show 0193b6
  wasm-worker jobs show 0193b6 --json | jq .result";

const SEAL: &str = "\
A job that is fed (`submit --feed`, or messages of a queue that say `job_tasks`) stays open until it is sealed: by this command, by the
arrival of the last of its `job_tasks`, or because nothing came for long. Sealed, it ends once none of its tasks is live.

Examples:
  wasm-worker submit pipeline.toml --feed --job-id album a.png b.png
  wasm-worker submit pipeline.toml --feed --job-id album c.png
  wasm-worker jobs seal album";

const CANCEL: &str = "\
What waits is cancelled at once. What runs is asked to stop, and is stopped after its step's `cancel_grace`. What has committed its
result ends DONE.

Examples:
  wasm-worker jobs cancel 0193b6 0193b7
  wasm-worker jobs cancel --pipeline ocr
  wasm-worker jobs cancel --all";

/// Arguments of `jobs`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// Lists jobs, newest first
    #[command(visible_alias = "ls", after_help = LIST)]
    List {
        /// Only jobs in this state: PROCESSING, DONE, FAILED or CANCELLED
        #[arg(long, value_name = "STATE")]
        state: Option<JobState>,
        /// Jobs of every tenant
        #[arg(long)]
        all_tenants: bool,
        /// At most this many [default: 100, or 10000 with --json]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Shows a job: its steps, its result, where its outputs are
    #[command(after_help = SHOW)]
    Show {
        /// Its id, or the beginning of it
        #[arg(value_name = "JOB")]
        id: String,
    },
    /// Ends the feeding of a job: no further task joins it
    #[command(after_help = SEAL)]
    Seal {
        /// Its id, or the beginning of it
        #[arg(value_name = "JOB")]
        id: String,
    },
    /// Cancels what of a job has not ended
    #[command(after_help = CANCEL)]
    Cancel(Cancel),
}

#[derive(Debug, Args)]
struct Cancel {
    /// Their ids, or the beginnings of them
    #[arg(value_name = "JOB", required_unless_present_any = ["all", "pipeline"])]
    ids: Vec<String>,
    /// Every job that has not ended
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Every job of this pipeline that has not ended
    #[arg(long, value_name = "NAME", conflicts_with = "ids")]
    pipeline: Option<String>,
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &JobsArgs) -> Result<Exit, Failure> {
    let stores = Stores::find(globals).await?;
    let terminal = Terminal::detect();
    match &args.command {
        JobsCommand::List { state, all_tenants, limit } => {
            let Some(app) = stores.or_tell(globals.json, &json!([]))? else { return Ok(Exit::Done) };
            let tenant = (!all_tenants).then_some(app.config.tenant.as_str());
            let jobs = app.tasks.jobs(tenant, *state, list_limit(*limit, globals.json)).await?;
            if globals.json {
                print_json(&jobs)?
            } else {
                print(&list(&jobs, terminal))?
            }
            tell_if_cut(*limit, globals.json, jobs.len());
        }
        JobsCommand::Show { id } => {
            let app = stores.require()?;
            let record = Record::read(&app, find(&app, id).await?).await?;
            if globals.json {
                print_json(&record)?;
            } else {
                let errors: String = record.errors().iter().map(|e| format!("{e}\n")).collect();
                print(&format!("{}{errors}", record.render(terminal)))?;
            }
        }
        JobsCommand::Seal { id } => seal(&stores.require()?, id, globals.json).await?,
        JobsCommand::Cancel(which) if which.ids.is_empty() => {
            let Some(app) = stores.or_tell(globals.json, &json!([]))? else { return Ok(Exit::Done) };
            cancel_all(&app, which.pipeline.as_deref(), globals.json).await?;
        }
        JobsCommand::Cancel(which) => {
            let app = stores.require()?;
            let mut jobs = Vec::new();
            // All of them are found before the first is cancelled: a slip in one id cancels nothing.
            for id in &which.ids {
                jobs.push(find(&app, id).await?);
            }
            let mut lines = Vec::new();
            for job in &jobs {
                lines.push(cancel_one(&app, job, globals.json).await?);
            }
            if globals.json {
                print_json(&lines)?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn seal(app: &App, id: &str, json: bool) -> Result<(), Failure> {
    let job = find(app, id).await?;
    let state = app.tasks.seal(&job.tenant, &job.job_id).await?;
    if json {
        return print_json(&json!({"job_id": job.job_id, "state": state, "was_open": job.open}));
    }
    let told = if job.open { "is sealed" } else { "took no further tasks already" };
    print(&format!("job {} {told}; it is {state} ({})", job.job_id, state::counts(&job.tasks)))
}

/// Page after page, as those that were cancelled leave the list; one whose tasks still run stays in it, and is asked once.
async fn cancel_all(app: &App, pipeline: Option<&str>, json: bool) -> Result<(), Failure> {
    let (mut asked, mut lines) = (HashSet::new(), Vec::new());
    loop {
        let jobs = app.tasks.jobs(Some(&app.config.tenant), Some(JobState::Processing), MAX_ANSWER).await?;
        let full = jobs.len() >= MAX_ANSWER as usize;
        let of_pipeline = jobs.into_iter().filter(|job| pipeline.is_none_or(|name| job.pipeline == name));
        let new: Vec<JobView> = of_pipeline.filter(|job| asked.insert(job.job_id.clone())).collect();
        let last = !full || new.is_empty();
        let cancelled = stream::iter(new).map(async |job| cancel_one(app, &job, json).await).buffered(AT_ONCE);
        lines.extend(cancelled.try_collect::<Vec<Value>>().await?);
        if last {
            break;
        }
    }
    if json {
        return print_json(&lines);
    }
    if lines.is_empty() {
        note("no job that has not ended");
    }
    Ok(())
}

/// Cancels one; the line on it for machines. People are told at once.
async fn cancel_one(app: &App, job: &JobView, json: bool) -> Result<Value, Failure> {
    let live = app.tasks.cancel_job(&job.tenant, &job.job_id).await?;
    let after = app.tasks.job(&job.tenant, &job.job_id).await?.state;
    if !json {
        print(&format!("job {}: {} asked to stop; the job is {after}", job.job_id, text::count(live, "task")))?;
    }
    Ok(json!({"job_id": job.job_id, "live_tasks": live, "state": after}))
}

fn list(jobs: &[JobView], terminal: Terminal) -> String {
    let now = time::now();
    // A column that is empty for whoever feeds no jobs is left out.
    let fed = jobs.iter().any(|job| feeding(job.open, job.expected).is_some());
    let headings = ["JOB", "PIPELINE", "STATE", "TASKS", "SUBMITTED", "#TOOK", "FEED"];
    let shown = headings.len() - usize::from(!fed);
    let mut rows = table::Rows::new(terminal, headings.get(..shown).unwrap_or_default());
    for job in jobs {
        let mut row = vec![
            table::cell(&job.job_id),
            table::cell(&job.pipeline),
            state::job(job.state),
            table::cell(state::counts(&job.tasks)),
            table::cell(time::when(job.created_at, now, terminal.shows_results)),
            table::cell(job.ended_at.map_or_else(|| "-".to_owned(), |end| time::duration((end - job.created_at) as f64))),
        ];
        if fed {
            row.push(table::cell(feeding(job.open, job.expected).unwrap_or_else(|| "-".to_owned())));
        }
        rows.row(row);
    }
    rows.render()
}

/// Whether a job takes further tasks, and how many it is to get; none for a job that was never fed.
pub fn feeding(open: bool, expected: Option<u64>) -> Option<String> {
    match (open, expected) {
        (true, Some(n)) => Some(format!("open, {n} expected")),
        (true, None) => Some("open".to_owned()),
        (false, Some(n)) => Some(format!("sealed, {n} expected")),
        (false, None) => None,
    }
}

/// A job by its id, or by a beginning of it that fits one job only.
pub async fn find(app: &App, id: &str) -> Result<JobView, Failure> {
    let tenant = &app.config.tenant;
    match app.tasks.job(tenant, id).await {
        Err(StoreError::NotFound(_)) => {}
        found => return Ok(found?),
    }
    let jobs = app.tasks.jobs(Some(tenant), None, MAX_ANSWER).await?;
    let mut fits: Vec<JobView> = jobs.into_iter().filter(|job| !id.is_empty() && job.job_id.starts_with(id)).collect();
    let shown = text::line(id, 128);
    match (fits.pop(), fits.len()) {
        (None, _) => Err(Failure::failed(format!("no job '{shown}'")).help("`wasm-worker jobs list` shows what there is")),
        (Some(job), 0) => Ok(job),
        (Some(_), more) => Err(Failure::failed(format!("{} jobs begin with '{shown}'", more + 1)).help("give more of the id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::state::TaskState;

    #[test]
    fn the_feed_is_a_column_where_a_job_is_fed() {
        let piped = Terminal { shows_results: false, shows_progress: false, colours: false };
        let job = |open, expected| JobView {
            tenant: "t".into(),
            job_id: "j".into(),
            pipeline: "p".into(),
            state: JobState::Processing,
            prefix: "file:///o/".into(),
            created_at: 0,
            ended_at: None,
            open,
            expected,
            tasks: [(TaskState::Queued, 2)].into(),
        };
        assert!(!list(&[job(false, None)], piped).contains("FEED"));
        let text = list(&[job(true, Some(7)), job(true, None), job(false, Some(7)), job(false, None)], piped);
        let last: Vec<&str> = text.lines().map(|line| line.split("  ").last().unwrap().trim()).collect();
        assert_eq!(last, ["FEED", "open, 7 expected", "open", "sealed, 7 expected", "-"]);
    }
}
