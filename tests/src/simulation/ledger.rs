//! What really happened, noted beside the stores by whoever did it, and the invariants that can be checked the moment something happens.
//! Knows nothing of how the worker or a store decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;
use tokio::time::Instant;
use wasm_worker::task::Millis;
use wasm_worker::task::hooks::Input;
use wasm_worker::task::id::TaskKey;
use wasm_worker::task::lease::Lease;
use wasm_worker::task::outcome::{MAX_CRASHES, MAX_HANDBACKS};
use wasm_worker::task::state::JobState;
use wasm_worker::task::uri::Uri;
use wasm_worker::task_store::{Admission, Claimed, Commit, JobView};

/// Events kept for the report of a failing seed.
const KEPT: usize = 80;

/// A key as it is shown: ids of children are long.
pub fn shown(key: &TaskKey) -> String {
    format!("{}/{}", key.tenant, key.task_id.get(..10).unwrap_or(&key.task_id))
}

/// How often a task can be claimed, by what failed, what was handed back, what crashed, and what was drained.
pub fn most_claims(record: &Record, max_attempts: u32) -> u32 {
    (record.redriven + 1) * (max_attempts + MAX_HANDBACKS + MAX_CRASHES + 1) + record.given_back
}

/// A task as far as it was seen from outside.
#[derive(Default)]
pub struct Record {
    /// The last claim.
    pub lease: Option<Lease>,
    /// Openings so far, less one: how often it was put back after its death.
    pub redriven: u32,
    /// When it was put back last.
    pub redriven_at: Option<Instant>,
    /// What was committed, and in which opening.
    pub commits: Vec<(u32, Commit)>,
    /// Leases that were settled.
    pub settled: BTreeSet<String>,
    /// Settlements that a drain asked for.
    pub given_back: u32,
    /// Hooks begun.
    pub runs: u32,
    /// Claims.
    pub claims: u32,
    /// What created it; none for a root task.
    pub parent: Option<TaskKey>,
    /// Somebody outside asked for it.
    pub is_root: bool,
    /// Runs after its siblings.
    pub is_then: bool,
    /// Its end was checked.
    pub checked: bool,
    /// What it must read, if it is a `then` and nobody knows better.
    pub inputs: Option<Vec<Input>>,
}

impl Record {
    /// What was committed last: it stays, also where its finalising failed and was asked for again.
    pub fn commit(&self) -> Option<&Commit> {
        self.commits.last().map(|(_, commit)| commit)
    }
}

type JobEnd = (JobState, Option<Millis>);

/// What a worker may believe of a lease, by what it was told.
#[derive(Clone)]
struct View {
    /// The process that acts on it.
    who: String,
    until: Instant,
    lost: bool,
}

/// See the head of this file.
pub struct Ledger {
    began: Instant,
    verbose: bool,
    hash: std::hash::DefaultHasher,
    events: VecDeque<String>,
    violation: Option<String>,
    tasks: BTreeMap<TaskKey, Record>,
    views: BTreeMap<String, View>,
    /// Owners whose process went after their lease had: what they staged late is nobody's, and may stay.
    orphans: BTreeSet<String>,
    prefixes: BTreeMap<String, TaskKey>,
    /// How each job ended, and when.
    jobs: BTreeMap<(String, String), Option<JobEnd>>,
    cancelled: BTreeSet<(String, String)>,
    sent: BTreeSet<TaskKey>,
}

impl Ledger {
    pub fn new(began: Instant, verbose: bool) -> Self {
        Self {
            began,
            verbose,
            hash: std::hash::DefaultHasher::new(),
            events: VecDeque::new(),
            violation: None,
            tasks: BTreeMap::new(),
            views: BTreeMap::new(),
            orphans: BTreeSet::new(),
            prefixes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            sent: BTreeSet::new(),
        }
    }

