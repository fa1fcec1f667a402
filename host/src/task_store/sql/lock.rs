//! What a transaction locks before it reads what it will act on. SQLite has one writer and needs none of it; with Postgres, which
//! runs READ COMMITTED, it is what makes the rest of this folder true.
//!
//! Whoever changes which tasks of a job are live, or what it may grow, holds the job's row from the beginning: so groups are counted,
//! a `then` is woken, children are inserted and the job is closed by one transaction at a time, each of which sees what the one
//! before has committed. Locks are taken in one order, submissions before jobs before tasks, and each by number, so that no two wait
//! for each other.
//! Claims hold no job: they skip what is locked.

use super::database::args;
use super::dialect::sql;
use super::fault::Fault;
use super::lapse::Lapsed;
use super::request::Request;
use super::rows::array;
use super::submit::covering;
use super::transaction::Tx;
use crate::task::id::TaskKey;
use crate::task_store::{Feed, NewJob};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What the requests of a batch name.
#[derive(Default)]
struct Named<'a> {
    /// Tasks that may end.
    ending: Vec<(&'a str, &'a str)>,
    /// Jobs that may grow or close.
    jobs: Vec<(&'a str, &'a str)>,
    /// Tasks of which only the lease may change.
    leased: Vec<(&'a str, &'a str)>,
    /// Prefixes that jobs and tasks are to get.
    places: BTreeSet<&'a str>,
}

