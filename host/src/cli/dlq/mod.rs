//! `dlq`: dead letters, the tasks that were given up and the messages that never became one. Lists, shows, puts back, removes.

mod filter;
mod show;

use super::failure::{Exit, Failure};
use super::globals::{Globals, list_limit, tell_if_cut};
use super::render::text;
use super::stores::Stores;
use super::terminal::{Terminal, note, print, print_json};
use crate::app::App;
use crate::task_store::{DeadLetter, DeadLetterFilter, MAX_ANSWER, StoreError};
use clap::{Args, Subcommand};
use filter::{Chosen, Filter};
use serde_json::json;

/// Most letters put back or removed by one command: they are all told.
const MAX_LETTERS: usize = 100_000;

const EXAMPLES: &str = "\
Examples:
  wasm-worker dlq list
  wasm-worker dlq show 7
  wasm-worker dlq redrive --code model-missing --dry-run
  wasm-worker dlq purge --job 0193b6";

const LIST: &str = "\
A letter without a task is a message that was refused on arrival; QUEUE says where it came from.

Examples:
  wasm-worker dlq list --code wall-limit
  wasm-worker dlq list --json | jq -r '.[] | [.id, .error.code] | @tsv'";

const SHOW: &str = "\
Examples:
  wasm-worker dlq show 7
  wasm-worker dlq show 3f9a02c17b55
  wasm-worker dlq show --id 7 --json | jq -r .message";

const REDRIVE: &str = "\
A task put back starts with all its attempts; one that had committed its result is only finalised again.
A `then` that has run is not repeated: it keeps the inputs it saw.

Examples:
  wasm-worker dlq redrive --code model-missing --dry-run
  wasm-worker dlq redrive --job 0193b6
  wasm-worker dlq redrive --id 7
  wasm-worker dlq redrive --all";

const PURGE: &str = "\
What is purged is gone: the letter, its message, and what its task had staged. The task stays DEAD and cannot be put back.
Nothing is asked: a filter, or --all, says what is meant, and --dry-run shows it first.

Examples:
  wasm-worker dlq purge --code invalid --dry-run
  wasm-worker dlq purge --id 7
  wasm-worker dlq purge --all";

/// Arguments of `dlq`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// Lists dead letters, newest first
    #[command(visible_alias = "ls", after_help = LIST)]
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many [default: 100, or 10000 with --json]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Shows one with its message
    #[command(after_help = SHOW)]
    Show {
        /// Its number, or its task's id or the beginning of that
        #[arg(value_name = "LETTER", required_unless_present = "id")]
        letter: Option<String>,
        /// Its number
        #[arg(long, value_name = "NUMBER", conflicts_with = "letter")]
        id: Option<i64>,
    },
    /// Puts tasks back to run again
    #[command(after_help = REDRIVE)]
    Redrive(Chosen),
    /// Removes dead letters for good
    #[command(after_help = PURGE)]
    Purge(Chosen),
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &DlqArgs) -> Result<Exit, Failure> {
    if let DlqCommand::Redrive(chosen) | DlqCommand::Purge(chosen) = &args.command {
        chosen.check()?;
    }
    let stores = Stores::find(globals).await?;
    let terminal = Terminal::detect();
    match &args.command {
        DlqCommand::List { filter, limit } => {
            let Some(app) = stores.or_tell(globals.json, &json!([]))? else { return Ok(Exit::Done) };
            let letters = app.tasks.dead_letters(filter.with(&app, list_limit(*limit, globals.json)).await?).await?;
            if globals.json {
                print_json(&letters)?
            } else {
                print(&show::list(&letters, terminal))?
            }
            tell_if_cut(*limit, globals.json, letters.len());
        }
        DlqCommand::Show { letter, id } => {
            let app = stores.require()?;
            let letter = match (id, letter) {
                (Some(number), _) => numbered(&app, *number).await?,
                (None, text) => find(&app, text.as_deref().unwrap_or_default()).await?,
            };
            if globals.json { print_json(&letter)? } else { print(&show::show(&letter, terminal))? }
        }
        DlqCommand::Redrive(chosen) => {
            let empty = json!({"dry_run": chosen.dry_run, "redriven": []});
            let Some(app) = stores.or_tell(globals.json, &empty)? else { return Ok(Exit::Done) };
            redrive(&app, chosen, globals.json, terminal).await?;
        }
        DlqCommand::Purge(chosen) => {
            let empty = json!({"dry_run": chosen.dry_run, "purged": []});
            let Some(app) = stores.or_tell(globals.json, &empty)? else { return Ok(Exit::Done) };
            purge(&app, chosen, globals.json, terminal).await?;
        }
    }
    Ok(Exit::Done)
}

async fn redrive(app: &App, chosen: &Chosen, json: bool, terminal: Terminal) -> Result<(), Failure> {
    let filter = chosen.filter.with(app, MAX_ANSWER).await?;
    let of_one = match filter.id {
        Some(number) => Some(numbered(app, number).await?),
        None => None,
    };
    let letters = batches(chosen.dry_run, || app.tasks.redrive(filter.clone(), chosen.dry_run)).await?;
    if let Some(letter) = of_one.filter(|_| letters.is_empty()) {
        return Err(stays(&letter));
    }
    if json {
        return print_json(&json!({"dry_run": chosen.dry_run, "redriven": letters}));
    }
    print(&show::list(&letters, terminal))?;
    let count = text::count(letters.len() as u64, "task");
    note(&match chosen.dry_run {
        true => format!("{count} would be put back"),
        false => format!("{count} put back; a `then` that has run is not repeated"),
    });
    Ok(())
}

