//! The run loop: room, then a look at the table and at every queue in turn, then execute.

use super::deliveries::{Delivery, Inbox};
use super::execute::{execute, finish};
use super::feed::Feed;
use super::load::{Load, Reserved, Summary};
use super::receive::{Brought, Errand, Look, LookError, Message, receive, take_in};
use super::relay::relay_on;
use super::sweep::sweep_on;
use super::{GATHER, Worker};
use crate::failpoint::{Point, reach};
use crate::task::id::JobKey;
use crate::task::state::TaskState;
use crate::task_store::{ClaimRequest, Claimed, StoreError, TaskStore};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// When a worker stops by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// When its pipeline has no task left that waits or runs, and its queues have no message.
    Empty,
    /// When this job has ended.
    JobEnded(JobKey),
}

/// Longest wait for news of work; a worker looks at least this often.
const LOOK: Duration = Duration::from_secs(5);

/// The same, where the end of all work is to be noticed too.
const LOOK_FOR_END: Duration = Duration::from_millis(50);

/// Longest wait in a queue whose room somebody else may need meanwhile.
const SHORT_LOOK: Duration = Duration::from_millis(500);

/// A phase of a look that has ended: what it brought, unless it failed in the host itself.
pub(super) type Looked = Result<(Id, Result<Brought, LookError>), JoinError>;

/// A claim that was sent: the room set aside for it, when that was, and the news heeded by then.
type Sent = (Reserved, Instant, u64);

/// What a claim brought; where that is nothing, in how many milliseconds something falls due.
pub(super) type Answered = (Sent, Result<(Vec<Claimed>, Option<u64>), StoreError>);

/// Of its places a worker leaves no more than this part empty while it gathers room for a look into a queue, and no more than so many:
/// transactions that take in more messages gain little.
const GATHERED_PART: u32 = 8;
const GATHERED: u32 = 64;

/// Milliseconds after which a claim that found nothing is repeated where the store did not say when something falls due.
const ASK_AGAIN: u64 = 100;

/// The shortest wait for what falls due: that may be there already, and cannot be had yet.
const SHORTLY: Duration = Duration::from_millis(10);

/// How long it is waited for that answer.
const LATE: Duration = Duration::from_millis(500);

/// How many times its places a worker may have under way, with those tasks that wait for the store to commit and end them: while it
/// is slow, no more are claimed.
const UNDER_WAY: u32 = 2;

/// The table's place among the feeds.
const TABLE: usize = 0;

/// How long a run that has ended waits for its last answers to reach the brokers.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long a run that was over at once waits for its first sweep.
const FIRST_SWEEP: Duration = Duration::from_secs(2);

/// One run of a worker.
pub(super) struct Shift<'a> {
    pub worker: &'a Arc<Worker>,
    until: Until,
    max_tasks: u64,
    pub drain: CancellationToken,
    /// Cancelled when nothing more is to be received.
    pub closing: CancellationToken,
    /// The table first, then the queues.
    feeds: Vec<Feed>,
    /// Whose turn it is: whoever had one last comes last.
    turn: usize,
    /// Claims sent.
    claimed: usize,
    /// When the feeds were last gone through: what has come to its time since then was not seen to.
    served: Instant,
    pub running: JoinSet<TaskState>,
    pub looks: JoinSet<Result<Brought, LookError>>,
    /// Claims under way. There may be several, while they bring something: places become free one by one, and the store answers them
    /// together.
    pub claims: FuturesUnordered<BoxFuture<'a, Answered>>,
    /// Steps for which the table was asked in vain, since there was news of it or something came.
    in_vain: BTreeSet<String>,
    /// Whether the last claim that was answered brought something.
    found: bool,
    /// The last news of the table that was heeded.
    news: u64,
    /// When the table is to be looked at without news: something in it falls due, as far as is known.
    due: Instant,
    pub load: Load,
}

