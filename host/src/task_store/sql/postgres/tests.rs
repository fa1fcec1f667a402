//! The suite of the port on a real server, and what is particular to Postgres.

use super::PostgresTaskStore;
use crate::task::children::Children;
use crate::task::hooks::TaskError;
use crate::task::lease::Lease;
use crate::task::outputs::{Figures, Manifest};
use crate::task::state::JobState;
use crate::task_store::conformance::{self, suite};
use crate::task_store::sql::dialect::{Dialect, Statement};
use crate::task_store::{
    Applied, Beat, ClaimRequest, Commit, DeadLetterFilter, Heartbeat, NewJob, Settlement, StoreError, Submitted, TaskStore,
};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::servers::postgres::{self, Server};

/// A lease that no test lets lapse.
const LONG: Duration = Duration::from_secs(60);

fn server() -> Option<&'static Server> {
    tokio::task::block_in_place(Server::shared)
}

fn database(server: &Server) -> String {
    tokio::task::block_in_place(|| server.database())
}

/// A store in a database of its own; none where there is no server, and then the test has said so.
async fn fresh() -> Option<(PostgresTaskStore, String)> {
    let dsn = database(server()?);
    Some((PostgresTaskStore::open(&dsn).await.unwrap(), dsn))
}

fn request(lease: Duration) -> ClaimRequest {
    ClaimRequest { pipeline: "p".into(), job: None, steps: vec![("a".into(), 9)], limit: 9, lease, worker: "w".into() }
}

fn commit_of(lease: &Lease) -> Commit {
    let (manifest, children, figures) = (Manifest::default(), Children::default(), Figures::default());
    Commit { lease: lease.clone(), manifest, children, outcome: None, figures, log: String::new() }
}

