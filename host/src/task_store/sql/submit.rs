//! New jobs with their root tasks; a repeat has no effect, a conflict changes nothing.

use super::database::{args, array};
use super::dialect::{Statement, sql};
use super::end::{Changes, finish};
use super::fault::Fault;
use super::insert::{self, NewRow};
use super::lock;
use super::transaction::Tx;
use crate::task_store::{NewJob, Submitted};
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

/// What an id stands for already.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    job_id: String,
    pipeline: String,
    root_task: String,
    hash: String,
}

/// Holders by (tenant, id): of job ids and of task ids.
#[derive(Default)]
struct Holders {
    jobs: HashMap<(String, String), Holder>,
    tasks: HashMap<(String, String), Holder>,
}

/// Creates what is new. One answer per job, in order.
pub(super) async fn submit(tx: &mut Tx<'_>, jobs: &[&NewJob]) -> Result<Vec<Submitted>, Fault> {
    lock::submissions(tx).await?;
    let mut holders = holders(tx, jobs).await?;
    let mut occupied = occupied(tx, jobs).await?;
    let mut answers = Vec::with_capacity(jobs.len());
    let mut created = Vec::new();
    for &job in jobs {
        let holder = Holder {
            job_id: job.job_id.clone(),
            pipeline: job.pipeline.clone(),
            root_task: job.root.task_id.clone(),
            hash: job.root.payload_hash.clone(),
        };
        let (job_key, task_key) = ((job.tenant.clone(), job.job_id.clone()), (job.tenant.clone(), job.root.task_id.clone()));
        answers.push(match (holders.jobs.get(&job_key), holders.tasks.get(&task_key)) {
            (None, None) if occupied.overlaps(&job.prefix) => Submitted::Occupied,
            (None, None) => {
                occupied.0.insert(job.prefix.clone());
                holders.jobs.insert(job_key, holder.clone());
                holders.tasks.insert(task_key, holder);
                created.push(job);
                Submitted::Created
            }
            (Some(by_job), Some(by_task)) if *by_job == holder && *by_task == holder => Submitted::Repeated,
            _ => Submitted::Conflict,
        });
    }
    if !created.is_empty() {
        create(tx, &created).await?;
    }
    Ok(answers)
}

/// Jobs below the prefix of a newcomer, or above it, that are live or keep the staged outputs of a dead task: $1 pairs of (prefix, the
/// first text after all that begin with it), $2 the prefixes that cover one of them.
pub(super) static OCCUPIED: Statement = Statement::new(
    "
SELECT j.prefix FROM {rows $1 first:text past:text} w {join} jobs j {index jobs_held}
ON j.state IN ('PROCESSING', 'FAILED') AND j.prefix >= w.first AND j.prefix < w.past
WHERE j.state = 'PROCESSING' OR EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD' AND t.manifest IS NOT NULL)
UNION SELECT j.prefix FROM {texts $2} w {join} jobs j {index jobs_held}
ON j.state IN ('PROCESSING', 'FAILED') AND j.prefix = w.value
WHERE j.state = 'PROCESSING' OR EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD' AND t.manifest IS NOT NULL)",
);

/// Prefixes that are taken, as far as newcomers may meet them.
struct Occupied(BTreeSet<String>);

impl Occupied {
    fn overlaps(&self, prefix: &str) -> bool {
        let below = self.0.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).next();
        below.is_some_and(|other| other.starts_with(prefix)) || covering(prefix).any(|above| self.0.contains(above))
    }
}

/// Every shorter prefix that covers this one: those that end with one of its slashes.
fn covering(prefix: &str) -> impl Iterator<Item = &str> {
    let last = prefix.len().saturating_sub(1);
    prefix.match_indices('/').filter_map(move |(at, _)| if at < last { prefix.get(..=at) } else { None })
}

