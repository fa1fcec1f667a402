//! A connection that writes, owned by a task: what is pending becomes one transaction (group commit).
//!
//! A batch that fails is tried again member by member, so that one bad member harms nobody. Heartbeats come first, or, where several
//! can write at once, over a connection of their own.

use super::changed::Changed;
use super::fault::Fault;
use super::link::{Link, within};
use super::request::{self, Answer, Outcome, Request};
use crate::failpoint::{Point, reach};
use crate::task::lease::Lease;
use crate::task_store::{Admission, Claimed, Settlement, StoreError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the writer; callers beyond it wait themselves.
const PENDING: usize = 1024;

/// Most members of one transaction. Beyond it the gain is small (21,000 tasks/s at 128) and the wait of each member grows.
const MAX_MEMBERS: usize = 256;

/// Rows after which a batch takes no further member.
const MAX_ROWS: usize = 4096;

/// How long other transactions are waited for, before the requests of a batch are told so.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);

/// Longest time between two tries, microseconds. Drawn at random: no two processes keep step. Far below a millisecond, as the others'
/// transactions are: who comes seldom never meets the lock free.
const BUSY_STEP: u64 = 500;

/// Tries of a batch that meets ids which others take at the same time: the second one sees them.
const CLASHES: u32 = 3;

/// Under steady load SQLite's lock is left alone for [`GAP`] after this long, or another process would never meet it free.
const HELD_IN_A_ROW: Duration = Duration::from_millis(30);

/// See [`HELD_IN_A_ROW`]; longer than [`BUSY_STEP`].
const GAP: Duration = Duration::from_micros(700);

/// How long commits and ends wait for a claim to share their transaction while another process writes too: each transaction takes
/// SQLite's one lock from it.
const GATHER: Duration = Duration::from_millis(3);

/// How long another process that has written counts as writing.
const STILL_WRITING: Duration = Duration::from_millis(100);

/// A request and where its answer goes.
struct Member {
    request: Request,
    reply: oneshot::Sender<Result<Delivery, StoreError>>,
}

/// An answer on its way. Leases that nobody takes out of it go back, so that a caller who went away costs no crash.
pub(super) struct Delivery {
    answer: Answer,
    /// What was asked. Freeing hundreds of messages is work, and the writer has enough.
    _asked: Request,
    returns: mpsc::UnboundedSender<Vec<Lease>>,
}

impl Delivery {
    fn take(mut self) -> Answer {
        std::mem::replace(&mut self.answer, Answer::Nothing)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let leases: Vec<Lease> = match &mut self.answer {
            Answer::Claimed(claimed) => claimed.drain(..).map(|task: Claimed| task.lease).collect(),
            Answer::Admitted(admitted) => {
                admitted.drain(..).filter_map(|a| if let Admission::Claimed(task) = a { Some(task.lease) } else { None }).collect()
            }
            _ => return,
        };
        if !leases.is_empty() {
            // Without a writer nobody can give them back; they lapse.
            self.returns.send(leases).ok();
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
    link: Link,
    requests: mpsc::Receiver<Member>,
    /// None where another writer serves them.
    beats: Option<mpsc::Receiver<Member>>,
    returned: mpsc::UnboundedReceiver<Vec<Lease>>,
    returns: mpsc::UnboundedSender<Vec<Lease>>,
    changed: Arc<Changed>,
    held: Duration,
    /// Answers that are known: given before the next transaction begins, or at once where nothing is pending.
    owed: Vec<(Member, Outcome)>,
    /// When another process was last seen to have written, if so.
    elsewhere: Option<Instant>,
}

/// Starts one writer for everything, on the current runtime.
pub(super) fn start_one(link: Link, changed: &Arc<Changed>) -> Handle {
    let (beats, beats_in) = mpsc::channel(PENDING);
    let requests = start(link, Some(beats_in), changed);
    Handle { requests, beats }
}

/// Starts a writer, and one for heartbeats alone.
pub(super) fn start_two(link: Link, for_beats: Link, changed: &Arc<Changed>) -> Handle {
    Handle { requests: start(link, None, changed), beats: start(for_beats, None, changed) }
}

fn start(link: Link, beats: Option<mpsc::Receiver<Member>>, changed: &Arc<Changed>) -> mpsc::Sender<Member> {
    let (requests, requests_in) = mpsc::channel(PENDING);
    let (returns, returned) = mpsc::unbounded_channel();
    let changed = Arc::clone(changed);
    let (held, owed, elsewhere) = (Duration::ZERO, Vec::new(), None);
    let writer = Writer { link, requests: requests_in, beats, returned, returns, changed, held, owed, elsewhere };
    on_a_thread(writer.run());
    requests
}

/// Runs the writer on a thread of its own: on a runtime that it shares with running tasks it would stand in line behind them for each
/// statement, with the write lock in its hand. SQLite works on this thread itself.
fn on_a_thread(writing: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let started = runtime.and_then(|runtime| {
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| runtime.block_on(writing))).is_err() {
                // Without a writer nothing goes on, and nobody would see it: as after any crash, another process takes over.
                tracing::error!("the task store's writer failed in the host itself; this process ends");
                std::process::abort();
            }
        };
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(run).map(drop)
    });
    // What was to be written is dropped with the writer, and callers are told that it has gone.
    if let Err(error) = started {
        tracing::error!(%error, "no thread for the task store's writer could be started");
    }
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
        let looks = self.link.sqlite().is_some();
        loop {
            if self.requests.is_empty() {
                self.give_answers();
            }
            let event = tokio::select! {
                biased;
                beat = next(&mut self.beats) => beat.map_or(Event::Closed, Event::Beat),
                Some(leases) = self.returned.recv() => Event::Returned(leases),
                request = self.requests.recv() => request.map_or(Event::Closed, Event::Request),
                () = look_due(&mut self.link, &self.changed), if looks => Event::Look,
            };
            match event {
                Event::Beat(beat) => self.serve_beats(Some(beat)).await,
                Event::Request(first) => self.serve_requests(first).await,
                Event::Returned(leases) => self.give_back(leases).await,
                Event::Look => {
                    if let Some(link) = self.link.sqlite()
                        && link.look()
                    {
                        self.elsewhere = Some(Instant::now());
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
        self.give_answers();
        self.link.close().await;
    }

    async fn serve_beats(&mut self, first: Option<Member>) {
        let mut batch: Vec<Member> = first.into_iter().collect();
        if let Some(beats) = &mut self.beats {
            fill(&mut batch, beats);
        }
        for member in self.together(batch).await {
            self.together(vec![member]).await;
        }
    }

    async fn serve_requests(&mut self, first: Member) {
        let mut batch = vec![first];
        fill(&mut batch, &mut self.requests);
        self.gather(&mut batch).await;
        let (apart, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(|m| m.request.is_apart());
        for member in apart {
            self.together(vec![member]).await;
        }
        let batch = self.answer_idle(batch).await;
        for member in self.together(batch).await {
            self.serve_beats(None).await;
            self.together(vec![member]).await;
        }
        if self.held > HELD_IN_A_ROW && self.link.sqlite().is_some() {
            self.held = Duration::ZERO;
            self.give_answers();
            rest(GAP);
        }
    }

    /// Has commits and ends wait for the next claim where another process wants the lock as well: nobody else waits for those.
    async fn gather(&mut self, batch: &mut Vec<Member>) {
        if self.elsewhere.is_none_or(|at| at.elapsed() > STILL_WRITING) {
            return;
        }
        self.give_answers();
        let until = tokio::time::Instant::now() + GATHER;
        while batch.iter().all(|m| matches!(m.request, Request::Commit(_) | Request::End(_) | Request::Settle(..)))
            && let Ok(Some(member)) = tokio::time::timeout_at(until, self.requests.recv()).await
        {
            batch.push(member);
            fill(batch, &mut self.requests);
        }
    }

    /// Where only claims and sweeps are pending, answers those that would find nothing, without the write lock.
    async fn answer_idle(&mut self, batch: Vec<Member>) -> Vec<Member> {
        if !batch.iter().all(|m| matches!(m.request, Request::Claim(_) | Request::Sweep(_) | Request::Outgoing(..))) {
            return batch;
        }
        self.give_answers();
        let mut busy = Vec::new();
        for member in batch {
            let patience = self.link.patience();
            let look = async { member.request.idle_answer(&mut self.link.db().await?).await };
            match within(patience, look).await {
                Ok(Some(answer)) => give(vec![(member, Ok(answer))], &self.returns),
                Ok(None) => busy.push(member),
                // Whatever is wrong shows in the transaction too, and is answered there.
                Err(fault) => {
                    self.drop_what_is_gone(&fault);
                    busy.push(member);
                }
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
                self.owed.extend(batch.into_iter().zip(outcomes));
                Vec::new()
            }
            Err(Fault::Store(_) | Fault::Clash(_)) if batch.len() > 1 => batch,
            Err(fault) => {
                let error = StoreError::from(fault);
                self.owed.extend(batch.into_iter().map(|member| (member, Err(error.clone()))));
                Vec::new()
            }
        }
    }

    fn give_answers(&mut self) {
        give(std::mem::take(&mut self.owed), &self.returns);
    }

    async fn transact(&mut self, batch: &[Member]) -> Result<Vec<Outcome>, Fault> {
        let requests: Vec<&Request> = batch.iter().map(|m| &m.request).collect();
        let (started, patience, mut clashes) = (Instant::now(), self.link.patience(), 0);
        loop {
            let fault = match within(patience, self.attempt(&requests)).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(fault) => fault,
            };
            self.drop_what_is_gone(&fault);
            clashes += u32::from(matches!(fault, Fault::Clash(_)));
            let again = matches!(fault, Fault::Busy | Fault::Clash(_)) && clashes < CLASHES && started.elapsed() < BUSY_PATIENCE;
            if !again {
                return Err(fault);
            }
            self.held = Duration::ZERO;
            rest(Duration::from_micros(fastrand::u64(0..BUSY_STEP)));
        }
    }

    fn drop_what_is_gone(&mut self, fault: &Fault) {
        if matches!(fault, Fault::Gone(_)) {
            self.link.drop_connection();
            // It may have taken effect, and whoever asks again finds it done.
            self.changed.tell();
        }
    }

    async fn attempt(&mut self, requests: &[&Request]) -> Result<Vec<Outcome>, Fault> {
        // What these have others do goes on beside the transaction.
        self.give_answers();
        let mut tx = self.link.begin().await?;
        let began = Instant::now();
        let (elsewhere, result) = (tx.elsewhere, request::apply(&mut tx, requests).await);
        let enqueued = tx.enqueued;
        if elsewhere {
            self.elsewhere = Some(Instant::now());
        }
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
        if elsewhere || (enqueued && result.is_ok()) {
            self.changed.tell();
        }
        result
    }
}

/// Gives answers to those who wait for them.
fn give(answers: Vec<(Member, Outcome)>, returns: &mpsc::UnboundedSender<Vec<Lease>>) {
    for (Member { request, reply }, outcome) in answers {
        let delivery = outcome.map(|answer| Delivery { answer, _asked: request, returns: returns.clone() });
        // A caller who has gone misses its answer; leases in it go back as it is dropped.
        drop(reply.send(delivery));
    }
}

/// Blocks the writer's thread, on which nothing else runs: the timer of the runtime knows whole milliseconds only.
fn rest(pause: Duration) {
    std::thread::sleep(pause);
}

/// Returns when somebody waits for work and it is time to look for what others did.
async fn look_due(link: &mut Link, changed: &Changed) {
    changed.waited_for().await;
    if let Some(link) = link.sqlite() {
        link.watch.due().await;
    }
}

async fn next(way: &mut Option<mpsc::Receiver<Member>>) -> Option<Member> {
    match way {
        Some(way) => way.recv().await,
        None => std::future::pending().await,
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
