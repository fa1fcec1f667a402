//! One write transaction: its clock, the numbers of new rows, and arrays as `json_each` parameters.

use super::fault::Fault;
use serde::Serialize;
use sqlx::{Connection as _, Sqlite, SqliteConnection, Transaction};

/// A transaction that holds the write lock.
pub(super) struct Tx<'c> {
    inner: Transaction<'c, Sqlite>,
    /// SQLite's clock, milliseconds since the Unix epoch, read once the write lock was held: every time of a transaction is this one.
    pub now: i64,
    /// Changes when another connection has written; see `PRAGMA data_version`.
    pub data_version: i64,
    /// Something was put where a claim may find it.
    pub enqueued: bool,
}

/// The highest numbers in use.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Numbers {
    pub jobs: i64,
    pub groups: i64,
    pub tasks: i64,
}

impl<'c> Tx<'c> {
    /// Takes the write lock; [`Fault::Busy`] where another process has it.
    pub async fn begin(connection: &'c mut SqliteConnection) -> Result<Self, Fault> {
        let mut inner = connection.begin_with("BEGIN IMMEDIATE").await?;
        let (now, data_version) =
            sqlx::query_as("SELECT CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER), data_version FROM pragma_data_version")
                .fetch_one(&mut *inner)
                .await?;
        Ok(Self { inner, now, data_version, enqueued: false })
    }

    /// The connection, for a statement.
    pub fn on(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }

    pub async fn commit(self) -> Result<(), Fault> {
        Ok(self.inner.commit().await?)
    }

    pub async fn rollback(self) {
        // Where this fails there is nothing left to undo: SQLite has rolled back by itself.
        self.inner.rollback().await.ok();
    }

    /// The numbers after which new rows begin: this transaction is the only writer.
    pub async fn numbers(&mut self) -> Result<Numbers, Fault> {
        let sql = "SELECT (SELECT coalesce(max(id), 0) FROM jobs) AS jobs, (SELECT coalesce(max(id), 0) FROM groups) AS groups, \
                   (SELECT coalesce(max(id), 0) FROM tasks) AS tasks";
        Ok(sqlx::query_as(sql).fetch_one(self.on()).await?)
    }
}

/// An array for `json_each(?)`.
pub(super) fn array<T: Serialize>(rows: &[T]) -> Result<String, Fault> {
    Ok(serde_json::to_string(rows)?)
}
