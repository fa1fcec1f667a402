//! The least that the schema asks for, by hand, as one writes it with sqlx: one connection; batches of as many tasks as the worker
//! ends in one transaction while the other half of its tasks runs; one transaction that ends a batch and claims the next; one statement
//! per table in each, and the same rows written. No guest, no checks of messages, no retries, no cancellation, no fan-in, no second process.

use super::CONCURRENCY;
use super::load::{Place, STEP, Store};
use serde::Serialize;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, SqliteConnection};
use std::collections::HashMap;

/// Tasks in one transaction.
const BATCH: i64 = CONCURRENCY as i64 / 2;

/// What a session with Postgres is told, as those of the store are: no plan made on empty tables may go through all of them later.
const SESSION: &str = "SET enable_seqscan = off; SET enable_mergejoin = off; SET enable_hashjoin = off; SET jit = off";

const NOW: &str = "SELECT {now}";

/// $1 how many, $2 now.
const CLAIM: &str = "
UPDATE tasks SET state = 'PROCESSING', due = 0, epoch = epoch + 1, owner = {uuid}, lease_until = $2 + 90000, claimed_at = $2
WHERE id IN (SELECT id FROM tasks {index} WHERE state = 'QUEUED' AND due = 1 AND pipeline = 'noop' AND step = 'noop'
             ORDER BY priority DESC, fair, id LIMIT $1)
RETURNING id, job, grp, epoch, owner, priority, fair, output_prefix, (SELECT message FROM messages WHERE messages.task = tasks.id) AS message";

const CLAIMS: &str = "
INSERT INTO claims (task, epoch, owner, worker, claimed_at)
SELECT task, epoch, owner, 'bare', $2 FROM {rows task:int epoch:int owner:text} c";

const LANE: &str = "
INSERT INTO lanes (pipeline, step, priority, clock) VALUES ('noop', 'noop', 5, $1)
ON CONFLICT (pipeline, step, priority) DO UPDATE SET clock = CASE WHEN lanes.clock > $1 THEN lanes.clock ELSE $1 + 0 * $2 END";

const DONE: &str = r#"
UPDATE tasks SET state = 'DONE', manifest = '{"folder":"","entries":[]}', figures = '{}', child_count = c.children, ended_at = $2
FROM {rows id:int epoch:int owner:text children:int} c
WHERE tasks.id = c.id AND tasks.epoch = c.epoch AND tasks.owner = c.owner AND tasks.state = 'PROCESSING'"#;

const CLOSE: &str = "
UPDATE claims SET ended_at = $2, ended = 'committed' FROM {rows task:int epoch:int} c
WHERE claims.task = c.task AND claims.epoch = c.epoch";

const CHILDREN: &str = "
INSERT INTO tasks (id, job, grp, tenant, task_id, pipeline, step, key, payload_hash, state, due, not_before, priority, fair, max_attempts,
                   parent, path, is_input, output_prefix, created_at)
SELECT {number}, job, grp, 'default', task_id, 'noop', 'noop', 'next', task_id, 'QUEUED', 1, $2, priority, fair, 5, parent, '00000000', 0,
       output_prefix, $2
FROM {rows job:int grp:int task_id:text fair:int parent:int output_prefix:text priority:int} c
RETURNING id, task_id";

const MESSAGES: &str = "INSERT INTO messages (task, message) SELECT task, message FROM {rows task:int message:text} c WHERE $2 > 0";

const TURNS: &str = "
INSERT INTO turns (job, step, priority, next) SELECT job, 'noop', 5, next FROM {rows job:int next:int} c WHERE $2 > 0
ON CONFLICT (job, step, priority) DO UPDATE SET next = excluded.next";

const GROUPS: &str = "
UPDATE groups SET live = groups.live + c.live FROM {rows job:int grp:int live:int} c WHERE groups.id = c.grp AND $2 > 0";

const JOBS: &str = "
UPDATE jobs SET live = jobs.live + c.live, state = CASE WHEN jobs.live + c.live > 0 THEN jobs.state ELSE 'DONE' END,
                ended_at = CASE WHEN jobs.live + c.live > 0 THEN NULL ELSE $2 END
FROM {rows job:int grp:int live:int} c WHERE jobs.id = c.job";

/// A task without a child is the last of its job here.
const TURNS_OVER: &str = "DELETE FROM turns WHERE job IN (SELECT job FROM {rows job:int grp:int live:int} c WHERE live < 0 AND $2 > 0)";

