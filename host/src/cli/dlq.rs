//! `dlq`: dead letters, the tasks that were given up. Lists, shows, and puts them back.

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals, list_limit};
use super::render::{table, text, time};
use super::terminal::{Terminal, note, print, print_json};
use crate::app::App;
use crate::task_store::{DeadLetter, DeadLetterFilter};
use clap::{Args, Subcommand};
use serde_json::json;

/// Most letters looked at or put back by one command.
const MAX_LETTERS: u32 = 100_000;

const REDRIVE: &str = "\
A task put back starts with all its attempts; one that had committed its result is only finalised again.
A `then` that has run is not repeated: it keeps the inputs it saw.

Examples:
  wasm-worker dlq redrive --code model-missing --dry-run
  wasm-worker dlq redrive --job 0193b6
  wasm-worker dlq redrive --all";

/// Arguments of `dlq`.
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// Lists dead letters, newest first
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many [default: 100, or all with --json]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Shows one with its message
    Show {
        /// Its number, or its task's id
        id: String,
    },
    /// Puts tasks back to run again
    #[command(after_help = REDRIVE)]
    Redrive {
        /// Only this letter, by its number
        #[arg(long, value_name = "NUMBER")]
        id: Option<i64>,
        #[command(flatten)]
        filter: Filter,
        /// Every one
        #[arg(long, conflicts_with_all = ["id", "task", "job", "step", "code"])]
        all: bool,
        /// Says what would be put back, and changes nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct Filter {
    /// Only this task, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// Only of this job, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Only of this step
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Only with this error code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        [&self.task, &self.job, &self.step, &self.code].iter().all(|f| f.is_none())
    }

    /// The store's own filter; beginnings of ids are made whole.
    async fn with(&self, app: &App, limit: u32) -> Result<DeadLetterFilter, Failure> {
        let tenant = &app.config.tenant;
        let task_id = match &self.task {
            Some(id) => Some(app.tasks.task(tenant, id).await?.task_id),
            None => None,
        };
        let job_id = match &self.job {
            Some(id) => Some(super::jobs::find(app, id).await?.job_id),
            None => None,
        };
        Ok(DeadLetterFilter {
            id: None,
            tenant: Some(tenant.clone()),
            task_id,
            job_id,
            step: self.step.clone(),
            code: self.code.clone(),
            limit,
        })
    }
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &DlqArgs) -> Result<Exit, Failure> {
    let app = App::open(globals.open(Chatter::Command, &[])?).await?;
    let terminal = Terminal::detect();
    match &args.command {
        DlqCommand::List { filter, limit } => {
            let letters = app.tasks.dead_letters(filter.with(&app, list_limit(*limit, globals.json)).await?).await?;
            if globals.json { print_json(&letters)? } else { print(&list(&letters, terminal))? }
        }
        DlqCommand::Show { id } => {
            let letter = find(&app, |letter| letter.id.to_string() == *id || letter.task_id.as_ref() == Some(id), id).await?;
            if globals.json { print_json(&letter)? } else { print(&show(&letter, terminal))? }
        }
        DlqCommand::Redrive { id, filter, all, dry_run } => {
            if id.is_none() && filter.is_empty() && !all {
                return Err(Failure::usage("nothing says which letters")
                    .help("--id, --task, --job, --step or --code choose some; --all takes every one"));
            }
            let mut wanted = filter.with(&app, MAX_LETTERS).await?;
            if let Some(number) = id {
                let letter = find(&app, |letter| letter.id == *number, &number.to_string()).await?;
                wanted.task_id = Some(
                    letter
                        .task_id
                        .ok_or_else(|| Failure::failed(format!("letter {number} never was a task: there is nothing to put back")))?,
                );
            }
            redrive(&app, wanted, *dry_run, globals.json, terminal).await?;
        }
    }
    Ok(Exit::Done)
}

async fn redrive(app: &App, filter: DeadLetterFilter, dry_run: bool, json: bool, terminal: Terminal) -> Result<(), Failure> {
    let letters = app.tasks.redrive(filter, dry_run).await?;
    if json {
        return print_json(&json!({"dry_run": dry_run, "redriven": letters}));
    }
    print(&list(&letters, terminal))?;
    let count = text::count(letters.len() as u64, "task");
    note(&if dry_run { format!("{count} would be put back") } else { format!("{count} put back; a `then` that has run is not repeated") });
    Ok(())
}

async fn find(app: &App, fits: impl Fn(&DeadLetter) -> bool, shown: &str) -> Result<DeadLetter, Failure> {
    let filter = DeadLetterFilter { tenant: Some(app.config.tenant.clone()), limit: MAX_LETTERS, ..DeadLetterFilter::default() };
    let letters = app.tasks.dead_letters(filter).await?;
    let missing =
        || Failure::failed(format!("no dead letter '{}'", text::line(shown, 128))).help("`wasm-worker dlq list` shows what there is");
    letters.into_iter().find(fits).ok_or_else(missing)
}

fn list(letters: &[DeadLetter], terminal: Terminal) -> String {
    let now = time::now();
    let mut rows = table::Rows::new(terminal, &["#NUMBER", "TASK", "JOB", "STEP", "#ATTEMPTS", "DIED", "ERROR"]);
    for letter in letters {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        rows.row(vec![
            table::cell(letter.id.to_string()),
            table::cell(text::short_id(letter.task_id.as_deref().unwrap_or("-"))),
            table::cell(or_dash(&letter.job_id)),
            table::cell(or_dash(&letter.step)),
            table::cell(letter.attempts.to_string()),
            table::cell(time::when(letter.died_at, now, terminal.shows_results)),
            table::cell(text::line(&format!("{}: {}", letter.error.code, letter.error.message), 120)),
        ]);
    }
    rows.render()
}

fn show(letter: &DeadLetter, terminal: Terminal) -> String {
    let mut out = list(std::slice::from_ref(letter), terminal);
    out.push_str(&format!("\n{}: {}\n", letter.error.code, text::plain(&letter.error.message)));
    for violation in &letter.error.violations {
        out.push_str(&format!("  {}\n", text::plain(&violation.to_string())));
    }
    let message = serde_json::from_str::<serde_json::Value>(&letter.message).map_or_else(|_| letter.message.clone(), |m| format!("{m:#}"));
    out.push_str(&format!("\n{}\n", text::plain(&message)));
    out
}
