//! From SQLite's result codes to what is done about them.

use crate::task_store::StoreError;
use crate::task_store::sql::fault::Fault;
use sqlx::error::DatabaseError;

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

pub(in crate::task_store::sql) fn of_reader(error: &dyn DatabaseError) -> Fault {
    of(error.code().and_then(|text| text.parse().ok()), error.to_string())
}

pub(in crate::task_store::sql) fn of_writer(error: &rusqlite::Error) -> Fault {
    match error.sqlite_error() {
        // As the other driver writes it: for the disk's errors the code alone tells which.
        Some(of_sqlite) => of(Some(of_sqlite.extended_code), format!("(code: {}) {error}", of_sqlite.extended_code)),
        None => of(None, error.to_string()),
    }
}

/// By the code, extended or not, and what the driver says.
fn of(code: Option<i32>, text: String) -> Fault {
    Fault::Store(match code.map(|extended| extended & 0xff) {
        Some(code::BUSY | code::LOCKED) => return Fault::Busy,
        Some(code::PERM | code::READONLY | code::CANTOPEN | code::AUTH) => StoreError::Denied(text),
        Some(code::CORRUPT | code::NOTADB) => {
            StoreError::Invalid(format!("{text}: the file is damaged or no SQLite database; restore it from a backup"))
        }
        Some(code::FULL) => StoreError::Unavailable(format!("{text}: make room on its disk")),
        Some(code::IOERR) => StoreError::Unavailable(text),
        Some(code::TOOBIG) => StoreError::Invalid(format!("{text}: larger than SQLite stores in one value")),
        _ => StoreError::Invalid(text),
    })
}
