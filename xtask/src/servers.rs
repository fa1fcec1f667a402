//! The servers that tests and the demo talk to, where they are not here yet: moto (speaks S3 and SQS) from PyPI, and Redis from the system's packages.
//!
//! Tests find them by `MOTO_SERVER` and `REDIS_SERVER`; whoever sets these gets what they name. The tests find PostgreSQL
//! themselves. Left out: Redis where there is neither apt nor the right to use it; its tests then skip themselves, or fail in CI.

use crate::shell;
use std::path::PathBuf;
use std::process::Command;

/// Pinned: what it gets right and wrong on the wire changes between releases, and tests name it.
const MOTO: &str = "5.2.5";

/// Where a server's program lies, by the variable that tells tests.
pub type Found = Vec<(&'static str, PathBuf)>;

/// Finds the servers, and installs what is missing.
pub fn servers() -> Result<Found, String> {
    let mut found = Found::new();
    if std::env::var_os("MOTO_SERVER").is_none() {
        found.push(("MOTO_SERVER", moto()?));
    }
    if std::env::var_os("REDIS_SERVER").is_none()
        && let Some(redis) = redis()?
    {
        found.push(("REDIS_SERVER", redis));
    }
    Ok(found)
}

/// In a Python environment of its own below the target folder, made once; beside it lies that Python, which has a client of AWS too.
pub fn moto() -> Result<PathBuf, String> {
    let venv = shell::target().join("servers-python");
    let (python, program) = (venv.join("bin/python"), venv.join("bin/moto_server"));
    let version = "import moto.server, importlib.metadata as m; print(m.version('moto'))";
    let ready = Command::new(&python).args(["-c", version]).output().is_ok_and(|out| out.stdout.trim_ascii() == MOTO.as_bytes());
    if !ready || !program.is_file() {
        eprintln!("installing moto {MOTO} into {}", venv.display());
        let needs =
            |error| format!("{error}; moto needs Python 3.10 or newer with venv and pip, and a way to PyPI or a mirror (PIP_INDEX_URL)");
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).map_err(needs)?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        shell::run(Command::new(&python).args(pip).arg(format!("moto[server]=={MOTO}"))).map_err(needs)?;
    }
    Ok(program)
}

/// From PATH, or by apt where this may install packages.
pub fn redis() -> Result<Option<PathBuf>, String> {
    if let Some(program) = in_path("redis-server") {
        return Ok(Some(program));
    }
    let is_root = shell::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || in_path("apt-get").is_none() {
        eprintln!("no redis-server in PATH: tests of Redis will skip themselves; install it, or name it by REDIS_SERVER");
        return Ok(None);
    }
    eprintln!("installing redis-server");
    let apt = |words: &[&str]| shell::run(Command::new("apt-get").args(words).env("DEBIAN_FRONTEND", "noninteractive"));
    let install = ["install", "-y", "-qq", "--no-install-recommends", "redis-server"];
    // Lists of packages may be absent, or name what is no longer there.
    if apt(&install).is_err() {
        apt(&["update", "-qq"])?;
        apt(&install)?;
    }
    in_path("redis-server").map(Some).ok_or_else(|| "apt-get installed redis-server, and it is not in PATH".to_owned())
}

/// The folder with PostgreSQL's programs.
pub fn postgres() -> Result<PathBuf, String> {
    let has_both = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).find(|folder| has_both(folder)) {
        return Ok(found);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).filter(has_both).collect();
    folders.sort();
    folders.pop().ok_or_else(|| "no PostgreSQL here (initdb and postgres in PATH or in /usr/lib/postgresql/*/bin); install it".to_owned())
}

fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|program| program.is_file())
}
