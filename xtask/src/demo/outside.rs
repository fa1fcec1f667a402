//! The servers that the cloud demo needs, each on a free port of 127.0.0.1 and gone with it: PostgreSQL, Redis, and moto, which speaks SQS
//! and S3. Left out: anything that has to last. Nothing is synced to disk.

use super::background::{Background, User};
use super::shown::typed;
use crate::shell;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The superuser of the demo's database, who needs no password from this machine.
const USER: &str = "demo";

/// A server, and the address that clients are given.
pub type Server = (Background, String);

/// A PostgreSQL with an empty database, by the programs in that folder; the address is its DSN.
pub fn postgres(bin: &Path, logs: &Path) -> Result<Server, String> {
    let user = plain_user();
    let folder = temporary("postgres", user)?;
    let data = folder.join("data");
    let mut made = Command::new(bin.join("initdb"));
    made.args(["--no-sync", "-A", "trust", "-U", USER, "--encoding=UTF8", "--locale=C", "-D"]).arg(&data);
    typed(&made);
    // It also tells that `trust` is not for real servers, which is true.
    made.current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = user {
        made.uid(uid).gid(gid);
    }
    shell::run(&mut made).inspect_err(|_| drop(fs::remove_dir_all(&folder)))?;
    let port = free_port()?;
    let mut command = Command::new(bin.join("postgres"));
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-F", "-k"]).arg(&folder);
    typed(&command);
    command.current_dir(&folder);
    let server = Background::start(&command, &logs.join("postgres.log"), "QUIT", Some(&folder), user)?;
    server.wait_for("ready", |log| log.contains("ready to accept connections").then_some(()))?;
    Ok((server, format!("postgres://{USER}@127.0.0.1:{port}/postgres")))
}

/// A Redis: `redis://HOST:PORT`.
pub fn redis(program: &Path, logs: &Path) -> Result<Server, String> {
    let port = free_port()?;
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    typed(&command);
    let server = Background::start(&command, &logs.join("redis.log"), "KILL", None, None)?;
    server.wait_for("ready", |_| TcpStream::connect(("127.0.0.1", port)).ok())?;
    Ok((server, format!("redis://127.0.0.1:{port}")))
}

/// A moto: `http://HOST:PORT`.
pub fn moto(program: &Path, logs: &Path) -> Result<Server, String> {
    let port = free_port()?;
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    typed(&command);
    let server = Background::start(&command, &logs.join("moto.log"), "KILL", None, None)?;
    server.wait_for("ready", |log| log.contains("Running on http").then_some(()))?;
    Ok((server, format!("http://127.0.0.1:{port}")))
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|at| at.port())
        .map_err(|e| format!("no free port: {e}"))
}

/// A new folder that belongs to that user.
fn temporary(name: &str, user: Option<User>) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("wasm-worker-demo-{name}-{}", std::process::id()));
    let made = fs::create_dir(&folder).and_then(|()| match user {
        Some((uid, gid)) => std::os::unix::fs::chown(&folder, Some(uid), Some(gid)),
        None => Ok(()),
    });
    made.map(|()| folder.clone()).map_err(|e| format!("{}: {e}", folder.display()))
}

/// Whom PostgreSQL runs as where we are root, which it refuses: `postgres`, or else `nobody`.
fn plain_user() -> Option<User> {
    if fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name))?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}
