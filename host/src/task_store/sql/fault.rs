//! Why a transaction failed, by what is done about it here; the databases' own codes are read beside their adapters.

use super::{postgres, sqlite};
use crate::task_store::StoreError;

/// Why a transaction failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another transaction is in the way: the whole may be tried again.
    Busy,
    /// Another transaction took the same id meanwhile: a few more tries will see it.
    Clash(String),
    /// The connection is of no use any more, and what became of the transaction is unknown.
    Gone(StoreError),
    /// Anything else.
    Store(StoreError),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(of_database) => match of_database.try_downcast_ref() {
                Some(of_postgres) => postgres::fault::of(of_postgres),
                None => sqlite::fault::of_reader(of_database.as_ref()),
            },
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Self::Gone(StoreError::Unavailable(error.to_string()))
            }
            sqlx::Error::PoolTimedOut => Self::Store(StoreError::Unavailable("no connection within the time allowed".to_owned())),
            _ => Self::Store(StoreError::Invalid(error.to_string())),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        sqlite::fault::of_writer(&error)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Store(StoreError::Invalid(format!("JSON of a row: {error}")))
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Busy => Self::Unavailable("other transactions are in the way; trying again helps".to_owned()),
            Fault::Clash(text) => Self::Unavailable(format!("others keep taking the same id: {text}")),
            Fault::Gone(error) | Fault::Store(error) => error,
        }
    }
}
