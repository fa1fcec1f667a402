//! New jobs with their root tasks, and further root tasks of jobs that are fed; a repeat has no effect, a conflict changes nothing.

use super::database::{Asked, args};
use super::dialect::{Statement, sql};
use super::end::{Changes, finish};
use super::fault::Fault;
use super::insert::{self, Lane, NewRow};
use super::outbox;
use super::rows::{array, columns};
use super::run_end::millis;
use super::transaction::Tx;
use crate::task::state::TaskState;
use crate::task_store::{Feed, NewJob, Submitted};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

/// A job that is there, or about to be.
#[derive(Debug, Clone)]
struct Holder {
    id: i64,
    grp: i64,
    pipeline: String,
    root_task: String,
    feed: String,
    stopping: i64,
    expected: Option<i64>,
    arrived: i64,
    prefix: String,
    is_processing: bool,
    /// Tasks that have not ended.
    live: i64,
    /// Whether it keeps the staged outputs of a dead task; of a live job only where that matters.
    keeps: bool,
    /// Whether it is only about to be.
    is_new: bool,
}

/// A task that is there, or about to be: its job, and the hash of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    job_id: String,
    hash: String,
}

/// By (tenant, id): jobs and tasks.
struct Holders {
    jobs: HashMap<(String, String), Holder>,
    tasks: HashMap<(String, String), Taken>,
}

/// Where jobs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Somebody submits them: what a broker is to carry is yet to be sent.
    Port,
    /// A broker has just brought their messages, and none of the tasks is there.
    Broker,
}

/// A job that is to begin, or to get its next root task.
pub(super) struct Entering<'a> {
    pub job: &'a NewJob,
    /// Owner and length of the root task's first lease, where it gets one as it comes.
    pub lease: Option<(String, Duration)>,
}

/// What became of it.
pub(super) struct Entered {
    pub answer: Submitted,
    /// The row, where it is new.
    pub born: Option<Born>,
}

/// A row as it was inserted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Born {
    pub id: i64,
    /// PROCESSING where it is leased: it was to be, and can run now.
    pub state: TaskState,
    pub not_before: i64,
    pub fair: i64,
}

/// A root task that is new, and the job it begins or joins.
struct Newcomer<'a> {
    new: &'a Entering<'a>,
    /// Its place in the list.
    place: usize,
    /// Number of its row.
    id: i64,
    job: (String, String),
    joins: bool,
}

/// What newcomers may meet, as it stood before anything was written for them.
pub(super) struct Met<'a> {
    holders: Holders,
    /// What [`OCCUPIED`] found.
    prefixes: Prefixes,
    /// The virtual time of each lane that one of them is to stand in.
    clocks: HashMap<Lane<'a>, i64>,
}

/// Asks for it, and for `more`, whose rows come first.
pub(super) async fn meet<'a, T: DeserializeOwned>(tx: &mut Tx<'_>, jobs: &[&'a NewJob], more: Asked) -> Result<(Vec<T>, Met<'a>), Fault> {
    type Lists<T> = (Vec<T>, Vec<HolderRow>, Vec<(Option<String>,)>, Vec<(usize, i64)>);
    let lanes: BTreeSet<Lane<'_>> = jobs.iter().map(|new| insert::lane(&new.pipeline, &new.root)).collect();
    let lanes: Vec<Lane<'_>> = lanes.into_iter().collect();
    let asked = [more, ask_jobs(jobs)?, ask_occupied(jobs)?, insert::ask_clocks(&lanes)?];
    let (more, holders, prefixes, clocks): Lists<T> = tx.json_of(asked).await?;
    let holders = holders.into_iter().map(|row| ((row.tenant.clone(), row.job_id.clone()), Holder::from(row))).collect();
    let met = Met {
        holders: Holders { jobs: holders, tasks: HashMap::new() },
        prefixes: Prefixes::of(prefixes),
        clocks: clocks.into_iter().filter_map(|(n, clock)| Some((*lanes.get(n)?, clock))).collect(),
    };
    Ok((more, met))
}

/// Creates what is new of what somebody submits. One answer per job, in order.
pub(super) async fn submit(tx: &mut Tx<'_>, all: &[Entering<'_>]) -> Result<Vec<Entered>, Fault> {
    let jobs: Vec<&NewJob> = all.iter().map(|entering| entering.job).collect();
    let (tasks, mut met) = meet::<(String, String, String, String)>(tx, &jobs, ask_tasks(&jobs)?).await?;
    met.holders.tasks = tasks.into_iter().map(|(tenant, id, job_id, hash)| ((tenant, id), Taken { job_id, hash })).collect();
    enter(tx, all, met, Way::Port).await
}