/// Why a letter that is there was not put back.
fn stays(letter: &DeadLetter) -> Failure {
    match (&letter.task_id, &letter.queue) {
        (Some(_), _) => Failure::failed(format!("the task of letter {} cannot be put back", letter.id))
            .help("its job is just being cancelled: try again once that has ended"),
        (None, queue) => {
            let from = queue.as_ref().map(|queue| format!(" of queue {}", text::line(queue, 256))).unwrap_or_default();
            let message =
                format!("letter {} never was a task, but a message{from} that was refused: there is nothing to put back", letter.id);
            Failure::failed(message).help("send it again, corrected; `wasm-worker dlq show` has its text, `dlq purge --id` removes it")
        }
    }
}

async fn purge(app: &App, chosen: &Chosen, json: bool, terminal: Terminal) -> Result<(), Failure> {
    let filter = chosen.filter.with(app, MAX_ANSWER).await?;
    if let Some(number) = filter.id {
        numbered(app, number).await?;
    }
    let letters = batches(chosen.dry_run, || app.tasks.purge(filter.clone(), chosen.dry_run)).await?;
    if json {
        return print_json(&json!({"dry_run": chosen.dry_run, "purged": letters}));
    }
    print(&show::list(&letters, terminal))?;
    let count = text::count(letters.len() as u64, "letter");
    note(&if chosen.dry_run { format!("{count} would be removed") } else { format!("{count} removed") });
    Ok(())
}

/// Batch after batch, each a transaction, until one is not full. Newest first: a batch of letters that are all younger than this command
/// means tasks that have died again since, and is the last. A dry run, which changes nothing, sees one batch only.
async fn batches<F>(dry_run: bool, next: impl Fn() -> F) -> Result<Vec<DeadLetter>, Failure>
where
    F: Future<Output = Result<Vec<DeadLetter>, StoreError>>,
{
    let mut all = next().await?;
    let mut full = all.len() >= MAX_ANSWER as usize;
    let newest = all.iter().map(|letter| letter.id).max().unwrap_or_default();
    while full && !dry_run && all.len() < MAX_LETTERS {
        let batch = next().await?;
        full = batch.len() >= MAX_ANSWER as usize && batch.iter().any(|letter| letter.id <= newest);
        all.extend(batch);
    }
    if full {
        note(&format!("these are {}; there may be more", all.len()));
    }
    Ok(all)
}

async fn numbered(app: &App, number: i64) -> Result<DeadLetter, Failure> {
    only(app, DeadLetterFilter { id: Some(number), ..DeadLetterFilter::default() }).await?.ok_or_else(|| missing(&number.to_string()))
}

/// By its number, or by its task.
async fn find(app: &App, text: &str) -> Result<DeadLetter, Failure> {
    if let Ok(number) = text.parse::<i64>()
        && let Some(letter) = only(app, DeadLetterFilter { id: Some(number), ..DeadLetterFilter::default() }).await?
    {
        return Ok(letter);
    }
    let task_id = match app.tasks.task(&app.config.tenant, text).await {
        Ok(task) => task.task_id,
        Err(StoreError::NotFound(_)) => return Err(missing(text)),
        Err(error) => return Err(error.into()),
    };
    only(app, DeadLetterFilter { task_id: Some(task_id), ..DeadLetterFilter::default() }).await?.ok_or_else(|| missing(text))
}

/// The newest letter that fits, of this tenant.
async fn only(app: &App, filter: DeadLetterFilter) -> Result<Option<DeadLetter>, Failure> {
    let filter = DeadLetterFilter { tenant: Some(app.config.tenant.clone()), limit: 1, ..filter };
    Ok(app.tasks.dead_letters(filter).await?.pop())
}

fn missing(shown: &str) -> Failure {
    Failure::failed(format!("no dead letter '{}'", text::line(shown, 128))).help("`wasm-worker dlq list` shows what there is")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::hooks::TaskError;
    use std::cell::Cell;

    fn letters(ids: std::ops::Range<i64>) -> Vec<DeadLetter> {
        let letter = |id| DeadLetter {
            id,
            tenant: "t".into(),
            task_id: None,
            job_id: None,
            step: None,
            queue: None,
            error: TaskError::new("x", "x"),
            attempts: 0,
            message: String::new(),
            died_at: 0,
        };
        ids.map(letter).collect()
    }

    /// Runs `batches` over what the store would answer, call by call; how many letters came, in how many calls.
    async fn taken(dry_run: bool, answers: &[(i64, i64)]) -> (usize, usize) {
        let calls = Cell::new(0);
        let next = || {
            let (from, to) = answers.get(calls.get()).copied().unwrap_or_default();
            calls.set(calls.get() + 1);
            async move { Ok(letters(from..to)) }
        };
        let all = batches(dry_run, next).await.unwrap();
        (all.len(), calls.get())
    }

    #[tokio::test]
    async fn batches_go_on_until_one_is_not_full() {
        assert_eq!(taken(false, &[(0, 5)]).await, (5, 1));
        assert_eq!(taken(false, &[(20_000, 30_000), (10_000, 20_000), (9_995, 10_000)]).await, (20_005, 3));
        assert_eq!(taken(true, &[(0, 10_000), (0, 10_000)]).await, (10_000, 1), "a dry run changes nothing: the same would come again");
        // What dies again as fast as it is put back is younger than all that was meant.
        assert_eq!(taken(false, &[(0, 10_000), (10_000, 20_000), (20_000, 30_000)]).await, (20_000, 2));
        let endless: Vec<_> = (0..100).map(|_| (0, 10_000)).collect();
        assert_eq!(taken(false, &endless).await, (MAX_LETTERS, 10));
    }
}
