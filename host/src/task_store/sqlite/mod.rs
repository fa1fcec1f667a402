//! The task store in one SQLite file: the default, and good for several processes on one machine.
//!
//! Writes go through one task that owns the writing connection (`writer.rs`) and does what is pending in one transaction;
//! reads go over a few connections of their own. Times are SQLite's own clock, read under the write lock.
//! Network file systems are not supported: SQLite's log needs shared memory.

mod admit;
mod beat;
mod cancel;
mod claim;
mod commit;
mod dead;
mod end;
mod fault;
mod feed;
mod insert;
mod lapse;
mod open;
mod outbox;
mod prune;
mod request;
mod run_end;
mod submit;
mod sweep;
#[cfg(test)]
mod tests;
mod transaction;
mod views;
mod watch;
mod writer;

pub use open::Durability;

use crate::task::hooks::{Input, TaskError};
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{
    Admission, Applied, Beat, ClaimRequest, Claimed, Commit, DeadLetter, DeadLetterFilter, Depth, Heartbeat, JobView, NewJob, Outgoing,
    Pruned, Refused, Settlement, StoreError, Submitted, SweepRequest, Swept, TaskFilter, TaskStore, TaskView,
};
use async_trait::async_trait;
use fault::Fault;
use request::{Answer, Request};
use sqlx::SqlitePool;
use sqlx::pool::PoolConnection;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A task store in one SQLite file. Clones share it.
#[derive(Debug, Clone)]
pub struct SqliteTaskStore {
    writer: writer::Handle,
    readers: SqlitePool,
    changed: Arc<watch::Changed>,
}

impl SqliteTaskStore {
    /// Opens the file, or makes it with its folder, and brings its schema up to date. Several processes may do so at once.
    ///
    /// # Errors
    /// [`StoreError::Denied`] where file or folder is not writable, [`StoreError::Invalid`] where it is no database or was written
    /// by a newer version, [`StoreError::Unavailable`] where the disk is full or another process keeps it locked.
    pub async fn open(path: &Path, durability: Durability) -> Result<Self, StoreError> {
        let connection = open::writer(path, durability).await?;
        let readers = open::readers(path, durability).await?;
        let changed = Arc::new(watch::Changed::new());
        let writer = writer::start(connection, changed.clone(), watch::Watch::new(path));
        Ok(Self { writer, readers, changed })
    }

    async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>, StoreError> {
        self.readers.acquire().await.map_err(|e| Fault::from(e).into())
    }
}

/// Asks the writer and takes the expected answer out.
macro_rules! ask {
    ($store:expr, $request:expr, $answer:path) => {
        match $store.writer.ask($request).await? {
            $answer(value) => Ok(value),
            other => Err(StoreError::Invalid(format!("the writer answered {other:?}"))),
        }
    };
}

