//! Noticing new work: at once where it was enqueued here, within milliseconds where another process wrote.

use sqlx::SqliteConnection;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};

/// How often the log file is looked at while somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks after which SQLite itself is asked, however quiet the file: 0.25 s.
const ASK_EVERY: u32 = 50;

/// Looks after a change during which SQLite is asked each time: a file's times move in steps of up to 10 ms, so that a second
/// write within a step shows nowhere else.
const ASK_AFTER_CHANGE: u32 = 4;

/// Tells waiters of one process that there may be new work.
#[derive(Debug)]
pub(super) struct Changed {
    version: watch::Sender<u64>,
    /// The version that the last waiter returned with.
    returned: AtomicU64,
    waiters: AtomicUsize,
    first_waiter: Notify,
}

impl Changed {
    pub fn new() -> Self {
        Self { version: watch::Sender::new(0), returned: AtomicU64::new(0), waiters: AtomicUsize::new(0), first_waiter: Notify::new() }
    }

    /// There may be new work.
    pub fn tell(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Waits until there may be new work. What was told since the last wait returned counts as well: it may have come after the
    /// caller's claim and before this call.
    pub async fn wait(&self, at_most: Duration) {
        let mut version = self.version.subscribe();
        let seen = *version.borrow_and_update();
        if self.returned.swap(seen, Ordering::AcqRel) < seen {
            return;
        }
        let _waiting = Waiting::new(self);
        // The sender lives as long as `self`, and a timeout is an answer too.
        tokio::time::timeout(at_most, version.changed()).await.ok();
        self.returned.store(*version.borrow(), Ordering::Release);
    }

    /// Returns when it is time to look for what others wrote; never, while nobody waits.
    pub async fn time_to_look(&self) {
        while self.waiters.load(Ordering::Acquire) == 0 {
            self.first_waiter.notified().await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Counts one waiter for as long as it lives, also when its caller goes away.
struct Waiting<'a>(&'a Changed);

impl<'a> Waiting<'a> {
    fn new(changed: &'a Changed) -> Self {
        changed.waiters.fetch_add(1, Ordering::AcqRel);
        changed.first_waiter.notify_one();
        Self(changed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Notices what other connections wrote: the log file's size and time tell when to ask, `data_version` tells for certain.
/// Asked on the writer's own connection, whose own writes do not count.
#[derive(Debug)]
pub(super) struct Watch {
    log: PathBuf,
    seen: Option<(u64, SystemTime)>,
    ask_for: u32,
    quiet: u32,
    data_version: Option<i64>,
}

impl Watch {
    /// Watches the log that SQLite keeps beside `path`.
    pub fn new(path: &Path) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Self { log: log.into(), seen: None, ask_for: 0, quiet: 0, data_version: None }
    }

    /// Whether another connection has written since the last look.
    pub async fn look(&mut self, connection: &mut SqliteConnection) -> bool {
        let found = std::fs::metadata(&self.log).ok().and_then(|m| Some((m.len(), m.modified().ok()?)));
        if found != self.seen {
            self.seen = found;
            self.ask_for = ASK_AFTER_CHANGE;
        }
        self.quiet += 1;
        if self.ask_for == 0 && self.quiet < ASK_EVERY {
            return false;
        }
        self.ask_for = self.ask_for.saturating_sub(1);
        self.quiet = 0;
        match sqlx::query_scalar::<_, i64>("PRAGMA data_version").fetch_one(connection).await {
            Ok(version) => self.saw(version),
            // Busy or out of reach: as good as a change; the claim that follows says what is wrong.
            Err(_) => true,
        }
    }

    /// Takes note of a `data_version`; true where it has changed.
    pub fn saw(&mut self, version: i64) -> bool {
        self.data_version.replace(version).is_some_and(|before| before != version)
    }
}
