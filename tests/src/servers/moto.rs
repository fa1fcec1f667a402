//! A server for tests that speaks S3 and SQS: moto, from PyPI. It keeps everything in memory, is correct on the wire and slow, checks no
//! signatures, and is gone with the test process, however that ends.
//!
//! `MOTO_SERVER` names its program, as `cargo xtask test` installs it; otherwise it is looked for in PATH. It picks its port itself and
//! says so in its log.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest that it may take to come up: it is Python, and loads much.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the server until standard input ends, which is a pipe from here: the kernel closes it also when the tests are killed.
const SUPERVISE: &str = r#"folder=$1; shift
"$@" >>"$folder/log" 2>&1 & child=$!
cat >/dev/null; kill -9 $child 2>/dev/null; wait $child; rm -rf "$folder""#;

/// A running server.
pub struct Server {
    port: u16,
    buckets: AtomicU32,
    folder: TempDir,
    running: Child,
}

impl Server {
    /// The one server of this test process, made at the first call. None where moto is not installed: the caller's test says so and
    /// ends; with `CI` in the environment it fails instead.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(Self::private).as_ref()
    }

    /// A server of one test's own.
    pub fn private() -> Option<Self> {
        let Some(program) = program() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "no moto: neither MOTO_SERVER nor moto_server in PATH; `cargo xtask test` installs it"
            );
            eprintln!(
                "\n*** SKIPPED: no moto here (MOTO_SERVER, or moto_server in PATH; `cargo xtask test` installs it); CI would fail ***\n"
            );
            return None;
        };
        let folder = tempfile::Builder::new().prefix("moto-").tempdir().expect("a folder for the server");
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISE, "sh"]).arg(folder.path()).arg(program).args(["-H", "127.0.0.1", "-p", "0"]);
        // A group of its own: Ctrl-C ends the tests, and by that the pipe, and by that the server.
        let running = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Self { port: 0, buckets: AtomicU32::new(0), folder, running: running.expect("a shell starts") };
        server.port = server.wait_for_port();
        Some(server)
    }

    /// What clients are given as endpoint.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, on 127.0.0.1 only.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new, empty bucket: its name.
    pub fn bucket(&self) -> String {
        let name = format!("test-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let answer = self.ask(&format!("PUT /{name}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        name
    }

    /// Sends one request without a body, such as `GET /bucket/key`; returns the whole answer.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out that is not zero");
        let request = format!("{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the server takes a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server answers");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// It listens when it names its port.
    fn wait_for_port(&mut self) -> u16 {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let named = log.lines().find_map(|line| line.split_once("Running on http://127.0.0.1:"));
            if let Some(port) = named.and_then(|(_, port)| port.trim().parse().ok()) {
                return port;
            }
            assert!(began.elapsed() < PATIENCE, "moto does not start:\n{log}");
            std::thread::sleep(Duration::from_millis(25));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.running.stdin.take());
        self.running.wait().ok();
    }
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("MOTO_SERVER") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("moto_server")).find(|program| program.is_file())
}

#[test]
fn it_keeps_buckets_and_is_gone_when_dropped() {
    let Some(server) = Server::private() else { return };
    let (bucket, other) = (server.bucket(), server.bucket());
    assert_ne!(bucket, other);
    assert!(server.ask(&format!("GET /{bucket}")).contains(&format!("<Name>{bucket}</Name>")));
    assert!(server.ask("GET /no-such-bucket").starts_with("HTTP/1.1 404"));
    let (port, folder) = (server.port(), server.folder.path().to_owned());
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err() && !folder.exists());
}
