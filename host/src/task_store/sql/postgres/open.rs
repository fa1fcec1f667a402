//! Reaching the server: the DSN, settings of a session, and migrations that several processes may start at once.

use crate::task_store::StoreError;
use crate::task_store::sql::fault::Fault;
use crate::task_store::sql::link::within;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgPool};
use std::time::Duration;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Longest that a new connection may take: what is not there is to be reported within five seconds.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);

/// Longest that migrations may take, and the wait for another process that is at them.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(120);

/// Connections for reading: enough for a few commands of a person beside the run loop's own questions.
const READERS: u32 = 4;

/// Longest that a reader waits for a connection.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// What every session is told. A transaction whose client has vanished lets go of its rows; a lock is waited for no longer than the
/// client waits for its answer. Every statement of the store asks an index for a few rows, and what is known of a table that fills and
/// empties within seconds is always old: planned while it is empty, a walk through all of it looks as cheap as anything, and the plan
/// is kept until somebody analyses the table. So whatever reads a whole table or index, alone or to join it, is the planner's last
/// choice; and estimates must not start the compiler.
pub(super) const SESSION: &str = "
SET idle_in_transaction_session_timeout = '20s';
SET lock_timeout = '8s';
SET statement_timeout = '25s';
SET default_transaction_isolation = 'read committed';
SET enable_seqscan = off;
SET enable_mergejoin = off;
SET enable_hashjoin = off;
SET jit = off;
SET client_min_messages = warning";

/// Reads a DSN.
pub(super) fn options(dsn: &str) -> Result<PgConnectOptions, StoreError> {
    // The parser's words may quote the DSN, which may hold a password.
    let options: PgConnectOptions = dsn.parse().map_err(|_| {
        StoreError::Invalid(
            "the DSN is not of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE (reserved characters as %XX)".to_owned(),
        )
    })?;
    Ok(options.application_name("wasm-worker").disable_statement_logging())
}

/// A connection, set up.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Fault> {
    let connecting = async {
        let mut connection = options.connect().await?;
        connection.execute(SESSION).await?;
        Ok(connection)
    };
    match within(Some(CONNECT_PATIENCE), connecting).await {
        Ok(connection) => Ok(connection),
        Err(Fault::Store(error)) => Err(Fault::Store(at(options, error))),
        Err(fault) => Err(Fault::Gone(at(options, fault.into()))),
    }
}

/// The connections that only read.
pub(super) fn readers(options: &PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(READER_PATIENCE)
        .after_connect(|connection, _| Box::pin(async move { connection.execute(SESSION).await.map(drop) }))
        .connect_lazy_with(options.clone())
}

/// Brings the schema up to date; a second process waits for the first and finds everything done.
pub(super) async fn migrate(options: &PgConnectOptions) -> Result<(), StoreError> {
    let mut connection = connect(options).await?;
    let migrating = async {
        connection.execute("SET lock_timeout = 0; SET statement_timeout = 0").await?;
        MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(fault)
    };
    within(Some(MIGRATION_PATIENCE), migrating).await.map_err(|fault| at(options, fault.into()))?;
    connection.close().await.ok();
    Ok(())
}

fn fault(error: MigrateError) -> Fault {
    match error {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => e.into(),
        MigrateError::VersionMissing(version) => Fault::Store(StoreError::Invalid(format!(
            "written by a newer wasm-worker (schema {version}; this one knows up to {}): use that version, or another database",
            MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default()
        ))),
        other => Fault::Store(StoreError::Invalid(format!("schema: {other}"))),
    }
}

/// The error, with where it happened (never the password) and what to look at.
fn at(options: &PgConnectOptions, error: StoreError) -> StoreError {
    let place = place(options);
    match error {
        StoreError::Denied(text) => StoreError::Denied(format!("{place}: {text}; check user, password and grants")),
        StoreError::Invalid(text) => StoreError::Invalid(format!("{place}: {text}")),
        StoreError::Unavailable(text) => StoreError::Unavailable(format!("{place}: {text}; is the server up and reachable from here?")),
        other => other,
    }
}

/// `postgres://user@host:port/database`, as it may be shown.
fn place(options: &PgConnectOptions) -> String {
    let (user, port) = (options.get_username(), options.get_port());
    let database = options.get_database().unwrap_or(user);
    match options.get_socket() {
        Some(socket) => format!("postgres://{user}@{}:{port}/{database}", socket.display()),
        None => format!("postgres://{user}@{}:{port}/{database}", options.get_host()),
    }
}
