//! The task store as one worker reaches it: with faults, and with a ledger of what really took effect.

use super::coverage::Step;
use super::ledger::shown;
use super::process::Process;
use super::world::{LEASE, World};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wasm_worker::task::hooks::{Input, TaskError};
use wasm_worker::task::id::TaskKey;
use wasm_worker::task::lease::Lease;
use wasm_worker::task::state::{JobState, TaskState};
use wasm_worker::task_store::*;

/// See the head of this file.
pub struct FaultyTaskStore {
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("simulated".into())
}

impl FaultyTaskStore {
    fn store(&self) -> &dyn TaskStore {
        self.world.tasks.as_ref()
    }

    fn who(&self) -> &str {
        &self.process.name
    }

    /// What the ledger and the checks want to know of new leases. `sent`: when the worker asked for them.
    async fn claimed(&self, claims: &[&Claimed], sent: Instant) {
        for claimed in claims {
            self.world.ledger().claimed(self.who(), claimed, sent + LEASE);
            self.world.check_claim(claimed).await;
        }
    }

    async fn end_inside(&self, key: TaskKey) -> Result<(), StoreError> {
        let ended = self.store().end(key.clone()).await;
        if ended.is_ok() {
            self.world.ledger().note(self.who(), "end", shown(&key));
            self.world.check_task(&key).await;
        }
        ended
    }

    async fn commit_inside(&self, commit: Commit) -> Result<Applied, StoreError> {
        let key = commit.lease.key.clone();
        let applied = self.store().commit(commit.clone()).await;
        match &applied {
            Ok(Applied::Yes) => self.world.ledger().committed(self.who(), &commit),
            other => self.world.ledger().note(self.who(), "no commit", format_args!("{} {other:?}", shown(&key))),
        }
        self.world.check_task(&key).await;
        applied
    }

    async fn settle_inside(&self, lease: Lease, how: Settlement, log: String) -> Result<Applied, StoreError> {
        let name = match &how {
            Settlement::Retry(..) => "retried",
            Settlement::HandBack(..) => "handed-back",
            Settlement::GiveBack => "given-back",
            Settlement::Dead(_) => "dead",
            Settlement::Cancelled => "cancelled",
        };
        let applied = self.store().settle(lease.clone(), how, log).await;
        match &applied {
            Ok(Applied::Yes) => self.world.ledger().settled(self.who(), &lease, name),
            other => self.world.ledger().note(self.who(), "not settled", format_args!("{} {other:?}", shown(&lease.key))),
        }
        self.world.check_task(&lease.key).await;
        applied
    }

    async fn sweep_inside(&self, request: SweepRequest) -> Result<Swept, StoreError> {
        let swept = self.store().sweep(request).await?;
        let (unfinished, leftovers) = (swept.unfinished.len(), swept.leftovers.len());
        if unfinished + leftovers > 0 || swept.buried + swept.resent + swept.closed > 0 {
            let text = format_args!(
                "{unfinished} unfinished, {leftovers} leftovers, {} buried, {} sent again, {} closed",
                swept.buried, swept.resent, swept.closed
            );
            self.world.ledger().note(self.who(), "sweep", text);
        }
        Ok(swept)
    }
}

#[async_trait]
impl TaskStore for FaultyTaskStore {
    async fn submit(&self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError> {
        self.store().submit(jobs).await
    }

    async fn admit(&self, arrivals: Vec<NewJob>, lease: Duration, worker: String) -> Result<Vec<Admission>, StoreError> {
        let sent = Instant::now();
        let effect = async {
            let fed: Vec<(TaskKey, String)> =
                arrivals.iter().map(|a| (TaskKey::new(&a.tenant, &a.root.task_id), a.job_id.clone())).collect();
            let admitted = self.store().admit(arrivals, lease, worker).await?;
            self.world.ledger().admitted(&fed, &admitted);
            let claims: Vec<&Claimed> =
                admitted.iter().filter_map(|a| if let Admission::Claimed(c) = a { Some(&**c) } else { None }).collect();
            self.claimed(&claims, sent).await;
            Ok(admitted)
        };
        self.world.call(&self.process, Step::Claim, unavailable, effect).await
    }

    async fn refuse(&self, refused: Vec<Refused>) -> Result<(), StoreError> {
        self.world.call(&self.process, Step::Claim, unavailable, self.store().refuse(refused)).await
    }

    async fn outgoing(&self, queues: Option<Vec<String>>, lease: Duration, limit: u32) -> Result<Vec<Outgoing>, StoreError> {
        self.world.call(&self.process, Step::Mark, unavailable, self.store().outgoing(queues, lease, limit)).await
    }

    async fn sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        self.world.call(&self.process, Step::Mark, unavailable, self.store().sent(ids)).await
    }

