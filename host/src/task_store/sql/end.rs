//! The one road out: whatever ends a task (DONE, DEAD, CANCELLED) notes it in [`Changes`], and [`finish`] inserts the children,
//! counts groups and jobs, wakes every `then` whose group has no live task left, and closes jobs.
//!
//! One update per group, and one per job, for a whole transaction.

use super::database::args;
use super::dialect::sql;
use super::fault::Fault;
use super::insert::{self, NewRow};
use super::outbox;
use super::rows::{array, columns};
use super::transaction::Tx;
use crate::task::children::{Children, Delivery, NewTask};
use crate::task::hooks::TaskError;
use crate::task::state::TaskState;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A task that has ended and has children: DONE, or DEAD with a task that follows.
#[derive(Debug)]
pub(super) struct Parent {
    pub id: i64,
    pub job: i64,
    pub group: i64,
    pub tenant: String,
    pub pipeline: String,
    pub path: String,
    pub is_input: bool,
    /// Its first child's place in fan-out order.
    pub first: usize,
    /// Children that its row counts already.
    pub counted: usize,
    pub children: Children,
}

/// The place of a failure task: behind all that its parent may have, should that come to life again.
pub(super) const LAST: usize = u32::MAX as usize;

/// What one transaction changes in groups and jobs.
#[derive(Debug, Default)]
pub(super) struct Changes {
    groups: BTreeMap<i64, Delta>,
    jobs: BTreeSet<i64>,
    parents: Vec<Parent>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Delta {
    job: i64,
    live: i64,
    leaves: i64,
    /// A `then` may wait for it.
    is_inner: bool,
}

impl Changes {
    /// `tasks` tasks of a group ended (negative) or came to life again (positive).
    pub fn live(&mut self, job: i64, group: i64, tasks: i64) {
        self.group(job, group).live += tasks;
    }

    /// A root task ended: of its group nothing waits for the end.
    pub fn root(&mut self, job: i64, group: i64) {
        let delta = self.groups.entry(group).or_default();
        delta.job = job;
        delta.live -= 1;
    }

    /// This task ended with children.
    pub fn parent(&mut self, parent: Parent) {
        if !parent.children.is_empty() {
            self.parents.push(parent);
        }
    }

    /// One task more is an input of its group's `then`.
    pub fn leaf(&mut self, job: i64, group: i64) {
        self.group(job, group).leaves += 1;
    }

    /// This job is to be looked at, though none of its tasks has changed.
    pub fn job(&mut self, job: i64) {
        self.jobs.insert(job);
    }

    fn group(&mut self, job: i64, group: i64) -> &mut Delta {
        let delta = self.groups.entry(group).or_default();
        delta.job = job;
        delta.is_inner = true;
        delta
    }
}

/// Carries the changes out.
pub(super) async fn finish(tx: &mut Tx<'_>, mut changes: Changes) -> Result<(), Fault> {
    let parents = std::mem::take(&mut changes.parents);
    if !parents.is_empty() {
        insert_children(tx, &parents, &mut changes).await?;
    }
    let mut jobs: BTreeMap<i64, i64> = BTreeMap::new();
    let mut groups = std::mem::take(&mut changes.groups);
    while !groups.is_empty() {
        for delta in groups.values().filter(|delta| delta.live != 0) {
            *jobs.entry(delta.job).or_default() += delta.live;
        }
        // A task that ended with one child leaves its group as it was.
        groups.retain(|_, delta| delta.live != 0 || delta.leaves != 0);
        let woken = count_groups(tx, &groups).await?;
        groups = wake(tx, &woken).await?;
    }
    jobs.retain(|_, live| *live != 0);
    for job in changes.jobs {
        jobs.entry(job).or_default();
    }
    count_jobs(tx, &jobs).await
}

/// A child that will be a row, with the parent it belongs to.
struct Accepted<'a> {
    parent: &'a Parent,
    task: &'a NewTask,
    ordinal: usize,
}

