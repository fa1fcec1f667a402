//! `tasks`: lists, shows and cancels tasks, and shows what their guests logged.

mod cancel;
mod show;

use super::failure::{Exit, Failure};
use super::globals::{Globals, list_limit, tell_if_cut};
use super::render::text;
use super::stores::Stores;
use super::terminal::{Terminal, print, print_json};
use crate::app::App;
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::{MAX_ANSWER, TaskFilter, TaskView};
use clap::{Args, Subcommand};
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  wasm-worker tasks list --job 0193b6 --state dead
  wasm-worker tasks show 3f9a02c17b55
  wasm-worker tasks logs 3f9a02c17b55";

const LIST: &str = "\
Examples:
  wasm-worker tasks list --job 0193b6
  wasm-worker tasks list --step recognize --state processing
  wasm-worker tasks list --json | jq -r '.[] | select(.attempts > 1) | .task_id'";

const SHOW: &str = "\
Examples:
  wasm-worker tasks show 3f9a02c17b55
  wasm-worker tasks show 3f9a02c17b55 --json | jq .claims";

const LOGS: &str = "\
Examples:
  wasm-worker tasks logs 3f9a02c17b55";

/// Arguments of `tasks`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TasksArgs {
    #[command(subcommand)]
    command: TasksCommand,
}

#[derive(Debug, Subcommand)]
enum TasksCommand {
    /// Lists tasks, newest jobs first
    #[command(visible_alias = "ls", after_help = LIST)]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Tasks of every tenant
        #[arg(long)]
        all_tenants: bool,
        /// At most this many [default: 100, or 10000 with --json]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Shows a task with every claim of it
    #[command(after_help = SHOW)]
    Show {
        /// Its id, or at least 6 characters of its beginning
        #[arg(value_name = "TASK")]
        id: String,
    },
    /// Asks tasks to stop: at once where they wait, else by their worker
    #[command(after_help = cancel::EXAMPLES)]
    Cancel {
        /// Their ids, or at least 6 characters of their beginnings
        #[arg(value_name = "TASK", required_unless_present_any = ["job", "step", "state"], conflicts_with_all = ["job", "step", "state"])]
        ids: Vec<String>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Shows what the guest logged, run by run
    #[command(after_help = LOGS)]
    Logs {
        /// Its id, or at least 6 characters of its beginning
        #[arg(value_name = "TASK")]
        id: String,
    },
}

#[derive(Debug, Args)]
struct Filter {
    /// Only tasks of this job, by its id or the beginning of it
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Only tasks of this step
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Only tasks in this state: WAITING, QUEUED, PROCESSING, COMMITTED, DONE, DEAD or CANCELLED
    #[arg(long, value_name = "STATE")]
    state: Option<TaskState>,
}

impl Filter {
    /// The store's own filter; the beginning of a job's id is made whole, within the tenant.
    async fn with(&self, app: &App, all_tenants: bool, limit: u32) -> Result<TaskFilter, Failure> {
        let job_id = match &self.job {
            Some(id) if !all_tenants => Some(super::jobs::find(app, id).await?.job_id),
            other => other.clone(),
        };
        let tenant = (!all_tenants).then(|| app.config.tenant.clone());
        Ok(TaskFilter { tenant, job_id, step: self.step.clone(), state: self.state, limit })
    }
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &TasksArgs) -> Result<Exit, Failure> {
    let stores = Stores::find(globals).await?;
    let terminal = Terminal::detect();
    match &args.command {
        TasksCommand::List { filter, all_tenants, limit } => {
            let Some(app) = stores.or_tell(globals.json, &json!([]))? else { return Ok(Exit::Done) };
            let filter = filter.with(&app, *all_tenants, list_limit(*limit, globals.json)).await?;
            let tasks = app.tasks.tasks(filter).await?;
            if globals.json {
                print_json(&tasks)?
            } else {
                print(&show::list(&tasks, terminal))?
            }
            tell_if_cut(*limit, globals.json, tasks.len());
        }
        TasksCommand::Show { id } => {
            let task = find(&stores.require()?, id).await?;
            if globals.json { print_json(&task)? } else { print(&show::show(&task, terminal))? }
        }
        TasksCommand::Cancel { ids, filter } if ids.is_empty() => {
            let Some(app) = stores.or_tell(globals.json, &json!([]))? else { return Ok(Exit::Done) };
            let asked = cancel::all(&app, filter.with(&app, false, MAX_ANSWER).await?).await?;
            cancel::tell(&asked, globals.json)?;
        }
        TasksCommand::Cancel { ids, .. } => {
            let app = stores.require()?;
            let mut found = Vec::new();
            // All of them are found before the first is cancelled: a slip in one id cancels nothing.
            for id in ids {
                found.push(find(&app, id).await?);
            }
            cancel::tell(&cancel::each(&app, found).await?, globals.json)?;
        }
        TasksCommand::Logs { id } => {
            let app = stores.require()?;
            let task = find(&app, id).await?;
            let logs = app.tasks.logs(TaskKey::new(&task.tenant, &task.task_id)).await?;
            if globals.json {
                let each = |(epoch, text): &(u64, String)| json!({"epoch": epoch, "text": text});
                print_json(&logs.iter().map(each).collect::<Vec<_>>())?;
            } else {
                let each = |(epoch, log): &(u64, String)| format!("── run {epoch}\n{}", text::plain(log));
                print(&logs.iter().map(each).collect::<String>())?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn find(app: &App, id: &str) -> Result<TaskView, Failure> {
    Ok(app.tasks.task(&app.config.tenant, id).await?)
}