#[async_trait]
impl TaskStore for SqliteTaskStore {
    async fn submit(&self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError> {
        ask!(self, Request::Submit(jobs), Answer::Submitted)
    }

    async fn claim_next(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        ask!(self, Request::Claim(request), Answer::Claimed)
    }

    async fn heartbeat(&self, beats: Vec<Heartbeat>, lease: Duration) -> Result<Vec<Beat>, StoreError> {
        ask!(self, Request::Heartbeat(beats, lease), Answer::Beats)
    }

    async fn commit(&self, commit: Commit) -> Result<Applied, StoreError> {
        ask!(self, Request::Commit(Box::new(commit)), Answer::Applied)
    }

    async fn end(&self, key: TaskKey) -> Result<(), StoreError> {
        self.writer.ask(Request::End(key)).await.map(drop)
    }

    async fn settle(&self, lease: Lease, how: Settlement, log: String) -> Result<Applied, StoreError> {
        ask!(self, Request::Settle(lease, how, log), Answer::Applied)
    }

    async fn inputs(&self, key: TaskKey, offset: u32, limit: u32) -> Result<Vec<Input>, StoreError> {
        Ok(views::inputs(&mut *self.reader().await?, &key, offset, limit).await?)
    }

    async fn sweep(&self, request: SweepRequest) -> Result<Swept, StoreError> {
        ask!(self, Request::Sweep(request), Answer::Swept)
    }

    async fn swept(&self, keys: Vec<TaskKey>) -> Result<(), StoreError> {
        self.writer.ask(Request::Swept(keys)).await.map(drop)
    }

    async fn bury_committed(&self, key: TaskKey, error: TaskError) -> Result<(), StoreError> {
        self.writer.ask(Request::BuryCommitted(key, error)).await.map(drop)
    }

    async fn wait_for_work(&self, at_most: Duration) {
        self.changed.wait(at_most).await;
    }

    async fn depth(&self, pipeline: &str) -> Result<Depth, StoreError> {
        Ok(views::depth(&mut *self.reader().await?, pipeline).await?)
    }

    async fn next_due(&self, pipeline: &str) -> Result<Option<u64>, StoreError> {
        Ok(views::next_due(&mut *self.reader().await?, pipeline).await?)
    }

    async fn job(&self, tenant: &str, job_id: &str) -> Result<JobView, StoreError> {
        let which = views::Jobs { tenant: Some(tenant), job_id: Some(job_id), state: None, limit: 1 };
        let found = views::jobs(&mut *self.reader().await?, which).await?;
        found.into_iter().next().ok_or_else(|| StoreError::NotFound(format!("job {job_id} of tenant {tenant}")))
    }

    async fn jobs(&self, tenant: Option<&str>, state: Option<JobState>, limit: u32) -> Result<Vec<JobView>, StoreError> {
        Ok(views::jobs(&mut *self.reader().await?, views::Jobs { tenant, job_id: None, state, limit }).await?)
    }

    async fn task(&self, tenant: &str, task_id: &str) -> Result<TaskView, StoreError> {
        Ok(views::task(&mut *self.reader().await?, tenant, task_id).await?)
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        Ok(views::tasks(&mut *self.reader().await?, &filter).await?)
    }

    async fn logs(&self, key: TaskKey) -> Result<Vec<(u64, String)>, StoreError> {
        Ok(views::logs(&mut *self.reader().await?, &key).await?)
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(dead::letters(&mut *self.reader().await?, &filter, false).await?)
    }

    async fn redrive(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        if dry_run {
            return Ok(dead::letters(&mut *self.reader().await?, &filter, true).await?);
        }
        ask!(self, Request::Redrive(filter), Answer::Letters)
    }

    async fn cancel_task(&self, key: TaskKey) -> Result<TaskState, StoreError> {
        ask!(self, Request::CancelTask(key), Answer::State)
    }

    async fn cancel_job(&self, tenant: &str, job_id: &str) -> Result<u64, StoreError> {
        ask!(self, Request::CancelJob(tenant.to_owned(), job_id.to_owned()), Answer::Count)
    }

    async fn admit(&self, arrivals: Vec<NewJob>, lease: Duration, worker: String) -> Result<Vec<Admission>, StoreError> {
        ask!(self, Request::Admit(arrivals, lease, worker), Answer::Admitted)
    }

    async fn refuse(&self, refused: Vec<Refused>) -> Result<(), StoreError> {
        self.writer.ask(Request::Refuse(refused)).await.map(drop)
    }

    async fn outgoing(&self, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, StoreError> {
        ask!(self, Request::Outgoing(lease, limit), Answer::Outgoing)
    }

    async fn sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        self.writer.ask(Request::Sent(ids)).await.map(drop)
    }

    async fn purge(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        if dry_run {
            return Ok(dead::letters(&mut *self.reader().await?, &filter, false).await?);
        }
        ask!(self, Request::Purge(filter), Answer::Letters)
    }

    async fn seal(&self, tenant: &str, job_id: &str) -> Result<JobState, StoreError> {
        ask!(self, Request::Seal(tenant.to_owned(), job_id.to_owned()), Answer::Job)
    }

    async fn prune(&self, older_than: Duration, limit: u32, dry_run: bool) -> Result<Pruned, StoreError> {
        ask!(self, Request::Prune(older_than, limit, dry_run), Answer::Pruned)
    }
}