async fn insert_children<'a>(tx: &mut Tx<'_>, parents: &'a [Parent], changes: &mut Changes) -> Result<(), Fault> {
    let mut taken = taken(tx, parents).await?;
    let mut refused = Vec::new();
    let mut rows = Vec::new();
    let mut foreign = Vec::new();
    let mut groups: Vec<(i64, i64, i64)> = Vec::new();
    let mut miscounted: Vec<(i64, i64, bool)> = Vec::new();
    // A number for every child, for every `then`, and for the group it waits for.
    let most = parents.iter().map(|p| p.children.tasks.len() + 2 * usize::from(p.children.then.is_some())).sum();
    let mut numbers = tx.numbers(most).await?;
    for parent in parents {
        let mut accept = |ordinal: usize, task: &'a NewTask| {
            if matches!(task.delivery, Delivery::Foreign(_)) {
                foreign.push((parent, task));
                return None;
            }
            accept(&mut taken, &mut refused, Accepted { parent, task, ordinal: parent.first + ordinal })
        };
        let tasks: Vec<_> = parent.children.tasks.iter().enumerate().filter_map(|(i, t)| accept(i, t)).collect();
        let then = parent.children.then.as_ref().and_then(|t| accept(parent.children.tasks.len(), t));
        let count = tasks.len() + usize::from(then.is_some());
        if count != parent.counted {
            miscounted.push((parent.id, count as i64 - parent.counted as i64, count == 0 && parent.is_input));
        }
        if count == 0 {
            continue;
        }
        // Without its `then` (absorbed or refused) a fan-out has nothing to wait for: its tasks stay in the parent's group.
        let inner = then.is_some() && !tasks.is_empty();
        let group = if inner { numbers.take()? } else { parent.group };
        let is_input = inner || parent.is_input;
        for child in &tasks {
            rows.push(row(child, numbers.take()?, group, is_input));
        }
        add(changes, parent.job, group, tasks.len(), is_input);
        if let Some(then) = then {
            let row = row(&then, numbers.take()?, parent.group, parent.is_input);
            let then_task = row.id;
            let state = if inner { TaskState::Waiting } else { TaskState::Queued };
            rows.push(NewRow { state, waits: inner.then_some(group), ..row });
            add(changes, parent.job, parent.group, 1, parent.is_input);
            if inner {
                groups.push((group, parent.job, then_task));
            }
        }
        if parent.is_input {
            changes.group(parent.job, parent.group).leaves -= 1;
        }
    }
    insert_groups(tx, &groups).await?;
    insert::assign_turns(tx, &mut rows).await?;
    insert::rows(tx, &rows).await?;
    outbox::announce(tx, &rows).await?;
    outbox::send_foreign(tx, &foreign).await?;
    mark_parents(tx, &miscounted).await?;
    refuse(tx, &refused).await
}

fn add(changes: &mut Changes, job: i64, group: i64, tasks: usize, inputs: bool) {
    if tasks > 0 {
        let tasks = tasks as i64;
        let delta = changes.group(job, group);
        delta.live += tasks;
        delta.leaves += if inputs { tasks } else { 0 };
    }
}

fn row<'a>(child: &Accepted<'a>, id: i64, group: i64, is_input: bool) -> NewRow<'a> {
    let parent = child.parent;
    NewRow {
        id,
        job: parent.job,
        group,
        tenant: &parent.tenant,
        pipeline: child.task.pipeline.as_ref().unwrap_or(&parent.pipeline),
        task: child.task,
        state: TaskState::Queued,
        fair: 0,
        parent: Some(parent.id),
        path: format!("{}{:08x}", parent.path, child.ordinal),
        is_input,
        waits: None,
        lease: None,
    }
}

/// Payload hashes of the children whose ids are in use already, by (tenant, id).
type Taken = HashMap<(String, String), String>;