suite!(fresh());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_agrees_with_the_store_in_memory() {
    let Some((store, _dsn)) = fresh().await else { return };
    conformance::stores_agree(&crate::task_store::MemoryTaskStore::new(), &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_stores_claim_each_task_once() {
    let Some((one, dsn)) = fresh().await else { return };
    let two = PostgresTaskStore::open(&dsn).await.unwrap();
    conformance::racing_stores_claim_each_task_once(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_open_at_once() {
    let Some(server) = server() else { return };
    let dsn = database(server);
    let opened = futures::future::join_all((0..8).map(|_| PostgresTaskStore::open(&dsn))).await;
    for store in opened {
        assert!(store.unwrap().jobs(None, None, 1).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_enqueues_wakes_within_milliseconds() {
    let Some((here, dsn)) = fresh().await else { return };
    let elsewhere = PostgresTaskStore::open(&dsn).await.unwrap();
    let (mut waits, mut seen) = (Vec::new(), 0);
    for n in 0..10 {
        while !here.claim_next(request(LONG)).await.unwrap().is_empty() {}
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
async fn one_bad_member_harms_nobody() {
    let Some((store, dsn)) = fresh().await else { return };
    // A trigger stands in for whatever may be wrong with one row.
    let mut raw = PgConnection::connect(&dsn).await.unwrap();
    raw.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''bad row''; END';
         CREATE TRIGGER bad BEFORE INSERT ON tasks FOR EACH ROW WHEN (new.task_id = 'bad-root') EXECUTE FUNCTION refuse()",
    )
    .await
    .unwrap();
    let ids = ["j1", "j2", "bad", "j3", "j4"];
    let answers = futures::future::join_all(ids.map(|id| store.submit(vec![conformance::job(id)]))).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true]);
    assert_eq!(store.claim_next(request(LONG)).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_says_why_and_shows_no_password() {
    let Some((_store, dsn)) = fresh().await else { return };
    let server = server().unwrap();
    let (role, password) = postgres::LOCKED;
    let locked = |password: &str| dsn.replace(postgres::USER, &format!("{role}:{}", password.replace(' ', "%20")));
    // A listener that never says a word: a firewall's or a frozen server's kind of silence.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("postgres://u:hushhush@{}/d", silent.local_addr().unwrap());
    let cases = [
        ("postgres//u:hushhush@h/d".to_owned(), "Invalid", "postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
        (locked("hushhush"), "Denied", "password authentication failed"),
        // It may come in, and not make tables.
        (locked(password), "Denied", "permission denied"),
        (server.dsn("nowhere"), "Invalid", "\"nowhere\" does not exist"),
        ("postgres://u:hushhush@127.0.0.1:1/d".to_owned(), "Unavailable", "127.0.0.1:1/d"),
        (silent, "Unavailable", "no answer within"),
        ("postgres://u:hushhush@no-such-host.invalid/d".to_owned(), "Unavailable", "no-such-host.invalid"),
    ];
    for (dsn, class, part) in cases {
        let began = Instant::now();
        let error = PostgresTaskStore::open(&dsn).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(class) && error.to_string().contains(part), "{dsn}: {error:?}");
        assert!(!error.to_string().contains("hushhush"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{dsn}: {:?}", began.elapsed());
    }
    let mut raw = PgConnection::connect(&dsn).await.unwrap();
    raw.execute("INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), true, '\\x00', 0)").await.unwrap();
    let error = PostgresTaskStore::open(&dsn).await.unwrap_err();
    assert!(matches!(&error, StoreError::Invalid(text) if text.contains("newer wasm-worker")), "{error}");
}

/// With the server gone every call says so; with the server back every call works, and nothing that was answered is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_and_comes_back_is_found_again() {
    let Some(server) = tokio::task::block_in_place(Server::private) else { return };
    let dsn = database(&server);
    let store = PostgresTaskStore::open(&dsn).await.unwrap();
    store.submit(vec![conformance::job("j"), conformance::job("k")]).await.unwrap();
    let claimed = store.claim_next(request(LONG)).await.unwrap();
    assert_eq!(claimed.len(), 2);
    tokio::task::block_in_place(|| server.kill());
    let beat = |lease: &Lease| vec![Heartbeat { lease: lease.clone(), progress: None }];
    let unavailable = |error: StoreError| assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    unavailable(store.submit(vec![conformance::job("l")]).await.unwrap_err());
    unavailable(store.claim_next(request(LONG)).await.unwrap_err());
    unavailable(store.heartbeat(beat(&claimed[0].lease), LONG).await.unwrap_err());
    unavailable(store.commit(commit_of(&claimed[0].lease)).await.unwrap_err());
    unavailable(store.depth("p").await.unwrap_err());
    tokio::task::block_in_place(|| server.start());
    assert_eq!(store.heartbeat(beat(&claimed[0].lease), LONG).await.unwrap(), [Beat::Held { cancel: false }]);
    for claimed in &claimed {
        assert_eq!(store.commit(commit_of(&claimed.lease)).await.unwrap(), Applied::Yes);
    }
    // The listener is back as well.
    let elsewhere = PostgresTaskStore::open(&dsn).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let seen = store.wait_for_work(0, Duration::ZERO).await;
    let (waited, ()) = tokio::join!(
        async {
            let began = Instant::now();
            store.wait_for_work(seen, Duration::from_secs(20)).await;
            began.elapsed()
        },
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            elsewhere.submit(vec![conformance::job("m")]).await.unwrap();
        }
    );
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(store.jobs(None, Some(JobState::Done), 9).await.unwrap().len(), 2);
}

/// What a guest writes may hold anything that a string holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nul_in_a_log_or_an_error_is_stored_as_what_cannot_be_shown() {
    let Some((store, _dsn)) = fresh().await else { return };
    store.submit(vec![conformance::job("j")]).await.unwrap();
    let task = store.claim_next(request(LONG)).await.unwrap().remove(0);
    let key = task.lease.key.clone();
    let how = Settlement::Dead(TaskError::new("bad", "a\0b"));
    assert_eq!(store.settle(task.lease, how, "one\0two".to_owned()).await.unwrap(), Applied::Yes);
    assert_eq!(store.logs(key).await.unwrap(), [(1, "one\u{fffd}two".to_owned())]);
    let letter = store.dead_letters(DeadLetterFilter::default()).await.unwrap().remove(0);
    assert!(letter.error.message.starts_with('a') && letter.error.message.ends_with('b'), "{:?}", letter.error);
}

/// At 100,000 rows a claim must read the head of an index: no statement of the hot path may scan or sort a table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_the_hot_path_scans() {
    let Some((_store, dsn)) = fresh().await else { return };
    let mut raw = PgConnection::connect(&dsn).await.unwrap();
    raw.execute(super::open::SESSION).await.unwrap();
    let statements: [(&Statement, &str); 20] = [
        (&super::super::transaction::CLOCK, ""),
        (&super::super::claim::ANYTHING, "'p', '[\"a\"]'"),
        (&super::super::claim::PROMOTE, "1, 1"),
        (&super::super::claim::HEAD, "'p', 'a', 1"),
        (&super::super::claim::READ, "'[1]', 1"),
        (&super::super::commit::HELD, "'[]'"),
        (&super::super::claim::LEASE, "'[[1,\"o\",1]]', 1"),
        (&super::super::lapse::FIND, "1, 1"),
        (&super::super::lapse::LAPSE, "1, 3, 'e', '[1]'"),
        (&super::super::commit::COMMIT, "'[]', 1"),
        (&super::super::run_end::SETTLE, "'[]', 1"),
        (&super::super::run_end::CLOSE_CLAIMS, "'[]', 1"),
        (&super::super::beat::RENEW, "'[]', 1"),
        (&super::super::sweep::ANYTHING, "1, 1"),
        (&super::super::sweep::UNFINISHED, "1, 1, 1"),
        (&super::super::sweep::LEFTOVERS, "1, 1, 1"),
        (&super::super::sweep::CLAIMS, "'[]', 1"),
        (&super::super::views::INPUTS, "'t', 'i', 1, 0"),
        (&super::super::submit::OCCUPIED, "'[]', '[]', '[]'"),
        (&super::super::submit::CHOSEN, "'[]', '[]'"),
    ];
    for (number, (statement, values)) in statements.into_iter().enumerate() {
        let types = values.split(", ").map(|v| if v.starts_with('\'') { "text" } else { "bigint" }).collect::<Vec<_>>().join(", ");
        let sql = statement.text(Dialect::Postgres);
        let (types, values) = if values.is_empty() { Default::default() } else { (format!("({types})"), format!("({values})")) };
        raw.execute(sqlx::AssertSqlSafe(format!("PREPARE s{number} {types} AS {sql}"))).await.unwrap();
        let plan = raw.fetch_all(sqlx::AssertSqlSafe(format!("EXPLAIN EXECUTE s{number} {values}"))).await.unwrap();
        for step in plan {
            let step: String = step.get(0);
            // Indexes that are walked in order need no sort; json functions are no tables.
            assert!(!step.contains("Seq Scan on"), "{step}\n{sql}");
            // Tables are empty here, as they are when a new installation makes its plans: those would go through all of them.
            assert!(!(step.contains("Join") && (step.contains("Merge") || step.contains("Hash"))), "{step}\n{sql}");
            // A range asked of all with all, however many there are.
            assert!(!(step.contains("Join Filter") && step.contains(">=")), "{step}\n{sql}");
            assert!(!step.trim_start().starts_with("Sort  ") || sql.contains("UNION"), "{step}\n{sql}");
        }
    }
}

/// Processes that know nothing of each other run fan-outs, fail, cancel, redrive and let leases lapse, all at once. Whatever came of
/// it, in the end no task is live, every count agrees with the rows, every `then` ran once, and every job has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_agree_after_a_race_of_everything() {
    let Some((first, dsn)) = fresh().await else { return };
    let mut stores = vec![first];
    for _ in 0..3 {
        stores.push(PostgresTaskStore::open(&dsn).await.unwrap());
    }
    conformance::race_of_everything(&stores.iter().map(|s| s as &dyn TaskStore).collect::<Vec<_>>()).await;
    let mut raw = PgConnection::connect(&dsn).await.unwrap();
    let none = [
        ("live tasks", "SELECT count(*) FROM tasks WHERE state NOT IN ('DONE', 'DEAD', 'CANCELLED')"),
        ("jobs whose count is off", "SELECT count(*) FROM jobs WHERE live <> 0 OR state = 'PROCESSING' OR ended_at IS NULL"),
        ("groups whose count is off", "SELECT count(*) FROM groups WHERE live <> 0"),
        (
            "groups whose leaves are off",
            "SELECT count(*) FROM groups g WHERE leaves <> (SELECT count(*) FROM tasks t WHERE t.grp = g.id AND t.is_input = 1)",
        ),
        ("claims still open", "SELECT count(*) FROM claims WHERE ended IS NULL"),
        (
            "commits beyond one",
            "SELECT count(*) FROM (SELECT task FROM claims WHERE ended = 'committed' GROUP BY task HAVING count(*) > 1) twice",
        ),
        ("epochs without a claim", "SELECT count(*) FROM tasks t WHERE epoch <> (SELECT count(*) FROM claims c WHERE c.task = t.id)"),
        (
            "letters that belong to nothing dead",
            "SELECT count(*) FROM dead_letters l JOIN tasks t ON t.id = l.task WHERE t.state <> 'DEAD'",
        ),
        (
            "jobs that do not say how they ended",
            "SELECT count(*) FROM jobs j WHERE (state = 'FAILED') <> EXISTS (SELECT 1 FROM tasks t WHERE t.job = j.id AND t.state = 'DEAD')",
        ),
    ];
    for (what, sql) in none {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut raw).await.unwrap();
        assert_eq!(count, 0, "{what}");
    }
    // Sessions report their figures as they end, at the latest.
    drop(stores);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(&mut raw).await.unwrap();
    assert_eq!(deadlocks, 0, "locks are taken in one order");
}

/// What is submitted in one place waits for nobody elsewhere, only for who is at the same place, above it or below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_wait_for_those_at_the_same_place_only() {
    let Some((store, dsn)) = fresh().await else { return };
    let at = |id: &str, prefix: &str| NewJob { prefix: prefix.into(), ..conformance::job(id) };
    let mut other = PgConnection::connect(&dsn).await.unwrap();
    let mut held = other.begin().await.unwrap();
    for (number, alone) in super::super::lock::submissions(&BTreeSet::from(["file:///out/x/"])) {
        let shared = if alone == 1 { "" } else { "_shared" };
        held.execute(sqlx::AssertSqlSafe(format!("SELECT pg_advisory_xact_lock{shared}({number})"))).await.unwrap();
    }
    let beside = store.submit(vec![at("beside", "file:///out/xx/"), at("elsewhere", "s3://out/x/")]);
    let beside = tokio::time::timeout(Duration::from_secs(5), beside).await.expect("it waits for nobody");
    assert_eq!(beside.unwrap(), [Submitted::Created, Submitted::Created]);
    for (id, prefix) in [("same", "file:///out/x/"), ("below", "file:///out/x/y/z/"), ("above", "file:///out/")] {
        // Each on a store of its own: the one that waits holds up what comes after it.
        let waiting = PostgresTaskStore::open(&dsn).await.unwrap();
        let submitted = waiting.submit(vec![at(id, prefix)]);
        assert!(tokio::time::timeout(Duration::from_millis(150), submitted).await.is_err(), "{id} did not wait");
    }
    held.commit().await.unwrap();
}

/// Of all that overlap, submitted at once from everywhere, one is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_prefixes_that_overlap_one_wins_whoever_submits() {
    let Some((first, dsn)) = fresh().await else { return };
    let (second, third) = (PostgresTaskStore::open(&dsn).await.unwrap(), PostgresTaskStore::open(&dsn).await.unwrap());
    let at = |id: String, prefix: String| NewJob { prefix, ..conformance::job(&id) };
    for round in 0..60 {
        let top = format!("file:///out/{round}/");
        let of = |store: u32, below: &str| at(format!("{round}-{store}"), format!("{top}{below}"));
        // So many others that one of them takes all prefixes for itself.
        let crowd = if round % 3 == 0 { 100 } else { 1 };
        let crowd = (0..crowd).map(|n| at(format!("crowd-{round}-{n}"), format!("file:///crowd/{round}/{n}/")));
        let crowded: Vec<NewJob> = std::iter::once(of(2, "a/b/")).chain(crowd).collect();
        let (one, two, three) = tokio::join!(first.submit(vec![of(1, "a/")]), second.submit(crowded), third.submit(vec![of(3, "")]));
        let answers = [one.unwrap()[0], two.unwrap()[0], three.unwrap()[0]];
        assert_eq!(answers.iter().filter(|answer| **answer == Submitted::Created).count(), 1, "{answers:?}");
    }
}
