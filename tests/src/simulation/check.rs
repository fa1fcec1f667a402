//! The invariants that need a look at the stores: while a world runs, at the moment something takes effect, and once more over all of it
//! at the end.

use super::ledger::{most_claims, shown};
use super::objects::is_staged;
use super::run::BUCKET;
use super::world::{LEASE, World};
use std::collections::{BTreeMap, BTreeSet};
use wasm_worker::object_store::{Publish, Source};
use wasm_worker::task::children::{Delivery, FAILURE};
use wasm_worker::task::hooks::Input;
use wasm_worker::task::id::{TaskKey, sha256};
use wasm_worker::task::outcome::{MAX_CRASHES, MAX_HANDBACKS};
use wasm_worker::task::outputs::{METRICS_NAME, Manifest};
use wasm_worker::task::state::{JobState, TaskState};
use wasm_worker::task::uri::Uri;
use wasm_worker::task_store::{Claimed, TaskFilter, TaskView};

/// Largest object read back.
const MAX_OBJECT: u64 = 1 << 20;

/// More tasks or jobs than any world has.
const ALL: u32 = 100_000;

fn key_of(task: &TaskView) -> TaskKey {
    TaskKey::new(&task.tenant, &task.task_id)
}

impl World {
    async fn task(&self, key: &TaskKey) -> Option<TaskView> {
        self.tasks.task(&key.tenant, &key.task_id).await.ok()
    }

    /// Every task of a job.
    async fn tasks_of(&self, tenant: &str, job_id: &str) -> Vec<TaskView> {
        let filter = TaskFilter { tenant: Some(tenant.into()), job_id: Some(job_id.into()), limit: ALL, ..TaskFilter::default() };
        self.tasks.tasks(filter).await.unwrap_or_default()
    }

    /// A task was leased: something committed or submitted must have asked for it, and a `then` must have waited.
    pub async fn check_claim(&self, claimed: &Claimed) {
        let key = &claimed.lease.key;
        let (parent, is_then, is_root) = match self.ledger().record(key) {
            Some(record) => (record.parent.clone(), record.is_then, record.is_root),
            None => (None, false, false),
        };
        if is_root {
            return;
        }
        if claimed.key == FAILURE {
            self.check_failure_task(key).await;
            return;
        }
        let Some(parent) = parent else {
            return self.ledger().violate(4, format_args!("{} runs, and no committed task asked for it", shown(key)));
        };
        if self.task(&parent).await.is_none_or(|p| p.state != TaskState::Done) {
            self.ledger().violate(4, format_args!("{} runs before {} has ended", shown(key), shown(&parent)));
        }
        if is_then {
            self.check_then(key, &parent, claimed).await;
        }
    }

    async fn check_failure_task(&self, key: &TaskKey) {
        let parent = self.task(key).await.and_then(|task| task.parent).map(|id| TaskKey::new(&key.tenant, id));
        let Some(parent) = parent else {
            return self.ledger().violate(4, format_args!("{} follows a failure of nothing", shown(key)));
        };
        let redriven = self.ledger().record(&parent).is_some_and(|record| record.redriven > 0);
        if !redriven && self.task(&parent).await.is_none_or(|p| p.state != TaskState::Dead) {
            self.ledger().violate(4, format_args!("{} runs though {} was not given up", shown(key), shown(&parent)));
        }
    }