async fn taken(tx: &mut Tx<'_>, parents: &[Parent]) -> Result<Taken, Fault> {
    let ids: Vec<(&str, &str)> = parents
        .iter()
        .flat_map(|p| p.children.tasks.iter().chain(&p.children.then).map(|t| (p.tenant.as_str(), t.task_id.as_str())))
        .collect();
    let find = sql!(
        "SELECT {json tenant task_id payload_hash} FROM (\
            SELECT t.tenant, t.task_id, t.payload_hash FROM {rows $1 tenant:text task_id:text} w \
            {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id) c"
    );
    let found: Vec<(String, String, String)> = tx.json(find, args![array(&ids)]).await?;
    Ok(found.into_iter().map(|(tenant, id, hash)| ((tenant, id), hash)).collect())
}

/// New: a row. The same id and content: absorbed. The same id with another content: refused, the old task untouched.
fn accept<'a>(taken: &mut Taken, refused: &mut Vec<Refused<'a>>, child: Accepted<'a>) -> Option<Accepted<'a>> {
    let key = (child.parent.tenant.clone(), child.task.task_id.clone());
    match taken.get(&key) {
        Some(hash) if *hash == child.task.payload_hash => None,
        Some(_) => {
            let error = TaskError::new("conflict", format!("a task with id '{}' and another content exists", child.task.task_id));
            refused.push(Refused {
                tenant: &child.parent.tenant,
                task_id: &child.task.task_id,
                job_id: &child.task.message.job_id,
                step: &child.task.step,
                error: serde_json::to_string(&error).unwrap_or_default(),
                message: child.task.message.to_json(),
            });
            None
        }
        None => {
            taken.insert(key, child.task.payload_hash.clone());
            Some(child)
        }
    }
}

columns! {
    /// A newcomer that becomes a dead letter without ever being a task.
    #[derive(Debug)]
    struct Refused<'a> {
        tenant: &'a str,
        task_id: &'a str,
        job_id: &'a str,
        step: &'a str,
        error: String,
        message: String,
    }
}

async fn refuse(tx: &mut Tx<'_>, refused: &[Refused<'_>]) -> Result<(), Fault> {
    if refused.is_empty() {
        return Ok(());
    }
    let write = sql!(
        "INSERT INTO dead_letters (tenant, task_id, job_id, step, code, error, attempts, message, died_at) \
         SELECT tenant, task_id, job_id, step, 'conflict', error, 0, message, $2 \
         FROM {rows $1 tenant:text task_id:text job_id:text step:text error:text message:text} c"
    );
    tx.execute(write, args![array(refused), tx.now]).await
}

async fn insert_groups(tx: &mut Tx<'_>, groups: &[(i64, i64, i64)]) -> Result<(), Fault> {
    if groups.is_empty() {
        return Ok(());
    }
    let insert = sql!("INSERT INTO groups (id, job, then_task) SELECT id, job, then_task FROM {rows $1 id:int job:int then_task:int} c");
    tx.execute(insert, args![array(groups)]).await
}

/// A task with children is no leaf of its group any more; one whose children were all absorbed or refused still is.
async fn mark_parents(tx: &mut Tx<'_>, miscounted: &[(i64, i64, bool)]) -> Result<(), Fault> {
    if miscounted.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, i64, u8)> = miscounted.iter().map(|(id, more, is_input)| (*id, *more, u8::from(*is_input))).collect();
    let mark = sql!(
        "UPDATE tasks SET child_count = child_count + c.more, is_input = c.is_input \
         FROM {rows $1 id:int more:int is_input:int} c WHERE tasks.id = c.id"
    );
    tx.execute(mark, args![array(&rows)]).await
}