/// Creates what is new. One answer per job, in order.
pub(super) async fn enter(tx: &mut Tx<'_>, all: &[Entering<'_>], met: Met<'_>, way: Way) -> Result<Vec<Entered>, Fault> {
    let jobs: Vec<&NewJob> = all.iter().map(|entering| entering.job).collect();
    let Met { mut holders, prefixes, clocks } = met;
    let mut occupied = occupied(tx, &jobs, &holders, prefixes).await?;
    // A number each for a job, its root group and its root task.
    let mut numbers = tx.numbers(3 * jobs.len()).await?;
    let mut entered = Vec::with_capacity(jobs.len());
    let mut newcomers = Vec::new();
    for (place, entering) in all.iter().enumerate() {
        let new = entering.job;
        let answer = judge(new, &holders, &occupied);
        entered.push(Entered { answer, born: None });
        if answer != Submitted::Created {
            continue;
        }
        let key = (new.tenant.clone(), new.job_id.clone());
        holders.tasks.insert(
            (new.tenant.clone(), new.root.task_id.clone()),
            Taken { job_id: new.job_id.clone(), hash: new.root.payload_hash.clone() },
        );
        let joins = holders.jobs.contains_key(&key);
        let holder = match holders.jobs.entry(key.clone()) {
            Entry::Occupied(holder) => holder.into_mut(),
            Entry::Vacant(place) => place.insert(new_holder(new, numbers.take()?, numbers.take()?)),
        };
        if holder.stopping == 0 {
            holder.is_processing = true;
            holder.live += 1;
            occupied.jobs.insert(&new.prefix);
            new.chosen_prefix().into_iter().for_each(|chosen| occupied.tasks.insert(chosen));
        }
        holder.grow(&new.feed);
        newcomers.push(Newcomer { new: entering, place, id: numbers.take()?, job: key, joins });
    }
    if newcomers.is_empty() {
        return Ok(entered);
    }
    let born = create(tx, &newcomers, &holders, &clocks, way).await?;
    for newcomer in &newcomers {
        if let Some(entered) = entered.get_mut(newcomer.place) {
            entered.born = born.get(&newcomer.id).copied();
        }
    }
    Ok(entered)
}

fn new_holder(new: &NewJob, id: i64, grp: i64) -> Holder {
    let feed = if new.feed == Feed::Single { "single" } else { "open" };
    let (pipeline, root_task, prefix) = (new.pipeline.clone(), new.root.task_id.clone(), new.prefix.clone());
    let (feed, stopping, expected, arrived) = (feed.into(), 0, None, 0);
    Holder {
        id,
        grp,
        pipeline,
        root_task,
        feed,
        stopping,
        expected,
        arrived,
        prefix,
        is_processing: true,
        live: 0,
        keeps: false,
        is_new: true,
    }
}

impl Holder {
    /// One more root task has come.
    fn grow(&mut self, feed: &Feed) {
        self.arrived += 1;
        let Feed::Open { tasks, .. } = feed else { return };
        self.expected = self.expected.or(tasks.and_then(|n| i64::try_from(n).ok()));
        let complete = self.expected.is_some_and(|n| self.arrived >= n);
        self.feed = if complete { "sealed" } else { "open" }.into();
    }

    /// Whether it holds its prefix.
    fn holds(&self) -> bool {
        self.is_processing || self.keeps
    }
}