    /// A `then` runs after everything its siblings led to, and has their leaves as inputs, in fan-out order.
    async fn check_then(&self, key: &TaskKey, parent: &TaskKey, claimed: &Claimed) {
        let all = self.tasks_of(&key.tenant, &claimed.message.job_id).await;
        let mut below: BTreeMap<&str, Vec<&TaskView>> = BTreeMap::new();
        for task in &all {
            if let Some(parent) = &task.parent {
                below.entry(parent).or_default().push(task);
            }
        }
        let expected = self.expected_inputs(parent, &below);
        let mut open: Vec<&TaskView> = below.get(parent.task_id.as_str()).into_iter().flatten().copied().collect();
        // What follows an earlier death of the parent is none of its fan-out.
        open.retain(|task| task.task_id != key.task_id && task.key != FAILURE);
        let (mut seen, mut live, mut redriven) = (0, None, false);
        while let Some(task) = open.pop() {
            seen += 1;
            redriven |= self.ledger().record(&key_of(task)).is_some_and(|record| record.redriven > 0);
            live = live.or((!task.state.is_ended()).then_some(task));
            open.extend(below.get(task.task_id.as_str()).into_iter().flatten());
        }
        // What was put back after its death does not hold up a `then` that was due by then.
        if let Some(task) = live.filter(|_| !redriven) {
            let text = format_args!("{} runs while {} is {}", shown(key), shown(&key_of(task)), task.state).to_string();
            self.ledger().violate(4, text);
        }
        if claimed.input_count > seen || (seen > 0 && claimed.input_count == 0) {
            let text = format_args!("{} has {} inputs of {seen} tasks before it", shown(key), claimed.input_count).to_string();
            self.ledger().violate(4, text);
        }
        // Nor can it be said what a task is that was put back: it may have an end, a failure task and children, and be none of them now.
        if !redriven {
            self.check_inputs(key, claimed, expected).await;
        }
    }

    /// The list itself, as the store gives it now, and as the guest is to be given it.
    async fn check_inputs(&self, key: &TaskKey, claimed: &Claimed, expected: Vec<Input>) {
        let inputs = self.tasks.inputs(key.clone(), 0, ALL).await.unwrap_or_default();
        if inputs != expected || claimed.input_count as usize != expected.len() {
            let named =
                |inputs: &[Input]| inputs.iter().map(|i| format!("{} {} {:?}", i.key, i.end, i.outcome)).collect::<Vec<_>>().join(", ");
            let (are, should) = (named(&inputs), named(&expected));
            let text = format!("{}: {} inputs are promised, [{are}] are there, and should be [{should}]", shown(key), claimed.input_count);
            self.ledger().violate(4, text);
        }
        self.ledger().record_mut(key).inputs = Some(expected);
    }

    /// What a `then` must read: in the order in which their parent listed them, the tasks of its fan-out, each with what was committed; or
    /// what followed from one, down to its leaves.
    fn expected_inputs(&self, parent: &TaskKey, below: &BTreeMap<&str, Vec<&TaskView>>) -> Vec<Input> {
        let ledger = self.ledger();
        let listed = ledger.record(parent).and_then(|record| record.commit()).map(|commit| commit.children.tasks.as_slice());
        let there = |parent: &str, id: &str| below.get(parent).into_iter().flatten().find(|task| task.task_id == id).copied();
        let mut open: Vec<&TaskView> =
            listed.into_iter().flatten().rev().filter_map(|task| there(&parent.task_id, &task.task_id)).collect();
        let mut inputs = Vec::new();
        while let Some(task) = open.pop() {
            let commit = ledger.record(&key_of(task)).and_then(|record| record.commit()).filter(|_| task.state == TaskState::Done);
            let followed: Vec<&TaskView> = match commit {
                // An inner `then` stands for its fan-out.
                Some(commit) => match commit.children.then.as_ref().and_then(|then| there(&task.task_id, &then.task_id)) {
                    Some(then) => vec![then],
                    None => commit.children.tasks.iter().rev().filter_map(|child| there(&task.task_id, &child.task_id)).collect(),
                },
                None => below.get(task.task_id.as_str()).into_iter().flatten().rev().copied().collect(),
            };
            if followed.is_empty() {
                inputs.push(Input {
                    key: task.key.clone(),
                    task_id: task.task_id.clone(),
                    step: task.step.clone(),
                    end: task.state,
                    outcome: commit.and_then(|commit| commit.outcome.clone()),
                    output_prefix: task.output_prefix.clone(),
                    outputs: commit.map(|commit| commit.manifest.finalised().entries).unwrap_or_default(),
                });
            }
            open.extend(followed);
        }
        inputs
    }

