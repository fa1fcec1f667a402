//! Where it all happens: a folder, a store, a pipeline, and the commands that run there.

use super::broker::Broker;
use super::clock::{Clock, Clocks, HOUR};
use super::dice::Dice;
use super::{load, rows};
use crate::binary::{Place, guest};
use crate::servers::postgres::Server;
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
    Postgres { server: Server, dsn: String },
}

/// See the head of this file.
pub struct Site {
    place: Place,
    pipeline: PathBuf,
    pub store: Store,
    /// What carries the steps' messages; none: the table.
    pub broker: Option<Broker>,
    /// The wall clock that the store goes by. With SQLite the workers share it: there is one machine.
    pub clock: Clock,
    /// Clocks of workers elsewhere: right, an hour ahead, an hour behind. None of them may matter.
    others: Vec<Clock>,
}

impl Site {
    /// With SQLite.
    pub fn sqlite() -> Self {
        Self::new(Store::Sqlite, None, Clocks::build().clock("machine"), Vec::new())
    }

    /// With a PostgreSQL server of its own, which may be killed; none where it is not installed.
    pub fn postgres() -> Option<Self> {
        Self::on_postgres(|_| Some(None))
    }

    /// The same with queues in Redis, which may be killed too; none where one of the two is not installed.
    pub fn redis() -> Option<Self> {
        Self::on_postgres(|clock| Broker::redis(clock).map(Some))
    }

    /// The same with queues in SQS, whose faults come from `seed`.
    pub fn sqs(seed: u64) -> Option<Self> {
        Self::on_postgres(|_| Some(Some(Broker::sqs(seed))))
    }

    fn on_postgres(broker: impl FnOnce(&Clock) -> Option<Option<Broker>>) -> Option<Self> {
        let clocks = Clocks::build();
        let mut clock = clocks.clock("server");
        let server = Server::with(&clock.environment())?;
        let broker = broker(&clock)?;
        let others = [("right", 0), ("ahead", HOUR), ("behind", -HOUR)].map(|(name, moved)| {
            let mut clock = clocks.clock(name);
            clock.set(moved);
            clock
        });
        let dsn = server.database();
        let right = rows::now(&dsn);
        clock.set(HOUR);
        assert!((HOUR..HOUR + 600).contains(&(rows::now(&dsn) - right)), "the server does not go by its clock");
        clock.set(0);
        Some(Self::new(Store::Postgres { server, dsn }, broker, clock, others.into()))
    }

    fn new(store: Store, broker: Option<Broker>, clock: Clock, others: Vec<Clock>) -> Self {
        let place = Place::new();
        let queues = broker.as_ref().map(Broker::queues);
        let pipeline = place.write("pipeline.toml", &load::pipeline(guest("probe").to_str().unwrap(), queues.as_ref()));
        let site = Self { place, pipeline, store, broker, clock, others };
        // Compiles the guests, so that every worker starts in no time, and makes the schema.
        let first = site.start(&["run", site.pipeline(), "--until-empty"], "first.log").wait().unwrap();
        assert!(first.success(), "{}", std::fs::read_to_string(site.path().join("first.log")).unwrap());
        site
    }

    /// What it is called in a report.
    pub fn name(&self) -> &'static str {
        match (&self.broker, &self.store) {
            (Some(Broker::Redis(_)), _) => "redis and postgres",
            (Some(Broker::Sqs(_)), _) => "sqs and postgres",
            (None, Store::Postgres { .. }) => "postgres",
            (None, Store::Sqlite) => "sqlite",
        }
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

    /// Which store a process here uses, and a clock.
    fn settings(&self, clock: &Clock) -> Vec<(String, String)> {
        let clock = clock.environment().map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned()));
        let store = match &self.store {
            Store::Sqlite => None,
            Store::Postgres { dsn, .. } => Some(("DB_DSN".to_owned(), dsn.clone())),
        };
        let broker = self.broker.iter().flat_map(Broker::environment);
        clock.into_iter().chain(store).chain(broker).collect()
    }

    /// A worker; `abort_at` arms a failpoint.
    pub fn worker(&self, log: &str, abort_at: Option<String>, dice: &mut Dice) -> Child {
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        // At this level it says that it serves.
        let own = [("LEASE", millis(LEASE)), ("GRACE", millis(GRACE)), ("CONCURRENCY", "3".to_owned()), ("LOG", "info".to_owned())];
        let own = own.into_iter().chain(abort_at.map(|at| ("ABORT_AT", at)));
        let clock = if self.others.is_empty() { &self.clock } else { dice.pick(&self.others) };
        let settings = self.settings(clock).into_iter().chain(own.map(|(name, value)| (format!("WASM_WORKER_{name}"), value)));
        let words = ["run", self.pipeline(), "--set", "worker.retry.first=20ms", "--set", "worker.retry.max=100ms"];
        self.spawn(&words, log, settings.collect())
    }

    /// A command that is not waited for.
    pub fn start(&self, words: &[&str], log: &str) -> Child {
        self.spawn(words, log, self.settings(self.others.first().unwrap_or(&self.clock)))
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
    signal_to(child.id(), name);
}

/// The same, by its number.
pub fn signal_to(process: u32, name: &str) {
    let sent: Output = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).output().unwrap();
    assert!(sent.status.success(), "SIG{name}: {}", String::from_utf8_lossy(&sent.stderr));
}