fn judge(new: &NewJob, holders: &Holders, occupied: &Occupied) -> Submitted {
    let job = holders.jobs.get(&(new.tenant.clone(), new.job_id.clone()));
    let task = holders.tasks.get(&(new.tenant.clone(), new.root.task_id.clone()));
    match (job, task) {
        (None, None) if occupied.holds(&new.prefix) || occupied.mixes(new, None) => Submitted::Occupied,
        (None, None) => Submitted::Created,
        (Some(job), _) if job.pipeline != new.pipeline => Submitted::Conflict,
        (Some(job), Some(task)) => {
            let is_it = task.job_id == new.job_id && task.hash == new.root.payload_hash;
            // A single job's root task is the one it was submitted with, whatever else bears the same content.
            let is_root = new.feed != Feed::Single || job.root_task == new.root.task_id;
            if is_it && is_root { Submitted::Repeated } else { Submitted::Conflict }
        }
        (Some(_), None) if new.feed == Feed::Single => Submitted::Conflict,
        (Some(job), None) if matches!(job.feed.as_str(), "single" | "sealed") => Submitted::Sealed,
        (Some(job), None) if job.prefix != new.prefix => Submitted::Conflict,
        // What is cancelled on arrival writes nothing.
        (Some(job), None) if job.stopping == 1 => Submitted::Created,
        // It had ended, and another took its prefix meanwhile.
        (Some(job), None) if !job.holds() && occupied.holds(&job.prefix) => Submitted::Occupied,
        (Some(job), None) if occupied.mixes(new, Some(job)) => Submitted::Occupied,
        (Some(_), None) => Submitted::Created,
        (None, Some(_)) => Submitted::Conflict,
    }
}

/// Jobs below the prefix of a newcomer, or above it, that are live or keep the staged outputs of a dead task: $1 pairs of (prefix, the
/// first text after all that begin with it), $2 those among which a newcomer's own job may be, $3 the prefixes that cover one of them. Of
/// a range the first one tells whether there is any; the last one too, whether there is another than one's own. A query for each value: no
/// planner makes that a join of all with all. And an empty text, where any task chose its prefix: only then [`CHOSEN`] finds something.
pub(super) static OCCUPIED: Statement = Statement::new(
    "
SELECT {json prefix} FROM (
SELECT (SELECT j.prefix FROM jobs j {index jobs_held}
        WHERE j.state IN ('PROCESSING', 'FAILED') AND j.prefix >= w.first AND j.prefix < w.past
          AND (j.state = 'PROCESSING' OR EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD' AND t.manifest IS NOT NULL))
        ORDER BY j.prefix LIMIT 1) AS prefix
FROM {rows $1 first:text past:text} w
UNION SELECT (SELECT j.prefix FROM jobs j {index jobs_held}
        WHERE j.state IN ('PROCESSING', 'FAILED') AND j.prefix >= w.first AND j.prefix < w.past
          AND (j.state = 'PROCESSING' OR EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD' AND t.manifest IS NOT NULL))
        ORDER BY j.prefix DESC LIMIT 1) AS prefix
FROM {rows $2 first:text past:text} w
UNION SELECT (SELECT j.prefix FROM jobs j {index jobs_held}
        WHERE j.state IN ('PROCESSING', 'FAILED') AND j.prefix = w.value
          AND (j.state = 'PROCESSING' OR EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD' AND t.manifest IS NOT NULL))
        LIMIT 1) AS prefix
FROM {texts $3} w
UNION SELECT '' AS prefix WHERE EXISTS (SELECT 1 FROM prefixes {index prefixes_prefix} WHERE prefix > '')) c",
);

/// The same of tasks that chose their prefixes: $1 ranges, $2 the prefixes that cover one of them.
pub(super) static CHOSEN: Statement = Statement::new(
    "
SELECT (SELECT p.prefix FROM prefixes p {index prefixes_prefix}
        WHERE p.prefix >= w.first AND p.prefix < w.past
          AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = p.task AND t.state NOT IN ('DONE', 'CANCELLED')
                        AND (t.state <> 'DEAD' OR t.manifest IS NOT NULL))
        ORDER BY p.prefix LIMIT 1) AS prefix
FROM {rows $1 first:text past:text} w
UNION SELECT (SELECT p.prefix FROM prefixes p {index prefixes_prefix}
        WHERE p.prefix = w.value
          AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = p.task AND t.state NOT IN ('DONE', 'CANCELLED')
                        AND (t.state <> 'DEAD' OR t.manifest IS NOT NULL))
        LIMIT 1) AS prefix
FROM {texts $2} w",
);

/// Prefixes that are taken, as far as newcomers may meet them: by jobs, and by tasks that chose theirs.
struct Occupied {
    jobs: Prefixes,
    tasks: Prefixes,
}

/// Prefixes, of which some are, cover or lie below another.
#[derive(Default)]
struct Prefixes(BTreeSet<String>);

impl Prefixes {
    fn of(rows: Vec<(Option<String>,)>) -> Self {
        Self(rows.into_iter().filter_map(|(prefix,)| prefix).collect())
    }

    fn insert(&mut self, prefix: &str) {
        self.0.insert(prefix.to_owned());
    }

    /// Whether one other than `but` overlaps with a prefix.
    fn overlaps(&self, prefix: &str, but: Option<&str>) -> bool {
        let mut below = self.0.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).take_while(|other| other.starts_with(prefix));
        below.any(|other| Some(other.as_str()) != but) || covering(prefix).any(|above| Some(above) != but && self.0.contains(above))
    }
}