    /// Something may have changed for a task: what its end promises must be there, and its job is looked at.
    pub async fn check_task(&self, key: &TaskKey) {
        let Some(task) = self.task(key).await else { return };
        self.check_job(&task.tenant, &task.job_id).await;
        if task.state != TaskState::Done || std::mem::replace(&mut self.ledger().record_mut(key).checked, true) {
            return;
        }
        self.check_done(&task).await;
    }

    async fn check_done(&self, task: &TaskView) {
        let key = key_of(task);
        let committed = self.ledger().record(&key).and_then(|record| record.commit().cloned());
        let Some(commit) = committed else {
            return self.ledger().violate(1, format_args!("{} is DONE without a commit", shown(&key)));
        };
        self.check_bytes(task, &commit.manifest).await;
        if task.figures.as_ref() != Some(&commit.figures) {
            let text = format_args!("{}: {:?} was measured, {:?} is kept", shown(&key), commit.figures, task.figures).to_string();
            self.ledger().violate(6, text);
        }
        let all = self.tasks_of(&task.tenant, &task.job_id).await;
        let below = all.iter().filter(|t| t.parent.as_deref() == Some(&task.task_id) && t.key != FAILURE);
        let there: BTreeSet<&str> = below.map(|t| t.task_id.as_str()).collect();
        let listed = commit.children.tasks.iter().chain(&commit.children.then).filter(|t| !matches!(t.delivery, Delivery::Foreign(_)));
        let listed: BTreeSet<&str> = listed.map(|t| t.task_id.as_str()).collect();
        // The end of a task in a cancelled job inserts none.
        let cancelled = self.ledger().is_cancelled(&task.tenant, &task.job_id);
        if there != listed && !(cancelled && there.is_empty()) {
            let text = format_args!("{}: {} children are listed, {} are there", shown(&key), listed.len(), there.len()).to_string();
            self.ledger().violate(4, text);
        }
    }

    /// Final bytes equal the manifest, and carry the mark of their tenant.
    async fn check_bytes(&self, task: &TaskView, manifest: &Manifest) {
        for entry in &manifest.entries {
            let Ok(uri) = Uri::parse(&task.output_prefix).and_then(|p| p.join(&entry.name)) else { continue };
            match self.objects.get(&uri, MAX_OBJECT).await {
                Ok(bytes) if sha256(&bytes) == entry.sha256 => {
                    if entry.name != METRICS_NAME && !is_marked(&bytes, &task.tenant) {
                        self.ledger().violate(7, format_args!("{uri} holds bytes of another tenant"));
                    }
                }
                Ok(_) => self.ledger().violate(3, format_args!("{uri} is not what the manifest says")),
                Err(error) => self.ledger().violate(3, format_args!("{uri} is in the manifest: {error}")),
            }
        }
    }

    /// Bytes are about to take a final name: the commit must say so.
    pub async fn check_publish(&self, who: &str, item: &Publish) {
        let to = item.to.as_str();
        let known = self.ledger().task_at(to).map(|(prefix, key)| (prefix.to_owned(), key.clone()));
        let Some((prefix, key)) = known else {
            return self.ledger().violate(3, format_args!("{to} belongs to no task"));
        };
        let name = to.get(prefix.len()..).unwrap_or_default();
        let entry = self.ledger().record(&key).and_then(|r| r.commit()?.manifest.entries.iter().find(|e| e.name == name).cloned());
        let Some(entry) = entry else {
            return self.ledger().violate(3, format_args!("{to} takes its name before a commit of {} names it", shown(&key)));
        };
        let bytes = match &item.from {
            Source::Bytes(bytes) => Some(bytes.clone()),
            Source::Object(from) => self.objects.get(from, MAX_OBJECT).await.ok(),
        };
        if bytes.is_some_and(|bytes| sha256(&bytes) != entry.sha256) {
            self.ledger().violate(3, format_args!("{to} gets other bytes than were committed"));
        }
        self.ledger().note(who, "publish", format_args!("{} {name}", shown(&key)));
    }

    pub async fn check_job(&self, tenant: &str, job_id: &str) {
        if let Ok(job) = self.tasks.job(tenant, job_id).await {
            self.ledger().saw_job(&job);
        }
    }