impl Worker {
    /// Runs until `until`, until `max_tasks` claims were made, or until `drain` is cancelled; then lets running tasks finish
    /// within the grace time, interrupts the rest and hands their tasks back at no cost. Dropped, it leaves what a crash leaves:
    /// every task of it stops where it stands.
    pub async fn run(self: &Arc<Self>, until: Until, max_tasks: Option<u64>, drain: CancellationToken) -> Summary {
        // All of these are dropped with this future, so that nothing goes on behind its back.
        let (mut upkeep, mut answering) = (JoinSet::new(), JoinSet::new());
        let receiving = self.queues.iter().filter(|queue| !queue.steps.is_empty());
        let opened = receiving.map(|spec| Inbox::open(Arc::clone(spec), self.settings.lease));
        let (inboxes, answers): (Vec<_>, Vec<_>) = opened.unzip();
        for (inbox, answers) in inboxes.iter().zip(answers) {
            let (hidden, answered) = (Arc::clone(&inbox.deliveries), Arc::clone(&inbox.deliveries));
            upkeep.spawn(async move { hidden.keep_hidden().await });
            answering.spawn(answers.give(answered));
        }
        let swept = CancellationToken::new();
        self.spawn_upkeep(&mut upkeep, &inboxes, &swept);
        let mut shift = Shift::new(self, until, max_tasks.unwrap_or(u64::MAX), drain, inboxes);
        shift.take_tasks().await;
        shift.drain().await;
        let summary = std::mem::take(&mut shift.load.summary);
        // With the last delivery the answers end.
        drop(shift);
        let all = async { while answering.join_next().await.is_some() {} };
        if timeout(LAST_ANSWERS, all).await.is_err() {
            tracing::warn!("brokers did not take the last answers in time; those messages come again");
        }
        // Of interest only where the whole run was a matter of moments.
        tokio::select! { biased; () = self.hurry.cancelled() => {}, _ = timeout(FIRST_SWEEP, swept.cancelled()) => {} }
        if !self.queues.is_empty() && !matches!(timeout(LAST_ANSWERS, self.send_all()).await, Ok(Ok(()))) {
            tracing::warn!("what the last tasks have put in the outbox could not be sent; another worker sends it");
        }
        summary
    }

    fn spawn_upkeep(self: &Arc<Self>, upkeep: &mut JoinSet<()>, inboxes: &[Inbox], swept: &CancellationToken) {
        let this = Arc::clone(self);
        upkeep.spawn(async move { this.heartbeats.fence().await });
        let this = Arc::clone(self);
        upkeep.spawn(async move { this.heartbeats.beat(this.services.tasks.as_ref()).await });
        let (this, deliveries) = (Arc::clone(self), inboxes.iter().map(|inbox| Arc::clone(&inbox.deliveries)).collect());
        let swept = swept.clone();
        upkeep.spawn(async move { sweep_on(&this, deliveries, swept).await });
        if !self.queues.is_empty() {
            let this = Arc::clone(self);
            upkeep.spawn(async move { relay_on(&this).await });
        }
    }
}

impl<'a> Shift<'a> {
    fn new(worker: &'a Arc<Worker>, until: Until, max_tasks: u64, drain: CancellationToken, inboxes: Vec<Inbox>) -> Self {
        Self {
            worker,
            until,
            max_tasks,
            drain,
            closing: CancellationToken::new(),
            feeds: std::iter::once(None).chain(inboxes.into_iter().map(Some)).map(Feed::new).collect(),
            turn: TABLE,
            claimed: 0,
            served: Instant::now(),
            running: JoinSet::new(),
            looks: JoinSet::new(),
            claims: FuturesUnordered::new(),
            in_vain: BTreeSet::new(),
            found: false,
            news: 0,
            due: Instant::now(),
            load: Load::new(),
        }
    }

    async fn take_tasks(&mut self) {
        while !self.drain.is_cancelled() && self.load.summary.runs < self.max_tasks {
            while let Some(ended) = self.running.try_join_next() {
                self.load.ended(ended);
            }
            self.load.count_free();
            while let Some(looked) = self.looks.try_join_next_with_id() {
                self.looked(looked);
            }
            // Before the next claim is sent: where there is news all the time, one is always under way after that.
            if self.running.is_empty() && self.claims.is_empty() && self.feeds.iter().all(|feed| feed.idle) && self.is_over().await {
                return;
            }
            self.serve();
            self.wait().await;
        }
    }

    /// Looks at every feed that may be looked at.
    fn serve(&mut self) {
        self.served = Instant::now();
        if self.due <= self.served {
            self.due = self.served + self.longest_wait();
            self.in_vain.clear();
        }
        let feeds = self.feeds.len();
        let first = self.turn % feeds;
        for at in (first..feeds).chain(0..first) {
            let Some(share) = self.share(at) else { continue };
            match self.feeds.get(at).and_then(|feed| feed.inbox.clone()) {
                None => {
                    let is_new = share.rooms.keys().any(|step| !self.in_vain.contains(step));
                    if is_new && (self.found || self.claims.is_empty()) {
                        self.claim(share);
                    }
                }
                Some(inbox) => {
                    if let Some(share) = self.gathered(at, inbox.deliveries.spec.queue.batch(), share) {
                        self.start_look(at, inbox, &share);
                    }
                }
            }
        }
    }

