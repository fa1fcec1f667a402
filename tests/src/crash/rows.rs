//! What stands in the database, read by plain SQL and past the program: the same statements for every store.

use super::site::{Site, Store};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use std::collections::HashSet;
use std::future::Future;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Job {
    pub id: i64,
    pub job_id: String,
    pub root_task: String,
    pub state: String,
    pub live: i64,
    pub cancel_at: Option<i64>,
    pub ended_at: Option<i64>,
}

const JOBS: &str = "SELECT id, job_id, root_task, state, live, cancel_at, ended_at FROM jobs";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Group {
    pub id: i64,
    pub job: i64,
    pub then_task: Option<i64>,
    pub live: i64,
    pub leaves: i64,
}

const GROUPS: &str = "SELECT id, job, then_task, live, leaves FROM groups";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Task {
    pub id: i64,
    pub job: i64,
    pub grp: i64,
    pub tenant: String,
    pub task_id: String,
    pub step: String,
    pub key: String,
    pub state: String,
    pub epoch: i64,
    pub attempts: i64,
    pub handbacks: i64,
    pub crashes: i64,
    pub max_attempts: i64,
    pub parent: Option<i64>,
    pub waits: Option<i64>,
    pub child_count: i64,
    pub leftover: Option<i64>,
    pub output_prefix: String,
    error: Option<String>,
    manifest: Option<String>,
    message: String,
}

impl Task {
    /// The guest's params.
    pub fn params(&self) -> Value {
        serde_json::from_str::<Value>(&self.message).unwrap()["params"].take()
    }

    /// Why it failed last.
    pub fn code(&self) -> Option<String> {
        let error: Value = serde_json::from_str(self.error.as_deref()?).unwrap();
        error["code"].as_str().map(str::to_owned)
    }

    /// Entries of the manifest.
    pub fn entries(&self) -> Vec<Value> {
        let manifest: Value = self.manifest.as_deref().map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
        manifest["entries"].as_array().cloned().unwrap_or_default()
    }
}

const TASKS: &str = "
SELECT t.id, t.job, t.grp, t.tenant, t.task_id, t.step, t.key, t.state, t.epoch, t.attempts, t.handbacks, t.crashes, t.max_attempts, t.parent,
       t.waits, t.child_count, t.leftover, t.output_prefix, t.error, t.manifest, m.message
FROM tasks t JOIN messages m ON m.task = t.id ORDER BY t.path";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Claim {
    pub task: i64,
    pub epoch: i64,
    pub owner: String,
    pub ended: Option<String>,
}

const CLAIMS: &str = "SELECT task, epoch, owner, ended FROM claims ORDER BY task, epoch";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Letter {
    pub task: Option<i64>,
    pub code: String,
}

const LETTERS: &str = "SELECT task, code FROM dead_letters";

/// Everything.
#[derive(Clone)]
pub struct Rows {
    pub jobs: Vec<Job>,
    pub groups: Vec<Group>,
    pub tasks: Vec<Task>,
    pub claims: Vec<Claim>,
    pub letters: Vec<Letter>,
}

/// What is still to be done.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Open {
    /// Tasks that have not ended.
    pub live: i64,
    /// Ended tasks whose attempts are not known to be gone.
    pub leftovers: i64,
    /// Messages that no broker has confirmed.
    pub outgoing: i64,
    /// Claims that there ever were: how far work has come.
    pub claims: i64,
}

const OPEN: &str = "
SELECT count(*) FILTER (WHERE state NOT IN ('DONE', 'DEAD', 'CANCELLED')) AS live, count(leftover) AS leftovers,
       (SELECT count(*) FROM outbox) AS outgoing, (SELECT count(*) FROM claims) AS claims
FROM tasks";

/// Runs `$work` on a connection of its own.
macro_rules! on_store {
    ($site:expr, $connection:ident => $work:expr) => {
        wait(async {
            match &$site.store {
                Store::Sqlite => {
                    let options = SqliteConnectOptions::new().filename($site.database()).pragma("query_only", "ON");
                    let mut $connection = options.disable_statement_logging().connect().await?;
                    let result = $work;
                    $connection.close().await?;
                    Ok::<_, sqlx::Error>(result)
                }
                Store::Postgres { dsn, .. } => {
                    let mut $connection = sqlx::PgConnection::connect(dsn).await?;
                    let result = $work;
                    $connection.close().await?;
                    Ok::<_, sqlx::Error>(result)
                }
            }
        })
    };
}

fn wait<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// What time it is for a Postgres server: Unix seconds.
pub fn now(dsn: &str) -> i64 {
    let asked = wait(async {
        let mut connection = sqlx::PgConnection::connect(dsn).await?;
        sqlx::query_scalar("SELECT CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)").fetch_one(&mut connection).await
    });
    asked.unwrap()
}

/// Reads all of it. Only when nothing runs any more: the statements are not one transaction.
pub fn read(site: &Site) -> Rows {
    let read = on_store!(site, connection => Rows {
        jobs: sqlx::query_as(JOBS).fetch_all(&mut connection).await?,
        groups: sqlx::query_as(GROUPS).fetch_all(&mut connection).await?,
        tasks: sqlx::query_as(TASKS).fetch_all(&mut connection).await?,
        claims: sqlx::query_as(CLAIMS).fetch_all(&mut connection).await?,
        letters: sqlx::query_as(LETTERS).fetch_all(&mut connection).await?,
    });
    read.unwrap()
}

/// How much is still to be done; an error while the database is down.
pub fn open(site: &Site) -> Result<Open, sqlx::Error> {
    on_store!(site, connection => sqlx::query_as(OPEN).fetch_one(&mut connection).await?)
}

/// Ids of all tasks without a parent; an error while the database is down.
pub fn roots(site: &Site) -> Result<HashSet<String>, sqlx::Error> {
    let roots: Vec<String> = on_store!(site, connection => sqlx::query_scalar("SELECT task_id FROM tasks WHERE parent IS NULL").fetch_all(&mut connection).await?)?;
    Ok(roots.into_iter().collect())
}
