//! One job, submitted and run to its end in this process.

use super::super::failure::{Exit, Failure};
use super::super::globals::{Chatter, Globals};
use super::super::input;
use super::super::progress::Bars;
use super::super::record::Record;
use super::super::signals;
use super::super::terminal::{Terminal, note, print, print_json};
use super::RunArgs;
use crate::app::{App, Submission, WorkerOptions};
use crate::config::Pipeline;
use crate::task::id::JobKey;
use crate::task::state::JobState;
use crate::worker::{Until, Worker};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest that an interrupted job's running tasks may go on: a person waits.
const GRACE: Duration = Duration::from_secs(2);

pub(super) async fn run(globals: &Globals, args: &RunArgs) -> Result<Exit, Failure> {
    let terminal = Terminal::detect();
    let mut config = globals.open(Chatter::Command, &args.flags())?;
    config.worker.grace = config.worker.grace.min(GRACE);
    let pipeline = args.source.load(&config)?.at_home();
    let submission = submission(args)?;
    let drain = signals::listen("interrupted: handing running tasks back (again: at once)")?;
    let app = App::open(config).await?;
    // The worker first: what cannot be loaded is said before a job is on record.
    let job_id = Uuid::now_v7().to_string();
    let key = JobKey { tenant: app.config.tenant.clone(), job_id: job_id.clone() };
    let submission = Submission { job_id: Some(job_id), ..submission };
    let options = WorkerOptions { job: Some(key.clone()), patient: false };
    let worker = tokio::select! {
        worker = app.worker(&pipeline, options) => worker?,
        () = drain.cancelled() => return Ok(Exit::Interrupted),
    };
    let bars = (terminal.shows_progress && !globals.json).then(|| Bars::new(pipeline.steps.iter().map(|s| s.name.clone()).collect()));
    let job = run_one(&app, &pipeline, &worker, key, submission, bars, &drain).await?;
    if globals.json {
        print_json(&job.record)?;
    } else {
        print(&job.record.render(terminal))?;
    }
    if job.record.state == JobState::Failed {
        let failed = Failure::failed(job.record.errors().join("\n"));
        let more = format!("`wasm-worker tasks list --job {}` and `wasm-worker tasks logs ID` show more", job.record.job_id);
        note(failed.help(more).to_string().trim_end());
    }
    Ok(match job.record.state {
        JobState::Done => Exit::Done,
        _ if job.interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    })
}

fn submission(args: &RunArgs) -> Result<Submission, Failure> {
    Ok(Submission {
        input: args.input.as_deref().map(input::input).transpose()?,
        params: args.params.as_deref().map(input::params).transpose()?.unwrap_or_default(),
        function: args.function.clone(),
        // Last: it makes the folder.
        output: args.output.as_deref().map(|folder| input::output_folder(folder, None)).transpose()?,
        ..Submission::default()
    })
}

/// A job that was run here.
struct Ran {
    record: Record,
    interrupted: bool,
}

/// Submits a job and runs it here to its end, or until `drain`.
async fn run_one(
    app: &App,
    pipeline: &Pipeline,
    worker: &Arc<Worker>,
    key: JobKey,
    submission: Submission,
    bars: Option<Bars>,
    drain: &CancellationToken,
) -> Result<Ran, Failure> {
    let JobKey { tenant, job_id } = key.clone();
    let receipts = app.submit(pipeline, vec![submission]).await?;
    if let Some(failure) = super::super::submit::refused(&receipts) {
        return Err(failure);
    }
    let over = CancellationToken::new();
    let showing = bars.map(|bars| tokio::spawn(bars.follow(app.tasks.clone(), tenant.clone(), job_id.clone(), over.clone())));
    // At once, so that nobody takes the job up again, not even after a second signal.
    let cancelling = {
        let (tasks, tenant, job_id, drain) = (app.tasks.clone(), tenant.clone(), job_id.clone(), drain.clone());
        tokio::spawn(async move {
            drain.cancelled().await;
            tasks.cancel_job(&tenant, &job_id).await
        })
    };
    worker.run(Until::JobEnded(key), None, drain.clone()).await;
    over.cancel();
    if let Some(showing) = showing {
        let _ = showing.await;
    }
    if drain.is_cancelled()
        && let Ok(cancelled) = cancelling.await
    {
        cancelled?;
    }
    let job = app.tasks.job(&tenant, &job_id).await?;
    Ok(Ran { interrupted: drain.is_cancelled(), record: Record::read(app, job).await? })
}
