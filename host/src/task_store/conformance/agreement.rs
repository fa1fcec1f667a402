//! Two stores, one long walk at random: whatever the one answers, the other answers, and afterwards they show the same.
//!
//! Nothing here lapses or waits: what depends on time has cases of its own.

use super::*;
use crate::task::children::FailureRoute;
use std::sync::Arc;

const WALKS: u64 = 16;
const STEPS: usize = 120;

/// A lease of the same task in both stores; owners differ.
type Pair = (Lease, Lease);

struct Walk<'a> {
    stores: [&'a dyn TaskStore; 2],
    dice: fastrand::Rng,
    tenant: String,
    held: Vec<Pair>,
    /// Tasks that committed: they are to be ended, or given up.
    committed: Vec<TaskKey>,
}

/// Runs the walks, each with a tenant and a pipeline of its own.
pub async fn stores_agree(one: &dyn TaskStore, two: &dyn TaskStore) {
    for seed in 0..WALKS {
        let mut walk = Walk {
            stores: [one, two],
            dice: fastrand::Rng::with_seed(seed),
            tenant: format!("t{seed}"),
            held: Vec::new(),
            committed: Vec::new(),
        };
        let mut told = Vec::new();
        for _ in 0..STEPS {
            told.push(walk.step().await);
            let [one, two] = walk.shown().await;
            let differ: Vec<_> = one.iter().zip(&two).filter(|(a, b)| a != b).collect();
            assert!(one == two, "seed {seed}, after:\n{}\n{differ:#?}", told.join("\n"));
        }
    }
    let reached: BTreeSet<TaskState> = one.tasks(TaskFilter::default()).await.unwrap().into_iter().map(|t| t.state).collect();
    assert_eq!(reached, TaskState::ALL.into(), "the walks go everywhere");
}

/// The same from both, without what cannot be the same.
fn agreed<T: std::fmt::Debug>(what: &str, answers: [T; 2]) -> String {
    let [one, two] = answers.map(|answer| format!("{answer:?}"));
    assert_eq!(one, two, "{what}");
    format!("{what} -> {one}")
}

