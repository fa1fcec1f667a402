//! The suite of the port on real files, and what is particular to SQLite: opening, plans, waking across processes.

use super::super::database::Arg;
use super::super::dialect::{Dialect, Statement};
use super::{Durability, SqliteTaskStore};
use crate::task_store::conformance::{self, suite};
use crate::task_store::{ClaimRequest, StoreError, Submitted, TaskStore};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("data").join("wasm-worker.db")
}

async fn fresh() -> (SqliteTaskStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (SqliteTaskStore::open(&file(&folder), Durability::Normal).await.unwrap(), folder)
}

suite!(fresh());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_agrees_with_the_store_in_memory() {
    let (store, _folder) = fresh().await;
    conformance::stores_agree(&crate::task_store::MemoryTaskStore::new(), &store).await;
}

fn request(lease: Duration) -> ClaimRequest {
    ClaimRequest { pipeline: "p".into(), job: None, steps: vec![("a".into(), 9)], limit: 9, lease, worker: "w".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_stores_claim_each_task_once() {
    let (one, folder) = fresh().await;
    let two = SqliteTaskStore::open(&file(&folder), Durability::Full).await.unwrap();
    conformance::racing_stores_claim_each_task_once(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_open_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder);
    let opened = futures::future::join_all((0..8).map(|_| SqliteTaskStore::open(&path, Durability::Full))).await;
    for store in opened {
        assert!(store.unwrap().jobs(None, None, 1).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_enqueues_wakes_within_milliseconds() {
    let (here, folder) = fresh().await;
    let elsewhere = SqliteTaskStore::open(&file(&folder), Durability::Normal).await.unwrap();
    let (mut waits, mut seen) = (Vec::new(), 0);
    for n in 0..10 {
        while !here.claim_next(request(Duration::from_secs(60))).await.unwrap().is_empty() {}
        seen = here.wait_for_work(seen, Duration::from_millis(40)).await;
        let waiting = here.clone();
        let wait = tokio::spawn(async move {
            waiting.wait_for_work(seen, Duration::from_secs(10)).await;
            Instant::now()
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        elsewhere.submit(vec![conformance::job(&format!("j{n}"))]).await.unwrap();
        let told = Instant::now();
        waits.push(wait.await.unwrap().saturating_duration_since(told));
    }
    waits.sort();
    assert!(waits[5] < Duration::from_millis(100), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_goes_away_costs_no_crash() {
    let (store, _folder) = fresh().await;
    store.submit(vec![conformance::job("j")]).await.unwrap();
    for micros in [0, 50, 200, 500, 1000, 2000, 4000] {
        let claim = store.claim_next(request(Duration::from_secs(3600)));
        if let Ok(claimed) = tokio::time::timeout(Duration::from_micros(micros), claim).await {
            for task in claimed.unwrap() {
                store.settle(task.lease, crate::task_store::Settlement::GiveBack, String::new()).await.unwrap();
            }
        }
    }
    let started = Instant::now();
    loop {
        if let Some(task) = store.claim_next(request(Duration::from_secs(60))).await.unwrap().pop() {
            assert_eq!(task.counters.crashes, 0);
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "a lease of an hour was left behind");
    }
}

/// A laptop that slept through the leases: their workers go on, and their heartbeats may come second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_a_standstill_ran_down_are_not_taken_back_at_once() {
    let (store, folder) = fresh().await;
    store.submit(vec![conformance::job("j")]).await.unwrap();
    assert_eq!(store.claim_next(request(Duration::from_millis(1))).await.unwrap().len(), 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let path = file(&folder);
    let connection = super::open::writer(&path, Durability::Full).await.unwrap();
    let mut link = super::Link { connection, watch: super::Watch::new(&path), standstill: Default::default() };
    let mut lapsed = Vec::new();
    for hours in [0, 1, 0] {
        let wall = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
        link.standstill.is_over_lately(wall - hours * 3_600_000, tokio::time::Instant::now());
        lapsed.push(link.begin().await.unwrap().leases_lapsed);
        link.connection.execute("ROLLBACK", []).unwrap();
    }
    assert_eq!(lapsed, [true, false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_nobody_ended_is_undone_by_the_next() {
    let (store, folder) = fresh().await;
    let path = file(&folder);
    let connection = super::open::writer(&path, Durability::Full).await.unwrap();
    let mut link = super::Link { connection, watch: super::Watch::new(&path), standstill: Default::default() };
    drop(link.begin().await.unwrap());
    link.connection.execute("INSERT INTO logs VALUES (1, 1, 'x')", []).unwrap();
    drop(link.begin().await.unwrap());
    assert_eq!(link.connection.row::<(i64,)>("SELECT count(*) FROM logs", []).unwrap(), Some((0,)));
    link.connection.execute("ROLLBACK", []).unwrap();
    store.submit(vec![conformance::job("j")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_database_rolled_back_by_itself_is_not_the_last() {
    let (store, folder) = fresh().await;
    // As after an error of the disk: SQLite itself has ended the transaction.
    let mut raw = raw(&file(&folder)).await;
    raw.execute(
        "CREATE TRIGGER bad BEFORE INSERT ON tasks WHEN new.task_id = 'bad-root' BEGIN SELECT raise(ROLLBACK, 'the disk is ill'); END",
    )
    .await
    .unwrap();
    for n in 0..3 {
        let error = store.submit(vec![conformance::job("bad")]).await.unwrap_err();
        assert!(error.to_string().contains("the disk is ill"), "{error}");
        assert_eq!(store.submit(vec![conformance::job(&format!("j{n}"))]).await.unwrap(), [Submitted::Created]);
    }
    assert_eq!(store.claim_next(request(Duration::from_secs(60))).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_member_harms_nobody() {
    let (store, folder) = fresh().await;
    // A trigger stands in for whatever may be wrong with one row.
    let mut raw = raw(&file(&folder)).await;
    raw.execute("CREATE TRIGGER bad BEFORE INSERT ON tasks WHEN new.task_id = 'bad-root' BEGIN SELECT raise(ABORT, 'bad row'); END")
        .await
        .unwrap();
    let ids = ["j1", "j2", "bad", "j3", "j4"];
    let answers = futures::future::join_all(ids.map(|id| store.submit(vec![conformance::job(id)]))).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true]);
    assert_eq!(store.claim_next(request(Duration::from_secs(60))).await.unwrap().len(), 4);
}

async fn raw(path: &std::path::Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wasm-worker.db");
    std::fs::write(&path, "this is no database, and long enough to be seen as none".repeat(40)).unwrap();
    let error = SqliteTaskStore::open(&path, Durability::Full).await.unwrap_err();
    assert!(matches!(&error, StoreError::Invalid(text) if text.contains("wasm-worker.db")), "{error}");
    let error = SqliteTaskStore::open(&path.join("below"), Durability::Full).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied(_)), "{error}");
    let path = folder.path().join("newer.db");
    drop(SqliteTaskStore::open(&path, Durability::Full).await.unwrap());
    raw(&path).await.execute("INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, true, x'00', 0)").await.unwrap();
    let error = SqliteTaskStore::open(&path, Durability::Full).await.unwrap_err();
    assert!(matches!(&error, StoreError::Invalid(text) if text.contains("newer.db") && text.contains("newer wasm-worker")), "{error}");
}

/// At 100,000 rows a claim must read the head of an index: no statement of the hot path may scan or sort a table.
#[tokio::test]
async fn no_statement_of_the_hot_path_scans() {
    let (_store, folder) = fresh().await;
    let connection = super::open::writer(&file(&folder), Durability::Full).await.unwrap();
    let statements = [
        &super::super::transaction::CLOCK,
        &super::super::claim::ANYTHING,
        &super::super::claim::PROMOTE,
        &super::super::claim::HEAD,
        &super::super::claim::READ,
        &super::super::claim::LEASE,
        &super::super::commit::HELD,
        &super::super::lapse::FIND,
        &super::super::lapse::LAPSE,
        &super::super::commit::COMMIT,
        &super::super::run_end::SETTLE,
        &super::super::beat::RENEW,
        &super::super::sweep::ANYTHING,
        &super::super::sweep::UNFINISHED,
        &super::super::sweep::LEFTOVERS,
        &super::super::sweep::CLAIMS,
        &super::super::views::INPUTS,
        &super::super::submit::OCCUPIED,
        &super::super::submit::CHOSEN,
    ];
    let both = |statement: &'static Statement| [Dialect::Sqlite, Dialect::SqliteReader].map(|dialect| statement.text(dialect));
    for sql in statements.into_iter().flat_map(both) {
        let asks = (1..=9).filter(|n| sql.contains(&format!("${n}"))).max().unwrap_or_default();
        let plan: Vec<(i64, i64, i64, String)> =
            connection.rows(&format!("EXPLAIN QUERY PLAN {sql}"), (0..asks).map(|_| Arg::Int(0))).unwrap();
        for (.., step) in plan {
            let bad = (step.starts_with("SCAN") && !step.contains("VIRTUAL TABLE") && !step.starts_with("SCAN c"))
                && !step.contains("CONSTANT ROW");
            assert!(!bad && !step.contains("USE TEMP B-TREE FOR ORDER BY"), "{step}\n{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_of_everything_comes_to_rest() {
    let (one, folder) = fresh().await;
    let two = SqliteTaskStore::open(&file(&folder), Durability::Normal).await.unwrap();
    conformance::race_of_everything(&[&one, &two]).await;
}