impl Occupied {
    fn holds(&self, prefix: &str) -> bool {
        self.jobs.overlaps(prefix, None) || self.tasks.overlaps(prefix, None)
    }

    /// Whether the outputs of a root task would mix with those of others: of one that chose a prefix, or, where it chose its own, of other
    /// jobs and of whatever lies below it in its job.
    fn mixes(&self, new: &NewJob, job: Option<&Holder>) -> bool {
        if new.feed == Feed::Single {
            return false;
        }
        let chosen_amiss = |own: &str| {
            let covers = |job: &Holder| job.prefix.starts_with(own) && (job.live > 0 || job.keeps);
            self.jobs.overlaps(own, job.map(|job| job.prefix.as_str())) || job.is_some_and(covers)
        };
        self.tasks.overlaps(&new.root.output_prefix, None) || new.chosen_prefix().is_some_and(chosen_amiss)
    }
}

/// Every shorter prefix that covers this one: those that end with one of its slashes.
pub(super) fn covering(prefix: &str) -> impl Iterator<Item = &str> {
    let last = prefix.len().saturating_sub(1);
    prefix.match_indices('/').filter_map(move |(at, _)| if at < last { prefix.get(..=at) } else { None })
}

fn ask_occupied(jobs: &[&NewJob]) -> Result<Asked, Fault> {
    let chosen: BTreeSet<&str> = jobs.iter().filter_map(|new| new.chosen_prefix()).collect();
    let beside: BTreeSet<&str> = jobs.iter().map(|new| new.prefix.as_str()).chain(chosen.iter().copied()).collect();
    Ok((&OCCUPIED, args![array(&ranges(&beside)), array(&ranges(&chosen)), array(&above(&beside))].into()))
}

async fn occupied(tx: &mut Tx<'_>, jobs: &[&NewJob], holders: &Holders, found: Prefixes) -> Result<Occupied, Fault> {
    let mut taken = Occupied { jobs: found, tasks: Prefixes::default() };
    let any_chosen = taken.jobs.0.remove("");
    // What a live job holds needs no second look; nor can what the host derives lie anywhere but below that.
    let is_free = |new: &&&NewJob| holders.jobs.get(&(new.tenant.clone(), new.job_id.clone())).is_none_or(|job| !job.holds());
    let of_jobs = jobs.iter().filter(is_free).map(|new| new.prefix.as_str());
    let fed = jobs.iter().filter(|new| new.feed != Feed::Single).map(|new| new.root.output_prefix.as_str());
    let beside_tasks: BTreeSet<&str> = of_jobs.chain(fed).collect();
    if any_chosen && !beside_tasks.is_empty() {
        let asked = args![array(&ranges(&beside_tasks)), array(&above(&beside_tasks))];
        taken.tasks = Prefixes::of(tx.rows(&CHOSEN, asked).await?);
    }
    Ok(taken)
}

/// What lies below each: from it to the first text after all that begin with it. Prefixes end with '/', and '0' is the next character.
fn ranges<'a>(prefixes: &BTreeSet<&'a str>) -> Vec<(&'a str, String)> {
    prefixes.iter().map(|prefix| (*prefix, format!("{}0", prefix.trim_end_matches('/')))).collect()
}

/// What covers one of them.
fn above<'a>(prefixes: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let above: BTreeSet<&str> = prefixes.iter().flat_map(|prefix| covering(prefix)).collect();
    above.into_iter().collect()
}

/// A job as it is read, column by column.
#[derive(Deserialize)]
struct HolderRow {
    tenant: String,
    job_id: String,
    id: i64,
    pipeline: String,
    root_task: String,
    feed: String,
    stopping: i64,
    expected: Option<i64>,
    arrived: i64,
    prefix: String,
    /// Flags are 0 and 1.
    is_processing: u8,
    live: i64,
    keeps: u8,
    grp: i64,
}

impl From<HolderRow> for Holder {
    fn from(row: HolderRow) -> Self {
        let HolderRow { id, grp, pipeline, root_task, feed, stopping, expected, arrived, prefix, live, .. } = row;
        let (is_processing, keeps, is_new) = (row.is_processing == 1, row.keeps == 1, false);
        Self { id, grp, pipeline, root_task, feed, stopping, expected, arrived, prefix, is_processing, live, keeps, is_new }
    }
}