const STATEMENTS: [&str; 12] = [NOW, CLAIM, CLAIMS, LANE, DONE, CLOSE, CHILDREN, MESSAGES, TURNS, GROUPS, JOBS, TURNS_OVER];

#[derive(sqlx::FromRow)]
struct Task {
    id: i64,
    job: i64,
    grp: i64,
    epoch: i64,
    owner: String,
    priority: i64,
    fair: i64,
    output_prefix: String,
    message: String,
}

impl Task {
    fn has_child(&self) -> bool {
        self.message.contains(r#""child":true"#)
    }
}

enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A connection, and the statements as it wants them.
struct Bare {
    on: Connection,
    texts: HashMap<&'static str, String>,
}

/// What a statement is given as `$1`.
enum First {
    Rows(String),
    Number(i64),
}

macro_rules! put {
    ($bare:expr, $make:path, $statement:expr, $first:expr, $now:expr, $method:ident) => {{
        let text = AssertSqlSafe($bare.texts[$statement].clone());
        match (&mut $bare.on, $first) {
            (Connection::Sqlite(on), First::Rows(rows)) => $make(text).bind(rows).bind($now).$method(on).await.map(|done| done.into()),
            (Connection::Sqlite(on), First::Number(n)) => $make(text).bind(n).bind($now).$method(on).await.map(|done| done.into()),
            (Connection::Postgres(on), First::Rows(rows)) => $make(text).bind(rows).bind($now).$method(on).await.map(|done| done.into()),
            (Connection::Postgres(on), First::Number(n)) => $make(text).bind(n).bind($now).$method(on).await.map(|done| done.into()),
        }
        .unwrap_or_else(|error| panic!("{error}: {}", $statement))
    }};
}

/// The count of a statement that returns no rows; both databases' results become it.
struct Done;

impl From<sqlx::sqlite::SqliteQueryResult> for Done {
    fn from(_: sqlx::sqlite::SqliteQueryResult) -> Self {
        Self
    }
}

impl From<sqlx::postgres::PgQueryResult> for Done {
    fn from(_: sqlx::postgres::PgQueryResult) -> Self {
        Self
    }
}

/// Until nothing is left.
pub async fn run(place: &Place) {
    let mut bare = Bare::connect(place).await;
    let mut running: Vec<Task> = Vec::new();
    loop {
        bare.plain(if bare.is_sqlite() { "BEGIN IMMEDIATE" } else { "BEGIN" }).await;
        let now = bare.now().await;
        if !running.is_empty() {
            bare.end(&running, now).await;
        }
        running = bare.claim(now).await;
        bare.plain("COMMIT").await;
        if running.is_empty() {
            return;
        }
    }
}

impl Bare {
    /// The connection as the store's own writer has it.
    async fn connect(place: &Place) -> Self {
        let on = match &place.store {
            Store::Postgres(dsn) => {
                let mut on = PgConnection::connect(dsn).await.unwrap();
                sqlx::raw_sql(SESSION).execute(&mut on).await.unwrap();
                Connection::Postgres(on)
            }
            Store::SqliteFull => Connection::Sqlite(sqlite(place, SqliteSynchronous::Full).await),
            Store::SqliteNormal => Connection::Sqlite(sqlite(place, SqliteSynchronous::Normal).await),
        };
        let is_sqlite = matches!(on, Connection::Sqlite(_));
        Self { on, texts: STATEMENTS.iter().map(|statement| (*statement, expand(statement, is_sqlite))).collect() }
    }

    fn is_sqlite(&self) -> bool {
        matches!(self.on, Connection::Sqlite(_))
    }

    async fn plain(&mut self, text: &'static str) {
        match &mut self.on {
            Connection::Sqlite(on) => drop(sqlx::raw_sql(text).execute(on).await.unwrap()),
            Connection::Postgres(on) => drop(sqlx::raw_sql(text).execute(on).await.unwrap()),
        }
    }

    async fn now(&mut self) -> i64 {
        let text = AssertSqlSafe(self.texts[NOW].clone());
        match &mut self.on {
            Connection::Sqlite(on) => sqlx::query_scalar(text).fetch_one(on).await.unwrap(),
            Connection::Postgres(on) => sqlx::query_scalar(text).fetch_one(on).await.unwrap(),
        }
    }

    async fn execute<T: Serialize>(&mut self, statement: &'static str, rows: &[T], now: i64) {
        let rows = First::Rows(serde_json::to_string(rows).unwrap());
        let _: Done = put!(self, sqlx::query, statement, rows, now, execute);
    }