    async fn claim_next(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let sent = Instant::now();
        let effect = async {
            let claims = self.store().claim_next(request).await?;
            self.claimed(&claims.iter().collect::<Vec<_>>(), sent).await;
            Ok(claims)
        };
        self.world.call(&self.process, Step::Claim, unavailable, effect).await
    }

    async fn heartbeat(&self, beats: Vec<Heartbeat>, lease: Duration) -> Result<Vec<Beat>, StoreError> {
        let sent = Instant::now();
        let leases: Vec<Lease> = beats.iter().map(|beat| beat.lease.clone()).collect();
        let answers = self.world.call(&self.process, Step::Heartbeat, unavailable, self.store().heartbeat(beats, lease)).await?;
        let mut ledger = self.world.ledger();
        for (lease, beat) in leases.iter().zip(&answers) {
            ledger.beat(self.who(), lease, matches!(beat, Beat::Held { .. }).then_some(sent + LEASE));
        }
        Ok(answers)
    }

    async fn commit(&self, commit: Commit) -> Result<Applied, StoreError> {
        self.world.call(&self.process, Step::Commit, unavailable, self.commit_inside(commit)).await
    }

    async fn end(&self, key: TaskKey) -> Result<(), StoreError> {
        self.world.call(&self.process, Step::End, unavailable, self.end_inside(key)).await
    }

    async fn settle(&self, lease: Lease, how: Settlement, log: String) -> Result<Applied, StoreError> {
        self.world.call(&self.process, Step::Settle, unavailable, self.settle_inside(lease, how, log)).await
    }

    async fn inputs(&self, key: TaskKey, offset: u32, limit: u32) -> Result<Vec<Input>, StoreError> {
        self.world.call(&self.process, Step::HostCall, unavailable, self.store().inputs(key, offset, limit)).await
    }

    async fn sweep(&self, request: SweepRequest) -> Result<Swept, StoreError> {
        self.world.call(&self.process, Step::Sweep, unavailable, self.sweep_inside(request)).await
    }

    async fn swept(&self, keys: Vec<TaskKey>) -> Result<(), StoreError> {
        self.world.call(&self.process, Step::Sweep, unavailable, self.store().swept(keys)).await
    }

    async fn bury_committed(&self, key: TaskKey, error: TaskError) -> Result<(), StoreError> {
        self.world.ledger().violate(3, format_args!("{}: committed outputs are given up: {error:?}", shown(&key)));
        self.store().bury_committed(key, error).await
    }

    async fn wait_for_work(&self, seen: u64, at_most: Duration) -> u64 {
        self.process.gate().await;
        let news = self.store().wait_for_work(seen, at_most).await;
        self.process.gate().await;
        news
    }

    async fn depth(&self, pipeline: &str) -> Result<Depth, StoreError> {
        self.process.gate().await;
        self.store().depth(pipeline).await
    }

    async fn next_due(&self, pipeline: &str) -> Result<Option<u64>, StoreError> {
        self.process.gate().await;
        self.store().next_due(pipeline).await
    }

    async fn job(&self, tenant: &str, job_id: &str) -> Result<JobView, StoreError> {
        self.process.gate().await;
        self.store().job(tenant, job_id).await
    }

    async fn jobs(&self, tenant: Option<&str>, state: Option<JobState>, limit: u32) -> Result<Vec<JobView>, StoreError> {
        self.store().jobs(tenant, state, limit).await
    }

    async fn task(&self, tenant: &str, task_id: &str) -> Result<TaskView, StoreError> {
        self.store().task(tenant, task_id).await
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        self.store().tasks(filter).await
    }

    async fn logs(&self, key: TaskKey) -> Result<Vec<(u64, String)>, StoreError> {
        self.store().logs(key).await
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        self.store().dead_letters(filter).await
    }

    async fn redrive(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        self.store().redrive(filter, dry_run).await
    }

    async fn purge(&self, filter: DeadLetterFilter, dry_run: bool) -> Result<Vec<DeadLetter>, StoreError> {
        self.store().purge(filter, dry_run).await
    }

    async fn seal(&self, tenant: &str, job_id: &str) -> Result<JobState, StoreError> {
        self.store().seal(tenant, job_id).await
    }

    async fn prune(&self, older_than: Duration, limit: u32, dry_run: bool) -> Result<Pruned, StoreError> {
        self.store().prune(older_than, limit, dry_run).await
    }

    async fn cancel_task(&self, key: TaskKey) -> Result<TaskState, StoreError> {
        self.store().cancel_task(key).await
    }

    async fn cancel_job(&self, tenant: &str, job_id: &str) -> Result<u64, StoreError> {
        self.store().cancel_job(tenant, job_id).await
    }
}
