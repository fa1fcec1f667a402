//! Finding out whether a file is ONNX Runtime, and handing it to `ort`.
//!
//! `ort` keeps one library for the whole process, and panics or hangs when that cannot be opened: its errors are made by
//! the very library that is missing. So a file is read, then opened by the system's linker, before `ort` sees it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use ort::logging::LogLevel;

use super::super::model::shortened;

/// Oldest release whose interface this program was built against: 1.22.
pub(super) const OLDEST_MINOR_VERSION: u32 = ort::MINOR_VERSION;

/// Largest file that is looked at as a library. Builds for processors have 20 to 40 MB, those for graphics cards keep
/// theirs in separate files.
const MAX_LIBRARY_BYTES: u64 = 1 << 30;

/// How long the library may take to start. It needs some 50 ms.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Reads the version out of the file without running any of its code. On Linux it is part of every exported symbol's name.
pub(super) fn version_of(path: &Path) -> Result<String, String> {
    let size = fs::metadata(path).map_err(|error| format!("{path:?}: {error}"))?;
    if !size.is_file() || size.len() > MAX_LIBRARY_BYTES {
        return Err(format!("{path:?} is not a library file"));
    }
    let file = fs::read(path).map_err(|error| format!("{path:?} cannot be read: {error}"))?;
    if find(&file, b"OrtGetApiBase").is_none() {
        return Err(format!("{path:?} is not ONNX Runtime (it lacks OrtGetApiBase)"));
    }
    const MARK: &[u8] = b"VERS_1.";
    let Some(at) = find(&file, MARK) else {
        return Ok("of unknown version".to_owned());
    };
    let numbers =
        file.get(at + MARK.len()..).unwrap_or_default().iter().take(16).take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
    let rest: String = numbers.map(|byte| char::from(*byte)).collect();
    let minor = rest.split('.').next().and_then(|minor| minor.parse::<u32>().ok());
    match minor {
        Some(minor) if minor < OLDEST_MINOR_VERSION => Err(format!("{path:?} has version 1.{rest}, which is too old")),
        _ => Ok(format!("1.{rest}")),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // Faster than comparing windows: most bytes are not the first of the needle.
    let (first, _) = needle.split_first()?;
    let mut from = 0;
    loop {
        let at = from + haystack.get(from..)?.iter().position(|byte| byte == first)?;
        if haystack.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Lets the system's linker open the library, which finds out what reading it cannot: another platform, missing libraries.
pub(super) fn link(path: &Path) -> Result<(), String> {
    ort::util::preload_dylib(path.as_os_str()).map_err(|error| format!("{path:?} does not open: {error}"))
}

/// Hands the library to `ort`, on a thread of its own: should it hang or panic after all, only that thread is lost.
pub(super) fn start(path: &Path) -> Result<(), String> {
    let (sender, receiver) = sync_channel(1);
    let library = path.to_owned();
    let begin = move || {
        let started = ort::init_from(&library).map_err(|error| error.to_string()).and_then(|builder| {
            builder.with_name("wasm-worker").with_telemetry(false).with_logger(Arc::new(log)).commit();
            let environment = ort::environment::Environment::current().map_err(|error| error.to_string())?;
            environment.set_log_level(LogLevel::Warning);
            Ok(())
        });
        // Nobody waits any more after a time-out.
        let _ = sender.send(started);
    };
    thread::Builder::new().name("onnxruntime-start".to_owned()).spawn(begin).map_err(|error| format!("no thread: {error}"))?;
    match receiver.recv_timeout(START_TIMEOUT) {
        Ok(started) => started.map_err(|error| format!("{path:?} does not start: {error}")),
        Err(RecvTimeoutError::Timeout) => Err(format!("{path:?} does not start within {START_TIMEOUT:?}")),
        Err(RecvTimeoutError::Disconnected) => Err(format!("{path:?} does not start (it panicked)")),
    }
}

/// The library's own messages, which may quote a model.
fn log(level: LogLevel, category: &str, _id: &str, _location: &str, message: &str) {
    let message = shortened(message);
    match level {
        LogLevel::Fatal | LogLevel::Error => {
            tracing::error!(target: "onnxruntime", category, message = ?message)
        }
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", category, message = ?message),
        LogLevel::Info | LogLevel::Verbose => {
            tracing::trace!(target: "onnxruntime", category, message = ?message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::conformance;
    use super::*;

    #[test]
    fn what_looks_right_but_is_no_library_is_left_to_the_linker() {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.so");
        fs::write(&broken, b"\x7fELF OrtGetApiBase VERS_1.31.1\0").unwrap();
        assert_eq!(version_of(&broken).as_deref(), Ok("1.31.1"));
        for path in [broken, std::env::current_exe().unwrap()] {
            assert!(link(&path).unwrap_err().contains("does not open"));
        }
    }

    #[test]
    fn a_version_is_read_from_the_file() {
        let path = conformance::library();
        let minor = version_of(&path).unwrap().split('.').nth(1).unwrap().parse::<u32>().unwrap();
        assert!(minor >= OLDEST_MINOR_VERSION);
        assert_eq!(find(b"aab", b"ab"), Some(1));
        assert_eq!(find(b"aa", b"ab"), None);
        assert_eq!(find(b"", b"ab"), None);
    }
}