impl<'a> Named<'a> {
    fn of(batch: &[&'a Request]) -> Self {
        let mut named = Self::default();
        for request in batch {
            match request {
                Request::Commit(commit) => named.ending.push(pair(&commit.lease.key)),
                Request::Settle(lease, ..) => named.ending.push(pair(&lease.key)),
                Request::End(key) | Request::BuryCommitted(key, _) | Request::CancelTask(key) => named.ending.push(pair(key)),
                Request::Heartbeat(beats, _) => named.leased.extend(beats.iter().map(|beat| pair(&beat.lease.key))),
                Request::Seal(tenant, job_id) => named.jobs.push((tenant, job_id)),
                Request::Submit(jobs) => named.submit(jobs),
                Request::Admit(jobs, ..) => {
                    named.submit(jobs);
                    named.leased.extend(jobs.iter().map(|job| (job.tenant.as_str(), job.root.task_id.as_str())));
                }
                Request::Claim(_) | Request::Sweep(_) | Request::Swept(_) => {}
                Request::Refuse(_) | Request::Outgoing(..) | Request::Sent(_) => {}
                // These find out by themselves what they touch.
                Request::Redrive(_) | Request::Purge(_) | Request::Prune(..) | Request::CancelJob(..) => {}
            }
        }
        named
    }

    fn submit(&mut self, jobs: &'a [NewJob]) {
        self.places.extend(jobs.iter().flat_map(|job| std::iter::once(job.prefix.as_str()).chain(job.chosen_prefix())));
        let fed = jobs.iter().filter(|job| job.feed != Feed::Single);
        self.jobs.extend(fed.map(|job| (job.tenant.as_str(), job.job_id.as_str())));
    }
}

/// Locks the tasks that the requests name or whose leases lapsed, and the jobs of those that may end.
pub(super) async fn named(tx: &mut Tx<'_>, batch: &[&Request], lapsed: &[Lapsed]) -> Result<(), Fault> {
    if !tx.has_rivals() {
        return Ok(());
    }
    let Named { mut ending, jobs, mut leased, places } = Named::of(batch);
    let submits = !places.is_empty();
    if submits {
        let locks = submissions(&places);
        // The table is read to its end for the count, and in order: by number, whoever takes them.
        let take = sql!(
            "SELECT count(*) FROM (SELECT CASE WHEN w.alone = 1 THEN pg_advisory_xact_lock(w.key)::text \
                                               ELSE pg_advisory_xact_lock_shared(w.key)::text END AS held \
                                   FROM (SELECT * FROM {rows $1 key:int alone:int} r ORDER BY key) w) locks WHERE held IS NOT NULL"
        );
        tx.execute(take, args![array(&locks)]).await?;
    }
    if !ending.is_empty() || !jobs.is_empty() || !lapsed.is_empty() {
        let of_lapsed: Vec<i64> = lapsed.iter().map(|l| l.job).collect();
        let lock_jobs = sql!(
            "SELECT count(*) FROM (SELECT id FROM jobs WHERE id IN \
                 (SELECT t.job FROM {rows $1 tenant:text task_id:text} w JOIN tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id \
                  UNION SELECT j.id FROM {rows $2 tenant:text job_id:text} w JOIN jobs j ON j.tenant = w.tenant AND j.job_id = w.job_id \
                  UNION SELECT value FROM {ints $3} l) ORDER BY id FOR NO KEY UPDATE) held"
        );
        tx.execute(lock_jobs, args![array(&ending), array(&jobs), array(&of_lapsed)]).await?;
    }
    ending.append(&mut leased);
    // One row cannot be locked in a wrong order, but must be locked before it is read.
    if ending.len() + lapsed.len() > 1 || submits {
        let tasks: Vec<i64> = lapsed.iter().map(|l| l.id).collect();
        let lock_tasks = sql!(
            "SELECT count(*) FROM (SELECT id FROM tasks WHERE id IN \
                 (SELECT t.id FROM {rows $1 tenant:text task_id:text} w JOIN tasks t ON t.tenant = w.tenant AND t.task_id = w.task_id \
                  UNION SELECT value FROM {ints $2} l) ORDER BY id FOR NO KEY UPDATE) held"
        );
        tx.execute(lock_tasks, args![array(&ending), array(&tasks)]).await?;
    }
    Ok(())
}

fn pair(key: &TaskKey) -> (&str, &str) {
    (&key.tenant, &key.task_id)
}

/// Locks the jobs of tasks by number.
pub(super) async fn jobs_of(tx: &mut Tx<'_>, tasks: &[i64]) -> Result<(), Fault> {
    if !tx.has_rivals() || tasks.is_empty() {
        return Ok(());
    }
    let lock = sql!(
        "SELECT count(*) FROM (SELECT id FROM jobs WHERE id IN (SELECT job FROM tasks WHERE id IN {ints $1}) \
                               ORDER BY id FOR NO KEY UPDATE) held"
    );
    tx.execute(lock, args![array(tasks)]).await
}

/// Locks jobs by number.
pub(super) async fn jobs(tx: &mut Tx<'_>, jobs: &[i64]) -> Result<(), Fault> {
    if !tx.has_rivals() || jobs.is_empty() {
        return Ok(());
    }
    let lock = sql!("SELECT count(*) FROM (SELECT id FROM jobs WHERE id IN {ints $1} ORDER BY id FOR NO KEY UPDATE) held");
    tx.execute(lock, args![array(jobs)]).await
}

/// Locks a job with all its tasks that have not ended.
pub(super) async fn job_and_tasks(tx: &mut Tx<'_>, job: i64) -> Result<(), Fault> {
    if !tx.has_rivals() {
        return Ok(());
    }
    jobs(tx, &[job]).await?;
    let lock = sql!(
        "SELECT count(*) FROM (SELECT id FROM tasks WHERE job = $1 AND state IN ('WAITING', 'QUEUED', 'PROCESSING') \
                               ORDER BY id FOR NO KEY UPDATE) held"
    );
    tx.execute(lock, args![job]).await
}

/// Names the lock of submissions among the advisory locks of a database: any number that nobody else is likely to use.
const SUBMISSIONS: i64 = 0x7761_736d_776b_7273;

/// Prefixes up to which a transaction locks each by itself: a server has room for some 6,400 locks of all its sessions.
const PLACES: usize = 64;

/// The locks of a transaction that submits, by number, each with 1 where it is to be alone with it: from there to its end, what it looks
/// up about prefixes stays true.
///
/// Each prefix is taken alone, and every prefix above it, up to the one of all, together with others. Of two prefixes of which one is or
/// covers the other, the upper one is among the locks of both, and one of them takes it alone: they take turns. All others pass each
/// other. One number for two prefixes makes some wait who need not. About ids nothing is locked: who comes second meets the first's row
/// in an index that knows each once, and tries again.
pub(super) fn submissions(places: &BTreeSet<&str>) -> Vec<(i64, u8)> {
    if places.len() > PLACES {
        return vec![(SUBMISSIONS, 1)];
    }
    let mut locks = BTreeMap::from([(SUBMISSIONS, 0)]);
    for place in places {
        for above in covering(place) {
            locks.entry(number_of(above)).or_insert(0);
        }
        locks.insert(number_of(place), 1);
    }
    locks.into_iter().collect()
}

fn number_of(prefix: &str) -> i64 {
    let digest = Sha256::digest(prefix.as_bytes());
    digest.first_chunk().copied().map_or(SUBMISSIONS, i64::from_be_bytes)
}
