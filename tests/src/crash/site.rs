//! Where it all happens: a folder, a store, a pipeline, and the commands that run there.

use super::clock::{Clock, Clocks};
use super::load;
use crate::binary::{Place, guest};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

/// Length of a lease: short, so that what a kill leaves is found soon, and long enough for a heartbeat on a busy machine.
pub const LEASE: Duration = Duration::from_secs(1);

/// How long a worker that is asked to stop lets its tasks run on.
pub const GRACE: Duration = Duration::from_millis(200);

/// Workers at once.
pub const WORKERS: usize = 3;

/// Which task store it is.
pub enum Store {
    Sqlite,
}

impl Store {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
        }
    }
}

/// See the head of this file.
pub struct Site {
    place: Place,
    pipeline: PathBuf,
    pub store: Store,
    /// The machine's wall clock. SQLite has no other.
    pub clock: Clock,
}

impl Site {
    pub fn new(store: Store) -> Self {
        let place = Place::new();
        let pipeline = place.write("pipeline.toml", &load::pipeline(guest("probe").to_str().unwrap()));
        let clock = Clocks::build().clock("machine");
        let site = Self { place, pipeline, store, clock };
        // Compiles the guests, so that every worker starts in no time, and makes the schema.
        let first = site.start(&["run", site.pipeline(), "--until-empty"], "first.log").wait().unwrap();
        assert!(first.success(), "{}", std::fs::read_to_string(site.path().join("first.log")).unwrap());
        site
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    pub fn pipeline(&self) -> &str {
        self.pipeline.to_str().unwrap()
    }

    /// The folder with every task's outputs.
    pub fn objects(&self) -> PathBuf {
        self.path().join("data/objects")
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.path().join("data/wasm-worker.db")
    }

    /// What every process here goes by: this place's store and clock.
    fn settings(&self) -> Vec<(String, String)> {
        self.clock.environment().map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned())).into()
    }

    /// A worker; `abort_at` arms a failpoint.
    pub fn worker(&self, log: &str, abort_at: Option<String>) -> Child {
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let own = [("LEASE", millis(LEASE)), ("GRACE", millis(GRACE)), ("CONCURRENCY", "3".to_owned())];
        let own = own.into_iter().chain(abort_at.map(|at| ("ABORT_AT", at)));
        let settings = self.settings().into_iter().chain(own.map(|(name, value)| (format!("WASM_WORKER_{name}"), value))).collect();
        let words = ["run", self.pipeline(), "--set", "worker.retry_first=20ms", "--set", "worker.retry_max=100ms"];
        self.spawn(&words, log, settings)
    }

    /// A command that is not waited for.
    pub fn start(&self, words: &[&str], log: &str) -> Child {
        self.spawn(words, log, self.settings())
    }

    fn spawn(&self, words: &[&str], log: &str, settings: Vec<(String, String)>) -> Child {
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.place.start(words, log, &settings)
    }

    /// Leaves the folder for a look, and says where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.place.folder.disable_cleanup(true);
        self.path().to_owned()
    }
}

/// Sends a signal to a process of our own.
pub fn signal(child: &Child, name: &str) {
    let sent: Output = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).output().unwrap();
    assert!(sent.status.success(), "SIG{name}: {}", String::from_utf8_lossy(&sent.stderr));
}
