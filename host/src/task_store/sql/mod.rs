//! The task store in SQL: one state machine, for a SQLite file and for Postgres.
//!
//! Writes go through a task that owns the writing connection (`writer.rs`) and does what is pending in one transaction, with one
//! statement per table; reads go over a few connections of their own. Times are the database's own clock. Statements are written once
//! (`dialect.rs`); what is particular to a database is in its folder, and what others may do meanwhile, with Postgres, in `lock.rs`.

mod about;
mod admit;
mod beat;
mod cancel;
mod changed;
mod claim;
mod commit;
mod database;
mod dead;
mod dialect;
mod end;
mod fault;
mod feed;
mod insert;
mod lapse;
mod link;
mod lock;
mod outbox;
mod postgres;
mod prune;
mod request;
mod rows;
mod run_end;
mod sqlite;
mod submit;
mod sweep;
mod transaction;
mod views;
mod writer;

pub use postgres::PostgresTaskStore;
pub use sqlite::{Durability, SqliteTaskStore};

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
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// A task store in a SQL database of one kind. Clones share it.
#[derive(Debug, Clone)]
pub struct SqlTaskStore<Kind> {
    writer: writer::Handle,
    readers: link::Readers,
    changed: Arc<changed::Changed>,
    /// What listens for the word of others, where they give it; it ends with the last clone.
    _listener: Option<Arc<AbortOnDropHandle<()>>>,
    kind: PhantomData<Kind>,
}

impl<Kind> SqlTaskStore<Kind> {
    /// An answer from a reading connection, within the time that a network may take.
    async fn read<T>(&self, answer: impl Future<Output = Result<T, Fault>> + Send) -> Result<T, StoreError> {
        Ok(link::within(self.readers.patience(), answer).await?)
    }

    async fn reader(&self) -> Result<link::Reader, Fault> {
        self.readers.acquire().await
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
impl<Kind: Send + Sync> TaskStore for SqlTaskStore<Kind> {
    async fn submit(&self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError> {
        jobs.iter().try_for_each(NewJob::begins_here)?;
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
        self.read(async { views::inputs(&mut self.reader().await?.db(), &key, offset, limit).await }).await
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

    async fn wait_for_work(&self, seen: u64, at_most: Duration) -> u64 {
        self.changed.wait(seen, at_most).await
    }

    async fn depth(&self, pipeline: &str) -> Result<Depth, StoreError> {
        self.read(async { views::depth(&mut self.reader().await?.db(), pipeline).await }).await
    }

    async fn next_due(&self, pipeline: &str) -> Result<Option<u64>, StoreError> {
        self.read(async { views::next_due(&mut self.reader().await?.db(), pipeline).await }).await
    }

    async fn job(&self, tenant: &str, job_id: &str) -> Result<JobView, StoreError> {
        let which = views::Jobs { tenant: Some(tenant), job_id: Some(job_id), state: None, limit: 1 };
        let found = self.read(async { views::jobs(&mut self.reader().await?.db(), which).await }).await?;
        found.into_iter().next().ok_or_else(|| StoreError::NotFound(format!("job {job_id} of tenant {tenant}")))
    }

    async fn jobs(&self, tenant: Option<&str>, state: Option<JobState>, limit: u32) -> Result<Vec<JobView>, StoreError> {
        self.read(async { views::jobs(&mut self.reader().await?.db(), views::Jobs { tenant, job_id: None, state, limit }).await }).await
    }

    async fn task(&self, tenant: &str, task_id: &str) -> Result<TaskView, StoreError> {
        self.read(async { views::task(&mut self.reader().await?.db(), tenant, task_id).await }).await
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        self.read(async { views::tasks(&mut self.reader().await?.db(), &filter).await }).await
    }

    async fn logs(&self, key: TaskKey) -> Result<Vec<(u64, String)>, StoreError> {
        self.read(async { views::logs(&mut self.reader().await?.db(), &key).await }).await
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(async { dead::letters(&mut self.reader().await?.db(), &filter, false).await }).await
    }

    async fn redrive(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        if dry_run {
            return self.read(async { dead::letters(&mut self.reader().await?.db(), &filter, true).await }).await;
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

    async fn outgoing(&self, queues: Option<Vec<String>>, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, StoreError> {
        ask!(self, Request::Outgoing(queues, lease, limit), Answer::Outgoing)
    }

    async fn sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        self.writer.ask(Request::Sent(ids)).await.map(drop)
    }

    async fn purge(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        if dry_run {
            return self.read(async { dead::letters(&mut self.reader().await?.db(), &filter, false).await }).await;
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