    /// An event. Owners are drawn anew in every run and never part of one.
    pub fn note(&mut self, who: &str, what: &str, detail: impl fmt::Display) {
        let line = format!("{:>8} ms {who:<7} {what:<14} {detail}", self.began.elapsed().as_millis());
        line.hash(&mut self.hash);
        if self.verbose {
            println!("{line}");
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(line);
    }

    /// How long the world has been there, by its clock.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A number that two histories share only if they are one.
    pub fn history(&self) -> u64 {
        self.hash.finish()
    }

    pub fn events(&self) -> impl Iterator<Item = &String> {
        self.events.iter()
    }

    /// An invariant is broken; the first one counts.
    pub fn violate(&mut self, invariant: u32, what: impl fmt::Display) {
        self.note("!!!", "violation", format_args!("invariant {invariant}: {what}"));
        self.violation.get_or_insert_with(|| format!("invariant {invariant}: {what}"));
    }

    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    pub fn record(&self, key: &TaskKey) -> Option<&Record> {
        self.tasks.get(key)
    }

    pub fn record_mut(&mut self, key: &TaskKey) -> &mut Record {
        self.tasks.entry(key.clone()).or_default()
    }

    /// A task that somebody outside asked for.
    pub fn expect_root(&mut self, key: &TaskKey) {
        self.record_mut(key).is_root = true;
    }

    /// A claim as the store made it, whether or not its answer arrives. `until`: when the claimer has to stop believing in it.
    pub fn claimed(&mut self, who: &str, claimed: &Claimed, until: Instant) {
        let lease = &claimed.lease;
        self.note(who, "claimed", format_args!("{} epoch {} {}", shown(&lease.key), lease.epoch, claimed.step));
        self.prefixes.insert(claimed.output_prefix.clone(), lease.key.clone());
        self.views.insert(lease.owner.clone(), View { who: who.to_owned(), until, lost: false });
        let record = self.record_mut(&lease.key);
        let before = record.lease.as_ref().map_or(0, |l| l.epoch);
        record.lease = Some(lease.clone());
        record.claims += 1;
        let (claims, bound) = (record.claims, most_claims(record, claimed.counters.max_attempts));
        if claims > bound {
            self.violate(11, format_args!("{}: {claims} claims, of at most {bound}", shown(&lease.key)));
        }
        if lease.epoch != before + 1 {
            self.violate(5, format_args!("{}: epoch {} follows {before}", shown(&lease.key), lease.epoch));
        }
    }

    /// The answer to a heartbeat reached the worker.
    pub fn beat(&mut self, who: &str, lease: &Lease, held_until: Option<Instant>) {
        let Some(view) = self.views.get_mut(&lease.owner) else { return };
        match held_until {
            Some(until) => view.until = view.until.max(until),
            None => {
                view.lost = true;
                self.note(who, "lease lost", format_args!("{} epoch {}", shown(&lease.key), lease.epoch));
            }
        }
    }

    /// A process has gone.
    pub fn gone(&mut self, who: &str, how: &str) {
        self.note(who, how, "");
        let now = Instant::now();
        let late = self.views.iter().filter(|(_, view)| view.who == who && (view.lost || view.until <= now));
        self.orphans.extend(late.map(|(owner, _)| owner.clone()));
    }

    /// Whether a staged object is that of a run that came back to a lost lease and went with its process, before it could remove what
    /// it had staged. The sweeper may have been there before: the only thing that a zombie may leave.
    pub fn is_orphan(&self, staged: &Uri) -> bool {
        let folder = staged.as_str().split_once("/_attempts/").and_then(|(_, rest)| rest.split('/').next());
        folder.and_then(|folder| folder.split_once('-')).is_some_and(|(_, owner)| self.orphans.contains(owner))
    }

    /// Whether the worker may act on a lease.
    pub fn holds(&self, owner: &str) -> bool {
        self.views.get(owner).is_some_and(|view| !view.lost && Instant::now() < view.until)
    }

    /// The store applied a commit, now or before.
    pub fn committed(&mut self, who: &str, commit: &Commit) {
        let lease = &commit.lease;
        self.note(who, "committed", format_args!("{} epoch {}", shown(&lease.key), lease.epoch));
        let record = self.record_mut(&lease.key);
        let redriven = record.redriven;
        if record.commits.iter().any(|(_, known)| known.lease == *lease) {
            return;
        }
        let twice = record.commits.iter().any(|(opening, _)| *opening == redriven);
        let stale = record.lease.as_ref() != Some(lease);
        record.commits.push((redriven, commit.clone()));
        if twice {
            self.violate(1, format_args!("{}: a second commit, by epoch {}", shown(&lease.key), lease.epoch));
        }
        if stale {
            self.violate(1, format_args!("{}: committed by epoch {}, which is not the last claim", shown(&lease.key), lease.epoch));
        }
        for (task, is_then) in commit.children.tasks.iter().map(|t| (t, false)).chain(commit.children.then.iter().map(|t| (t, true))) {
            let child = self.record_mut(&TaskKey::new(&lease.key.tenant, &task.task_id));
            child.parent = Some(lease.key.clone());
            child.is_then = is_then;
        }
    }

    /// The store applied a settlement, now or before.
    pub fn settled(&mut self, who: &str, lease: &Lease, how: &str) {
        self.note(who, "settled", format_args!("{} epoch {} {how}", shown(&lease.key), lease.epoch));
        let record = self.record_mut(&lease.key);
        if !record.settled.insert(lease.owner.clone()) {
            return;
        }
        if how == "given-back" {
            record.given_back += 1;
        }
        if record.lease.as_ref() != Some(lease) {
            self.violate(1, format_args!("{}: settled by epoch {}, which is not the last claim", shown(&lease.key), lease.epoch));
        }
    }

    /// The task that an address belongs to: the one with the longest prefix of it.
    pub fn task_at(&self, address: &str) -> Option<(&str, &TaskKey)> {
        let mut end = address.len();
        while let Some(at) = address.get(..end)?.rfind('/') {
            if let Some((prefix, key)) = self.prefixes.get_key_value(address.get(..=at)?) {
                return Some((prefix, key));
            }
            end = at;
        }
        None
    }

    /// A job was looked at. It ends once per opening, and not before its last task.
    pub fn saw_job(&mut self, job: &JobView) {
        let live: u64 = job.tasks.iter().filter(|(state, _)| !state.is_ended()).map(|(_, count)| count).sum();
        let known = self.jobs.entry((job.tenant.clone(), job.job_id.clone())).or_default();
        let end = job.state.is_ended().then_some((job.state, job.ended_at));
        let (before, first) = (*known, known.is_none());
        *known = end;
        let name = format_args!("{}/{}", job.tenant, job.job_id).to_string();
        if end.is_some() && live > 0 {
            self.violate(9, format_args!("{name} has ended and {live} live tasks"));
        }
        if !first && before != end {
            self.violate(9, format_args!("{name} had ended as {before:?} and is {end:?} now"));
        }
        if first && let Some((state, _)) = end {
            self.note("store", "job ended", format_args!("{name} {state}"));
        }
    }

    /// Something was put back: inputs that were dead are so no longer.
    pub fn forget_inputs(&mut self) {
        self.tasks.values_mut().for_each(|record| record.inputs = None);
    }

    /// Dead tasks of a job were put back, or another root joined one that is fed: it may end once more.
    pub fn reopened(&mut self, tenant: &str, job_id: &str) {
        self.jobs.insert((tenant.to_owned(), job_id.to_owned()), None);
    }

    /// Somebody asked for a whole job to stop.
    pub fn cancelled(&mut self, tenant: &str, job_id: &str) {
        self.cancelled.insert((tenant.to_owned(), job_id.to_owned()));
    }

    pub fn is_cancelled(&self, tenant: &str, job_id: &str) -> bool {
        self.cancelled.contains(&(tenant.to_owned(), job_id.to_owned()))
    }

    /// A message was given to a broker.
    pub fn sent(&mut self, who: &str, queue: &str, key: &TaskKey) {
        self.note(who, "sends", format_args!("{} to {queue}", shown(key)));
        self.sent.insert(key.clone());
    }

    pub fn was_sent(&self, key: &TaskKey) -> bool {
        self.sent.contains(key)
    }

    /// Messages were taken in: a fed job that had been closed because nothing came for it opens again with its next root.
    pub fn admitted(&mut self, arrivals: &[(TaskKey, String)], admissions: &[Admission]) {
        for ((key, job_id), admission) in arrivals.iter().zip(admissions) {
            let runs = matches!(admission, Admission::Claimed(_) | Admission::NotDue(_));
            if runs && self.tasks.get(key).is_some_and(|record| record.is_root && record.claims == 0) {
                self.reopened(&key.tenant, job_id);
            }
        }
    }
}
