//! Connections to either database: the one a writer owns, and those that only read.

use super::database::Db;
use super::fault::Fault;
use super::transaction::Tx;
use super::{postgres, sqlite};
use crate::task_store::StoreError;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool};
use std::time::Duration;

/// What `asked` answers, within the time that a network may take.
pub(super) async fn within<T>(patience: Option<Duration>, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let Some(patience) = patience else { return asked.await };
    let silent = |_| Err(Fault::Gone(StoreError::Unavailable(format!("no answer within {patience:?}"))));
    tokio::time::timeout(patience, asked).await.unwrap_or_else(silent)
}

/// The connection that a writer owns.
#[allow(clippy::large_enum_variant, reason = "a process has one or two")]
pub(super) enum Link {
    Sqlite(sqlite::Link),
    Postgres(postgres::Link),
}

impl Link {
    /// A transaction. [`Fault::Busy`] where another process has SQLite's write lock.
    pub async fn begin(&mut self) -> Result<Tx<'_>, Fault> {
        match self {
            Self::Sqlite(link) => link.begin().await,
            Self::Postgres(link) => link.begin().await,
        }
    }

    /// For a statement that only reads.
    pub async fn db(&mut self) -> Result<Db<'_>, Fault> {
        Ok(match self {
            Self::Sqlite(link) => Db::Sqlite(&mut link.connection),
            Self::Postgres(link) => Db::Postgres(link.connected().await?),
        })
    }

    /// The connection is of no use any more: the next request makes a new one. To a file there is no way that could be lost.
    pub fn drop_connection(&mut self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(link) => link.connection = None,
        }
    }

    /// How long one transaction may take before the connection is given up; none where no network is between.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(_) => Some(postgres::ANSWER_PATIENCE),
        }
    }

    /// SQLite: one writer at a time, and no word of what others write unless it is looked for.
    pub fn sqlite(&mut self) -> Option<&mut sqlite::Link> {
        match self {
            Self::Sqlite(link) => Some(link),
            Self::Postgres(_) => None,
        }
    }

    pub async fn close(self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(link) => link.close().await,
        }
    }
}

/// The connections that only read.
#[derive(Debug, Clone)]
pub(super) enum Readers {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Readers {
    pub async fn acquire(&self) -> Result<Reader, Fault> {
        Ok(match self {
            Self::Sqlite(pool) => Reader::Sqlite(pool.acquire().await?),
            Self::Postgres(pool) => Reader::Postgres(pool.acquire().await?),
        })
    }

    /// How long an answer may take; none where no network is between.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(_) => Some(postgres::ANSWER_PATIENCE),
        }
    }
}

/// One of them.
pub(super) enum Reader {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Reader {
    pub fn db(&mut self) -> Db<'_> {
        match self {
            Self::Sqlite(connection) => Db::SqliteReader(connection),
            Self::Postgres(connection) => Db::Postgres(connection),
        }
    }
}