    /// Looks at every job; returns how many have not ended.
    pub async fn check_jobs(&self) -> usize {
        let jobs = self.tasks.jobs(None, None, ALL).await.unwrap_or_default();
        let mut ledger = self.ledger();
        for job in &jobs {
            ledger.saw_job(job);
        }
        jobs.iter().filter(|job| !job.state.is_ended()).count()
    }

    /// Everything, once faults have stopped and nothing moves any more.
    pub async fn check_all(&self) -> Totals {
        let tasks = self.tasks.tasks(TaskFilter { limit: ALL, ..TaskFilter::default() }).await.unwrap_or_default();
        for task in &tasks {
            if !task.state.is_ended() {
                let text = format_args!("{} is {} at the end", shown(&key_of(task)), task.state).to_string();
                self.ledger().violate(8, text);
            }
            if let Ok(task) = self.tasks.task(&task.tenant, &task.task_id).await {
                self.check_runs(&task);
                if task.state == TaskState::Done {
                    self.check_done(&task).await;
                }
            }
        }
        self.check_job_states(&tasks).await;
        self.check_objects(&tasks).await;
        self.check_foreign(&tasks);
        let outbox = self.tasks.outgoing(None, LEASE, ALL).await.unwrap_or_default();
        if let Some(left) = outbox.first() {
            self.ledger().violate(8, format_args!("the outbox still holds a message for {}", left.queue));
        }
        Totals {
            tasks: tasks.len(),
            done: tasks.iter().filter(|t| t.state == TaskState::Done).count(),
            dead: tasks.iter().filter(|t| t.state == TaskState::Dead).count(),
            cancelled: tasks.iter().filter(|t| t.state == TaskState::Cancelled).count(),
            claims: tasks.iter().map(|t| t.epoch as usize).sum(),
        }
    }

    /// What other systems are to do was given to their queue.
    fn check_foreign(&self, tasks: &[TaskView]) {
        let mut ledger = self.ledger();
        let done = tasks.iter().filter(|t| t.state == TaskState::Done && !ledger.is_cancelled(&t.tenant, &t.job_id));
        let listed = done.filter_map(|t| Some((t, &ledger.record(&key_of(t))?.commit()?.children)));
        let foreign = listed.flat_map(|(t, c)| c.tasks.iter().map(move |child| (t, child)));
        let foreign = foreign.filter(|(_, child)| matches!(child.delivery, Delivery::Foreign(_)));
        let missing = foreign.map(|(t, child)| TaskKey::new(&t.tenant, &child.task_id)).find(|key| !ledger.was_sent(key));
        if let Some(key) = missing {
            ledger.violate(4, format_args!("{} was never sent to the system that serves it", shown(&key)));
        }
    }

    /// No more runs than failures, hand-backs and crashes allow, and one end per claim.
    fn check_runs(&self, task: &TaskView) {
        let key = key_of(task);
        let mut ledger = self.ledger();
        let Some(record) = ledger.record(&key) else { return };
        let (openings, is_first) = (record.redriven + 1, record.redriven == 0);
        let (claims, runs, given_back) = (record.claims, record.runs, record.given_back);
        let bound = most_claims(record, task.max_attempts);
        let commits = record.commits.len();
        let ended = |how: &str| task.claims.iter().filter(|c| c.ended.as_deref() == Some(how)).count();
        let (committed, lapsed, failed) = (ended("committed"), ended("lapsed"), ended("retried") + ended("dead"));
        let left_open = ended("") + task.claims.iter().filter(|c| c.ended.is_none()).count();
        if u64::from(claims) != task.epoch || claims > bound || runs > claims {
            let text = format_args!("{}: {claims} claims, {runs} runs, {given_back} drained, of {bound}", shown(&key)).to_string();
            ledger.violate(11, text);
        }
        if lapsed > (openings * MAX_CRASHES) as usize || failed > (openings * task.max_attempts) as usize || left_open > 0 {
            let text = format_args!("{}: {lapsed} lapsed, {failed} failed, {left_open} open", shown(&key)).to_string();
            ledger.violate(11, text);
        }
        if ended("handed-back") > (openings * MAX_HANDBACKS) as usize {
            ledger.violate(11, format_args!("{}: handed back {} times", shown(&key), ended("handed-back")));
        }
        // Put back, it begins to count anew.
        let counted = (task.attempts as usize, task.handbacks as usize, task.crashes as usize);
        let by_claims = (failed, ended("handed-back"), lapsed);
        if is_first && counted != by_claims {
            ledger.violate(
                11,
                format!("{}: {counted:?} failures, hand-backs and crashes on record, {by_claims:?} by its claims", shown(&key)),
            );
        }
        if committed != commits {
            ledger.violate(6, format_args!("{}: {commits} commits, {committed} counted", shown(&key)));
        }
    }

