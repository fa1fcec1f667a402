//! How tasks come in: submitted, admitted from a queue, or refused. And how a fed job is sealed.

use super::Tx;
use super::insert::NewRow;
use super::rows::{Feeding, Group, Job, Letter, Task, between, millis};
use crate::task::Millis;
use crate::task::hooks::TaskError;
use crate::task::id::{TaskKey, sha256};
use crate::task::outcome::MAX_CRASHES;
use crate::task::state::{JobState, TaskState};
use crate::task_store::{Admission, DeadLetter, Feed, NewJob, Refused, StoreError, Submitted, Unfinished};
use std::time::Duration;

/// How long the others of a call wait for a task that runs alone: by then it has begun, and they wait for its end beside it.
const ALONE_FIRST: Duration = Duration::from_secs(1);

impl Tx<'_> {
    pub(super) fn submit(&mut self, jobs: Vec<NewJob>) -> Result<Vec<Submitted>, StoreError> {
        jobs.iter().try_for_each(NewJob::begins_here)?;
        Ok(jobs.into_iter().map(|job| self.enter(job, false)).collect())
    }

    /// Stores one root task with its job, or within it, if both can be. `is_sent`: a broker has its message already.
    fn enter(&mut self, new: NewJob, is_sent: bool) -> Submitted {
        if let Some(there) = self.rows.tasks.by_key(&TaskKey::new(&new.tenant, &new.root.task_id)) {
            // A single job's root task is the one it was submitted with, whatever else bears the same content.
            let is_first = || self.rows.tasks.of_job(there.job).next().is_some_and(|first| first.id == there.id);
            let is_it = there.made.payload_hash == new.root.payload_hash && self.is_of(there.job, &new);
            let same = is_it && (new.feed != Feed::Single || is_first());
            return if same { Submitted::Repeated } else { Submitted::Conflict };
        }
        match self.rows.job_of(&new.tenant, &new.job_id) {
            Some(job) => match self.may_join(job, &new) {
                Ok(()) => self.join(job.id, new, is_sent, true),
                Err(why) => return why,
            },
            None if self.is_held(&new.prefix, None) || self.mixes(&new, None) => return Submitted::Occupied,
            None => {
                let job = self.begin(&new);
                self.join(job, new, is_sent, false);
            }
        }
        Submitted::Created
    }

    fn is_of(&self, job: i64, new: &NewJob) -> bool {
        self.rows.jobs.get(&job).is_some_and(|job| job.job_id == new.job_id && job.pipeline == new.pipeline)
    }

    /// Whether a root task may join a job that is there.
    fn may_join(&self, job: &Job, new: &NewJob) -> Result<(), Submitted> {
        if job.pipeline != new.pipeline || new.feed == Feed::Single {
            return Err(Submitted::Conflict);
        }
        if matches!(job.feeding, Feeding::Single | Feeding::Sealed) {
            return Err(Submitted::Sealed);
        }
        if job.prefix != new.prefix {
            return Err(Submitted::Conflict);
        }
        // What is cancelled on arrival writes nothing. A job that has ended holds its prefix no longer.
        if !job.stopping && (!self.holds(job) && self.is_held(&job.prefix, Some(job.id)) || self.mixes(new, Some(job))) {
            return Err(Submitted::Occupied);
        }
        Ok(())
    }

    /// Whether the outputs of a root task would mix with those of others: of one that chose a prefix, or, where it chose its own, of other
    /// jobs and of whatever lies below it in its job.
    fn mixes(&self, new: &NewJob, job: Option<&Job>) -> bool {
        if new.feed == Feed::Single {
            return false;
        }
        let chosen_amiss = |own: &str| {
            let covers = |job: &Job| job.prefix.starts_with(own) && (job.live > 0 || self.keeps_outputs(job));
            self.is_held_by_job(own, job.map(|job| job.id)) || job.is_some_and(covers)
        };
        self.is_chosen(&new.root.output_prefix) || new.chosen_prefix().is_some_and(chosen_amiss)
    }

    fn is_held(&self, prefix: &str, but: Option<i64>) -> bool {
        self.is_held_by_job(prefix, but) || self.is_chosen(prefix)
    }

    /// Whether a job other than `but` holds a prefix that is, covers or lies below this one.
    fn is_held_by_job(&self, prefix: &str, but: Option<i64>) -> bool {
        let mut jobs = self.rows.jobs.values().filter(|job| Some(job.id) != but);
        jobs.any(|job| overlap(&job.prefix, prefix) && self.holds(job))
    }

    /// Whether a task that chose its prefix, such a one, is live or keeps staged outputs.
    fn is_chosen(&self, prefix: &str) -> bool {
        let mut tasks = self.rows.tasks.all().filter(|task| task.chose_prefix && overlap(&task.made.output_prefix, prefix));
        tasks.any(|task| !task.state.is_ended() || task.keeps_outputs())
    }

    /// A live job holds its prefix, and one that keeps the staged outputs of a dead task.
    fn holds(&self, job: &Job) -> bool {
        job.state == JobState::Processing || self.keeps_outputs(job)
    }

    fn keeps_outputs(&self, job: &Job) -> bool {
        self.rows.tasks.of_job(job.id).any(Task::keeps_outputs)
    }

    fn begin(&mut self, new: &NewJob) -> i64 {
        let (id, root_group) = (self.rows.number(), self.rows.number());
        self.rows.groups.insert(root_group, Group { job: id, then_task: None, live: 0 });
        self.rows.job_ids.insert((new.tenant.clone(), new.job_id.clone()), id);
        let job = Job {
            id,
            tenant: new.tenant.clone(),
            job_id: new.job_id.clone(),
            pipeline: new.pipeline.clone(),
            prefix: new.prefix.clone(),
            root_group,
            feeding: if new.feed == Feed::Single { Feeding::Single } else { Feeding::Open },
            queue: None,
            expected: None,
            arrived: 0,
            quiet_at: None,
            state: JobState::Processing,
            live: 0,
            cancel_at: None,
            stopping: false,
            created_at: self.now,
            ended_at: None,
        };
        self.rows.jobs.insert(id, job);
        id
    }

    fn join(&mut self, job: i64, new: NewJob, is_sent: bool, takes_turns: bool) {
        let chose_prefix = new.chosen_prefix().is_some();
        let Some(row) = self.rows.jobs.get_mut(&job) else { return };
        row.arrived += 1;
        if let Feed::Open { queue, tasks } = new.feed {
            row.queue = row.queue.take().or(queue);
            row.expected = row.expected.or(tasks);
            let is_last = row.expected.is_some_and(|expected| row.arrived >= expected);
            row.feeding = if is_last { Feeding::Sealed } else { Feeding::Open };
        }
        let group = row.root_group;
        let (waits, parent, path, is_input) = (None, None, Vec::new(), false);
        let id = self.insert(NewRow { job, group, task: new.root, waits, parent, path, is_input, takes_turns, is_sent });
        self.rows.tasks.update(id, |task| task.chose_prefix = chose_prefix);
    }

    pub(super) fn admit(&mut self, arrivals: Vec<NewJob>, lease: Duration, worker: &str) -> Vec<Admission> {
        // Each is stored before any is leased, so that one that runs alone is seen wherever it stands.
        let entered: Vec<(TaskKey, Option<TaskError>)> = arrivals.into_iter().map(|arrival| self.arrive(arrival)).collect();
        let alone = entered.iter().filter(|(_, refused)| refused.is_none()).find_map(|(key, _)| {
            let task = self.rows.tasks.by_key(key)?;
            (task.crashes + 1 >= MAX_CRASHES && self.waits_for(task.id).is_none()).then_some(task.id)
        });
        let answer = |(key, refused): (TaskKey, Option<TaskError>)| match refused {
            Some(error) => Admission::Refused(error),
            None => self.answer_arrival(&key, lease, worker, alone),
        };
        entered.into_iter().map(answer).collect()
    }

    /// Stores what is new, takes back what lapsed, and says why where it can never be a task.
    fn arrive(&mut self, arrival: NewJob) -> (TaskKey, Option<TaskError>) {
        let key = TaskKey::new(&arrival.tenant, &arrival.root.task_id);
        if let Some(there) = self.rows.tasks.by_key(&key) {
            // Any task may come as a message, not only root tasks: what a parent made finds its row.
            // In its own pipeline, or, where a parent made it, wherever the queue is read that its parent sent it to.
            let comes_by_its_queue = !arrival.root.delivery.is_table() && there.made.delivery == arrival.root.delivery;
            let may_run = there.pipeline == arrival.pipeline || (comes_by_its_queue && there.parent.is_some());
            if there.made.payload_hash == arrival.root.payload_hash && may_run {
                if there.state == TaskState::Processing && there.lease_until < self.now {
                    self.lapse_one(there.id);
                }
                return (key, None);
            }
        }
        let (tenant, root, job_id) = (arrival.tenant.clone(), arrival.root.clone(), arrival.job_id.clone());
        let queue = if let Feed::Open { queue: Some(queue), .. } = &arrival.feed { queue.clone() } else { String::new() };
        let refused = match self.enter(arrival, true) {
            Submitted::Created | Submitted::Repeated => None,
            Submitted::Conflict => Some(TaskError::new("conflict", format!("the id of task '{}' or of its job is taken", key.task_id))),
            Submitted::Sealed => Some(TaskError::new("sealed", format!("job '{job_id}' takes no further root task"))),
            Submitted::Occupied => {
                let text =
                    format!("the output prefix of job '{job_id}', or of this task of it, is, covers or lies below another that is in use");
                Some(TaskError::new("occupied", text))
            }
        };
        if let Some(error) = &refused {
            let hash = sha256(root.message.to_json().as_bytes());
            self.refuse_task(&tenant, &root, error.clone(), Some((queue, hash)));
        }
        (key, refused)
    }

    /// Why a task that is QUEUED, or was just taken back, cannot be leased now.
    fn waits_for(&self, id: i64) -> Option<Admission> {
        let task = self.rows.tasks.get(id)?;
        let until = |at: Millis| between(self.now, at);
        match task.state {
            TaskState::Queued if task.not_before > self.now => Some(Admission::NotDue(until(task.not_before))),
            TaskState::Queued => None,
            // A lease lapses once its last millisecond has passed.
            TaskState::Processing | TaskState::Committed if task.lease_until >= self.now => {
                Some(Admission::Leased(until(task.lease_until + 1)))
            }
            // Its message came before its time: when it is woken another one is sent.
            state => Some(Admission::Ended(state)),
        }
    }

    fn answer_arrival(&mut self, key: &TaskKey, lease: Duration, worker: &str, alone: Option<i64>) -> Admission {
        let Some((id, state)) = self.rows.tasks.by_key(key).map(|task| (task.id, task.state)) else {
            return Admission::NotDue(lease);
        };
        if state == TaskState::Waiting {
            // Its siblings run: nobody knows for how long. Once woken it is sent for anyway.
            return Admission::Leased(lease);
        }
        let until = self.now + millis(lease);
        match self.waits_for(id) {
            None if alone.is_some_and(|alone| alone != id) => Admission::NotDue(ALONE_FIRST),
            None => match self.lease(id, lease, worker) {
                Some(claimed) => Admission::Claimed(Box::new(claimed)),
                None => Admission::NotDue(lease),
            },
            Some(Admission::Ended(TaskState::Committed)) => {
                let unfinished = self.rows.tasks.update(id, |task| {
                    task.lease_until = until;
                    let (output_prefix, manifest) = (task.made.output_prefix.clone(), task.manifest.clone().unwrap_or_default());
                    Unfinished { key: task.key.clone(), output_prefix, manifest }
                });
                unfinished.map_or(Admission::NotDue(lease), |unfinished| Admission::Unfinished(Box::new(unfinished)))
            }
            Some(other) => other,
        }
    }

    pub(super) fn refuse(&mut self, refused: Vec<Refused>) {
        for Refused { tenant, queue, body, body_hash, error } in refused {
            let shown = DeadLetter {
                id: 0,
                tenant,
                task_id: None,
                job_id: None,
                step: None,
                queue: Some(queue),
                error,
                attempts: 0,
                message: body,
                died_at: self.now,
            };
            self.keep_letter(Letter { shown, task: None, body_hash: Some(body_hash) });
        }
    }

    pub(super) fn seal(&mut self, tenant: &str, job_id: &str) -> Result<JobState, StoreError> {
        let not_found = || StoreError::NotFound(format!("job {job_id} of tenant {tenant}"));
        let id = self.rows.job_of(tenant, job_id).map(|job| job.id).ok_or_else(not_found)?;
        let job = self.rows.jobs.get_mut(&id).ok_or_else(not_found)?;
        let was_open = job.feeding == Feeding::Open;
        if was_open || job.feeding == Feeding::Idle {
            job.feeding = Feeding::Sealed;
        }
        if was_open && !job.state.is_ended() {
            self.close_or_reopen(id);
        }
        self.rows.jobs.get(&id).map(|job| job.state).ok_or_else(not_found)
    }
}

/// Prefixes end with `/`, so that one covers another only at a boundary of names.
fn overlap(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
