//! A Postgres database: for workers on several machines.
//!
//! Each process writes over one connection and renews leases over another, so that a heartbeat waits for no batch.

pub(super) mod fault;
pub(super) mod listen;
mod open;
#[cfg(test)]
mod tests;

use super::changed::Changed;
use super::database::Db;
use super::fault::Fault;
use super::link::{self, Readers};
use super::transaction::{CLOCK, Clock, Inner, Tx};
use super::{SqlTaskStore, writer};
use crate::task_store::StoreError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Longest that a transaction or a reading answer may take before its connection is given up: longer than the server's own bounds for
/// a session, and a third of the default lease, so that a heartbeat has another try.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(28);

/// A task store in a Postgres database. Clones share it.
pub type PostgresTaskStore = SqlTaskStore<OnServer>;

/// Says that a store is in a Postgres database.
#[derive(Debug, Clone, Copy)]
pub enum OnServer {}

impl PostgresTaskStore {
    /// Connects to `postgres://user:password@host:port/database` (with `?sslmode=…` and the other settings of libpq's URLs) and brings
    /// its schema up to date. Several processes may do so at once.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where the DSN cannot be read, the database does not exist or was written by a newer version,
    /// [`StoreError::Denied`] for a wrong password or a missing grant, [`StoreError::Unavailable`] where nobody answers within four
    /// seconds. None of them shows the password.
    pub async fn open(dsn: &str) -> Result<Self, StoreError> {
        let options = open::options(dsn)?;
        open::migrate(&options).await?;
        let name: Arc<str> = uuid::Uuid::new_v4().to_string().into();
        let changed = Arc::new(Changed::new());
        let link = || link::Link::Postgres(Link { options: options.clone(), connection: None, name: Arc::clone(&name) });
        let writer = writer::start_two(link(), link(), &changed);
        let readers = Readers::Postgres(open::readers(&options));
        let ear = listen::open(options).await;
        let listener = tokio::spawn(ear.hear(name, Arc::clone(&changed)));
        let listener = Some(Arc::new(AbortOnDropHandle::new(listener)));
        Ok(Self { writer, readers, changed, _listener: listener, kind: PhantomData })
    }
}

/// A connection that writes; none before its first use, and after it was lost.
pub(super) struct Link {
    options: PgConnectOptions,
    pub connection: Option<PgConnection>,
    /// Names this process to the others that listen.
    name: Arc<str>,
}

impl Link {
    /// A transaction, READ COMMITTED. Its clock is read first: where the connection was lost while nobody used it, that shows, and
    /// there is a new one before anything has begun.
    pub async fn begin(&mut self) -> Result<Tx<'_>, Fault> {
        let used = self.connection.is_some();
        let clock: Clock = match Db::Postgres(self.connected().await?).one(&CLOCK, []).await {
            Err(Fault::Gone(_)) if used => {
                self.connection = None;
                Db::Postgres(self.connected().await?).one(&CLOCK, []).await?
            }
            clock => clock?,
        };
        let name = Arc::clone(&self.name);
        let inner = self.connected().await?.begin().await?;
        Ok(Tx::new(Inner::Postgres(inner, name), &clock, false))
    }

    /// The connection, a new one where there is none.
    pub async fn connected(&mut self) -> Result<&mut PgConnection, Fault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => open::connect(&self.options).await?,
        };
        Ok(self.connection.insert(connection))
    }

    pub async fn close(self) {
        if let Some(connection) = self.connection {
            connection.close().await.ok();
        }
    }
}
