//! A real run of one job through a task store and a folder of its own, and a look at what it left.

use super::rehearsal::Sample;
use crate::app::{App, Submission, WorkerOptions};
use crate::config::Pipeline;
use crate::task::id::{JobKey, TaskKey};
use crate::task::state::{JobState, TaskState};
use crate::task::uri::Uri;
use crate::task_store::{JobView, TaskFilter, TaskView};
use crate::worker::Until;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Most tasks looked at.
const MAX_TASKS: u32 = 20_000;

/// Bytes of an output read at once, for its digest.
const PIECE: usize = 1 << 20;

/// What a real run left.
pub(super) struct Trial {
    pub job: JobView,
    pub tasks: Vec<TaskView>,
}

/// Runs the job; an error says why it could not be run, or did not end in time.
pub(super) async fn run(app: &App, pipeline: &Pipeline, submission: Submission, at_most: Duration) -> Result<Trial, String> {
    let key = JobKey { tenant: app.config.tenant.clone(), job_id: super::JOB.to_owned() };
    let options = WorkerOptions { job: Some(key.clone()), patient: false };
    let worker = app.worker(pipeline, options).await.map_err(|e| e.to_string())?;
    app.submit(pipeline, vec![submission]).await.map_err(|e| e.to_string())?;
    let drain = CancellationToken::new();
    let timer = {
        let drain = drain.clone();
        tokio::spawn(async move {
            tokio::time::sleep(at_most).await;
            drain.cancel();
        })
    };
    worker.run(Until::JobEnded(key.clone()), None, drain.clone()).await;
    timer.abort();
    let job = app.tasks.job(&key.tenant, &key.job_id).await.map_err(|e| e.to_string())?;
    if !job.state.is_ended() {
        return Err(format!("the job did not end within {at_most:?} (--timeout)"));
    }
    let filter = TaskFilter { tenant: Some(key.tenant), job_id: Some(key.job_id), limit: MAX_TASKS, ..TaskFilter::default() };
    let tasks = app.tasks.tasks(filter).await.map_err(|e| e.to_string())?;
    Ok(Trial { job, tasks })
}

impl Trial {
    /// What is wrong with how it ended, and with what it left.
    pub(super) async fn faults(&self, app: &App) -> Vec<String> {
        let mut faults = Vec::new();
        if self.job.state != JobState::Done {
            faults.push(format!("the job ended {}", self.job.state));
        }
        for task in self.tasks.iter().filter(|task| task.state != TaskState::Done).take(3) {
            let error = task.error.as_ref().map(|e| format!(": {}: {}", e.code, e.message)).unwrap_or_default();
            faults.push(format!("step {} task '{}' ended {}{error}", task.step, task.key, task.state));
        }
        if let Err(error) = self.compare_files(app, &mut faults).await {
            faults.push(error);
        }
        faults
    }

    /// A line on what was seen.
    pub(super) fn summary(&self) -> String {
        let files: usize = self.tasks.iter().map(|task| task.manifest.as_ref().map_or(0, |m| m.entries.len())).sum();
        format!(
            "{} DONE, {} as their manifests say",
            super::text::count(self.tasks.len() as u64, "task"),
            super::text::count(files as u64, "file")
        )
    }

    /// Every file has its manifest's bytes, and no other file is there.
    async fn compare_files(&self, app: &App, faults: &mut Vec<String>) -> Result<(), String> {
        let mut named = BTreeSet::new();
        for task in &self.tasks {
            let prefix = Uri::parse(&task.output_prefix)?;
            for entry in task.manifest.iter().flat_map(|m| &m.entries) {
                let uri = prefix.join(&entry.name)?;
                let (size, sha256) = digest(app, &uri).await?;
                if (size, &sha256) != (entry.size, &entry.sha256) {
                    faults.push(format!("{} of step {} is not what its manifest says", entry.name, task.step));
                }
                named.insert(uri);
            }
        }
        let prefix = Uri::parse(&self.job.prefix)?;
        let found = app.objects.list(&prefix).await.map_err(|e| e.to_string())?;
        let strays = found.into_iter().map(|meta| meta.uri).filter(|uri| !uri.as_str().contains("/_attempts/") && !named.contains(uri));
        faults.extend(strays.take(5).map(|uri| format!("{} is in no manifest", uri.as_str().trim_start_matches(self.job.prefix.as_str()))));
        Ok(())
    }

    /// The first task of a step that ended well, as a sample.
    pub(super) async fn sample(&self, app: &App, step: &str) -> Option<Sample> {
        let task = self.tasks.iter().find(|task| task.step == step && task.state == TaskState::Done)?;
        let key = TaskKey::new(&task.tenant, &task.task_id);
        let mut input_count = 0;
        loop {
            let page = app.tasks.inputs(key.clone(), input_count, crate::guest::scope::INPUT_PAGE).await.ok()?;
            input_count += page.len() as u32;
            if page.len() < crate::guest::scope::INPUT_PAGE as usize {
                break;
            }
        }
        Some(Sample {
            message: task.message.clone(),
            job_prefix: Uri::parse(&self.job.prefix).ok()?,
            prefix: Uri::parse(&task.output_prefix).ok()?,
            is_root: task.parent.is_none(),
            input_count,
        })
    }
}

/// Size and SHA-256 of an object.
async fn digest(app: &App, uri: &Uri) -> Result<(u64, String), String> {
    let mut reader = app.objects.open(uri).await.map_err(|e| e.to_string())?;
    let (mut size, mut hash) = (0, Sha256::new());
    loop {
        let piece = reader.read(PIECE).await.map_err(|e| e.to_string())?;
        if piece.is_empty() {
            return Ok((size, hex::encode(hash.finalize())));
        }
        size += piece.len() as u64;
        hash.update(&piece);
    }
}