    /// Room for a look that is worth its price: a call of the broker, where it asks one for each batch, and a transaction. Places become
    /// free one by one, and a look for each would have the store take in each message by itself: while there is little room, and more to
    /// come, the look waits a moment, counted from the first place on: another feed may have it meanwhile.
    fn gathered(&mut self, at: usize, batch: u32, mut share: Reserved) -> Option<Reserved> {
        let most = self.most(at);
        let batch = batch.min(most).max(1);
        let wanted = batch.max((most / GATHERED_PART).min(GATHERED));
        // What is set aside for a look that goes on may be so for long.
        let set_aside = self.feeds.iter().filter_map(|feed| feed.receiving.as_ref()).fold(0, |sum, (.., room)| sum + room.max);
        let is_more_to_come = self.load.total() > set_aside;
        let feed = self.feeds.get_mut(at)?;
        if share.max >= wanted {
            feed.has_gathered();
        } else if !is_more_to_come {
            feed.gathering = None;
        } else if feed.gathers(share.max < batch, GATHER) {
            return None;
        }
        if share.max > batch {
            share.max -= share.max % batch;
        }
        Some(share)
    }

    /// The most that a feed can ever take.
    fn most(&self, at: usize) -> u32 {
        let places = self.worker.settings.concurrency;
        let of_step = |step| self.worker.steps.get(step).map_or(0, |spec| spec.concurrency.unwrap_or(places).min(places));
        self.steps(at).iter().fold(0_u32, |sum, step| sum.saturating_add(of_step(step))).min(places)
    }

    /// The steps that a feed brings tasks of.
    fn steps(&self, at: usize) -> &[String] {
        let inbox = self.feeds.get(at).and_then(|feed| feed.inbox.as_ref());
        inbox.map_or(&self.worker.order, |inbox| &inbox.deliveries.spec.steps)
    }

    /// What a feed may take now: a fair part of the room, but one place for every other that may have something any moment. None:
    /// nothing, or it is not to be looked at yet.
    fn share(&self, at: usize) -> Option<Reserved> {
        let feed = self.feeds.get(at)?;
        if feed.receiving.is_some() || feed.not_before > Instant::now() {
            return None;
        }
        let room = self.room();
        // While the store is out of reach nothing can be admitted either: messages stay where they are.
        let is_store_away = at != TABLE && self.feeds.get(TABLE).is_some_and(Feed::is_failing);
        if room == 0 || is_store_away {
            return None;
        }
        let others = || self.feeds.iter().enumerate().filter(|(i, other)| *i != at && other.receiving.is_none());
        let waiting = others().filter(|(_, other)| !other.is_busy()).count() as u32;
        let busy = others().filter(|(_, other)| other.is_busy()).count() as u32 + 1;
        let max = (room.saturating_sub(waiting) / busy).max(1);
        let rooms = self.steps(at).iter().map(|step| (step.clone(), self.worker.room_of_step(step, &self.load).min(max)));
        let rooms: BTreeMap<_, _> = rooms.filter(|(_, room)| *room > 0).collect();
        let max = rooms.values().fold(0_u32, |sum, room| sum.saturating_add(*room)).min(max);
        (max > 0).then_some(Reserved { max, rooms })
    }

    /// Tasks that may begin.
    fn room(&self) -> u32 {
        let left = self.max_tasks.saturating_sub(self.load.summary.runs + u64::from(self.load.reserved()));
        let places = self.worker.settings.concurrency;
        let under_way = self.running.len() as u32 + self.load.reserved();
        let room = places.saturating_sub(self.load.total()).min(places.saturating_mul(UNDER_WAY).saturating_sub(under_way));
        u64::from(room).min(left) as u32
    }

