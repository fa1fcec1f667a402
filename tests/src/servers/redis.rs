//! A real Redis server for tests: in a folder of its own, with an append-only file that is written every second, gone with the test
//! process, however that ends.
//!
//! It runs under a small shell that waits for the end of its standard input, as [`super::postgres`] does. `REDIS_SERVER` names the
//! program, if it is not `redis-server` in PATH.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A user who needs a password.
pub const LOCKED: (&str, &str) = ("locked", "open sesame");

/// Longest that a server may take to come up; after a kill it first reads its file.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest that it may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Runs the server until standard input says `kill` (nothing is finished, all is kept) or ends (all is removed).
const SUPERVISE: &str = r#"folder=$1; shift
"$@" >>log 2>&1 & child=$!
read -r word; [ "$word" = kill ] && { kill -9 $child 2>/dev/null; wait $child; exit; }
kill -9 $child 2>/dev/null; wait $child; rm -rf "$folder""#;

/// A running server.
pub struct Server {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    /// What it is started with beside its settings.
    environment: Vec<(String, PathBuf)>,
    running: Mutex<Option<Child>>,
    streams: AtomicU32,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    Text(String),
    Number(i64),
    List(Vec<Answer>),
    Error(String),
}

impl Server {
    /// The one server of this test process, made at the first call. None where Redis is not installed: the caller's test says so and
    /// ends; with `CI` in the environment it fails instead.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(Self::private).as_ref()
    }

    /// A server of one test's own, which it may kill, fill or empty.
    pub fn private() -> Option<Self> {
        Self::with(&[])
    }

    /// The same, with these variables in its environment.
    pub fn with(environment: &[(&str, PathBuf)]) -> Option<Self> {
        let Some(program) = program() else {
            assert!(std::env::var_os("CI").is_none(), "no Redis: redis-server is not in PATH, and REDIS_SERVER names no file");
            eprintln!("\n*** SKIPPED: no Redis here (redis-server in PATH, or REDIS_SERVER); CI would fail ***\n");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("redis-").tempdir().expect("a folder for the server");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let server = Self { program, folder, port: free_port(), environment, running: Mutex::new(None), streams: AtomicU32::new(0) };
        server.start();
        Some(server)
    }

    /// The address of a new, empty queue.
    pub fn queue(&self) -> String {
        format!("{}/0?stream=test-{}", self.address(), self.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, on 127.0.0.1 only.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One command, on a connection of its own. An error is an answer too.
    pub fn ask(&self, command: &[&str]) -> Answer {
        ask(self.port, command).unwrap_or_else(|error| panic!("Redis: {error}\n{}", self.log()))
    }

    /// Kills the server as a power cut would. Without effect where it does not run.
    pub fn kill(&self) {
        let Some(mut child) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        cut(&mut child);
    }

    /// Starts it (again), on the same port and with what its disk holds, and waits until it answers.
    pub fn start(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(running.is_none(), "it runs already");
        let began = Instant::now();
        *running = Some(self.spawn());
        while ask(self.port, &["PING"]).ok() != Some(Answer::Text("PONG".to_owned())) {
            assert!(began.elapsed() < PATIENCE, "Redis does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process, for signals.
    pub fn process(&self) -> u32 {
        let Answer::Text(info) = self.ask(&["INFO", "server"]) else { panic!("no answer of INFO") };
        let process = info.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
        process.unwrap_or_else(|| panic!("no process_id in {info}"))
    }

    /// Bytes of its append-only file by now.
    pub fn written(&self) -> u64 {
        fs::metadata(self.file()).expect("the append-only file").len()
    }

    /// Cuts the append-only file of a killed server back to so many bytes: what a power cut does to what was not synced.
    pub fn forget(&self, kept: u64) {
        assert!(self.running.lock().unwrap_or_else(PoisonError::into_inner).is_none(), "it runs");
        let file = fs::OpenOptions::new().write(true).open(self.file()).expect("the append-only file");
        file.set_len(kept).expect("a shorter file");
    }

    /// The append-only file that is written to: the last of a folder since Redis 7, one in the server's own before.
    fn file(&self) -> PathBuf {
        let entries = fs::read_dir(self.folder.path().join("appendonlydir")).into_iter().flatten();
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let last =
            files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max_by_key(|path| (path.as_os_str().len(), path.clone()));
        last.unwrap_or_else(|| self.folder.path().join("appendonly.aof"))
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new("sh");
        command.current_dir(self.folder.path()).envs(self.environment.iter().cloned()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args(["-c", SUPERVISE, "sh"]).arg(self.folder.path()).arg(&self.program);
        let (user, password) = LOCKED;
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "everysec"]);
        command.args(["--user", user, "on", &format!(">{password}"), "~*", "+@all"]);
        // A group of its own: Ctrl-C ends the tests, and by that the pipe, and by that the server.
        command.process_group(0).stdin(Stdio::piped()).spawn().expect("a shell starts")
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

impl Answer {
    /// The number that is the answer.
    pub fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("{other:?} is no number"),
        }
    }
}

/// One command to the server on this port, on a connection of its own. An error of the server is an answer too.
pub fn ask(port: u16, command: &[&str]) -> std::io::Result<Answer> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut text = format!("*{}\r\n", command.len());
    for word in command {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    socket.write_all(text.as_bytes())?;
    read(&mut BufReader::new(socket))
}

fn read(from: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let invalid = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(|| invalid("no answer".to_owned()))?;
    let number = || rest.parse::<i64>().map_err(|_| invalid(format!("{kind}{rest}")));
    match kind {
        "+" => Ok(Answer::Text(rest.to_owned())),
        "-" => Ok(Answer::Error(rest.to_owned())),
        ":" => Ok(Answer::Number(number()?)),
        "$" | "*" if number()? < 0 => Ok(Answer::Nothing),
        "$" => {
            let mut bytes = vec![0; number()? as usize + 2];
            from.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Ok(Answer::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "*" => (0..number()?).map(|_| read(from)).collect::<std::io::Result<_>>().map(Answer::List),
        other => Err(invalid(format!("{other}{rest}"))),
    }
}

/// Ends it with nothing finished and everything kept.
fn cut(child: &mut Child) {
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(b"kill\n").ok();
    }
    child.wait().ok();
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("REDIS_SERVER") {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|file| Path::is_file(file))
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

#[test]
fn what_was_written_long_enough_ago_outlives_a_kill() {
    let Some(server) = Server::private() else { return };
    server.ask(&["SET", "kept", "1"]);
    std::thread::sleep(Duration::from_secs(2));
    server.kill();
    assert!(ask(server.port, &["PING"]).is_err());
    server.start();
    assert_eq!(server.ask(&["GET", "kept"]), Answer::Text("1".to_owned()));
    let (user, password) = LOCKED;
    assert_eq!(server.ask(&["AUTH", user, password]), Answer::Text("OK".to_owned()));
    assert!(matches!(server.ask(&["AUTH", user, "wrong"]), Answer::Error(text) if text.starts_with("WRONGPASS")));
    // And what is cut off is gone.
    let written = server.written();
    server.ask(&["SET", "late", "1"]);
    server.kill();
    server.forget(written);
    server.start();
    assert_eq!((server.ask(&["GET", "kept"]), server.ask(&["GET", "late"])), (Answer::Text("1".to_owned()), Answer::Nothing));
    let folder = server.folder.path().to_owned();
    drop(server);
    assert!(!folder.exists());
}
