//! Opening the file: pragmas, the folder, and migrations that several processes may start at once.

use super::connection::Connection;
use crate::task_store::StoreError;
use crate::task_store::sql::fault::Fault;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlitePool};
use std::path::Path;
use std::time::{Duration, Instant};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// What a power cut may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Nothing that was answered: `synchronous=FULL`, one fsync per transaction.
    #[default]
    Full,
    /// The last moments before it, never consistency; a crash of the process alone costs nothing: `synchronous=NORMAL`.
    Normal,
}

/// How long opening waits for other processes that are opening or migrating the same file.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// Connections for reading: enough for a few commands of a person beside the run loop's own questions.
const READERS: u32 = 4;

/// How long a reader waits for a lock; in WAL mode it meets one only while another process recovers the log.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// SQLite's own wait for the write lock; the writer retries above it, with jitter, because SQLite sleeps up to 100 ms.
const WRITER_SPIN: Duration = Duration::from_millis(2);

/// Page cache of the writer, KiB (negative: SQLite's notation for a size instead of a number of pages).
const WRITER_CACHE: &str = "-65536";

/// Largest WAL file kept after a checkpoint, bytes.
const WAL_LIMIT: &str = "67108864";

/// Bytes of a page of a new database. Each page that a transaction changes goes to the log by two calls of the system, whatever its size;
/// most of them are those at the ends of tables, which grow, and larger ones are fewer.
const PAGE: u32 = 8192;

/// Pages in the log after which the writer carries it into the database: 32 MiB. A page that many transactions change is carried once;
/// at SQLite's own 1000 a third of a busy writer's time went into it.
const CHECKPOINT: &str = "4096";

fn options(path: &Path, durability: Durability) -> SqliteConnectOptions {
    let synchronous = match durability {
        Durability::Full => SqliteSynchronous::Full,
        Durability::Normal => SqliteSynchronous::Normal,
    };
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .page_size(PAGE)
        .foreign_keys(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .pragma("temp_store", "MEMORY")
        .pragma("journal_size_limit", WAL_LIMIT)
        .disable_statement_logging()
}

/// The one connection that writes, with the schema up to date.
pub(super) async fn writer(path: &Path, durability: Durability) -> Result<Connection, StoreError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| StoreError::Denied(format!("folder {} cannot be made: {e}", folder.display())))?;
    }
    let started = Instant::now();
    loop {
        match connect_and_migrate(path, durability).await {
            Ok(connection) => return Ok(connection),
            Err(Fault::Busy) if started.elapsed() < OPEN_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..5))).await;
            }
            Err(Fault::Busy) => {
                let text = format!("{}: locked by another process for {OPEN_PATIENCE:?}", path.display());
                return Err(StoreError::Unavailable(text));
            }
            Err(fault) => return Err(at(path, fault.into())),
        }
    }
}

/// The connections that only read.
pub(super) async fn readers(path: &Path, durability: Durability) -> Result<SqlitePool, StoreError> {
    let options = options(path, durability).create_if_missing(false).busy_timeout(READER_PATIENCE).pragma("query_only", "ON");
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(|e| at(path, Fault::from(e).into()))
}

async fn connect_and_migrate(path: &Path, durability: Durability) -> Result<Connection, Fault> {
    let mut migrating = options(path, durability).busy_timeout(WRITER_SPIN).connect().await?;
    // sqlx takes no lock for SQLite: under the write lock the second process finds everything applied.
    let mut transaction = migrating.begin_with("BEGIN IMMEDIATE").await?;
    MIGRATIONS.run_direct(None, &mut *transaction, false).await.map_err(|e| migration_fault(path, e))?;
    transaction.commit().await?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    let pragmas = [
        ("foreign_keys", "OFF"),
        ("synchronous", synchronous),
        ("temp_store", "MEMORY"),
        ("journal_size_limit", WAL_LIMIT),
        ("cache_size", WRITER_CACHE),
        ("wal_autocheckpoint", CHECKPOINT),
    ];
    let connection = Connection::open(path, WRITER_SPIN, &pragmas)?;
    // Now, as the last one to close a file carries its log into it.
    migrating.close().await.ok();
    Ok(connection)
}

fn migration_fault(path: &Path, error: MigrateError) -> Fault {
    let path = path.display();
    match error {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => e.into(),
        MigrateError::VersionMissing(version) => Fault::Store(StoreError::Invalid(format!(
            "{path} was written by a newer wasm-worker (schema {version}; this one knows up to {}): use that version, or another data directory",
            MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default()
        ))),
        other => Fault::Store(StoreError::Invalid(format!("schema of {path}: {other}"))),
    }
}

/// The error, with the path in it and what to look at.
fn at(path: &Path, error: StoreError) -> StoreError {
    let path = path.display();
    match error {
        StoreError::Denied(text) => StoreError::Denied(format!(
            "{path}: {text}; the file and its folder must be writable for this user (SQLite keeps its log beside the file)"
        )),
        StoreError::Invalid(text) if !text.contains(&path.to_string()) => StoreError::Invalid(format!("{path}: {text}")),
        StoreError::Unavailable(text) => StoreError::Unavailable(format!("{path}: {text}")),
        other => other,
    }
}