    /// Begins a claim of due tasks of the table, and sets room aside for what it brings.
    fn claim(&mut self, share: Reserved) {
        self.load.reserve(&share);
        self.claimed = self.claimed.wrapping_add(1);
        let settings = &self.worker.settings;
        // The first place goes round, so that no step waits for ever.
        let steps = self.worker.order.iter().cycle().skip(self.claimed % self.worker.order.len().max(1));
        let steps = steps.take(self.worker.order.len()).filter_map(|step| Some((step.clone(), *share.rooms.get(step)?)));
        let request = ClaimRequest {
            pipeline: settings.pipeline.clone(),
            job: settings.job.clone(),
            steps: steps.collect(),
            limit: share.max,
            lease: settings.lease,
            worker: settings.name.clone(),
        };
        let (tasks, sent) = (&self.worker.services.tasks, (share, Instant::now(), self.news));
        self.claims.push(Box::pin(async move { (sent, claim(tasks.as_ref(), request).await) }));
    }

    /// A claim was answered: what it brought begins.
    pub(super) fn claimed(&mut self, ((share, sent, news), claimed): Answered) {
        self.load.release(&share);
        self.turn = TABLE + 1;
        let longest = self.longest_wait();
        let Some(table) = self.feeds.get_mut(TABLE) else { return };
        match claimed {
            Ok((claims, due)) => {
                let due = due.map_or(longest, |ms| longest.min(Duration::from_millis(ms).max(SHORTLY)));
                self.due = self.due.min(Instant::now() + due);
                self.found = !claims.is_empty();
                if self.found {
                    self.in_vain.clear();
                } else if news == self.news {
                    self.in_vain.extend(share.rooms.into_keys());
                }
                table.looked(sent, claims.is_empty(), false);
                table.succeeded();
                if !claims.is_empty() {
                    reach(Point::AfterClaim);
                }
                for claimed in claims {
                    self.start(Errand::Run(Box::new(claimed), sent), None);
                }
            }
            // Of several that fail together one counts.
            Err(_) if table.not_before > Instant::now() => {}
            Err(error) => {
                tracing::warn!(%error, "no tasks could be claimed; trying again");
                table.failed();
                self.in_vain.clear();
            }
        }
    }

    /// Begins a look into a queue, and sets room aside for what it brings.
    fn start_look(&mut self, at: usize, inbox: Inbox, share: &Reserved) {
        self.load.reserve(share);
        let others = self.feeds.iter().enumerate().filter(|(i, other)| *i != at && other.receiving.is_none()).count() as u32;
        let has_room = self.room() >= others && share.rooms.keys().all(|step| self.worker.room_of_step(step, &self.load) > 0);
        let wait = match (self.is_busy_elsewhere(at), has_room) {
            (true, _) => Duration::ZERO,
            (false, true) => LOOK,
            (false, false) => SHORT_LOOK,
        };
        let wait = wait.min(self.longest_wait());
        let wanted = Look { max: share.max, wait };
        let (worker, closing) = (Arc::clone(self.worker), self.closing.clone());
        let phase = self.looks.spawn(async move { receive(&worker, &inbox, wanted, &closing).await });
        if let Some(feed) = self.feeds.get_mut(at) {
            feed.receiving = Some((phase.id(), Instant::now(), share.clone()));
        }
    }

    /// Messages were received, `room` was set aside for them: they are taken in while the next ones are received.
    fn start_taking_in(&mut self, at: usize, messages: Vec<Message>, room: Reserved) {
        let Some(feed) = self.feeds.get_mut(at) else { return };
        let Some(inbox) = feed.inbox.clone() else { return };
        let room = room.at_most(messages.len());
        self.load.reserve(&room);
        let (worker, rooms) = (Arc::clone(self.worker), room.rooms.clone());
        let phase = self.looks.spawn(async move { take_in(&worker, &inbox, messages, rooms).await });
        feed.taking_in.push((phase.id(), room));
    }

    fn is_busy_elsewhere(&self, at: usize) -> bool {
        self.feeds.iter().enumerate().any(|(i, other)| i != at && other.is_busy())
    }

