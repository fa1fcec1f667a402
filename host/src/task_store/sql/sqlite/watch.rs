//! Noticing within milliseconds what another process wrote: SQLite tells nobody, but the system tells of writes to a file.

use super::connection::Connection;
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// How often the log file is looked at while somebody waits, where the system does not tell of writes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The same where it does: only against a write that it did not tell of.
const LOOK_ANYWAY: Duration = Duration::from_millis(250);

/// How long further writes are waited for once there was one: a transaction writes many times, and is seen after the last.
const SETTLE: Duration = Duration::from_millis(1);

/// Shortest time between two looks: of a process that writes on and on, several transactions are seen at once. Each look brings a claim,
/// and that one takes the write lock from whoever writes.
const PAUSE: Duration = Duration::from_millis(3);

/// Looks after which SQLite itself is asked, however quiet the file: 0.25 s.
const ASK_EVERY: u32 = 50;

/// Looks after a change during which SQLite is asked each time: a file's times move in steps of up to 10 ms, so that a second
/// write within a step shows nowhere else.
const ASK_AFTER_CHANGE: u32 = 4;

/// Notices what other connections wrote: the log file tells when to ask, `data_version` tells for certain.
/// Asked on the writer's own connection, whose own writes do not count.
#[derive(Debug)]
pub(in crate::task_store::sql) struct Watch {
    log: PathBuf,
    seen: Option<(u64, SystemTime)>,
    ask_for: u32,
    quiet: u32,
    data_version: Option<i64>,
    written: Arc<Notify>,
    /// There was a write, and further ones are waited for.
    settling: bool,
    /// When that was last.
    looked: Option<Instant>,
    /// None where the system tells of no writes: all its watches are in use, or it has none.
    told: Option<RecommendedWatcher>,
}

impl Watch {
    /// Watches the log that SQLite keeps beside `path`.
    pub fn new(path: &Path) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let (log, written) = (PathBuf::from(log), Arc::new(Notify::new()));
        let told = tell_of_writes(&log, Arc::clone(&written));
        if let Err(error) = &told {
            tracing::debug!(%error, "the system tells of no writes to the task store; its log is looked at instead");
        }
        Self { log, seen: None, ask_for: 0, quiet: 0, data_version: None, written, settling: false, looked: None, told: told.ok() }
    }

    /// Returns when it is time for a look. Dropped before, it forgets no write.
    pub async fn due(&mut self) {
        if self.told.is_none() {
            return sleep(LOOK_EVERY).await;
        }
        if !self.settling {
            self.settling = timeout(LOOK_ANYWAY, self.written.notified()).await.is_ok();
        }
        if self.settling {
            let next = self.looked.map_or(Duration::ZERO, |at| PAUSE.saturating_sub(at.elapsed()));
            sleep(next.max(SETTLE)).await;
            self.settling = false;
            self.looked = Some(Instant::now());
        }
    }

    /// Whether another connection has written since the last look.
    pub fn look(&mut self, connection: &Connection) -> bool {
        if self.told.is_none() && !self.is_worth_asking() {
            return false;
        }
        match connection.row::<(i64,)>("PRAGMA data_version", []) {
            Ok(Some((version,))) => self.saw(version),
            // Busy or out of reach: as good as a change; the claim that follows says what is wrong.
            _ => true,
        }
    }

    /// By size and time of the log file.
    fn is_worth_asking(&mut self) -> bool {
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
        true
    }

    /// Takes note of a `data_version`; true where it has changed, and for the first of a connection: that tells nothing of what others wrote before.
    pub fn saw(&mut self, version: i64) -> bool {
        self.data_version.replace(version) != Some(version)
    }
}

/// Has the system tell of writes to the log. Its folder is watched: the file comes and goes.
fn tell_of_writes(log: &Path, written: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let (name, folder) = (log.to_owned(), log.parent().unwrap_or(Path::new("/")).to_owned());
    let tell = move |event: notify::Result<Event>| {
        // An error is as good as a write: the look that follows says what is true.
        // Where it lost some, one may have been a write.
        let of_log = |event: &Event| event.need_rescan() || (!event.kind.is_access() && event.paths.contains(&name));
        if event.as_ref().map_or(true, of_log) {
            written.notify_one();
        }
        // The system makes one of the writes that follow meanwhile: without this, every page of a busy log wakes this thread.
        std::thread::sleep(SETTLE);
    };
    let mut watcher = RecommendedWatcher::new(tell, Config::default())?;
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
