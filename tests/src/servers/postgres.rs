//! A real PostgreSQL server for tests: made in a folder of its own, gone with the test process, however that ends.
//!
//! It runs under a small shell that waits for the end of its standard input, which is a pipe from here: the kernel closes that pipe
//! also when the tests abort or are killed. `fsync` stays on: durability is part of what is tested. Text sorts by the rules of a
//! language where the server can (ICU), as in most installations, so that a query that counts on bytes shows.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The superuser, who needs no password.
pub const USER: &str = "tester";

/// A role that does need its password, over TCP.
pub const LOCKED: (&str, &str) = ("locked", "open sesame");

/// Longest that a server may take to come up; after a kill it first recovers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that does not listen for so long has ended: it begins to listen before it recovers anything.
const DEAF: Duration = Duration::from_secs(3);

/// Runs the server until standard input says `kill` (nothing is finished, all is kept) or ends (all is removed). Killed, all its processes
/// end at once, as at a power cut: those that serve a session would go on for a moment without their parent, and answer.
const SUPERVISE: &str = r#"folder=$1; shift
"$@" >>log 2>&1 & child=$!
read -r word; [ "$word" = kill ] && { kill -STOP $child; kill -9 $child $(cat /proc/$child/task/$child/children); wait $child; exit; } 2>/dev/null
kill -QUIT $child 2>/dev/null; wait $child; rm -rf "$folder""#;

/// A running server.
pub struct Server {
    bin: PathBuf,
    /// Where it keeps everything; removed with the server.
    folder: Option<TempDir>,
    port: u16,
    /// What it is started with beside its settings.
    environment: Vec<(String, PathBuf)>,
    running: Mutex<Option<Child>>,
    databases: AtomicU32,
}

