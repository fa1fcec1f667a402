//! The one connection that writes, owned by a task: what is pending becomes one transaction (group commit).
//!
//! A batch that fails is tried again member by member, so that one bad member harms nobody. Heartbeats come first.

use super::fault::Fault;
use super::request::{self, Answer, Outcome, Request};
use super::transaction::Tx;
use super::watch::{Changed, Watch};
use crate::failpoint::{Point, reach};
use crate::task::lease::Lease;
use crate::task_store::{Admission, Claimed, Settlement, StoreError};
use sqlx::{Connection as _, SqliteConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the writer; callers beyond it wait themselves.
const PENDING: usize = 1024;

/// Most members of one transaction. Beyond it the gain is small (21,000 tasks/s at 128) and the wait of each member grows.
const MAX_MEMBERS: usize = 256;

/// Rows after which a batch takes no further member.
const MAX_ROWS: usize = 4096;

/// How long the write lock of other processes is waited for.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);

/// Longest time between two tries for the write lock, microseconds. Drawn at random: no two processes keep step.
const BUSY_STEP: u64 = 2000;

/// Under steady load the lock is left alone for [`GAP`] after this long, or another process would never meet it free.
const HELD_IN_A_ROW: Duration = Duration::from_millis(50);

/// See [`HELD_IN_A_ROW`]; longer than [`BUSY_STEP`].
const GAP: Duration = Duration::from_millis(3);

/// A request and where its answer goes.
struct Member {
    request: Request,
    reply: oneshot::Sender<Result<Delivery, StoreError>>,
}

/// An answer on its way. Leases that nobody takes out of it go back, so that a caller who went away costs no crash.
pub(super) struct Delivery {
    answer: Answer,
    returns: mpsc::UnboundedSender<Vec<Lease>>,
}

impl Delivery {
    fn take(mut self) -> Answer {
        std::mem::replace(&mut self.answer, Answer::Nothing)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Answer::Admitted(admitted) = &mut self.answer {
            let leases = std::mem::take(admitted).into_iter().filter_map(|a| match a {
                Admission::Claimed(task) => Some(task.lease),
                _ => None,
            });
            self.returns.send(leases.collect()).ok();
        }
        if let Answer::Claimed(claimed) = &mut self.answer {
            let leases: Vec<Lease> = claimed.drain(..).map(|task: Claimed| task.lease).collect();
            if !leases.is_empty() {
                // Without a writer nobody can give them back; they lapse.
                self.returns.send(leases).ok();
            }
        }
    }
}

/// The way to the writer. Dropping the last one ends it, once it has done what is pending.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    requests: mpsc::Sender<Member>,
    beats: mpsc::Sender<Member>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request.fmt(f)
    }
}

impl Handle {
    /// Hands a request over and waits for its answer. A caller who stops waiting does not stop the request.
    pub async fn ask(&self, request: Request) -> Result<Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let way = if matches!(request, Request::Heartbeat(..)) { &self.beats } else { &self.requests };
        let gone = || StoreError::Unavailable("the writer of the task store has ended".to_owned());
        way.send(Member { request, reply }).await.map_err(|_| gone())?;
        Ok(answer.await.map_err(|_| gone())??.take())
    }
}

struct Writer {
    connection: SqliteConnection,
    requests: mpsc::Receiver<Member>,
    beats: mpsc::Receiver<Member>,
    returned: mpsc::UnboundedReceiver<Vec<Lease>>,
    returns: mpsc::UnboundedSender<Vec<Lease>>,
    changed: Arc<Changed>,
    watch: Watch,
    held: Duration,
}

/// Starts the writer on the current runtime.
pub(super) fn start(connection: SqliteConnection, changed: Arc<Changed>, watch: Watch) -> Handle {
    let (requests, requests_in) = mpsc::channel(PENDING);
    let (beats, beats_in) = mpsc::channel(PENDING);
    let (returns, returned) = mpsc::unbounded_channel();
    let writer = Writer { connection, requests: requests_in, beats: beats_in, returned, returns, changed, watch, held: Duration::ZERO };
    tokio::spawn(writer.run());
    Handle { requests, beats }
}