async fn occupied(tx: &mut Tx<'_>, jobs: &[&NewJob]) -> Result<Occupied, Fault> {
    // Prefixes end with '/', and '0' is the next character.
    let ranges: Vec<(&str, String)> = jobs.iter().map(|j| (j.prefix.as_str(), format!("{}0", j.prefix.trim_end_matches('/')))).collect();
    let above: BTreeSet<&str> = jobs.iter().flat_map(|j| covering(&j.prefix)).collect();
    let above: Vec<&str> = above.into_iter().collect();
    let rows: Vec<(String,)> = tx.rows(&OCCUPIED, args![array(&ranges)?, array(&above)?]).await?;
    Ok(Occupied(rows.into_iter().map(|(prefix,)| prefix).collect()))
}

async fn holders(tx: &mut Tx<'_>, jobs: &[&NewJob]) -> Result<Holders, Fault> {
    let ids: Vec<(&str, &str, &str)> = jobs.iter().map(|j| (j.tenant.as_str(), j.job_id.as_str(), j.root.task_id.as_str())).collect();
    let ids = array(&ids)?;
    type Row = (String, String, String, String, String, String);
    let by_job = sql!(
        "SELECT j.tenant, j.job_id, j.job_id, j.pipeline, j.root_task, t.payload_hash \
         FROM {rows $1 tenant:text job_id:text task_id:text} w {join} jobs j ON j.tenant = w.tenant AND j.job_id = w.job_id \
         {join} tasks t ON t.tenant = j.tenant AND t.task_id = j.root_task"
    );
    let by_job: Vec<Row> = tx.rows(by_job, args![&ids]).await?;
    let by_task = sql!(
        "SELECT t.tenant, t.task_id, j.job_id, j.pipeline, j.root_task, t.payload_hash \
         FROM {rows $1 tenant:text job_id:text task_id:text} w {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id \
         {join} jobs j ON j.id = t.job"
    );
    let by_task: Vec<Row> = tx.rows(by_task, args![ids]).await?;
    let map = |rows: Vec<Row>| {
        rows.into_iter()
            .map(|(tenant, id, job_id, pipeline, root_task, hash)| ((tenant, id), Holder { job_id, pipeline, root_task, hash }))
            .collect()
    };
    Ok(Holders { jobs: map(by_job), tasks: map(by_task) })
}

async fn create(tx: &mut Tx<'_>, jobs: &[&NewJob]) -> Result<(), Fault> {
    // A number each for the job, its root group and its root task.
    let mut numbers = tx.numbers(3 * jobs.len()).await?;
    let mut job_rows = Vec::with_capacity(jobs.len());
    let mut group_rows = Vec::with_capacity(jobs.len());
    let mut rows = Vec::with_capacity(jobs.len());
    let mut changes = Changes::default();
    for &job in jobs {
        let (id, group) = (numbers.take()?, numbers.take()?);
        job_rows.push((id, &job.tenant, &job.job_id, &job.pipeline, &job.prefix, &job.root.task_id));
        group_rows.push((group, id));
        changes.live(id, group, 1);
        rows.push(NewRow {
            id: numbers.take()?,
            job: id,
            group,
            tenant: &job.tenant,
            pipeline: &job.pipeline,
            task: &job.root,
            waiting: false,
            fair: 0,
            parent: None,
            path: String::new(),
            is_input: false,
            waits: None,
        });
    }
    let insert = sql!(
        "INSERT INTO jobs (id, tenant, job_id, pipeline, prefix, root_task, created_at) \
         SELECT id, tenant, job_id, pipeline, prefix, root_task, $2 \
         FROM {rows $1 id:int tenant:text job_id:text pipeline:text prefix:text root_task:text} c"
    );
    tx.execute(insert, args![array(&job_rows)?, tx.now]).await?;
    let insert = sql!("INSERT INTO groups (id, job) SELECT id, job FROM {rows $1 id:int job:int} c");
    tx.execute(insert, args![array(&group_rows)?]).await?;
    insert::assign_first(tx, &mut rows).await?;
    insert::rows(tx, &rows).await?;
    finish(tx, changes).await
}
