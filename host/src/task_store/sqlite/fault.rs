//! From SQLite's result codes to the port's errors, classed by what the caller does next.

use crate::task_store::StoreError;

/// Why a transaction failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another process is writing: the whole transaction may be tried again.
    Busy,
    /// Anything else.
    Store(StoreError),
}

/// Primary result codes (<https://sqlite.org/rescode.html>); the extended ones carry them in their low byte.
mod code {
    pub const PERM: i32 = 3;
    pub const BUSY: i32 = 5;
    pub const LOCKED: i32 = 6;
    pub const READONLY: i32 = 8;
    pub const IOERR: i32 = 10;
    pub const CORRUPT: i32 = 11;
    pub const FULL: i32 = 13;
    pub const CANTOPEN: i32 = 14;
    pub const TOOBIG: i32 = 18;
    pub const AUTH: i32 = 23;
    pub const NOTADB: i32 = 26;
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let primary =
            error.as_database_error().and_then(|e| e.code()).and_then(|text| text.parse::<i32>().ok()).map(|extended| extended & 0xff);
        let text = error.to_string();
        Self::Store(match (primary, &error) {
            (Some(code::BUSY | code::LOCKED), _) => return Self::Busy,
            (Some(code::PERM | code::READONLY | code::CANTOPEN | code::AUTH), _) => StoreError::Denied(text),
            (Some(code::CORRUPT | code::NOTADB), _) => {
                StoreError::Invalid(format!("{text}: the file is damaged or no SQLite database; restore it from a backup"))
            }
            (Some(code::FULL), _) => StoreError::Unavailable(format!("{text}: make room on its disk")),
            (Some(code::IOERR), _) | (_, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed) => {
                StoreError::Unavailable(text)
            }
            (Some(code::TOOBIG), _) => StoreError::Invalid(format!("{text}: larger than SQLite stores in one value")),
            _ => StoreError::Invalid(text),
        })
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
            Fault::Busy => Self::Unavailable("another process holds the write lock; trying again helps".to_owned()),
            Fault::Store(error) => error,
        }
    }
}
