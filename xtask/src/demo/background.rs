//! A program that runs beside this one and ends with it, however that ends: Ctrl-C, an error, or `kill -9`.
//!
//! It runs under a small shell that waits for the end of its standard input, a pipe from here, which the kernel closes in any case.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the program until a line names a signal for it, or there are no more lines. Then its folder goes, where it has one.
const SUPERVISE: &str = r#"signal=$1 folder=$2; shift 2
"$@" </dev/null & child=$!
read -r word
kill -"${word:-$signal}" $child 2>/dev/null; wait $child 2>/dev/null
[ -z "$folder" ] || rm -rf "$folder""#;

/// Longest that a program may take to come up: some are Python, and load much.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a log that an error carries.
const SHOWN: usize = 20;

/// Number of a user, and of their group.
pub type User = (u32, u32);

/// A running program.
pub struct Background {
    name: String,
    log: PathBuf,
    running: Child,
}

impl Background {
    /// Starts a command; what it prints goes to `log`. At the end it gets `signal`, and `folder` is removed. `user` is whom it runs as,
    /// where that is another one.
    pub fn start(command: &Command, log: &Path, signal: &str, folder: Option<&Path>, user: Option<User>) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let fault = |e: std::io::Error| format!("{name}: {e}");
        let out = File::create(log).map_err(fault)?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SUPERVISE, "sh", signal]).arg(folder.unwrap_or(Path::new(""))).arg(command.get_program());
        shell.args(command.get_args()).stdout(out.try_clone().map_err(fault)?).stderr(out).stdin(Stdio::piped());
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some((uid, gid)) = user {
            shell.uid(uid).gid(gid);
        }
        // A group of its own: Ctrl-C ends this process, and by that the pipe, and by that the program.
        let running = shell.process_group(0).spawn().map_err(fault)?;
        Ok(Self { name, log: log.to_owned(), running })
    }

    /// Looks into its log until there is an answer.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&str) -> Option<T>) -> Result<T, String> {
        let began = Instant::now();
        loop {
            if let Some(found) = look(&self.log()) {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{} is not {what} after {} s:\n{}", self.name, PATIENCE.as_secs(), self.last()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of that.
    pub fn last(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
    }

    /// Asks it to end by itself, and waits until it has.
    pub fn stop(mut self) {
        if let Some(mut input) = self.running.stdin.take() {
            let _ = input.write_all(b"TERM\n");
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.running.stdin.take());
        let _ = self.running.wait();
    }
}
