//! Noticing within milliseconds what another process wrote: SQLite tells nobody.

use sqlx::SqliteConnection;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often the log file is looked at while somebody waits.
pub(in crate::task_store::sql) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks after which SQLite itself is asked, however quiet the file: 0.25 s.
const ASK_EVERY: u32 = 50;

/// Looks after a change during which SQLite is asked each time: a file's times move in steps of up to 10 ms, so that a second
/// write within a step shows nowhere else.
const ASK_AFTER_CHANGE: u32 = 4;

/// Notices what other connections wrote: the log file's size and time tell when to ask, `data_version` tells for certain.
/// Asked on the writer's own connection, whose own writes do not count.
#[derive(Debug)]
pub(in crate::task_store::sql) struct Watch {
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