fn ask_jobs(jobs: &[&NewJob]) -> Result<Asked, Fault> {
    let ids: Vec<(&str, &str)> = jobs.iter().map(|new| (new.tenant.as_str(), new.job_id.as_str())).collect();
    let find = sql!(
        "SELECT {json tenant job_id id pipeline root_task feed stopping expected arrived prefix is_processing live keeps grp} FROM (\
            SELECT DISTINCT j.tenant, j.job_id, j.id, j.pipeline, j.root_task, j.feed, j.stopping, j.expected, j.arrived, j.prefix, \
                   CASE WHEN j.state = 'PROCESSING' THEN 1 ELSE 0 END AS is_processing, j.live, \
                   CASE WHEN ($2 = 1 OR j.state <> 'PROCESSING') AND EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id \
                                                                              AND t.state = 'DEAD' AND t.manifest IS NOT NULL) \
                        THEN 1 ELSE 0 END AS keeps, \
                   (SELECT t.grp FROM tasks t WHERE t.tenant = j.tenant AND t.task_id = j.root_task) AS grp \
            FROM {rows $1 tenant:text job_id:text} w {join} jobs j ON j.tenant = w.tenant AND j.job_id = w.job_id) c"
    );
    // Of a live job that is asked only where somebody would write to all of it: there may be many that are dead.
    let covers = jobs.iter().any(|new| new.chosen_prefix().is_some_and(|own| new.prefix.starts_with(own)));
    Ok((find, args![array(&ids), i64::from(covers)].into()))
}

fn ask_tasks(jobs: &[&NewJob]) -> Result<Asked, Fault> {
    let ids: Vec<(&str, &str)> = jobs.iter().map(|new| (new.tenant.as_str(), new.root.task_id.as_str())).collect();
    let find = sql!(
        "SELECT {json tenant task_id job_id payload_hash} FROM (\
            SELECT t.tenant, t.task_id, j.job_id, t.payload_hash FROM {rows $1 tenant:text task_id:text} w \
            {join} tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id {join} jobs j ON j.id = t.job) c"
    );
    Ok((find, args![array(&ids)].into()))
}

/// Returns the rows by number.
async fn create(
    tx: &mut Tx<'_>,
    newcomers: &[Newcomer<'_>],
    holders: &Holders,
    clocks: &HashMap<Lane<'_>, i64>,
    way: Way,
) -> Result<HashMap<i64, Born>, Fault> {
    let mut touched: BTreeMap<i64, &Holder> = BTreeMap::new();
    let (mut jobs, mut groups, mut first, mut further) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut changes, mut chosen) = (Changes::default(), Vec::new());
    for newcomer in newcomers {
        let Some(holder) = holders.jobs.get(&newcomer.job) else { continue };
        let Entering { job: new, lease } = newcomer.new;
        touched.insert(holder.id, holder);
        if !newcomer.joins {
            jobs.push(JobRow::new(new, holder));
            groups.push((holder.grp, holder.id, holder.live));
        }
        let lease = lease.as_ref().filter(|_| holder.stopping == 0 && insert::not_before(&new.root, tx.now) <= tx.now);
        let state = match lease {
            _ if holder.stopping == 1 => TaskState::Cancelled,
            Some(_) => TaskState::Processing,
            None => TaskState::Queued,
        };
        if holder.stopping == 0 {
            if !holder.is_new {
                changes.live(holder.id, holder.grp, 1);
            }
            chosen.extend(new.chosen_prefix().map(|prefix| (newcomer.id, prefix)));
        }
        // A task that begins a job takes the time of its lane: one task is not worth a turn of its own.
        let clock = clocks.get(&insert::lane(&new.pipeline, &new.root)).copied();
        let row = NewRow {
            id: newcomer.id,
            job: holder.id,
            group: holder.grp,
            tenant: &new.tenant,
            pipeline: &new.pipeline,
            task: &new.root,
            state,
            fair: clock.unwrap_or_default(),
            parent: None,
            path: String::new(),
            is_input: false,
            waits: None,
            lease: lease.map(|(owner, length)| (owner.as_str(), tx.now.saturating_add(millis(*length)))),
        };
        if newcomer.joins { further.push(row) } else { first.push(row) }
    }
    insert_jobs(tx, &jobs, &groups).await?;
    feed(tx, &touched).await?;
    insert::assign_turns(tx, &mut further).await?;
    let mut born = HashMap::with_capacity(newcomers.len());
    for rows in [first, further] {
        insert::rows(tx, &rows).await?;
        if way == Way::Port {
            outbox::announce(tx, &rows).await?;
        }
        let now = tx.now;
        let of = |row: &NewRow<'_>| Born { id: row.id, state: row.state, not_before: insert::not_before(row.task, now), fair: row.fair };
        born.extend(rows.iter().map(|row| (row.id, of(row))));
    }
    keep_chosen(tx, &chosen).await?;
    finish(tx, changes).await?;
    Ok(born)
}

