//! New jobs with their root tasks; a repeat has no effect, a conflict changes nothing.

use super::end::{Changes, finish};
use super::fault::Fault;
use super::insert::{self, NewRow};
use super::transaction::{Tx, array};
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

/// Jobs below the prefix of a newcomer, or above it, that are live or keep the staged outputs of a dead task: ?1 pairs of (prefix, the
/// first text after all that begin with it), ?2 the prefixes that cover one of them.
pub(super) const OCCUPIED: &str = "
SELECT j.prefix FROM json_each(?1) w CROSS JOIN jobs j INDEXED BY jobs_held
ON j.state IN ('PROCESSING', 'FAILED') AND j.prefix >= w.value->>0 AND j.prefix < w.value->>1
WHERE j.state = 'PROCESSING' OR EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD' AND t.manifest IS NOT NULL)
UNION SELECT j.prefix FROM json_each(?2) w CROSS JOIN jobs j INDEXED BY jobs_held
ON j.state IN ('PROCESSING', 'FAILED') AND j.prefix = w.value
WHERE j.state = 'PROCESSING' OR EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD' AND t.manifest IS NOT NULL)";

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
    let rows: Vec<String> = sqlx::query_scalar(OCCUPIED).bind(array(&ranges)?).bind(array(&above)?).fetch_all(tx.on()).await?;
    Ok(Occupied(rows.into_iter().collect()))
}

async fn holders(tx: &mut Tx<'_>, jobs: &[&NewJob]) -> Result<Holders, Fault> {
    let ids: Vec<(&str, &str, &str)> = jobs.iter().map(|j| (j.tenant.as_str(), j.job_id.as_str(), j.root.task_id.as_str())).collect();
    let ids = array(&ids)?;
    type Row = (String, String, String, String, String, String);
    let by_job: Vec<Row> = sqlx::query_as(
        "SELECT j.tenant, j.job_id, j.job_id, j.pipeline, j.root_task, t.payload_hash FROM json_each(?1) w \
         CROSS JOIN jobs j ON j.tenant = w.value->>0 AND j.job_id = w.value->>1 \
         CROSS JOIN tasks t ON t.tenant = j.tenant AND t.task_id = j.root_task",
    )
    .bind(&ids)
    .fetch_all(tx.on())
    .await?;
    let by_task: Vec<Row> = sqlx::query_as(
        "SELECT t.tenant, t.task_id, j.job_id, j.pipeline, j.root_task, t.payload_hash FROM json_each(?1) w \
         CROSS JOIN tasks t ON t.tenant = w.value->>0 AND t.task_id = w.value->>2 CROSS JOIN jobs j ON j.id = t.job",
    )
    .bind(&ids)
    .fetch_all(tx.on())
    .await?;
    let map = |rows: Vec<Row>| {
        rows.into_iter()
            .map(|(tenant, id, job_id, pipeline, root_task, hash)| ((tenant, id), Holder { job_id, pipeline, root_task, hash }))
            .collect()
    };
    Ok(Holders { jobs: map(by_job), tasks: map(by_task) })
}

async fn create(tx: &mut Tx<'_>, jobs: &[&NewJob]) -> Result<(), Fault> {
    let numbers = tx.numbers().await?;
    let mut job_rows = Vec::with_capacity(jobs.len());
    let mut group_rows = Vec::with_capacity(jobs.len());
    let mut rows = Vec::with_capacity(jobs.len());
    let mut changes = Changes::default();
    for (&job, n) in jobs.iter().zip(1..) {
        let (id, group) = (numbers.jobs + n, numbers.groups + n);
        job_rows.push((id, &job.tenant, &job.job_id, &job.pipeline, &job.prefix, &job.root.task_id));
        group_rows.push((group, id));
        changes.live(id, group, 1);
        rows.push(NewRow {
            id: numbers.tasks + n,
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
    let now = tx.now;
    sqlx::query(
        "INSERT INTO jobs (id, tenant, job_id, pipeline, prefix, root_task, created_at) \
         SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, ?2 FROM json_each(?1)",
    )
    .bind(array(&job_rows)?)
    .bind(now)
    .execute(tx.on())
    .await?;
    sqlx::query("INSERT INTO groups (id, job) SELECT value->>0, value->>1 FROM json_each(?1)")
        .bind(array(&group_rows)?)
        .execute(tx.on())
        .await?;
    insert::assign_first(tx, &mut rows).await?;
    insert::rows(tx, &rows).await?;
    finish(tx, changes).await
}
