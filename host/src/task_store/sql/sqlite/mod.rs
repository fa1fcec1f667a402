//! One SQLite file: the default, and good for several processes on one machine.
//!
//! Network file systems are not supported: SQLite's log needs shared memory. What writes is `connection.rs`, on the writer's own thread;
//! what only reads, and migrations, are sqlx's.

mod connection;
pub(super) mod fault;
mod given;
mod open;
mod standstill;
#[cfg(test)]
mod tests;
pub(super) mod watch;

pub(super) use connection::Connection;
pub use open::Durability;

use super::changed::Changed;
use super::database::{Db, args};
use super::dialect::sql;
use super::fault::Fault;
use super::link::{self, Readers};
use super::transaction::{CLOCK, Clock, Inner, Tx};
use super::{SqlTaskStore, writer};
use crate::task_store::StoreError;
use sqlx::{Connection as _, SqliteConnection};
use standstill::Standstill;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use tokio::time::Instant;
use watch::Watch;

/// A task store in one SQLite file. Clones share it.
pub type SqliteTaskStore = SqlTaskStore<InFile>;

/// Says that a store is in a SQLite file.
#[derive(Debug, Clone, Copy)]
pub enum InFile {}

impl SqliteTaskStore {
    /// Opens the file, or makes it with its folder, and brings its schema up to date. Several processes may do so at once.
    ///
    /// # Errors
    /// [`StoreError::Denied`] where file or folder is not writable, [`StoreError::Invalid`] where it is no database or was written
    /// by a newer version, [`StoreError::Unavailable`] where the disk is full or another process keeps it locked.
    pub async fn open(path: &Path, durability: Durability) -> Result<Self, StoreError> {
        let connection = open::writer(path, durability).await?;
        let readers = open::readers(path, durability).await?;
        let changed = Arc::new(Changed::new());
        let link = Link { connection, watch: Watch::new(path), standstill: Standstill::default() };
        let writer = writer::start_one(link::Link::Sqlite(link), &changed);
        Ok(Self { writer, readers: Readers::Sqlite(readers), changed, _listener: None, kind: PhantomData })
    }

    /// SQLite itself, with its version: it is part of this program.
    pub async fn library() -> Result<String, StoreError> {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.map_err(Fault::from)?;
        let (version,) = Db::SqliteReader(&mut connection).one(sql!("SELECT {version}"), args![]).await?;
        Ok(version)
    }
}

/// The one connection that writes, and how it notices that others did.
pub(super) struct Link {
    pub connection: Connection,
    pub watch: Watch,
    standstill: Standstill,
}

impl Link {
    /// Takes the write lock; [`Fault::Busy`] where another process has it. The clock is read under it.
    pub async fn begin(&mut self) -> Result<Tx<'_>, Fault> {
        let is_open = self.connection.is_in_transaction();
        let mut db = Db::Sqlite(&mut self.connection);
        if is_open {
            // Its ROLLBACK failed; until one succeeds no other process can write.
            db.execute(sql!("ROLLBACK"), []).await?;
        }
        db.execute(sql!("BEGIN IMMEDIATE"), []).await?;
        let mut clock: Clock = match db.one(&CLOCK, []).await {
            Ok(clock) => clock,
            Err(fault) => {
                db.execute(sql!("ROLLBACK"), []).await.ok();
                return Err(fault);
            }
        };
        let elsewhere = self.watch.saw(clock.version);
        if self.standstill.is_over_lately(clock.now, Instant::now()) {
            clock.leases = false;
        }
        Ok(Tx::new(Inner::Sqlite(&mut self.connection), &clock, elsewhere))
    }

    /// Whether another connection has written since the last look.
    pub fn look(&mut self) -> bool {
        self.watch.look(&self.connection)
    }
}
