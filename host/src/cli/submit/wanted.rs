//! What is to be submitted: from files, from flags, from JSON lines; and where its outputs go.

use super::super::failure::Failure;
use super::super::{input, jsonl};
use super::SubmitArgs;
use crate::app::{App, Submission};
use crate::task::id;
use crate::task_store::{Feed, StoreError};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What is asked for, before outputs have a place.
pub(super) fn submissions(args: &SubmitArgs) -> Result<Vec<Submission>, Failure> {
    let once = match &args.jsonl {
        Some(file) if file == Path::new("-") => jsonl::read(std::io::stdin().lock(), "standard input", args.feed)?,
        Some(file) => {
            let shown = file.display().to_string();
            let opened = File::open(file).map_err(|e| Failure::usage(format!("{shown} cannot be read: {e}")))?;
            jsonl::read(BufReader::new(opened), &shown, args.feed)?
        }
        None => of_files(args)?,
    };
    let many = once.len() * args.repeat as usize;
    if let Some(id) = &args.job_id {
        id::check("--job-id", id).map_err(Failure::usage)?;
        if many != 1 && !args.feed {
            return Err(Failure::usage(format!("--job-id '{id}' names one job, and there are {many}"))
                .help("give ids line by line, with --jsonl; or --feed makes all of it one job"));
        }
    }
    if args.repeat > 1 && once.iter().any(|s| s.task_id.is_some() || (s.job_id.is_some() && s.feed == Feed::Single)) {
        return Err(Failure::usage("--repeat would submit one id several times").help("leave job_id and task_id out of the lines"));
    }
    // What a feeder leaves without a job is of one and the same.
    let shared = args.feed.then(|| args.job_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string()));
    let labels = |own: &Submission| args.labels.iter().cloned().chain(own.metadata.clone()).collect();
    let completed = |own: &Submission| Submission {
        priority: own.priority.or(args.priority),
        function: own.function.clone().or_else(|| args.function.clone()),
        max_attempts: own.max_attempts.or(args.max_attempts),
        delay: own.delay.or(args.delay),
        job_id: own.job_id.clone().or_else(|| shared.clone()).or_else(|| args.job_id.clone()),
        metadata: labels(own),
        feed: feed(args, own),
        ..own.clone()
    };
    Ok((0..args.repeat).flat_map(|_| once.iter().map(completed)).collect())
}

/// What the line says, then what the flags say.
fn feed(args: &SubmitArgs, own: &Submission) -> Feed {
    match &own.feed {
        Feed::Open { queue, tasks } => Feed::Open { queue: queue.clone(), tasks: tasks.or(args.job_tasks) },
        Feed::Single if args.feed => Feed::Open { queue: None, tasks: args.job_tasks },
        Feed::Single => Feed::Single,
    }
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
pub(super) async fn place_outputs(app: &App, folder: &Path, submissions: &mut [Submission]) -> Result<(), Failure> {
    let jobs: BTreeSet<Option<&String>> = submissions.iter().map(|s| s.job_id.as_ref()).collect();
    if submissions.len() == 1 || (jobs.len() == 1 && !jobs.contains(&None)) {
        let id = submissions.first().and_then(|only| only.job_id.clone());
        let own = match &id {
            Some(id) => match app.tasks.job(&app.config.tenant, id).await {
                Ok(job) => Some(job.prefix),
                Err(StoreError::NotFound(_)) => None,
                Err(e) => return Err(e.into()),
            },
            None => None,
        };
        let place = input::output_folder(folder, own.as_deref())?;
        submissions.iter_mut().for_each(|submission| submission.output = Some(place.clone()));
        return Ok(());
    }
    let base = input::output_folder(folder, None)?;
    for submission in submissions.iter_mut().filter(|s| s.output.is_none()) {
        let job_id = submission.job_id.get_or_insert_with(|| uuid::Uuid::now_v7().to_string()).clone();
        submission.output = Some(base.join(&format!("{job_id}/")).map_err(Failure::usage)?);
    }
    Ok(())
}
