//! What the writer is asked to do, and how one transaction does a whole batch of it.

use super::database::Db;
use super::end::{Changes, finish};
use super::fault::Fault;
use super::lapse::{self, Lapsed};
use super::transaction::Tx;
use super::{admit, beat, cancel, claim, commit, dead, feed, lock, outbox, prune, run_end, submit, sweep};
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::lease::Lease;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{
    Admission, Applied, Beat, ClaimRequest, Claimed, Commit, DeadLetter, DeadLetterFilter, Heartbeat, NewJob, Outgoing, Pruned, Refused,
    Settlement, StoreError, Submitted, SweepRequest, Swept,
};
use std::time::Duration;

/// One call of the port that writes.
#[derive(Debug)]
pub(super) enum Request {
    Submit(Vec<NewJob>),
    Claim(ClaimRequest),
    Heartbeat(Vec<Heartbeat>, Duration),
    Commit(Box<Commit>),
    End(TaskKey),
    Settle(Lease, Settlement, String),
    BuryCommitted(TaskKey, TaskError),
    Admit(Vec<NewJob>, Duration, String),
    Refuse(Vec<Refused>),
    Outgoing(Option<Vec<String>>, Duration, u32),
    Sent(Vec<i64>),
    Purge(DeadLetterFilter),
    Seal(String, String),
    Prune(Duration, u32, bool),
    Sweep(SweepRequest),
    Swept(Vec<TaskKey>),
    Redrive(DeadLetterFilter),
    CancelTask(TaskKey),
    CancelJob(String, String),
}

/// What it came to.
#[derive(Debug)]
pub(super) enum Answer {
    Nothing,
    Submitted(Vec<Submitted>),
    Claimed(Vec<Claimed>),
    Beats(Vec<Beat>),
    Applied(Applied),
    Swept(Swept),
    Letters(Vec<DeadLetter>),
    State(TaskState),
    Count(u64),
    Admitted(Vec<Admission>),
    Outgoing(Vec<Outgoing>),
    Job(JobState),
    Pruned(Pruned),
}

/// Answer of one member. An error here is its own affair and has changed nothing.
pub(super) type Outcome = Result<Answer, StoreError>;

impl Request {
    /// Roughly how many rows it touches: bounds how long one transaction holds the write lock.
    pub fn rows(&self) -> usize {
        match self {
            Self::Submit(jobs) => jobs.len(),
            Self::Claim(request) => request.limit as usize,
            Self::Heartbeat(beats, _) => beats.len(),
            Self::Commit(commit) => 1 + commit.children.tasks.len() + commit.manifest.entries.len(),
            Self::Swept(keys) => keys.len(),
            Self::Admit(jobs, ..) => 2 * jobs.len(),
            Self::Refuse(refused) => refused.len(),
            Self::Sent(ids) => ids.len(),
            Self::Sweep(SweepRequest { limit, .. }) | Self::Outgoing(_, _, limit) => *limit as usize,
            // Each with the tasks of its jobs.
            Self::Prune(..) | Self::Purge(_) | Self::Redrive(_) | Self::CancelJob(..) => 1000,
            Self::End(_) | Self::Settle(..) | Self::BuryCommitted(..) | Self::CancelTask(_) | Self::Seal(..) => 1,
        }
    }

    /// Whether it gets a transaction of its own, because it touches rows that it does not name.
    pub fn is_apart(&self) -> bool {
        matches!(self, Self::Redrive(_) | Self::Purge(_) | Self::Prune(..) | Self::CancelJob(..))
    }

    /// The answer, where reading alone shows that there is nothing to do: it spares the write lock, which other processes want too.
    pub async fn idle_answer(&self, db: &mut Db<'_>) -> Result<Option<Answer>, Fault> {
        Ok(match self {
            Self::Outgoing(queues, ..) if !outbox::anything(db, queues.as_deref()).await? => Some(Answer::Outgoing(Vec::new())),
            Self::Claim(request) if !claim::anything(db, request).await? => Some(Answer::Claimed(Vec::new())),
            Self::Sweep(request) if !sweep::anything(db, request).await? => Some(Answer::Swept(Swept::default())),
            _ => None,
        })
    }
}

/// Members of one kind, with their places in the batch.
struct Kind<T> {
    places: Vec<usize>,
    members: Vec<T>,
}

impl<T> Kind<T> {
    fn of<'a>(batch: &[&'a Request], select: impl Fn(&'a Request) -> Option<T>) -> Self {
        let (places, members) = batch.iter().enumerate().filter_map(|(i, r)| Some((i, select(r)?))).unzip();
        Self { places, members }
    }

    fn answer<A>(&self, outcomes: &mut [Outcome], answers: Vec<A>, wrap: impl Fn(A) -> Answer) {
        for (place, answer) in self.places.iter().zip(answers) {
            if let Some(outcome) = outcomes.get_mut(*place) {
                *outcome = Ok(wrap(answer));
            }
        }
    }
}

