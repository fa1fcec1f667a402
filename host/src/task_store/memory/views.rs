//! Reading: what people and the run loop ask for. Nothing here writes.

use super::rows::{Feeding, Job, Rows, Task};
use crate::task::Millis;
use crate::task::hooks::Input;
use crate::task::id::TaskKey;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{Depth, JobView, MAX_ANSWER, StoreError, TaskFilter, TaskView};
use std::collections::BTreeMap;

/// Shortest beginning of a task id that stands for it.
const MIN_PREFIX: usize = 6;

/// The number of rows for a filter's `limit`.
pub(super) fn page(limit: u32) -> usize {
    (if limit == 0 { MAX_ANSWER } else { limit.min(MAX_ANSWER) }) as usize
}

impl Rows {
    /// A page of a group's leaves, in fan-out order.
    pub(super) fn inputs(&self, key: &TaskKey, offset: u32, limit: u32) -> Vec<Input> {
        let Some((job, group)) = self.tasks.by_key(key).and_then(|then| Some((then.job, then.waits?))) else { return Vec::new() };
        let mut leaves: Vec<&Task> = self.tasks.of_job(job).filter(|leaf| leaf.group == group && leaf.is_input).collect();
        leaves.sort_by(|a, b| a.path.cmp(&b.path));
        let page = leaves.into_iter().skip(offset as usize).take(limit.min(MAX_ANSWER) as usize);
        page.map(|leaf| {
            let manifest = leaf.manifest.as_ref().filter(|_| leaf.state == TaskState::Done);
            Input {
                key: leaf.made.key.clone(),
                task_id: leaf.key.task_id.clone(),
                step: leaf.made.step.clone(),
                end: leaf.state,
                outcome: leaf.outcome.clone(),
                output_prefix: leaf.made.output_prefix.clone(),
                outputs: manifest.map(|manifest| manifest.entries.clone()).unwrap_or_default(),
            }
        })
        .collect()
    }

    /// A task whose time has come counts as ready though no claim has seen it yet.
    pub(super) fn depth(&self, pipeline: &str, now: Millis) -> Depth {
        let mut depth = Depth::default();
        for task in self.tasks.all().filter(|task| task.pipeline == pipeline) {
            match task.state {
                TaskState::Queued if task.not_before <= now => {
                    depth.ready += 1;
                    depth.oldest_ms = depth.oldest_ms.max((now - task.not_before).unsigned_abs());
                }
                TaskState::Queued | TaskState::Waiting => depth.later += 1,
                TaskState::Processing | TaskState::Committed => depth.running += 1,
                TaskState::Done | TaskState::Dead | TaskState::Cancelled => {}
            }
        }
        depth
    }

    pub(super) fn next_due(&self, pipeline: &str, now: Millis) -> Option<u64> {
        // A lease lapses once its last millisecond has passed.
        let running = self.tasks.running(Millis::MAX);
        let lapses = running.into_iter().filter_map(|id| self.tasks.get(id)).find(|task| task.pipeline == pipeline);
        let first = lapses.map(|task| task.lease_until + 1).into_iter().chain(self.tasks.first_due(pipeline)).min()?;
        Some((first - now).max(0).unsigned_abs())
    }

    pub(super) fn job_view(&self, job: &Job) -> JobView {
        let mut tasks: BTreeMap<TaskState, u64> = BTreeMap::new();
        for task in self.tasks.of_job(job.id) {
            *tasks.entry(task.state).or_default() += 1;
        }
        JobView {
            tenant: job.tenant.clone(),
            job_id: job.job_id.clone(),
            pipeline: job.pipeline.clone(),
            state: job.state,
            prefix: job.prefix.clone(),
            created_at: job.created_at,
            ended_at: job.ended_at,
            open: matches!(job.feeding, Feeding::Open | Feeding::Idle),
            expected: job.expected,
            tasks,
        }
    }

    /// Jobs, newest first.
    pub(super) fn job_views(&self, tenant: Option<&str>, state: Option<JobState>, limit: u32) -> Vec<JobView> {
        let wanted = |job: &&Job| tenant.is_none_or(|tenant| tenant == job.tenant) && state.is_none_or(|state| state == job.state);
        self.jobs.values().rev().filter(wanted).take(page(limit)).map(|job| self.job_view(job)).collect()
    }

    fn task_view(&self, task: &Task) -> TaskView {
        // The manifest is shown without its bytes; of a task that died between commit and end, outputs may be missing: none are shown.
        let shown = matches!(task.state, TaskState::Done | TaskState::Committed);
        let manifest = task.manifest.as_ref().filter(|_| shown).map(|manifest| manifest.finalised());
        let prefix = &task.made.output_prefix;
        let parent = task.parent.and_then(|parent| self.tasks.get(parent));
        TaskView {
            tenant: task.key.tenant.clone(),
            task_id: task.key.task_id.clone(),
            job_id: self.jobs.get(&task.job).map(|job| job.job_id.clone()).unwrap_or_default(),
            pipeline: task.pipeline.clone(),
            step: task.made.step.clone(),
            key: task.made.key.clone(),
            state: task.state,
            epoch: task.epoch,
            attempts: task.attempts,
            handbacks: task.handbacks,
            crashes: task.crashes,
            max_attempts: task.made.max_attempts,
            priority: task.priority(),
            cancel_requested: task.cancel_at.is_some(),
            parent: parent.map(|parent| parent.key.task_id.clone()),
            children: task.child_count,
            outcome: task.outcome.clone(),
            error: task.error.clone(),
            queue: task.queue().map(str::to_owned),
            output_prefix: prefix.clone(),
            result_uri: manifest.as_ref().and_then(|manifest| manifest.result()).map(|entry| format!("{prefix}{}", entry.name)),
            manifest,
            figures: task.figures.clone(),
            progress: task.progress.clone(),
            message: (*task.made.message).clone(),
            created_at: task.created_at,
            not_before: task.not_before,
            claimed_at: task.claimed_at,
            ended_at: task.ended_at,
            claims: Vec::new(),
        }
    }

    /// Tasks, newest jobs first, within a job in the order of creation.
    pub(super) fn task_views(&self, filter: &TaskFilter) -> Vec<TaskView> {
        let of_job = |job: &&Job| {
            filter.tenant.as_ref().is_none_or(|tenant| *tenant == job.tenant) && filter.job_id.as_ref().is_none_or(|id| *id == job.job_id)
        };
        let tasks = self.jobs.values().rev().filter(of_job).flat_map(|job| self.tasks.of_job(job.id));
        let wanted = |task: &&Task| {
            filter.step.as_ref().is_none_or(|step| *step == task.made.step) && filter.state.is_none_or(|state| state == task.state)
        };
        tasks.filter(wanted).take(page(filter.limit)).map(|task| self.task_view(task)).collect()
    }

    /// One task with its claims, by its id or an unambiguous beginning of it.
    pub(super) fn find(&self, tenant: &str, id: &str) -> Result<TaskView, StoreError> {
        // Ids are ASCII, so DEL sorts after everything that may follow. An exact match comes first.
        let last = if id.len() >= MIN_PREFIX { format!("{id}\u{7f}") } else { id.to_owned() };
        let mut found = self.tasks.between(tenant, id, &last);
        let first = found.next().ok_or_else(|| StoreError::NotFound(format!("task {id} of tenant {tenant}")))?;
        if first.key.task_id != id && found.next().is_some() {
            return Err(StoreError::Conflict(format!("several tasks of tenant {tenant} begin with '{id}'; give more of the id")));
        }
        Ok(TaskView { claims: first.claims.clone(), ..self.task_view(first) })
    }
}
