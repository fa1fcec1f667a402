//! `tasks`: lists, shows and cancels tasks, and shows what their guests logged.

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals, list_limit};
use super::render::{state, table, text, time};
use super::terminal::{Terminal, print, print_json};
use crate::app::App;
use crate::task::id::TaskKey;
use crate::task::state::TaskState;
use crate::task_store::{TaskFilter, TaskView};
use clap::{Args, Subcommand};
use serde_json::json;

/// Arguments of `tasks`.
#[derive(Debug, Args)]
pub struct TasksArgs {
    #[command(subcommand)]
    command: TasksCommand,
}

#[derive(Debug, Subcommand)]
enum TasksCommand {
    /// Lists tasks, newest jobs first
    #[command(visible_alias = "ls")]
    List {
        /// Only tasks of this job, by its id or the beginning of it
        #[arg(long, value_name = "ID")]
        job: Option<String>,
        /// Only tasks of this step
        #[arg(long, value_name = "NAME")]
        step: Option<String>,
        /// Only tasks in this state: WAITING, QUEUED, PROCESSING, COMMITTED, DONE, DEAD or CANCELLED
        #[arg(long, value_name = "STATE")]
        state: Option<TaskState>,
        /// Tasks of every tenant
        #[arg(long)]
        all_tenants: bool,
        /// At most this many [default: 100, or all with --json]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Shows a task with every claim of it
    Show {
        /// Its id, or at least 6 characters of its beginning
        id: String,
    },
    /// Asks a task to stop: at once where it waits, else by its worker
    Cancel {
        /// Its id, or at least 6 characters of its beginning
        id: String,
    },
    /// Shows what the guest logged, run by run
    Logs {
        /// Its id, or at least 6 characters of its beginning
        id: String,
    },
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &TasksArgs) -> Result<Exit, Failure> {
    let app = App::open(globals.open(Chatter::Command, &[])?).await?;
    let terminal = Terminal::detect();
    let find = async |id: &str| app.tasks.task(&app.config.tenant, id).await;
    match &args.command {
        TasksCommand::List { job, step, state, all_tenants, limit } => {
            let job_id = match job {
                Some(id) if !all_tenants => Some(super::jobs::find(&app, id).await?.job_id),
                other => other.clone(),
            };
            let filter = TaskFilter {
                tenant: (!all_tenants).then(|| app.config.tenant.clone()),
                job_id,
                step: step.clone(),
                state: *state,
                limit: list_limit(*limit, globals.json),
            };
            let tasks = app.tasks.tasks(filter).await?;
            if globals.json { print_json(&tasks)? } else { print(&list(&tasks, terminal))? }
        }
        TasksCommand::Show { id } => {
            let task = find(id).await?;
            if globals.json { print_json(&task)? } else { print(&show(&task, terminal))? }
        }
        TasksCommand::Cancel { id } => {
            let task = find(id).await?;
            let after = app.tasks.cancel_task(TaskKey::new(&task.tenant, &task.task_id)).await?;
            if globals.json {
                print_json(&json!({"task_id": task.task_id, "status": after}))?;
            } else {
                print(&cancelled(&task, after))?;
            }
        }
        TasksCommand::Logs { id } => {
            let task = find(id).await?;
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

fn cancelled(task: &TaskView, after: TaskState) -> String {
    let id = &task.task_id;
    match after {
        TaskState::Cancelled => format!("task {id} is CANCELLED"),
        TaskState::Processing => format!("task {id} is running; its worker stops it at its next heartbeat"),
        TaskState::Committed => format!("task {id} has committed its result; it ends DONE"),
        ended => format!("task {id} had ended already: {ended}"),
    }
}

fn list(tasks: &[TaskView], terminal: Terminal) -> String {
    let now = time::now();
    let mut rows = table::Rows::new(terminal, &["TASK", "STEP", "KEY", "STATE", "#RUNS", "CREATED", "#TOOK", "ERROR"]);
    for task in tasks {
        let took = task.claimed_at.and_then(|claimed| Some(task.ended_at? - claimed));
        rows.row(vec![
            table::cell(text::short_id(&task.task_id)),
            table::cell(&task.step),
            table::cell(&task.key),
            state::task(task.state),
            table::cell(task.epoch.to_string()),
            table::cell(time::when(task.created_at, now, terminal.shows_results)),
            table::cell(took.map_or_else(|| "-".to_owned(), |ms| time::duration(ms as f64))),
            table::cell(task.error.as_ref().map(|e| text::line(&format!("{}: {}", e.code, e.message), 100)).unwrap_or_default()),
        ]);
    }
    rows.render()
}

fn show(task: &TaskView, terminal: Terminal) -> String {
    let now = time::now();
    let when = |at| time::when(at, now, terminal.shows_results);
    let mut out = String::new();
    let mut line = |name: &str, value: String| out.push_str(&format!("{name:<10} {}\n", text::plain(&value)));
    line("task", task.task_id.clone());
    line("job", task.job_id.clone());
    line("step", format!("{} (pipeline {}, key {})", task.step, task.pipeline, task.key));
    line("state", format!("{}{}", task.state, if task.cancel_requested { ", asked to stop" } else { "" }));
    line(
        "attempts",
        format!("{} of {} failed; {} handed back, {} crashed", task.attempts, task.max_attempts, task.handbacks, task.crashes),
    );
    line("created", when(task.created_at));
    if let Some(at) = task.ended_at {
        line("ended", when(at));
    }
    for (name, value) in
        [("parent", &task.parent), ("outcome", &task.outcome), ("input", &task.message.input_uri), ("result", &task.result_uri)]
    {
        if let Some(value) = value {
            line(name, value.clone());
        }
    }
    line("params", serde_json::Value::Object(task.message.params.clone()).to_string());
    line("outputs", task.output_prefix.clone());
    for entry in task.manifest.iter().flat_map(|m| &m.entries) {
        line("", format!("{}  {}  {}", entry.name, text::size(entry.size), entry.content_type));
    }
    if let Some(f) = &task.figures {
        let (took, cpu, inference) = (time::duration(f.latency_ms), time::duration(f.cpu_ms), time::duration(f.inference_ms));
        line("took", format!("{took} ({cpu} of guest, {inference} of models), {} of memory", text::size(f.peak_memory)));
    }
    if let Some(error) = &task.error {
        line("error", format!("{}: {}", error.code, error.message));
        for violation in &error.violations {
            line("", violation.to_string());
        }
    }
    out.push('\n');
    out.push_str(&claims(task, terminal));
    out
}

fn claims(task: &TaskView, terminal: Terminal) -> String {
    let now = time::now();
    let mut rows = table::Rows::new(terminal, &["#RUN", "WORKER", "BEGAN", "#TOOK", "ENDED", "ERROR"]);
    for claim in &task.claims {
        rows.row(vec![
            table::cell(claim.epoch.to_string()),
            table::cell(text::line(&claim.worker, 60)),
            table::cell(time::when(claim.claimed_at, now, terminal.shows_results)),
            table::cell(claim.ended_at.map_or_else(|| "-".to_owned(), |end| time::duration((end - claim.claimed_at) as f64))),
            table::cell(claim.ended.clone().unwrap_or_else(|| "runs".to_owned())),
            table::cell(claim.error.as_ref().map(|e| text::line(&format!("{}: {}", e.code, e.message), 100)).unwrap_or_default()),
        ]);
    }
    rows.render()
}
