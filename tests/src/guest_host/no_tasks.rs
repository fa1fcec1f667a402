//! A task store for tests that have no tasks: every request is refused.

use async_trait::async_trait;
use std::time::Duration;
use wasm_worker::task::hooks::{Input, TaskError};
use wasm_worker::task::id::TaskKey;
use wasm_worker::task::lease::Lease;
use wasm_worker::task::state::{JobState, TaskState};
use wasm_worker::task_store::*;

/// See the head of this file.
pub struct NoTasks;

fn none<T>() -> Result<T, StoreError> {
    Err(StoreError::Invalid("there are no tasks here".into()))
}

#[async_trait]
impl TaskStore for NoTasks {
    async fn submit(&self, _: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError> {
        none()
    }
    async fn claim_next(&self, _: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        none()
    }
    async fn heartbeat(&self, _: Vec<Heartbeat>, _: Duration) -> Result<Vec<Beat>, StoreError> {
        none()
    }
    async fn commit(&self, _: Commit) -> Result<Applied, StoreError> {
        none()
    }
    async fn end(&self, _: TaskKey) -> Result<(), StoreError> {
        none()
    }
    async fn settle(&self, _: Lease, _: Settlement, _: String) -> Result<Applied, StoreError> {
        none()
    }
    async fn inputs(&self, _: TaskKey, _: u32, _: u32) -> Result<Vec<Input>, StoreError> {
        none()
    }
    async fn sweep(&self, _: SweepRequest) -> Result<Swept, StoreError> {
        none()
    }
    async fn swept(&self, _: Vec<TaskKey>) -> Result<(), StoreError> {
        none()
    }
    async fn bury_committed(&self, _: TaskKey, _: TaskError) -> Result<(), StoreError> {
        none()
    }
    async fn wait_for_work(&self, _: Duration) {}
    async fn depth(&self, _: &str) -> Result<Depth, StoreError> {
        none()
    }
    async fn next_due(&self, _: &str) -> Result<Option<u64>, StoreError> {
        none()
    }
    async fn job(&self, _: &str, _: &str) -> Result<JobView, StoreError> {
        none()
    }
    async fn jobs(&self, _: Option<&str>, _: Option<JobState>, _: u32) -> Result<Vec<JobView>, StoreError> {
        none()
    }
    async fn task(&self, _: &str, _: &str) -> Result<TaskView, StoreError> {
        none()
    }
    async fn tasks(&self, _: TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        none()
    }
    async fn logs(&self, _: TaskKey) -> Result<Vec<(u64, String)>, StoreError> {
        none()
    }
    async fn dead_letters(&self, _: DeadLetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        none()
    }
    async fn redrive(&self, _: DeadLetterFilter, _: bool) -> Result<Vec<DeadLetter>, StoreError> {
        none()
    }
    async fn cancel_task(&self, _: TaskKey) -> Result<TaskState, StoreError> {
        none()
    }
    async fn cancel_job(&self, _: &str, _: &str) -> Result<u64, StoreError> {
        none()
    }
    async fn admit(&self, _: Vec<NewJob>, _: Duration, _: String) -> Result<Vec<Admission>, StoreError> {
        none()
    }
    async fn refuse(&self, _: Vec<Refused>) -> Result<(), StoreError> {
        none()
    }
    async fn outgoing(&self, _: Duration, _: u32) -> Result<Vec<Outgoing>, StoreError> {
        none()
    }
    async fn sent(&self, _: Vec<i64>) -> Result<(), StoreError> {
        none()
    }
    async fn purge(&self, _: DeadLetterFilter, _: bool) -> Result<Vec<DeadLetter>, StoreError> {
        none()
    }
    async fn seal(&self, _: &str, _: &str) -> Result<JobState, StoreError> {
        none()
    }
    async fn prune(&self, _: Duration, _: u32, _: bool) -> Result<Pruned, StoreError> {
        none()
    }
}
