//! The least that the schema asks for, by hand: one connection; batches of as many tasks as the worker runs at once; one
//! transaction that ends a batch and claims the next; one statement per table in each. No guest, no checks of messages, no
//! retries, no cancellation, no fan-in, no second process.

use super::CONCURRENCY;
use super::load::{Place, STEP};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use wasm_worker::task_store::Durability;

const CLAIM: &str = "
UPDATE tasks SET state = 'PROCESSING', due = 0, epoch = epoch + 1, owner = lower(hex(randomblob(16))), lease_until = ?2 + 90000, claimed_at = ?2
WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_ready WHERE state = 'QUEUED' AND due = 1 AND pipeline = ?1 AND step = ?1
             ORDER BY priority DESC, fair, id LIMIT ?3)
RETURNING id, job, grp, epoch, owner, fair, output_prefix, (SELECT message FROM messages WHERE messages.task = tasks.id) AS message";

const CLAIMS: &str = "
INSERT INTO claims (task, epoch, owner, worker, claimed_at) SELECT value->>0, value->>1, value->>2, 'bare', ?2 FROM json_each(?1)";

const DONE: &str = "
UPDATE tasks SET state = 'DONE', manifest = '{\"folder\":\"\",\"entries\":[]}', figures = '{}', child_count = c.children, ended_at = ?2
FROM (SELECT value->>0 AS id, value->>1 AS epoch, value->>2 AS owner, value->>3 AS children FROM json_each(?1)) c
WHERE tasks.id = c.id AND tasks.epoch = c.epoch AND tasks.owner = c.owner AND tasks.state = 'PROCESSING'";

const CLOSE: &str = "
UPDATE claims SET ended_at = ?2, ended = 'committed' FROM (SELECT value->>0 AS task, value->>1 AS epoch FROM json_each(?1)) c
WHERE claims.task = c.task AND claims.epoch = c.epoch";

const CHILDREN: &str = "
INSERT INTO tasks (job, grp, tenant, task_id, pipeline, step, key, payload_hash, state, due, not_before, priority, fair, max_attempts,
                   parent, path, is_input, output_prefix, created_at)
SELECT value->>'job', value->>'grp', 'default', value->>'task_id', ?3, ?3, 'next', value->>'hash', 'QUEUED', 1, ?2, 5, value->>'fair', 5,
       value->>'parent', '00000000', 0, value->>'output_prefix', ?2
FROM json_each(?1)
RETURNING id, task_id";

const MESSAGES: &str = "INSERT INTO messages (task, message) SELECT value->>0, value->>1 FROM json_each(?1)";

const GROUPS: &str = "
UPDATE groups SET live = groups.live + c.live FROM (SELECT value->>1 AS id, value->>2 AS live FROM json_each(?1)) c WHERE groups.id = c.id";

const JOBS: &str = "
UPDATE jobs SET live = jobs.live + c.live, state = CASE WHEN jobs.live + c.live > 0 THEN state ELSE 'DONE' END,
                ended_at = CASE WHEN jobs.live + c.live > 0 THEN NULL ELSE ?2 END
FROM (SELECT value->>0 AS id, value->>2 AS live FROM json_each(?1)) c WHERE jobs.id = c.id";

#[derive(sqlx::FromRow)]
struct Task {
    id: i64,
    job: i64,
    grp: i64,
    epoch: i64,
    owner: String,
    fair: i64,
    output_prefix: String,
    message: String,
}

/// Until nothing is left.
pub async fn run(place: &Place) {
    let mut connection = connect(place).await;
    let mut running: Vec<Task> = Vec::new();
    loop {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let now: i64 = sqlx::query_scalar("SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)").fetch_one(&mut *transaction).await.unwrap();
        if !running.is_empty() {
            end(&mut transaction, &running, now).await;
        }
        running = claim(&mut transaction, now).await;
        transaction.commit().await.unwrap();
        if running.is_empty() {
            return;
        }
    }
}

/// The connection as the store's own writer has it.
async fn connect(place: &Place) -> SqliteConnection {
    let synchronous = if place.durability == Durability::Normal { SqliteSynchronous::Normal } else { SqliteSynchronous::Full };
    let options = SqliteConnectOptions::new().filename(&place.database).foreign_keys(true).journal_mode(SqliteJournalMode::Wal);
    let options = options.synchronous(synchronous).pragma("temp_store", "MEMORY").pragma("cache_size", "-65536");
    options.pragma("journal_size_limit", "67108864").disable_statement_logging().connect().await.unwrap()
}

async fn claim(on: &mut SqliteConnection, now: i64) -> Vec<Task> {
    let tasks: Vec<Task> = sqlx::query_as(CLAIM).bind(STEP).bind(now).bind(CONCURRENCY).fetch_all(&mut *on).await.unwrap();
    let rows: Vec<(i64, i64, &str)> = tasks.iter().map(|t| (t.id, t.epoch, t.owner.as_str())).collect();
    sqlx::query(CLAIMS).bind(array(&rows)).bind(now).execute(on).await.unwrap();
    tasks
}

async fn end(on: &mut SqliteConnection, tasks: &[Task], now: i64) {
    let with_child: Vec<&Task> = tasks.iter().filter(|t| t.message.contains(r#""child":true"#)).collect();
    let live = |t: &Task| i64::from(t.message.contains(r#""child":true"#)) - 1;
    let ended: Vec<(i64, i64, &str, i64)> = tasks.iter().map(|t| (t.id, t.epoch, t.owner.as_str(), live(t) + 1)).collect();
    let ended = array(&ended);
    sqlx::query(DONE).bind(&ended).bind(now).execute(&mut *on).await.unwrap();
    sqlx::query(CLOSE).bind(&ended).bind(now).execute(&mut *on).await.unwrap();
    if !with_child.is_empty() {
        children(on, &with_child, now).await;
    }
    // One job and group per task here, and so no two changes of one.
    let changes: Vec<(i64, i64, i64)> = tasks.iter().map(|t| (t.job, t.grp, live(t))).collect();
    let changes = array(&changes);
    sqlx::query(GROUPS).bind(&changes).execute(&mut *on).await.unwrap();
    sqlx::query(JOBS).bind(&changes).bind(now).execute(on).await.unwrap();
}

async fn children(on: &mut SqliteConnection, parents: &[&Task], now: i64) {
    let rows: Vec<Value> = parents.iter().map(|parent| child_of(parent)).collect();
    let made: Vec<(i64, String)> = sqlx::query_as(CHILDREN).bind(array(&rows)).bind(now).bind(STEP).fetch_all(&mut *on).await.unwrap();
    let messages: Vec<(i64, String)> = made.into_iter().map(|(id, task_id)| (id, message(&task_id))).collect();
    sqlx::query(MESSAGES).bind(array(&messages)).execute(on).await.unwrap();
}

fn child_of(parent: &Task) -> Value {
    let task_id = format!("{:064x}", parent.id);
    let output_prefix = format!("{}{STEP}/next-{:012x}/", parent.output_prefix, parent.id);
    json!({
        "job": parent.job, "grp": parent.grp, "parent": parent.id, "fair": parent.fair + 1, "hash": task_id, "task_id": task_id,
        "output_prefix": output_prefix,
    })
}

/// As long as the one that the guest's child gets.
fn message(task_id: &str) -> String {
    json!({
        "job_id": &task_id[..36], "task_id": task_id, "params": {"child": false}, "tenant": "default", "step": STEP, "schema_version": 1,
        "hops": 1,
    })
    .to_string()
}

fn array<T: Serialize>(rows: &[T]) -> String {
    serde_json::to_string(rows).unwrap()
}
