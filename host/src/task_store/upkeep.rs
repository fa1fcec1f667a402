//! What is to be done outside the store: finish, tidy, send; and what has grown old.

use crate::task::id::TaskKey;
use crate::task::outputs::Manifest;
use std::time::Duration;

/// A COMMITTED task that somebody has to finalise and end.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// The task.
    pub key: TaskKey,
    /// Where its outputs go.
    pub output_prefix: String,
    /// What was committed.
    pub manifest: Manifest,
}

/// For how long it matters to sweepers that a lease lapsed: far longer than a worker that lost it may go on, and than clocks are put right by.
pub const LAPSED_LATELY: Duration = Duration::from_secs(3600);

/// Attempts that have outlived their task.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// The task.
    pub key: TaskKey,
    /// Its output prefix.
    pub output_prefix: String,
    /// What is to go: the folders below it that the claims of this task may have made. Whatever else lies in `_attempts/` is somebody
    /// else's, who has the prefix by now.
    pub folders: Vec<String>,
    /// Whether a lease of it lapsed within [`LAPSED_LATELY`]. By its own clock, which is not the store's, that claim's worker may still
    /// write, for a lease at most.
    pub lapsed: bool,
}

/// What a sweep goes by.
#[derive(Debug, Clone, Default)]
pub struct SweepRequest {
    /// Length of leases.
    pub lease: Duration,
    /// At most this many of each kind.
    pub limit: u32,
    /// A fed job that nobody has sealed ends once it has had no live task for this long, and its queue was empty all the time.
    pub fed_idle: Duration,
    /// Queues that the caller has seen empty. Where that was for a lease at least, which is how long a dead worker may have hidden a message,
    /// a task that is ready for as long is sent for again; else after an hour. The wait doubles each time.
    pub idle_queues: Vec<IdleQueue>,
}

/// A queue that was found empty each time it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleQueue {
    /// Its name.
    pub queue: String,
    /// For how long by now.
    pub since: Duration,
}

/// A message to be sent to a broker: a row of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Number of the row.
    pub id: i64,
    /// Where it goes.
    pub queue: String,
    /// The task it is for; its id is the deduplication id.
    pub key: TaskKey,
    /// The complete message, as JSON.
    pub body: String,
    /// Hidden for so long at first.
    pub delay: Duration,
}

/// What a prune removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Jobs.
    pub jobs: u64,
    /// Tasks, with their claims and logs.
    pub tasks: u64,
    /// Jobs that are old enough and stay: a sweep has yet to remove attempts of theirs, and only their rows tell which.
    pub unswept: u64,
}

/// What the sweeper found to do outside the store.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// COMMITTED, and nobody has renewed a lease on them: finalise and end them.
    pub unfinished: Vec<Unfinished>,
    /// Ended two leases ago: remove their attempts, then call [`TaskStore::swept`].
    pub leftovers: Vec<Leftover>,
    /// Tasks given up because their leases lapsed too often.
    pub buried: u64,
    /// Messages put into the outbox again: tasks whose own message seems lost.
    pub resent: u64,
    /// Fed jobs that were closed because nothing came any more.
    pub closed: u64,
}