/// Notes the prefixes of tasks that chose them. One that had the same before and has ended for good needs it no more: so this does not
/// grow where one follows another in the same place.
async fn keep_chosen(tx: &mut Tx<'_>, chosen: &[(i64, &str)]) -> Result<(), Fault> {
    if chosen.is_empty() {
        return Ok(());
    }
    let chosen = array(chosen);
    let forget = sql!(
        "DELETE FROM prefixes WHERE task IN (SELECT p.task FROM {rows $1 task:int prefix:text} w {join} prefixes p ON p.prefix = w.prefix \
         {join} tasks t ON t.id = p.task WHERE t.state IN ('DONE', 'CANCELLED'))"
    );
    tx.execute(forget, args![chosen.clone()]).await?;
    let keep = sql!("INSERT INTO prefixes (task, prefix) SELECT task, prefix FROM {rows $1 task:int prefix:text} c");
    tx.execute(keep, args![chosen]).await
}

columns! {
    /// A job as its first root tasks begin it.
    struct JobRow<'a> {
        id: i64,
        tenant: &'a str,
        job_id: &'a str,
        pipeline: &'a str,
        prefix: &'a str,
        root_task: &'a str,
        queue: Option<&'a str>,
        feed: &'a str,
        expected: Option<i64>,
        arrived: i64,
        live: i64,
    }
}

impl<'a> JobRow<'a> {
    fn new(first: &'a NewJob, holder: &'a Holder) -> Self {
        Self {
            id: holder.id,
            tenant: &first.tenant,
            job_id: &first.job_id,
            pipeline: &first.pipeline,
            prefix: &first.prefix,
            root_task: &first.root.task_id,
            queue: if let Feed::Open { queue, .. } = &first.feed { queue.as_deref() } else { None },
            feed: &holder.feed,
            expected: holder.expected,
            arrived: holder.arrived,
            live: holder.live,
        }
    }
}

/// With their root groups: number, job, live tasks.
async fn insert_jobs(tx: &mut Tx<'_>, jobs: &[JobRow<'_>], groups: &[(i64, i64, i64)]) -> Result<(), Fault> {
    if jobs.is_empty() {
        return Ok(());
    }
    let insert = sql!(
        "INSERT INTO jobs (id, tenant, job_id, pipeline, prefix, root_task, queue, feed, expected, arrived, live, created_at) \
         SELECT id, tenant, job_id, pipeline, prefix, root_task, queue, feed, expected, arrived, live, $2 \
         FROM {rows $1 id:int tenant:text job_id:text pipeline:text prefix:text root_task:text queue:text feed:text expected:int \
               arrived:int live:int} c"
    );
    tx.execute(insert, args![array(jobs), tx.now]).await?;
    let insert = sql!("INSERT INTO groups (id, job, live) SELECT id, job, live FROM {rows $1 id:int job:int live:int} c");
    tx.execute(insert, args![array(groups)]).await
}

/// Writes down how fed jobs stand that were there before. One that was closed because nothing came is open again.
async fn feed(tx: &mut Tx<'_>, touched: &BTreeMap<i64, &Holder>) -> Result<(), Fault> {
    let fed: Vec<(i64, &str, Option<i64>, i64)> =
        touched.values().filter(|h| h.feed != "single" && !h.is_new).map(|h| (h.id, h.feed.as_str(), h.expected, h.arrived)).collect();
    if fed.is_empty() {
        return Ok(());
    }
    let feed = sql!(
        "UPDATE jobs SET feed = c.feed, expected = c.expected, arrived = c.arrived \
         FROM {rows $1 id:int feed:text expected:int arrived:int} c WHERE jobs.id = c.id"
    );
    tx.execute(feed, args![array(&fed)]).await
}