    async fn claim(&mut self, now: i64) -> Vec<Task> {
        let tasks: Vec<Task> = put!(self, sqlx::query_as, CLAIM, First::Number(BATCH), now, fetch_all);
        let rows: Vec<(i64, i64, &str)> = tasks.iter().map(|t| (t.id, t.epoch, t.owner.as_str())).collect();
        self.execute(CLAIMS, &rows, now).await;
        if let Some(clock) = tasks.iter().map(|t| t.fair).max() {
            let _: Done = put!(self, sqlx::query, LANE, First::Number(clock), now, execute);
        }
        tasks
    }

    async fn end(&mut self, tasks: &[Task], now: i64) {
        let ended: Vec<_> = tasks.iter().map(|t| (t.id, t.epoch, &t.owner, i64::from(t.has_child()))).collect();
        self.execute(DONE, &ended, now).await;
        self.execute(CLOSE, &ended, now).await;
        let parents: Vec<&Task> = tasks.iter().filter(|t| t.has_child()).collect();
        if !parents.is_empty() {
            self.children(&parents, now).await;
        }
        // One job and one group per task here, and so no two changes of one.
        let changes: Vec<(i64, i64, i64)> = tasks.iter().map(|t| (t.job, t.grp, i64::from(t.has_child()) - 1)).collect();
        self.execute(GROUPS, &changes, now).await;
        self.execute(JOBS, &changes, now).await;
        self.execute(TURNS_OVER, &changes, now).await;
    }

    async fn children(&mut self, parents: &[&Task], now: i64) {
        let child = |t: &&Task| {
            let prefix = format!("{}{STEP}/next-{:012x}/", t.output_prefix, t.id);
            (t.job, t.grp, format!("{:064x}", t.id), t.fair + 1, t.id, prefix, t.priority)
        };
        let rows: Vec<_> = parents.iter().map(child).collect();
        let rows = First::Rows(serde_json::to_string(&rows).unwrap());
        let made: Vec<(i64, String)> = put!(self, sqlx::query_as, CHILDREN, rows, now, fetch_all);
        let messages: Vec<(i64, String)> = made.into_iter().map(|(id, task_id)| (id, message(&task_id))).collect();
        self.execute(MESSAGES, &messages, now).await;
        let turns: Vec<(i64, i64)> = parents.iter().map(|t| (t.job, t.fair + 2)).collect();
        self.execute(TURNS, &turns, now).await;
    }
}

async fn sqlite(place: &Place, synchronous: SqliteSynchronous) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(&place.database).foreign_keys(true).journal_mode(SqliteJournalMode::Wal);
    let options = options.synchronous(synchronous).pragma("temp_store", "MEMORY").pragma("cache_size", "-65536");
    options
        .pragma("journal_size_limit", "67108864")
        .pragma("wal_autocheckpoint", "4096")
        .disable_statement_logging()
        .connect()
        .await
        .unwrap()
}

/// As long as the one that the guest's child gets.
fn message(task_id: &str) -> String {
    json!({
        "job_id": &task_id[..36], "task_id": task_id, "params": {"child": false}, "tenant": "default", "step": STEP, "schema_version": 1,
        "hops": 1,
    })
    .to_string()
}

/// A statement as one of the databases wants it; only what stands in braces differs.
fn expand(statement: &str, is_sqlite: bool) -> String {
    let pick = |sqlite: &'static str, postgres: &'static str| if is_sqlite { sqlite } else { postgres };
    let now = pick("CAST(unixepoch('subsec') * 1000 AS INTEGER)", "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)");
    let text = statement.replace("{now}", now).replace("{index}", pick("INDEXED BY tasks_ready", ""));
    let text = text.replace("{uuid}", pick("lower(hex(randomblob(16)))", "gen_random_uuid()::text"));
    let text = text.replace("{number}", pick("NULL", "nextval('numbers')"));
    let Some((before, rest)) = text.split_once("{rows ") else { return text };
    let (columns, after) = rest.split_once('}').unwrap();
    let column = |(n, column): (usize, &str)| {
        let (name, kind) = column.split_once(':').unwrap();
        let kind = if kind == "int" { "bigint" } else { "text" };
        if is_sqlite { format!("value->>{n} AS {name}") } else { format!("(value->>{n})::{kind} AS {name}") }
    };
    let columns: Vec<String> = columns.split(' ').enumerate().map(column).collect();
    let from = pick("jsonb_each($1)", "jsonb_array_elements($1::jsonb)");
    format!("{before}(SELECT {} FROM {from}){after}", columns.join(", "))
}
