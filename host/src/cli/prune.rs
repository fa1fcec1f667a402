//! `prune`: removes jobs that ended long ago from the task store, batch by batch, until none is left.

use super::failure::{Exit, Failure};
use super::globals::Globals;
use super::render::text;
use super::signals;
use super::stores::Stores;
use super::terminal::{Terminal, note, print, print_json};
use crate::app::App;
use crate::task_store::Pruned;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Rows are removed, outputs are not: those are the jobs' own, in the bucket. Jobs with dead letters stay until `dlq redrive` or `dlq purge`.
Jobs also stay until a worker has removed what their attempts left in the bucket: two leases after their end, where one died up to an hour.

Examples:
  wasm-worker prune --dry-run
  wasm-worker prune --older-than 7days
  wasm-worker prune --older-than 12h --json";

/// Jobs removed in one transaction: workers wait for no longer than one.
const BATCH: u32 = 200;

/// Arguments of `prune`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PruneArgs {
    /// Jobs that ended longer ago than this [default: store.retention, 30 days]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Counts what would be removed, and changes nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &PruneArgs) -> Result<Exit, Failure> {
    let stores = Stores::find(globals).await?;
    let Some(app) = stores.or_tell(globals.json, &told(args, Pruned::default()))? else { return Ok(Exit::Done) };
    let stop = signals::listen("stopping after this batch")?;
    let older_than = args.older_than.unwrap_or(app.config.retention);
    let pruned = if args.dry_run {
        app.tasks.prune(older_than, u32::MAX, true).await?
    } else {
        prune(&app, older_than, Terminal::detect().shows_progress && !globals.json, &stop).await?
    };
    if globals.json {
        print_json(&told(args, pruned))?;
    } else {
        let what = format!("{} with {}", text::count(pruned.jobs, "job"), text::count(pruned.tasks, "task"));
        print(&if args.dry_run { format!("{what} would be removed") } else { format!("{what} removed") })?;
        if pruned.unswept > 0 {
            let jobs = text::count(pruned.unswept, "job");
            note(&format!(
                "{jobs} as old stay: a worker removes what their attempts left, two leases after their end (an hour at most); prune again then"
            ));
        }
    }
    if stop.is_cancelled() {
        note("interrupted: there may be more");
        return Ok(Exit::Interrupted);
    }
    Ok(Exit::Done)
}

fn told(args: &PruneArgs, pruned: Pruned) -> serde_json::Value {
    json!({"dry_run": args.dry_run, "jobs": pruned.jobs, "tasks": pruned.tasks, "unswept": pruned.unswept})
}

/// Batch after batch until one finds nothing.
async fn prune(app: &App, older_than: Duration, shown: bool, stop: &CancellationToken) -> Result<Pruned, Failure> {
    let bar = if shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let mut all = Pruned::default();
    while !stop.is_cancelled() {
        let batch = app.tasks.prune(older_than, BATCH, false).await?;
        all.unswept = batch.unswept;
        if batch.jobs == 0 {
            break;
        }
        all.jobs += batch.jobs;
        all.tasks += batch.tasks;
        bar.set_message(format!("{} removed", text::count(all.jobs, "job")));
        bar.tick();
    }
    bar.finish_and_clear();
    Ok(all)
}