impl Server {
    /// The one server of this test process, made at the first call. None where PostgreSQL is not installed: the caller's test says
    /// so and ends; with `CI` in the environment it fails instead.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(Self::private).as_ref()
    }

    /// A server of one test's own, which it may kill.
    pub fn private() -> Option<Self> {
        Self::with(&[])
    }

    /// The same, with these variables in its environment.
    pub fn with(environment: &[(&str, PathBuf)]) -> Option<Self> {
        let Some(bin) = binaries() else {
            assert!(std::env::var_os("CI").is_none(), "no PostgreSQL: initdb and postgres are neither in PATH nor in /usr/lib/postgresql");
            eprintln!(
                "\n*** SKIPPED: no PostgreSQL here (initdb and postgres in PATH or in /usr/lib/postgresql/*/bin); CI would fail ***\n"
            );
            return None;
        };
        let folder = tempfile::Builder::new().prefix("pg-").tempdir().expect("a folder for the server");
        if let Some((uid, gid)) = plain_user() {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("the folder belongs to whoever runs the server");
        }
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let (port, running, databases) = (free_port(), Mutex::new(None), AtomicU32::new(0));
        let server = Self { bin, folder: Some(folder), port, environment, running, databases };
        server.initialise();
        server.start();
        server.query("postgres", &format!("CREATE ROLE {} LOGIN PASSWORD '{}'", LOCKED.0, LOCKED.1));
        Some(server)
    }

    /// A new, empty database: its DSN.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.query("postgres", &format!("CREATE DATABASE {name}"));
        self.dsn(&name)
    }

    /// The DSN of a database by name, whether there is one or not.
    pub fn dsn(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port it listens on, on 127.0.0.1 only.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server as a power cut would, without a chance to finish anything. Without effect where it does not run.
    pub fn kill(&self) {
        let Some(mut child) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        cut(&mut child);
    }

    /// Starts it (again), on the same port and with what its disk holds, and waits until it answers.
    pub fn start(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(running.is_none(), "it runs already");
        let began = Instant::now();
        loop {
            let mut child = self.spawn();
            if self.is_ready(began) {
                *running = Some(child);
                return;
            }
            // Processes of a killed server hold its memory for a moment.
            cut(&mut child);
            assert!(began.elapsed() < PATIENCE, "PostgreSQL does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().map(TempDir::path).expect("kept until it is dropped")
    }

    fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder()).env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = plain_user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn initialise(&self) {
        let attempt = |language: &[&str]| {
            let mut command = self.command(self.bin.join("initdb"));
            command.args(["--no-sync", "-A", "trust", "-U", USER, "--encoding=UTF8", "-D"]).arg(self.data()).args(language);
            command.stderr(Stdio::piped()).output().expect("initdb starts")
        };
        let made = attempt(&["--locale-provider=icu", "--icu-locale=en-US"]);
        if !made.status.success() {
            let made = attempt(&[]);
            assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        let hba = format!("host all {} all scram-sha-256\nlocal all all trust\nhost all all 127.0.0.1/32 trust\n", LOCKED.0);
        fs::write(self.data().join("pg_hba.conf"), hba).expect("pg_hba.conf is ours");
    }

    fn spawn(&self) -> Child {
        let mut command = self.command("sh");
        command.args(["-c", SUPERVISE, "sh"]).arg(self.folder()).arg(self.bin.join("postgres")).arg("-D").arg(self.data());
        let settings = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.folder().display()),
            "fsync=on".to_owned(),
            "max_connections=200".to_owned(),
            "shared_buffers=64MB".to_owned(),
        ];
        for setting in settings {
            command.args(["-c", &setting]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A group of its own: Ctrl-C ends the tests, and by that the pipe, and by that the server.
        command.process_group(0).stdin(Stdio::piped()).spawn().expect("a shell starts")
    }

    /// Waits for the server's own word, in the eighth line of its lock file; false where it does not even listen, as one that ended.
    fn is_ready(&self, began: Instant) -> bool {
        let mut listened = Instant::now();
        while began.elapsed() < PATIENCE && listened.elapsed() < DEAF {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                listened = Instant::now();
                let said = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
                if said.lines().nth(7).is_some_and(|word| word.trim() == "ready") {
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        false
    }

    /// On a thread and runtime of its own, so that it can be called from anywhere.
    fn query(&self, database: &str, sql: &str) {
        let (dsn, sql) = (self.dsn(database), sql.to_owned());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&dsn).await?;
                connection.execute(AssertSqlSafe(sql)).await?;
                connection.close().await
            })
        };
        let done = std::thread::spawn(run).join().expect("a query does not panic");
        done.unwrap_or_else(|error| panic!("PostgreSQL: {error}\n{}", self.log()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(child.stdin.take());
            child.wait().ok();
        }
    }
}

/// Ends it with nothing finished and everything kept.
fn cut(child: &mut Child) {
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, b"kill\n").ok();
    }
    child.wait().ok();
}

fn binaries() -> Option<PathBuf> {
    let has_both = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).find(|folder| has_both(folder)) {
        return Some(found);
    }
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|e| e.path().join("bin")).collect();
    versions.sort();
    versions.into_iter().rev().find(has_both)
}

/// Whom the server runs as where we are root, which it refuses: `postgres`, or else `nobody`.
fn plain_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let fields: Vec<&str> = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name))?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).or(Some((65_534, 65_534)))
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

#[tokio::test]
async fn what_was_committed_outlives_a_kill() {
    let Some(server) = Server::private() else { return };
    let dsn = server.database();
    let mut connection = PgConnection::connect(&dsn).await.unwrap();
    connection.execute("CREATE TABLE kept (id integer); INSERT INTO kept VALUES (1)").await.unwrap();
    server.kill();
    assert!(PgConnection::connect(&dsn).await.is_err());
    server.start();
    let mut connection = PgConnection::connect(&dsn).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap(), 1);
    let (role, password) = LOCKED;
    for (given, opens) in [(password.replace(' ', "%20").as_str(), true), ("wrong", false)] {
        let locked = dsn.replace(USER, &format!("{role}:{given}"));
        assert_eq!(PgConnection::connect(&locked).await.is_ok(), opens, "{locked}");
    }
    let folder = server.folder().to_owned();
    drop(server);
    assert!(!folder.exists());
}