enum Event {
    Beat(Member),
    Request(Member),
    Returned(Vec<Lease>),
    Look,
    Closed,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let event = tokio::select! {
                biased;
                beat = self.beats.recv() => beat.map_or(Event::Closed, Event::Beat),
                Some(leases) = self.returned.recv() => Event::Returned(leases),
                request = self.requests.recv() => request.map_or(Event::Closed, Event::Request),
                () = self.changed.time_to_look() => Event::Look,
            };
            match event {
                Event::Beat(beat) => self.serve_beats(Some(beat)).await,
                Event::Request(first) => self.serve_requests(first).await,
                Event::Returned(leases) => self.give_back(leases).await,
                Event::Look => {
                    if self.watch.look(&mut self.connection).await {
                        self.changed.tell();
                    }
                }
                Event::Closed => break,
            }
        }
        // Both ways close together; what is left in the other one was handed over before.
        while let Ok(member) = self.requests.try_recv() {
            self.serve_requests(member).await;
        }
        self.connection.close().await.ok();
    }

    async fn serve_beats(&mut self, first: Option<Member>) {
        let mut batch: Vec<Member> = first.into_iter().collect();
        fill(&mut batch, &mut self.beats);
        for member in self.together(batch).await {
            self.together(vec![member]).await;
        }
    }

    async fn serve_requests(&mut self, first: Member) {
        let mut batch = vec![first];
        fill(&mut batch, &mut self.requests);
        let batch = self.answer_idle(batch).await;
        for member in self.together(batch).await {
            self.serve_beats(None).await;
            self.together(vec![member]).await;
        }
        if self.held > HELD_IN_A_ROW {
            self.held = Duration::ZERO;
            tokio::time::sleep(GAP).await;
        }
    }

    /// Where only claims and sweeps are pending, answers those that would find nothing, without the write lock.
    async fn answer_idle(&mut self, batch: Vec<Member>) -> Vec<Member> {
        if !batch.iter().all(|m| matches!(m.request, Request::Claim(_) | Request::Sweep(_) | Request::Outgoing(..))) {
            return batch;
        }
        let mut busy = Vec::new();
        for member in batch {
            match member.request.idle_answer(&mut self.connection).await {
                Ok(Some(answer)) => self.reply(member, Ok(answer)),
                // Whatever is wrong shows in the transaction too, and is answered there.
                Ok(None) | Err(_) => busy.push(member),
            }
        }
        busy
    }

    async fn give_back(&mut self, leases: Vec<Lease>) {
        let members = leases
            .into_iter()
            .map(|lease| Member { request: Request::Settle(lease, Settlement::GiveBack, String::new()), reply: oneshot::channel().0 })
            .collect();
        for member in self.together(members).await {
            self.together(vec![member]).await;
        }
    }

    /// One transaction for all. Returns the members where it failed and each is to be tried alone; a single one is always answered.
    async fn together(&mut self, mut batch: Vec<Member>) -> Vec<Member> {
        // Nobody waits for these claims any more.
        batch.retain(|m| !(m.reply.is_closed() && matches!(m.request, Request::Claim(_))));
        if batch.is_empty() {
            return batch;
        }
        match self.transact(&batch).await {
            Ok(outcomes) => {
                for (member, outcome) in batch.into_iter().zip(outcomes) {
                    self.reply(member, outcome);
                }
                Vec::new()
            }
            Err(Fault::Store(error)) if batch.len() == 1 => {
                batch.into_iter().for_each(|member| self.reply(member, Err(StoreError::clone(&error))));
                Vec::new()
            }
            Err(Fault::Busy) => {
                batch.into_iter().for_each(|member| self.reply(member, Err(Fault::Busy.into())));
                Vec::new()
            }
            Err(Fault::Store(_)) => batch,
        }
    }

    fn reply(&self, member: Member, outcome: Outcome) {
        let delivery = outcome.map(|answer| Delivery { answer, returns: self.returns.clone() });
        // A caller who has gone misses its answer; leases in it go back as it is dropped.
        drop(member.reply.send(delivery));
    }

    async fn transact(&mut self, batch: &[Member]) -> Result<Vec<Outcome>, Fault> {
        let requests: Vec<&Request> = batch.iter().map(|m| &m.request).collect();
        let started = Instant::now();
        loop {
            match self.attempt(&requests).await {
                Err(Fault::Busy) if started.elapsed() < BUSY_PATIENCE => {
                    self.held = Duration::ZERO;
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(0..BUSY_STEP))).await;
                }
                other => return other,
            }
        }
    }

    async fn attempt(&mut self, requests: &[&Request]) -> Result<Vec<Outcome>, Fault> {
        let mut tx = Tx::begin(&mut self.connection).await?;
        let began = Instant::now();
        let (elsewhere, result) = (tx.data_version, request::apply(&mut tx, requests).await);
        let enqueued = tx.enqueued;
        let result = match result {
            Ok(outcomes) => {
                reach(Point::InTransaction);
                let committed = tx.commit().await;
                reach(Point::AfterTransaction);
                committed.map(|()| outcomes)
            }
            Err(fault) => {
                tx.rollback().await;
                Err(fault)
            }
        };
        self.held += began.elapsed();
        if self.watch.saw(elsewhere) || (enqueued && result.is_ok()) {
            self.changed.tell();
        }
        result
    }
}

/// Takes what is pending, up to the bounds of one transaction.
fn fill(batch: &mut Vec<Member>, from: &mut mpsc::Receiver<Member>) {
    let mut rows: usize = batch.iter().map(|m| m.request.rows()).sum();
    while batch.len() < MAX_MEMBERS
        && rows < MAX_ROWS
        && let Ok(member) = from.try_recv()
    {
        rows += member.request.rows();
        batch.push(member);
    }
}