impl Walk<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.dice.u32(0..100) < percent
    }

    fn of(&mut self, what: &str, count: u32) -> String {
        format!("{what}{}", self.dice.u32(0..count))
    }

    fn new_task(&mut self, job: &str, step: &str) -> NewTask {
        let id = self.of("x", 120);
        let mut new = task(&id, job, step);
        if self.chance(5) {
            Arc::make_mut(&mut new.message).params.insert("other".into(), json!(true));
            new.payload_hash = new.message.payload_hash(step).unwrap();
        }
        new.priority = [5, 5, 5, 9][self.dice.usize(0..4)];
        new.delivery = self.delivery();
        if self.chance(30) {
            let delivery = self.delivery();
            new.on_failure = Some(FailureRoute { step: "c".into(), max_attempts: 3, delivery });
        }
        new
    }

    fn delivery(&mut self) -> Delivery {
        match self.dice.u32(0..10) {
            0..7 => Delivery::Table,
            7..9 => Delivery::Queue(QUEUE.into()),
            _ => Delivery::Foreign("theirs".into()),
        }
    }

    fn new_job(&mut self) -> NewJob {
        let job = self.of("j", 14);
        let mut root = self.new_task(&job, "a");
        if matches!(root.delivery, Delivery::Foreign(_)) {
            root.delivery = Delivery::Table;
        }
        let tasks = if self.chance(30) { Some(3) } else { None };
        let feed = if self.chance(40) { Feed::Single } else { Feed::Open { queue: None, tasks } };
        let tenant = self.tenant.clone();
        let prefix = if self.chance(3) { format!("file:///{tenant}/") } else { format!("file:///{tenant}/{job}/") };
        if feed != Feed::Single && self.chance(30) {
            let chosen = ["", "x/", "x/y/", "../free/", "../free/x/"][self.dice.usize(0..5)];
            root.output_prefix = format!("{prefix}{chosen}").replace(&format!("{job}/../"), "");
            Arc::make_mut(&mut root.message).output_prefix = Some(root.output_prefix.clone());
            root.payload_hash = root.message.payload_hash("a").unwrap();
        }
        NewJob { pipeline: format!("p-{tenant}"), prefix, feed, ..NewJob { tenant, ..job_of(root) } }
    }

    fn children(&mut self, job: &str) -> Children {
        let tasks: Vec<NewTask> = (0..self.dice.u32(0..4)).map(|_| self.new_task(job, "b")).collect();
        let mut then = self.new_task(job, "c");
        if matches!(then.delivery, Delivery::Foreign(_)) {
            then.delivery = Delivery::Table;
        }
        // Two children of one fan-out never have one id.
        let mut ids: BTreeSet<String> = [then.task_id.clone()].into();
        let tasks = tasks.into_iter().filter(|task| ids.insert(task.task_id.clone())).collect();
        Children { tasks, then: if self.chance(40) { Some(then) } else { None } }
    }

    fn committed(&mut self) -> TaskKey {
        if self.committed.is_empty() || self.chance(10) {
            return self.key();
        }
        let at = self.dice.usize(0..self.committed.len());
        self.committed.swap_remove(at)
    }

    fn key(&mut self) -> TaskKey {
        let id = self.of("x", 120);
        TaskKey::new(&self.tenant, id)
    }

    fn error(&mut self) -> TaskError {
        TaskError::new(self.of("code", 2), "on purpose")
    }

    fn take(&mut self, claimed: [Vec<Claimed>; 2]) -> String {
        let [one, two] = claimed;
        let plain = |claimed: &[Claimed]| -> Vec<String> {
            let line = |c: &Claimed| {
                let rest = (&c.step, &c.key, c.priority, c.counters, c.is_root, c.input_count, c.alone, &c.job_prefix);
                format!("{:?} {} {rest:?}", c.lease.key, c.lease.epoch)
            };
            claimed.iter().map(line).collect()
        };
        let told = agreed("claimed", [plain(&one), plain(&two)]);
        self.held.extend(one.into_iter().zip(two).map(|(a, b)| (a.lease, b.lease)));
        told
    }

    async fn step(&mut self) -> String {
        let [one, two] = self.stores;
        match self.dice.u32(0..100) {
            0..18 => {
                let jobs: Vec<NewJob> = (0..=self.dice.u32(0..3)).map(|_| self.new_job()).collect();
                agreed("submit", [one.submit(jobs.clone()).await.unwrap(), two.submit(jobs).await.unwrap()])
            }
            18..28 => self.admit().await,
            28..45 => {
                let steps = ["a", "b", "c"].map(|s| (s.to_owned(), 9)).to_vec();
                let pipeline = format!("p-{}", self.tenant);
                let request = ClaimRequest { pipeline, steps, ..request(self.dice.u32(1..4), LONG) };
                self.take([one.claim_next(request.clone()).await.unwrap(), two.claim_next(request).await.unwrap()])
            }
            45..60 => self.commit().await,
            60..68 => self.settle().await,
            68..76 => {
                let key = self.committed();
                one.end(key.clone()).await.unwrap();
                two.end(key.clone()).await.unwrap();
                format!("end {key:?}")
            }
            76..79 => {
                let (key, error) = (self.committed(), self.error());
                one.bury_committed(key.clone(), error.clone()).await.unwrap();
                two.bury_committed(key.clone(), error).await.unwrap();
                format!("bury {key:?}")
            }
            79..82 => {
                let key = self.key();
                agreed("cancel task", [one.cancel_task(key.clone()).await, two.cancel_task(key).await])
            }
            82..84 => {
                let job = self.of("j", 14);
                agreed("cancel job", [one.cancel_job(&self.tenant, &job).await, two.cancel_job(&self.tenant, &job).await])
            }
            84..86 => {
                let job = self.of("j", 14);
                agreed("seal", [one.seal(&self.tenant, &job).await, two.seal(&self.tenant, &job).await])
            }
            86..92 => self.letters().await,
            _ => self.relay().await,
        }
    }

    async fn admit(&mut self) -> String {
        let arrivals: Vec<NewJob> = (0..=self.dice.u32(0..3))
            .map(|_| {
                let mut arrival = self.new_job();
                arrival.root.delivery = Delivery::Queue(QUEUE.into());
                arrival.feed = Feed::Open { queue: Some(QUEUE.into()), tasks: None };
                arrival
            })
            .collect();
        let mut claimed = [Vec::new(), Vec::new()];
        let mut plain = [Vec::new(), Vec::new()];
        for (at, store) in self.stores.into_iter().enumerate() {
            for answer in store.admit(arrivals.clone(), LONG, "w".into()).await.unwrap() {
                plain[at].push(match &answer {
                    Admission::Claimed(_) => "claimed".to_owned(),
                    Admission::Unfinished(task) => format!("unfinished {:?}", task.key),
                    Admission::Ended(state) => format!("ended {state}"),
                    Admission::Leased(_) => "leased".to_owned(),
                    Admission::NotDue(_) => "not due".to_owned(),
                    Admission::Refused(error) => format!("refused: {}", error.code),
                });
                if let Admission::Claimed(task) = answer {
                    claimed[at].push(*task);
                }
            }
        }
        agreed("admit", plain) + &self.take(claimed)
    }

    /// One of the leases, which may be over by now.
    fn lease(&mut self) -> Option<Pair> {
        if self.held.is_empty() {
            return None;
        }
        let at = self.dice.usize(0..self.held.len());
        Some(if self.chance(80) { self.held.swap_remove(at) } else { self.held[at].clone() })
    }

    async fn commit(&mut self) -> String {
        let Some((a, b)) = self.lease() else { return String::new() };
        let [one, two] = self.stores;
        let job_id = one.task(&self.tenant, &a.key.task_id).await.unwrap().job_id;
        let children = self.children(&job_id);
        let files = if self.chance(50) { manifest() } else { Manifest::default() };
        self.committed.push(a.key.clone());
        let of = |lease: &Lease| Commit { manifest: files.clone(), ..commit_of(lease, children.clone()) };
        agreed(&format!("commit {:?}", a.key), [one.commit(of(&a)).await.unwrap(), two.commit(of(&b)).await.unwrap()])
    }

    async fn settle(&mut self) -> String {
        let Some((a, b)) = self.lease() else { return String::new() };
        let error = self.error();
        let how = match self.dice.u32(0..6) {
            0 => Settlement::Retry(Duration::ZERO, error),
            1 => Settlement::HandBack(Duration::ZERO, error),
            2 => Settlement::GiveBack,
            3 => Settlement::Cancelled,
            _ => Settlement::Dead(error),
        };
        let [one, two] = self.stores;
        let answers =
            [one.settle(a.clone(), how.clone(), String::new()).await.unwrap(), two.settle(b, how.clone(), String::new()).await.unwrap()];
        agreed(&format!("settle {:?} {how:?}", a.key), answers)
    }

    fn filter(&self) -> DeadLetterFilter {
        DeadLetterFilter { tenant: Some(self.tenant.clone()), ..DeadLetterFilter::default() }
    }

    async fn letters(&mut self) -> String {
        let code = Some(self.of("code", 2));
        let filter = DeadLetterFilter { code, ..self.filter() };
        let [one, two] = self.stores;
        if self.chance(70) {
            let answers = [one.redrive(filter.clone(), false).await.unwrap(), two.redrive(filter, false).await.unwrap()];
            agreed("redrive", answers.map(|letters| plain_letters(&letters)))
        } else {
            let answers = [one.purge(filter.clone(), false).await.unwrap(), two.purge(filter, false).await.unwrap()];
            agreed("purge", answers.map(|letters| plain_letters(&letters)))
        }
    }

    async fn relay(&mut self) -> String {
        let mut sent = [Vec::new(), Vec::new()];
        for (at, store) in self.stores.into_iter().enumerate() {
            let messages = store.outgoing(None, LONG, 1000).await.unwrap();
            store.sent(messages.iter().map(|m| m.id).collect()).await.unwrap();
            sent[at] = messages.into_iter().map(|m| format!("{:?} {} {}", m.key, m.queue, m.body)).collect();
            sent[at].sort();
        }
        agreed("sent", sent)
    }

    /// All that both show of this walk.
    async fn shown(&self) -> [Vec<String>; 2] {
        let mut shown = [Vec::new(), Vec::new()];
        for (store, shown) in self.stores.into_iter().zip(&mut shown) {
            let filter = TaskFilter { tenant: Some(self.tenant.clone()), ..TaskFilter::default() };
            for t in store.tasks(filter).await.unwrap() {
                let error = t.error.map(|e| e.code);
                let counts = (t.epoch, t.attempts, t.handbacks, t.crashes, t.max_attempts, t.priority, t.children);
                let more = (t.parent, t.outcome, error, t.queue, t.cancel_requested, t.ended_at.is_some());
                let inputs: Vec<(String, TaskState)> = match t.step.as_str() {
                    "c" => store
                        .inputs(TaskKey::new(&t.tenant, &t.task_id), 0, 99)
                        .await
                        .unwrap()
                        .into_iter()
                        .map(|i| (i.task_id, i.end))
                        .collect(),
                    _ => Vec::new(),
                };
                shown.push(format!("{} {} {} {} {counts:?} {more:?} {inputs:?}", t.job_id, t.task_id, t.step, t.state));
            }
            for j in store.jobs(Some(&self.tenant), None, 0).await.unwrap() {
                shown.push(format!("{} {} {} {:?} {:?} {}", j.job_id, j.state, j.open, j.expected, j.tasks, j.ended_at.is_some()));
            }
            shown.extend(plain_letters(&store.dead_letters(self.filter()).await.unwrap()));
            let depth = store.depth(&format!("p-{}", self.tenant)).await.unwrap();
            shown.push(format!("{:?}", (depth.ready, depth.later, depth.running)));
        }
        shown
    }
}

fn plain_letters(letters: &[DeadLetter]) -> Vec<String> {
    let line =
        |l: &DeadLetter| format!("{:?} {:?} {:?} {} {:?} {} {}", l.task_id, l.job_id, l.step, l.error.code, l.queue, l.attempts, l.message);
    let mut lines: Vec<String> = letters.iter().map(line).collect();
    lines.sort();
    lines
}
