//! From Redis' error codes to what is done about them.

use crate::queue::QueueError;
use redis::{ErrorKind, RedisError};

/// Codes that a script's error may carry inside its text: servers before 7.0 wrap what a command in a script answers.
const CODES: &[&str] = &[
    "OOM",
    "READONLY",
    "WRONGTYPE",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "CROSSSLOT",
    "MOVED",
];

/// The error as the port has it. `place`: the queue, as it may be shown.
pub(super) fn of(error: &RedisError, place: &str) -> QueueError {
    let detail = error.detail().unwrap_or_default();
    // Where in which script it happened tells nothing to who reads it.
    let detail = detail.split(" script: ").next().unwrap_or_default();
    let text = |next: &str| format!("{place}: {} {detail}; {next}", code(error));
    match (error.kind(), code(error)) {
        (_, "NOAUTH" | "WRONGPASS" | "DENIED") => QueueError::Denied(text("check user and password")),
        (_, "NOPERM") => QueueError::Denied(text("the user needs streams, sorted sets, scripts and their keys (ACL)")),
        (_, "WRONGTYPE") => QueueError::Invalid(text("a key of this queue holds something else: name another stream, or remove it")),
        (_, "MOVED" | "ASK" | "CROSSSLOT") => QueueError::Invalid(text("Redis Cluster is not supported: name a server that is none")),
        (_, "OOM") => QueueError::Unavailable(text("the server has no memory left (maxmemory)")),
        (_, "READONLY" | "MASTERDOWN") => QueueError::Unavailable(text("a replica answered: is a failover under way?")),
        (_, "LOADING" | "BUSY" | "MISCONF" | "NOREPLICAS" | "TRYAGAIN" | "CLUSTERDOWN" | "EXECABORT" | "UNBLOCKED") => {
            QueueError::Unavailable(text("trying again"))
        }
        // Its group is made anew by the next look.
        (_, "NOGROUP") => QueueError::Unavailable(text("trying again")),
        (_, "ERR") if ["invalid password", "AUTH"].iter().any(|part| detail.contains(part)) => {
            QueueError::Denied(text("check user and password"))
        }
        (_, "ERR") if detail.contains("max number of clients") => QueueError::Unavailable(text("see maxclients of the server")),
        (ErrorKind::Server(_) | ErrorKind::Extension, _) => {
            QueueError::Invalid(text("is it a Redis 6.2 or newer, and has it that database?"))
        }
        (ErrorKind::InvalidClientConfig | ErrorKind::Client, _) => QueueError::Invalid(format!("{place}: {error}")),
        _ => QueueError::Unavailable(format!("{place}: {error}; is the server up and reachable from here?")),
    }
}

/// What the server called it; empty where it did not come from there.
fn code(error: &RedisError) -> &str {
    match error.code().unwrap_or_default() {
        "ERR" => {
            let detail = error.detail().unwrap_or_default();
            CODES.iter().find(|code| detail.split([' ', ':', '-']).any(|word| word == **code)).unwrap_or(&"ERR")
        }
        code => code,
    }
}

/// Whether the connection is of no more use: it is broken, or leads to a server that is not, or no longer, the one to talk to.
pub(super) fn ends_connection(error: &RedisError) -> bool {
    let from_server = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    !from_server || matches!(code(error), "READONLY" | "MASTERDOWN" | "NOAUTH")
}
