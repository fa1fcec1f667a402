//! The run loop: room, claim, execute, repeat; and the drain in two stages.

use super::Worker;
use super::execute::execute;
use super::sweep::sweep_on;
use crate::failpoint::{Point, reach};
use crate::guest::StopReason;
use crate::task::id::JobKey;
use crate::task::state::TaskState;
use crate::task_store::{ClaimRequest, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// When a worker stops by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// When its pipeline has no task left that waits or runs.
    Empty,
    /// When this job has ended.
    JobEnded(JobKey),
}

/// What a worker did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Claims run.
    pub runs: u64,
    /// How they ended: QUEUED stands for retried or handed back, PROCESSING for a lost lease.
    pub ended: BTreeMap<&'static str, u64>,
}

/// Longest wait for news of work; a worker looks at least this often.
const LOOK: Duration = Duration::from_secs(5);

/// The same, where the end of all work is to be noticed too.
const LOOK_FOR_END: Duration = Duration::from_millis(50);

type Running = JoinSet<TaskState>;

impl Worker {
    /// Runs until `until`, until `max_tasks` claims were made, or until `drain` is cancelled; then lets running tasks finish
    /// within the grace time, interrupts the rest and hands their tasks back at no cost. Dropped, it leaves what a crash leaves:
    /// every task of it stops where it stands.
    pub async fn run(self: &Arc<Self>, until: Until, max_tasks: Option<u64>, drain: CancellationToken) -> Summary {
        let (this, other) = (Arc::clone(self), Arc::clone(self));
        // Dropped with this future, so that nothing goes on behind its back.
        let _beating = AbortOnDropHandle::new(tokio::spawn(async move { this.heartbeats.beat(this.services.tasks.as_ref()).await }));
        let _sweeping = AbortOnDropHandle::new(tokio::spawn(async move { sweep_on(&other).await }));
        let mut running = Running::new();
        let mut load = Load::default();
        self.take_tasks(&until, max_tasks.unwrap_or(u64::MAX), &drain, &mut running, &mut load).await;
        self.drain(&mut running, &mut load, &drain).await;
        load.summary
    }

