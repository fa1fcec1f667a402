//! A worker: serves a pipeline until a signal, until nothing is left, or for a number of runs.

use super::super::failure::{Exit, Failure};
use super::super::globals::{Chatter, Globals};
use super::super::signals;
use super::super::terminal::{print, print_json};
use super::RunArgs;
use crate::app::{App, WorkerOptions};
use crate::worker::{Summary, Until};
use serde_json::json;

pub(super) async fn run(globals: &Globals, args: &RunArgs) -> Result<Exit, Failure> {
    let config = globals.open(Chatter::Service, &args.flags())?;
    let pipeline = args.source.load(&config)?;
    let app = App::open(config).await?;
    let drain = signals::listen("draining: no new tasks; running ones may finish (again: stop at once)")?;
    let worker = tokio::select! {
        worker = app.worker(&pipeline, WorkerOptions { job: None, patient: true }) => worker?,
        () = drain.cancelled() => return Ok(Exit::Done),
    };
    let steps: Vec<&str> = pipeline.steps.iter().map(|s| s.name.as_str()).collect();
    tracing::info!(
        pipeline = pipeline.name,
        steps = steps.join(","),
        concurrency = app.config.worker.concurrency,
        data_dir = %app.config.data_dir.display(),
        "worker started"
    );
    let until = if args.until_empty { Until::Empty } else { Until::Stopped };
    let summary = worker.run(until, args.max_tasks, drain).await;
    if globals.json {
        print_json(&json!({"runs": summary.runs, "ended": summary.ended}))?;
    } else {
        print(&shown(&summary))?;
    }
    Ok(Exit::Done)
}

/// `5 runs: 4 DONE, 1 DEAD`.
fn shown(summary: &Summary) -> String {
    let ended: Vec<String> = summary.ended.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let runs = super::super::render::text::count(summary.runs, "run");
    if ended.is_empty() { runs } else { format!("{runs}: {}", ended.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_a_line() {
        let summary = Summary { runs: 3, ended: [("DONE", 2), ("QUEUED", 1)].into() };
        assert_eq!(shown(&summary), "3 runs: 2 DONE, 1 QUEUED");
        assert_eq!(shown(&Summary::default()), "0 runs");
    }
}
