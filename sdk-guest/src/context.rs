//! What a service may ask and tell about the task it runs. Everything here belongs to the task at hand: nothing outlives the hook.

use crate::error::{Error, Failure};
use crate::json;
use crate::outside;
use crate::payload::Payload;
use crate::task::Input;
use serde::Serialize;

/// Inputs asked for at once. Each may carry a payload of 1 MiB, so a page stays at 16 MiB of memory in the worst case.
const PAGE: u32 = 16;

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Finest detail.
    Trace,
    /// For developers.
    Debug,
    /// Normal events.
    Info,
    /// Something to look at.
    Warn,
    /// A failure.
    Error,
}

/// Adds a line to the task's log. Capped per task by the host; the rest is counted and dropped.
pub fn log(level: Level, message: &str) {
    outside::log(level, message, "");
}

/// Like [`log`], with fields: anything that serialises as a JSON object. Fields without a JSON form are left out.
pub fn log_with<T: Serialize + ?Sized>(level: Level, message: &str, fields: &T) {
    outside::log(level, message, &serde_json::to_string(fields).unwrap_or_default());
}

/// Logs finest detail.
pub fn trace(message: &str) {
    log(Level::Trace, message);
}

/// Logs for developers.
pub fn debug(message: &str) {
    log(Level::Debug, message);
}

/// Logs a normal event.
pub fn info(message: &str) {
    log(Level::Info, message);
}

/// Logs something to look at.
pub fn warn(message: &str) {
    log(Level::Warn, message);
}

/// Logs a failure.
pub fn error(message: &str) {
    log(Level::Error, message);
}

/// How far a task is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, where that is known.
    pub total: Option<u64>,
    /// What it is doing.
    pub phase: Option<String>,
    /// Figures, the text of a JSON object.
    pub metrics: Option<String>,
}

impl Progress {
    /// So many units done.
    pub fn new(done: u64) -> Self {
        Self { done, ..Self::default() }
    }

    /// Of so many in all.
    #[must_use]
    pub fn of(mut self, total: u64) -> Self {
        self.total = Some(total);
        self
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(mut self, phase: impl Into<String>) -> Self {
        self.phase = Some(phase.into());
        self
    }

    /// Figures: anything that serialises as a JSON object.
    pub fn metrics<T: Serialize + ?Sized>(mut self, figures: &T) -> Result<Self, Error> {
        self.metrics = Some(json::encode(figures)?);
        Ok(self)
    }

    /// Tells the host. Only the last one is kept.
    pub fn send(self) {
        outside::progress(self);
    }
}

/// Tells that `done` of `total` units are done; [`Progress`] says more.
pub fn progress(done: u64, total: u64) {
    Progress::new(done).of(total).send();
}

/// True once somebody asked for the task to stop. A service that goes on is stopped after a grace time.
pub fn is_cancelled() -> bool {
    outside::is_cancelled()
}

/// Fails with [`Error::Cancelled`] once somebody asked for the task to stop: `context::check_cancelled()?` in a long loop.
pub fn check_cancelled() -> Result<(), Error> {
    if is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Sends a chunk of a streamed answer to whoever listens.
pub fn emit(chunk: Payload) -> Result<(), Failure> {
    outside::emit(chunk)
}

/// A secret granted to the step; none when it is not granted.
pub fn secret(name: &str) -> Option<String> {
    outside::secret(name)
}

/// What the tasks of the finished fan-out left, in fan-out order; fetched a page at a time.
pub fn inputs() -> Inputs {
    Inputs { page: Vec::new().into_iter(), offset: 0 }
}

/// See [`inputs`].
#[derive(Debug)]
pub struct Inputs {
    page: std::vec::IntoIter<Input>,
    offset: u32,
}

impl Iterator for Inputs {
    type Item = Input;

    fn next(&mut self) -> Option<Input> {
        if self.page.len() == 0 {
            let page = outside::inputs(self.offset, PAGE);
            self.offset = self.offset.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
            self.page = page.into_iter();
        }
        self.page.next()
    }
}