    async fn take_tasks(
        self: &Arc<Self>,
        until: &Until,
        max_tasks: u64,
        drain: &CancellationToken,
        running: &mut Running,
        load: &mut Load,
    ) {
        let mut store_wait = Duration::from_millis(100);
        while !drain.is_cancelled() && load.summary.runs < max_tasks {
            while let Some(ended) = running.try_join_next_with_id() {
                load.ended(ended);
            }
            let room = self.settings.concurrency.saturating_sub(running.len() as u32);
            let room = u64::from(room).min(max_tasks - load.summary.runs) as u32;
            let steps = self.steps_with_room(load, room);
            if room == 0 || steps.is_empty() {
                self.wait_for_room(drain, running, load).await;
                continue;
            }
            let sent = Instant::now();
            let request = ClaimRequest {
                pipeline: self.settings.pipeline.clone(),
                job: self.settings.job.clone(),
                steps,
                limit: room,
                lease: self.settings.lease,
                worker: self.settings.name.clone(),
            };
            match self.services.tasks.claim_next(request).await {
                Ok(claims) if claims.is_empty() => {
                    if running.is_empty() && self.is_over(until).await {
                        return;
                    }
                    let look = if *until == Until::Stopped { LOOK } else { LOOK_FOR_END };
                    self.pause(drain, running, load, look).await;
                }
                Ok(claims) => {
                    reach(Point::AfterClaim);
                    store_wait = Duration::from_millis(100);
                    for claimed in claims {
                        let (this, step) = (Arc::clone(self), claimed.step.clone());
                        let task = running.spawn(async move { execute(&this, claimed, sent).await });
                        load.started(task.id(), step);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no tasks could be claimed; trying again");
                    tokio::select! { biased; () = drain.cancelled() => {}, () = sleep(store_wait) => {} }
                    store_wait = (store_wait * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    /// Waits until a task ends, or a step that rests may be tried again. What is due does not matter: nothing can be taken.
    async fn wait_for_room(&self, drain: &CancellationToken, running: &mut Running, load: &mut Load) {
        tokio::select! {
            biased;
            () = drain.cancelled() => {}
            Some(ended) = running.join_next_with_id() => load.ended(ended),
            () = sleep_until(self.next_wake()) => {}
        }
    }

    /// When the first step that rests may be tried again, or a look is due anyway.
    fn next_wake(&self) -> Instant {
        let look = Instant::now() + LOOK;
        self.order.iter().filter_map(|step| self.rests_until(step)).min().map_or(look, |until| until.min(look))
    }

    /// Waits for anything that may change what can be claimed.
    async fn pause(&self, drain: &CancellationToken, running: &mut Running, load: &mut Load, look: Duration) {
        let due = self.services.tasks.next_due(&self.settings.pipeline).await.ok().flatten();
        let look = due.map_or(look, |ms| look.min(Duration::from_millis(ms.max(1))));
        tokio::select! {
            biased;
            () = drain.cancelled() => {}
            Some(ended) = running.join_next_with_id() => load.ended(ended),
            () = self.services.tasks.wait_for_work(look) => {}
            () = sleep_until(self.next_wake()) => {}
        }
    }

    /// Steps that may take tasks now, each with its room; the first place goes round, so that no step waits for ever.
    fn steps_with_room(&self, load: &mut Load, room: u32) -> Vec<(String, u32)> {
        load.turn = load.turn.wrapping_add(1);
        let start = load.turn % self.order.len().max(1);
        let turned = self.order.iter().cycle().skip(start).take(self.order.len());
        turned
            .filter(|step| self.rests_until(step).is_none())
            .filter_map(|name| {
                let bound = self.steps.get(name)?.concurrency.unwrap_or(u32::MAX);
                let left = bound.saturating_sub(load.of_step(name)).min(room);
                (left > 0).then(|| (name.clone(), left))
            })
            .collect()
    }

    async fn is_over(&self, until: &Until) -> bool {
        match until {
            Until::Stopped => false,
            Until::Empty => {
                let depth = self.services.tasks.depth(&self.settings.pipeline).await;
                depth.is_ok_and(|d| d.ready + d.later + d.running == 0)
            }
            Until::JobEnded(job) => match self.services.tasks.job(&job.tenant, &job.job_id).await {
                Ok(job) => job.state.is_ended(),
                Err(StoreError::NotFound(_)) => true,
                Err(_) => false,
            },
        }
    }

    /// Two stages: let tasks finish within the grace time, then interrupt and hand them back.
    async fn drain(&self, running: &mut Running, load: &mut Load, drain: &CancellationToken) {
        if drain.is_cancelled() && !running.is_empty() {
            tracing::info!(tasks = running.len(), grace = ?self.settings.grace, "draining: no new tasks, waiting for running ones");
            let all = async {
                while let Some(ended) = running.join_next_with_id().await {
                    load.ended(ended);
                }
            };
            if timeout(self.settings.grace, all).await.is_err() {
                tracing::info!(tasks = running.len(), "the grace time is over: handing running tasks back");
                self.heartbeats.stop_all(StopReason::Drained);
                self.hurry.cancel();
            }
        }
        while let Some(ended) = running.join_next_with_id().await {
            load.ended(ended);
        }
    }
}

/// What runs at the moment, and what has run.
#[derive(Default)]
struct Load {
    running: HashMap<Id, String>,
    turn: usize,
    summary: Summary,
}

impl Load {
    fn started(&mut self, id: Id, step: String) {
        self.running.insert(id, step);
        self.summary.runs += 1;
    }

    fn of_step(&self, step: &str) -> u32 {
        self.running.values().filter(|s| *s == step).count() as u32
    }

    fn ended(&mut self, ended: Result<(Id, TaskState), JoinError>) {
        match ended {
            Ok((id, state)) => {
                self.running.remove(&id);
                *self.summary.ended.entry(state.as_str()).or_default() += 1;
            }
            // Its lease lapses, and the task is found again.
            Err(error) => {
                self.running.remove(&error.id());
                tracing::error!(%error, "a task's run failed in the host itself");
            }
        }
    }
}
