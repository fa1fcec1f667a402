//! `jobs`: lists, shows and cancels jobs.

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals, list_limit};
use super::record::Record;
use super::render::{state, table, text, time};
use super::terminal::{Terminal, print, print_json};
use crate::app::App;
use crate::task::state::JobState;
use crate::task_store::{JobView, StoreError};
use clap::{Args, Subcommand};
use serde_json::json;

/// Jobs looked at to find one by the beginning of its id.
const LOOK_BACK: u32 = 10_000;

/// Arguments of `jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// Lists jobs, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only jobs in this state: PROCESSING, DONE, FAILED or CANCELLED
        #[arg(long, value_name = "STATE")]
        state: Option<JobState>,
        /// Jobs of every tenant
        #[arg(long)]
        all_tenants: bool,
        /// At most this many [default: 100, or all with --json]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Shows a job: its steps, its result, where its outputs are
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Cancels what of a job has not ended
    Cancel {
        /// Its id, or the beginning of it
        id: String,
    },
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &JobsArgs) -> Result<Exit, Failure> {
    let app = App::open(globals.open(Chatter::Command, &[])?).await?;
    let terminal = Terminal::detect();
    match &args.command {
        JobsCommand::List { state, all_tenants, limit } => {
            let tenant = (!all_tenants).then_some(app.config.tenant.as_str());
            let jobs = app.tasks.jobs(tenant, *state, list_limit(*limit, globals.json)).await?;
            if globals.json {
                print_json(&jobs)?;
            } else {
                print(&list(&jobs, terminal))?;
            }
        }
        JobsCommand::Show { id } => {
            let record = Record::read(&app, find(&app, id).await?).await?;
            if globals.json {
                print_json(&record)?;
            } else {
                let errors: String = record.errors().iter().map(|e| format!("{e}\n")).collect();
                print(&format!("{}{errors}", record.render(terminal)))?;
            }
        }
        JobsCommand::Cancel { id } => {
            let job = find(&app, id).await?;
            let live = app.tasks.cancel_job(&job.tenant, &job.job_id).await?;
            let after = app.tasks.job(&job.tenant, &job.job_id).await?.state;
            if globals.json {
                print_json(&json!({"job_id": job.job_id, "live_tasks": live, "status": after}))?;
            } else {
                print(&format!("job {}: {} asked to stop; the job is {after}", job.job_id, text::count(live, "task")))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn list(jobs: &[JobView], terminal: Terminal) -> String {
    let now = time::now();
    let mut rows = table::Rows::new(terminal, &["JOB", "PIPELINE", "STATE", "TASKS", "SUBMITTED", "#TOOK"]);
    for job in jobs {
        rows.row(vec![
            table::cell(&job.job_id),
            table::cell(&job.pipeline),
            state::job(job.state),
            table::cell(state::counts(&job.tasks)),
            table::cell(time::when(job.created_at, now, terminal.shows_results)),
            table::cell(job.ended_at.map_or_else(|| "-".to_owned(), |end| time::duration((end - job.created_at) as f64))),
        ]);
    }
    rows.render()
}

/// A job by its id, or by a beginning of it that fits one job only.
pub async fn find(app: &App, id: &str) -> Result<JobView, Failure> {
    let tenant = &app.config.tenant;
    match app.tasks.job(tenant, id).await {
        Err(StoreError::NotFound(_)) => {}
        found => return Ok(found?),
    }
    let jobs = app.tasks.jobs(Some(tenant), None, LOOK_BACK).await?;
    let mut fits: Vec<JobView> = jobs.into_iter().filter(|job| !id.is_empty() && job.job_id.starts_with(id)).collect();
    let shown = text::line(id, 128);
    match (fits.pop(), fits.len()) {
        (None, _) => Err(Failure::failed(format!("no job '{shown}'")).help("`wasm-worker jobs list` shows what there is")),
        (Some(job), 0) => Ok(job),
        (Some(_), more) => Err(Failure::failed(format!("{} jobs begin with '{shown}'", more + 1)).help("give more of the id")),
    }
}
