//! Wall clocks that can be moved while the real binary runs: `clock.c`, preloaded. Monotonic time is not touched, as when somebody
//! sets a machine's clock.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// An hour, in seconds.
pub const HOUR: i64 = 3600;

/// The preloaded library and the clocks that it reads, in a folder that every user can read: a database server runs as another one.
pub struct Clocks {
    folder: Arc<TempDir>,
}

/// A clock that some processes share.
pub struct Clock {
    folder: Arc<TempDir>,
    file: PathBuf,
    moved: i64,
}

const LIBRARY: &str = "clock.so";

impl Clocks {
    /// Builds the library.
    pub fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let library = folder.path().join(LIBRARY);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/crash/clock.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).output();
        let built = built.expect("a C compiler, which building the workspace needs as well");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Self { folder: Arc::new(folder) }
    }

    /// A clock that shows the right time, for now.
    pub fn clock(&self, name: &str) -> Clock {
        let file = self.folder.path().join(format!("{name}.clock"));
        fs::write(&file, 0i64.to_ne_bytes()).unwrap();
        Clock { folder: Arc::clone(&self.folder), file, moved: 0 }
    }
}

impl Clock {
    /// What a process needs to go by this clock.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.folder.path().join(LIBRARY)), ("CRASH_CLOCK", self.file.clone())]
    }

    /// How far it is from the right time, seconds.
    pub fn moved(&self) -> i64 {
        self.moved
    }

    /// Moves it, for processes that run too. Written in place: the file is shared memory to them.
    pub fn set(&mut self, seconds: i64) {
        let file = fs::OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
        self.moved = seconds;
    }
}

#[test]
fn a_moved_clock_is_what_programs_read() {
    let mut clock = Clocks::build().clock("a");
    let read = |clock: &Clock| {
        let out = Command::new("date").arg("+%s").envs(clock.environment()).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().parse::<i64>().unwrap()
    };
    let before = read(&clock);
    clock.set(HOUR);
    let after = read(&clock);
    assert!((HOUR..HOUR + 60).contains(&(after - before)), "{before} {after}");
}