/// Applies the counts and returns every `then` whose group has no live task now.
async fn count_groups(tx: &mut Tx<'_>, groups: &BTreeMap<i64, Delta>) -> Result<Vec<i64>, Fault> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, i64, i64)> = groups.iter().map(|(group, d)| (*group, d.live, d.leaves)).collect();
    let count = sql!(
        "UPDATE groups SET live = groups.live + c.live, leaves = groups.leaves + c.leaves \
         FROM {rows $1 id:int live:int leaves:int} c WHERE groups.id = c.id"
    );
    tx.execute(count, args![array(&rows)]).await?;
    let ids: Vec<i64> = groups.iter().filter(|(_, delta)| delta.is_inner).map(|(group, _)| *group).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let over = sql!(
        "SELECT {json then_task} FROM (\
            SELECT g.then_task FROM {ints $1} w {join} groups g ON g.id = w.value WHERE g.live = 0 AND g.then_task IS NOT NULL) c"
    );
    Ok(tx.json::<(i64,)>(over, args![array(&ids)]).await?.into_iter().map(|(then,)| then).collect())
}

/// Lets every `then` go, once; in a cancelled job it ends instead, and that is a change in its own group.
async fn wake(tx: &mut Tx<'_>, thens: &[i64]) -> Result<BTreeMap<i64, Delta>, Fault> {
    let mut cancelled = Changes::default();
    if thens.is_empty() {
        return Ok(cancelled.groups);
    }
    let wake = sql!(
        "UPDATE tasks SET state = CASE WHEN j.stopping = 1 THEN 'CANCELLED' ELSE 'QUEUED' END, \
                          due = CASE WHEN tasks.not_before <= $2 AND tasks.queue IS NULL THEN 1 ELSE 0 END, sent_at = $2, \
                          not_before = {max}(tasks.not_before, $2), \
                          ended_at = CASE WHEN j.stopping = 1 THEN $2 END \
         FROM jobs j WHERE tasks.id IN {ints $1} AND tasks.state = 'WAITING' AND j.id = tasks.job \
         RETURNING tasks.id, tasks.job, tasks.grp, tasks.state"
    );
    let rows: Vec<(i64, i64, i64, String)> = tx.rows(wake, args![array(thens), tx.now]).await?;
    let mut woken = Vec::new();
    for (id, job, group, state) in rows {
        match state.as_str() {
            "CANCELLED" => cancelled.live(job, group, -1),
            _ => woken.push(id),
        }
    }
    tx.enqueued |= !woken.is_empty();
    outbox::put(tx, &woken).await?;
    Ok(cancelled.groups)
}

/// Closes jobs without a live task, reopens those that have one again. One that is open to further tasks waits for them, unless it is
/// being cancelled: then nothing of it will be live again.
async fn count_jobs(tx: &mut Tx<'_>, jobs: &BTreeMap<i64, i64>) -> Result<(), Fault> {
    let rows: Vec<(i64, i64)> = jobs.iter().map(|(job, live)| (*job, *live)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let count = sql!(
        "UPDATE jobs SET live = jobs.live + c.live, \
                ended_at = CASE WHEN jobs.live + c.live = 0 AND (feed <> 'open' OR stopping = 1) THEN coalesce(ended_at, $2) END, \
                idle_since = CASE WHEN jobs.live + c.live = 0 AND feed = 'open' AND stopping = 0 THEN coalesce(idle_since, $2) END, \
                state = CASE WHEN jobs.live + c.live > 0 OR (feed = 'open' AND stopping = 0) THEN 'PROCESSING' \
                    WHEN EXISTS (SELECT 1 FROM tasks t WHERE t.job = jobs.id AND t.state = 'DEAD') \
                      OR EXISTS (SELECT 1 FROM dead_letters d WHERE d.tenant = jobs.tenant AND d.job_id = jobs.job_id \
                                   AND d.body_hash IS NULL) THEN 'FAILED' \
                    WHEN cancel_at IS NOT NULL THEN 'CANCELLED' ELSE 'DONE' END \
         FROM {rows $1 id:int live:int} c WHERE jobs.id = c.id"
    );
    tx.execute(count, args![array(&rows), tx.now]).await?;
    let ids: Vec<&i64> = jobs.keys().collect();
    let over = sql!("DELETE FROM turns WHERE job IN (SELECT j.id FROM {ints $1} w {join} jobs j ON j.id = w.value WHERE j.live = 0)");
    tx.execute(over, args![array(&ids)]).await
}
