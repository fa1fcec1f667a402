//! From Postgres' condition codes to what is done about them.

use crate::task_store::StoreError;
use crate::task_store::sql::fault::Fault;
use sqlx::postgres::PgDatabaseError;

/// By condition code (<https://www.postgresql.org/docs/current/errcodes-appendix.html>); its first two characters are its class.
pub(in crate::task_store::sql) fn of(error: &PgDatabaseError) -> Fault {
    let text = match error.detail() {
        Some(detail) => format!("{} ({detail})", error.message()),
        None => error.message().to_owned(),
    };
    let code = error.code();
    match (code.get(..2).unwrap_or_default(), code) {
        // Serialisation failure, deadlock, lock not available.
        (_, "40001" | "40P01" | "55P03") => Fault::Busy,
        // Unique violation.
        (_, "23505") => Fault::Clash(text),
        // No such database, no such schema.
        (_, "3D000" | "3F000") => Fault::Store(StoreError::Invalid(text)),
        // Wrong password or role, or not allowed to.
        ("28", _) | (_, "42501") => Fault::Store(StoreError::Denied(text)),
        // Lost or refused connections, a server that stops or starts or has become a standby, too many connections, a session that
        // was ended because it idled: a new connection may do better.
        ("08", _) | (_, "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "25P03" | "53300") => Fault::Gone(StoreError::Unavailable(text)),
        // Disk or memory full, a statement that took too long, the server's own I/O.
        ("53" | "57" | "58", _) => Fault::Store(StoreError::Unavailable(text)),
        _ => Fault::Store(StoreError::Invalid(format!("{text} [{code}]"))),
    }
}
