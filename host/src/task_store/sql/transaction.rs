//! One write transaction: its clock, its statements, and the numbers of new rows.

use super::database::{Arg, Asked, Db, Row, args};
use super::dialect::{Dialect, Statement, sql};
use super::fault::Fault;
use super::postgres;
use super::sqlite::Connection;
use crate::task_store::StoreError;
use serde::de::DeserializeOwned;
use sqlx::{Postgres, Transaction};
use std::sync::Arc;

/// A transaction. With SQLite it holds the one write lock; with Postgres it holds the rows it has locked (`lock.rs`).
pub(super) struct Tx<'c> {
    inner: Inner<'c>,
    /// The store's clock, milliseconds since the Unix epoch: every time of a transaction is this one.
    pub now: i64,
    /// See [`Clock::highest`]; those drawn since count.
    highest: i64,
    /// Another process has written since the last transaction, as far as the database tells.
    pub elsewhere: bool,
    /// See [`Clock::leases`].
    pub leases_lapsed: bool,
    /// See [`Clock::waits`].
    pub waits_ended: bool,
    /// Something was put where a claim may find it.
    pub enqueued: bool,
}

/// The clock of a transaction, and what is to be done because of it: asked together, as most transactions find nothing.
pub(super) static CLOCK: Statement = Statement::pair(
    "
SELECT {now} AS now, (SELECT data_version FROM pragma_data_version) AS version,
       max((SELECT coalesce(max(id), 0) FROM jobs), (SELECT coalesce(max(id), 0) FROM groups), (SELECT coalesce(max(id), 0) FROM tasks)) AS highest,
       EXISTS (SELECT 1 FROM tasks {index tasks_running} WHERE state = 'PROCESSING' AND lease_until < {now}) AS leases,
       EXISTS (SELECT 1 FROM tasks {index tasks_later} WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND not_before <= {now}) AS waits",
    "
WITH clock AS MATERIALIZED (SELECT {now} AS now)
SELECT now, 0::bigint AS version, 0::bigint AS highest,
       EXISTS (SELECT 1 FROM tasks WHERE state = 'PROCESSING' AND lease_until < clock.now) AS leases,
       EXISTS (SELECT 1 FROM tasks WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL AND not_before <= clock.now) AS waits
FROM clock",
);

/// What [`CLOCK`] answers.
#[derive(Debug, serde::Deserialize, sqlx::FromRow)]
pub(super) struct Clock {
    /// Milliseconds since the Unix epoch.
    pub now: i64,
    /// SQLite: rises with what other connections write.
    pub version: i64,
    /// SQLite: the highest number of a job, group or task.
    pub highest: i64,
    /// A lease has lapsed.
    pub leases: bool,
    /// A task need wait for its time no longer.
    pub waits: bool,
}

pub(super) enum Inner<'c> {
    /// Begun and ended by statements like the others.
    Sqlite(&'c mut Connection),
    /// With the name under which this process tells others of new work.
    Postgres(Transaction<'c, Postgres>, Arc<str>),
}

impl<'c> Tx<'c> {
    pub fn new(inner: Inner<'c>, clock: &Clock, elsewhere: bool) -> Self {
        let &Clock { now, highest, leases, waits, .. } = clock;
        Self { inner, now, highest, elsewhere, leases_lapsed: leases, waits_ended: waits, enqueued: false }
    }

    /// The connection, for a statement.
    pub fn db(&mut self) -> Db<'_> {
        match &mut self.inner {
            Inner::Sqlite(inner) => Db::Sqlite(inner),
            Inner::Postgres(inner, _) => Db::Postgres(inner),
        }
    }

    /// True where other transactions may change rows while this one runs.
    pub fn has_rivals(&self) -> bool {
        matches!(self.inner, Inner::Postgres(..))
    }

    pub async fn rows<T: Row>(&mut self, statement: &'static Statement, args: impl IntoIterator<Item = Arg>) -> Result<Vec<T>, Fault> {
        self.db().rows(statement, args).await
    }

    pub async fn row<T: Row>(&mut self, statement: &'static Statement, args: impl IntoIterator<Item = Arg>) -> Result<Option<T>, Fault> {
        self.db().row(statement, args).await
    }

    pub async fn json<T: DeserializeOwned>(
        &mut self,
        statement: &'static Statement,
        args: impl IntoIterator<Item = Arg>,
    ) -> Result<Vec<T>, Fault> {
        self.db().json(statement, args).await
    }

    pub async fn json_of<T: DeserializeOwned>(&mut self, asked: impl IntoIterator<Item = Asked>) -> Result<T, Fault> {
        self.db().json_of(asked).await
    }

    pub async fn execute(&mut self, statement: &'static Statement, args: impl IntoIterator<Item = Arg>) -> Result<(), Fault> {
        self.db().execute(statement, args).await
    }

    /// Where this fails with [`Fault::Gone`], nobody knows whether it took effect: callers ask again, and are told.
    pub async fn commit(mut self) -> Result<(), Fault> {
        if self.enqueued {
            postgres::listen::tell(&mut self).await?;
        }
        match self.inner {
            Inner::Sqlite(_) => {
                if let Err(fault) = self.execute(sql!("COMMIT"), []).await {
                    self.rollback().await;
                    return Err(fault);
                }
            }
            Inner::Postgres(inner, _) => inner.commit().await?,
        }
        Ok(())
    }

    pub async fn rollback(self) {
        // Where this fails there is nothing left to undo: the database has rolled back by itself, as SQLite does after errors of a disk.
        match self.inner {
            Inner::Sqlite(inner) => Db::Sqlite(inner).execute(sql!("ROLLBACK"), []).await.ok(),
            Inner::Postgres(inner, _) => inner.rollback().await.ok(),
        };
    }

    /// The name to tell others of new work by; none where they notice by themselves.
    pub fn teller(&self) -> Option<&str> {
        match &self.inner {
            Inner::Sqlite(_) => None,
            Inner::Postgres(_, name) => Some(name),
        }
    }

    /// Numbers for `count` new rows of jobs, groups and tasks together, rising.
    pub async fn numbers(&mut self, count: usize) -> Result<Numbers, Fault> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let numbers: Vec<i64> = match self.db().dialect() {
            // This transaction is the only writer.
            Dialect::Sqlite | Dialect::SqliteReader => {
                let first = self.highest + 1;
                self.highest = self.highest.saturating_add(count);
                (first..=self.highest).collect()
            }
            Dialect::Postgres => {
                let drawn = sql!("SELECT nextval('numbers') FROM generate_series(1, $1)");
                self.rows::<(i64,)>(drawn, args![count]).await?.into_iter().map(|(number,)| number).collect()
            }
        };
        Ok(Numbers(numbers.into_iter()))
    }
}

/// Numbers that no row has yet.
#[derive(Debug)]
pub(super) struct Numbers(std::vec::IntoIter<i64>);

impl Numbers {
    pub fn take(&mut self) -> Result<i64, Fault> {
        self.0.next().ok_or_else(|| Fault::Store(StoreError::Invalid("fewer numbers drawn than rows made".to_owned())))
    }
}