    /// A phase of a look has ended: what it brought is taken in, or begins.
    pub(super) fn looked(&mut self, looked: Looked) {
        let id = looked.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(at) = self.feeds.iter().position(|feed| feed.is_at(id)) else { return };
        let elsewhere = self.is_busy_elsewhere(at);
        let Some(feed) = self.feeds.get_mut(at) else { return };
        let Some((room, began)) = feed.ended(id) else { return };
        self.load.release(&room);
        self.turn = at + 1;
        match looked {
            Ok((_, Ok(Brought::Messages(messages)))) => {
                feed.looked(began, messages.is_empty(), elsewhere);
                if messages.is_empty() {
                    feed.succeeded();
                } else {
                    self.start_taking_in(at, messages, room);
                }
            }
            Ok((_, Ok(Brought::Errands(errands)))) => {
                feed.succeeded();
                for (errand, delivery) in errands {
                    self.start(errand, Some(delivery));
                }
            }
            Ok((_, Ok(Brought::Closed))) => {}
            Ok((_, Err(error))) => {
                tracing::warn!(%error, queue = feed.name(), "messages could not be taken in; trying again");
                feed.failed();
            }
            Err(error) => {
                tracing::error!(%error, queue = feed.name(), "a look into a queue failed in the host itself");
                feed.failed();
            }
        }
    }

    fn start(&mut self, errand: Errand, delivery: Option<Delivery>) {
        let worker = Arc::clone(self.worker);
        match errand {
            Errand::Run(claimed, sent) => {
                let slot = self.load.start(claimed.step.clone(), true);
                // Boxed: the runtime moves a future as it is spawned and again as it is joined, and this one is large.
                self.running.spawn(Box::pin(async move { execute(&worker, *claimed, sent, slot, delivery).await }));
            }
            Errand::Finish(unfinished) => {
                let slot = self.load.start(String::new(), false);
                self.running.spawn(async move { finish(&worker, &unfinished, slot, delivery).await });
            }
        }
    }

    /// Waits for anything that may change what can be begun.
    async fn wait(&mut self) {
        let (worker, tasks) = (self.worker, &self.worker.services.tasks);
        // A moment that is over by now is not to be missed: the next turn begins that look. Without room there is nothing to wake for.
        let resting = worker.order.iter().filter_map(|step| worker.rests_until(step, self.served));
        let pausing = self.feeds.iter().map(|feed| feed.not_before).filter(|until| *until > self.served);
        let gathering = self.feeds.iter().enumerate().filter_map(|(at, feed)| feed.gathering.filter(|_| self.share(at).is_some()));
        let due = self.share(TABLE).map(|_| self.due);
        let latest = Instant::now() + self.longest_wait();
        let wake = resting.chain(pausing).chain(gathering).chain(due).min().map_or(latest, |until| until.min(latest));
        tokio::select! {
            biased;
            () = self.drain.cancelled() => {}
            // Before what goes on all the time where there is much to do; and without room too, which a look may hold for long.
            news = tasks.wait_for_work(self.news, LOOK) => {
                if news != self.news {
                    self.news = news;
                    self.in_vain.clear();
                }
            }
            () = self.load.wait_for_place() => {
                // Tasks that were claimed together are often done together: one claim for all their places.
                yield_now().await;
            }
            Some(ended) = self.running.join_next() => self.load.ended(ended),
            Some(answered) = self.claims.next() => self.claimed(answered),
            Some(looked) = self.looks.join_next_with_id() => self.looked(looked),
            () = sleep_until(wake) => {}
        }
    }

    /// Longest wait for anything.
    fn longest_wait(&self) -> Duration {
        if self.until == Until::Stopped { LOOK } else { LOOK_FOR_END }
    }

    // `&mut`: the claims under way can be sent to another thread, but not shared with one.
    async fn is_over(&mut self) -> bool {
        let tasks = &self.worker.services.tasks;
        match &self.until {
            Until::Stopped => false,
            Until::Empty => {
                let depth = tasks.depth(&self.worker.settings.pipeline).await;
                depth.is_ok_and(|d| d.ready + d.later + d.running == 0)
            }
            Until::JobEnded(job) => match tasks.job(&job.tenant, &job.job_id).await {
                Ok(job) => job.state.is_ended(),
                Err(StoreError::NotFound(_)) => true,
                Err(_) => false,
            },
        }
    }
}

/// Claims; and, where there is nothing, asks when there may be: every lease and every task that is due later counts.
async fn claim(tasks: &dyn TaskStore, request: ClaimRequest) -> Result<(Vec<Claimed>, Option<u64>), StoreError> {
    let pipeline = request.pipeline.clone();
    let claimed = tasks.claim_next(request).await?;
    if !claimed.is_empty() {
        return Ok((claimed, None));
    }
    // Until this is answered the claim holds its room.
    let due = timeout(LATE, tasks.next_due(&pipeline)).await;
    Ok((claimed, due.ok().and_then(Result::ok).unwrap_or(Some(ASK_AGAIN))))
}
