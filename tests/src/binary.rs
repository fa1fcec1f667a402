//! The real `wasm-worker` binary, run in a folder of its own.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder that holds the binaries built with this test: `target/release`.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// The binary itself.
pub fn program() -> PathBuf {
    let binary = built().join("wasm-worker");
    assert!(binary.is_file(), "{} is absent: `cargo build --release --workspace` builds it", binary.display());
    binary
}

/// A guest built by `cargo xtask guests`, by its file name.
pub fn guest(name: &str) -> PathBuf {
    let path = built().parent().unwrap().join("wasm32-wasip2/release").join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is absent: `cargo xtask guests` builds it", path.display());
    path
}

/// ONNX Runtime's library, as `cargo xtask models` fetches it.
pub fn onnxruntime() -> PathBuf {
    std::env::var_os("ORT_DYLIB_PATH").map_or_else(|| root().join("downloads/onnxruntime/libonnxruntime.so"), PathBuf::from)
}

/// A folder with a data directory, removed at the end.
pub struct Place {
    pub folder: tempfile::TempDir,
    /// Where tasks are kept; none: a file in the data directory.
    dsn: Option<String>,
}

/// What a command printed, and how it ended.
pub struct Printed {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Printed {
    /// Its standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("no JSON ({e}): {}\n{}", self.out, self.err))
    }

    /// Asserts success.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

impl From<Output> for Printed {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), dsn: None }
    }

    /// The same, with its tasks in this database.
    pub fn on(dsn: String) -> Self {
        Self { dsn: Some(dsn), ..Self::new() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The binary, with this place's data directory and nothing of the machine's own settings.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.path()).args(words).env_clear().env("ORT_DYLIB_PATH", onnxruntime());
        command.env("WASM_WORKER_DATA_DIR", self.path().join("data")).env("WASM_WORKER_LOG", "warn");
        command.envs(self.dsn.iter().map(|dsn| ("DB_DSN", dsn))).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, words: &[&str]) -> Printed {
        self.command(words).output().unwrap().into()
    }

    /// Starts it; its output goes to a file of that name.
    pub fn start(&self, words: &[&str], name: &str, settings: &[(&str, &str)]) -> Child {
        let log = std::fs::File::create(self.path().join(name)).unwrap();
        let mut command = self.command(words);
        command.envs(settings.iter().copied()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A worker that runs while a test goes on, and ends with it, whatever becomes of the test.
pub struct Running(Child);

impl Running {
    /// Starts it; what it prints goes to `worker.log` in the place.
    pub fn start(place: &Place, words: &[&str], settings: &[(&str, &str)]) -> Self {
        Self(place.start(words, "worker.log", settings))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks until there is an answer; a minute at most.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