/// Applies a batch in one transaction: one statement per table and kind, claims last, so that they find what the others left. Statements
/// may be left that go with its end.
pub(super) async fn apply(tx: &mut Tx<'_>, batch: &[&Request]) -> Result<Vec<Outcome>, Fault> {
    let mut outcomes: Vec<Outcome> = batch.iter().map(|_| Ok(Answer::Nothing)).collect();
    let takes_back = batch.iter().any(|r| matches!(r, Request::Claim(_) | Request::Admit(..) | Request::Sweep(_)));
    let lapsed = if takes_back && tx.leases_lapsed { lapse::find(tx).await? } else { Vec::new() };
    lock::named(tx, batch, &lapsed).await?;
    let beats = Kind::of(batch, |r| if let Request::Heartbeat(beats, lease) = r { Some((beats.as_slice(), *lease)) } else { None });
    if !beats.members.is_empty() {
        let answers = beat::renew(tx, &beats.members).await?;
        beats.answer(&mut outcomes, answers, Answer::Beats);
    }
    ends_of_runs(tx, batch, &mut outcomes).await?;
    for (request, outcome) in batch.iter().zip(&mut outcomes) {
        if let Some(rare) = rarely(tx, request, &lapsed).await? {
            *outcome = rare;
        }
    }
    let jobs = Kind::of(batch, |r| if let Request::Submit(jobs) = r { Some(jobs) } else { None });
    if !jobs.members.is_empty() {
        let all: Vec<_> = jobs.members.iter().flat_map(|jobs| jobs.iter()).map(|job| submit::Entering { job, lease: None }).collect();
        let mut answers = submit::submit(tx, &all).await?.into_iter().map(|entered| entered.answer);
        let answers = jobs.members.iter().map(|jobs| answers.by_ref().take(jobs.len()).collect()).collect();
        jobs.answer(&mut outcomes, answers, Answer::Submitted);
    }
    let arrivals = Kind::of(batch, |r| match r {
        Request::Admit(jobs, lease, worker) => Some((jobs.as_slice(), *lease, worker.as_str())),
        _ => None,
    });
    if !arrivals.members.is_empty() {
        let answers = admit::admit(tx, &arrivals.members, &lapsed).await?;
        arrivals.answer(&mut outcomes, answers, Answer::Admitted);
    }
    let claims = Kind::of(batch, |r| if let Request::Claim(request) = r { Some(request) } else { None });
    if !claims.members.is_empty() {
        let answers = claim::claim(tx, &claims.members, &lapsed).await?;
        claims.answer(&mut outcomes, answers, Answer::Claimed);
    }
    Ok(outcomes)
}

/// Commits, ends and settlements: groups and jobs are counted once for all of them.
async fn ends_of_runs(tx: &mut Tx<'_>, batch: &[&Request], outcomes: &mut [Outcome]) -> Result<(), Fault> {
    let mut changes = Changes::default();
    let commits = Kind::of(batch, |r| if let Request::Commit(commit) = r { Some(commit.as_ref()) } else { None });
    if !commits.members.is_empty() {
        let answers = commit::commit(tx, &commits.members, &mut changes).await?;
        commits.answer(outcomes, answers, Answer::Applied);
    }
    let settles = Kind::of(batch, |r| if let Request::Settle(lease, how, log) = r { Some((lease, how, log.as_str())) } else { None });
    if !settles.members.is_empty() {
        let answers = run_end::settle(tx, &settles.members, &mut changes).await?;
        settles.answer(outcomes, answers, Answer::Applied);
    }
    let ends = Kind::of(batch, |r| if let Request::End(key) = r { Some(key) } else { None });
    if !ends.members.is_empty() {
        commit::end(tx, &ends.members, &mut changes).await?;
    }
    finish(tx, changes).await
}

/// What people, sweepers and relays ask for now and then: one after the other.
async fn rarely(tx: &mut Tx<'_>, request: &Request, lapsed: &[Lapsed]) -> Result<Option<Outcome>, Fault> {
    Ok(Some(match request {
        Request::BuryCommitted(key, error) => {
            let mut changes = Changes::default();
            commit::bury_committed(tx, key, error, &mut changes).await?;
            finish(tx, changes).await?;
            Ok(Answer::Nothing)
        }
        Request::Sweep(request) => Ok(Answer::Swept(sweep::sweep(tx, request, lapsed).await?)),
        Request::Refuse(refused) => {
            let letters: Vec<_> = refused.iter().map(admit::Letter::of).collect::<Result<_, _>>()?;
            admit::keep(tx, &letters).await?;
            Ok(Answer::Nothing)
        }
        Request::Outgoing(queues, lease, limit) => Ok(Answer::Outgoing(outbox::outgoing(tx, queues.as_deref(), *lease, *limit).await?)),
        Request::Sent(ids) => {
            outbox::sent(tx, ids).await?;
            Ok(Answer::Nothing)
        }
        Request::Purge(filter) => Ok(Answer::Letters(dead::purge(tx, filter).await?)),
        Request::Seal(tenant, job_id) => feed::seal(tx, tenant, job_id).await?.map(Answer::Job),
        Request::Prune(older_than, limit, dry_run) => Ok(Answer::Pruned(prune::prune(tx, *older_than, *limit, *dry_run).await?)),
        Request::Swept(keys) => {
            sweep::swept(tx, keys).await?;
            Ok(Answer::Nothing)
        }
        Request::Redrive(filter) => Ok(Answer::Letters(dead::redrive(tx, filter).await?)),
        Request::CancelTask(key) => cancel::task(tx, key).await?.map(Answer::State),
        Request::CancelJob(tenant, job_id) => cancel::job(tx, tenant, job_id).await?.map(Answer::Count),
        _ => return Ok(None),
    }))
}