    async fn check_job_states(&self, tasks: &[TaskView]) {
        for job in self.tasks.jobs(None, None, ALL).await.unwrap_or_default() {
            let mut own = tasks.iter().filter(|t| t.tenant == job.tenant && t.job_id == job.job_id);
            let dead = own.any(|t| t.state == TaskState::Dead);
            let cancelled = self.ledger().is_cancelled(&job.tenant, &job.job_id);
            let right = match job.state {
                JobState::Failed => dead,
                JobState::Cancelled => !dead && cancelled,
                JobState::Done => !dead && !cancelled,
                JobState::Processing => false,
            };
            if !right {
                let text = format_args!("{}/{} is {}: dead {dead}, cancelled {cancelled}", job.tenant, job.job_id, job.state).to_string();
                self.ledger().violate(9, text);
            }
        }
    }

    /// What lies in storage is what manifests name, and stages are swept, save those of dead letters.
    async fn check_objects(&self, tasks: &[TaskView]) {
        let mut named = BTreeSet::new();
        for task in tasks {
            let Ok(prefix) = Uri::parse(&task.output_prefix) else { continue };
            let ledger = self.ledger();
            let manifest = ledger.record(&key_of(task)).and_then(|r| Some(&r.commit()?.manifest));
            named.extend(manifest.into_iter().flat_map(|m| &m.entries).filter_map(|e| prefix.join(&e.name).ok()));
        }
        for object in self.objects.list(&Uri::parse(BUCKET).unwrap()).await.unwrap_or_default() {
            if !is_staged(&object.uri) && !named.contains(&object.uri) {
                self.ledger().violate(3, format_args!("{} is in no manifest", object.uri));
            }
        }
        if let Some(left) = self.left_behind().await {
            self.ledger().violate(3, format_args!("{left} was left behind"));
        }
    }

    /// A stage that no dead letter needs, and that somebody could have removed.
    pub async fn left_behind(&self) -> Option<Uri> {
        let objects = self.objects.list(&Uri::parse(BUCKET).unwrap()).await.unwrap_or_default();
        let dead = TaskFilter { state: Some(TaskState::Dead), limit: ALL, ..TaskFilter::default() };
        let dead = self.tasks.tasks(dead).await.unwrap_or_default();
        let kept: Vec<String> = dead.iter().map(|task| format!("{}_attempts/", task.output_prefix)).collect();
        let mut staged = objects.into_iter().map(|object| object.uri).filter(is_staged);
        let ledger = self.ledger();
        staged.find(|uri| !kept.iter().any(|folder| uri.as_str().starts_with(folder)) && !ledger.is_orphan(uri))
    }
}

/// Scripted guests begin everything that they write with their tenant.
fn is_marked(bytes: &[u8], tenant: &str) -> bool {
    let text = String::from_utf8_lossy(bytes.get(..32.min(bytes.len())).unwrap_or_default());
    text.trim_start_matches(['{', '"']).starts_with(tenant)
}

/// What a world has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub tasks: usize,
    pub done: usize,
    pub dead: usize,
    pub cancelled: usize,
    pub claims: usize,
}

impl Totals {
    pub fn add(&mut self, other: Self) {
        self.tasks += other.tasks;
        self.done += other.done;
        self.dead += other.dead;
        self.cancelled += other.cancelled;
        self.claims += other.claims;
    }
}
