//! What a run tells: log, progress, streamed chunks, and what the host measured of it.

use super::{Failure, Scope, locked};
use crate::task::hooks::Payload;
use crate::task::json::extent;
use crate::task::limits::cut;
use crate::task::message::MAX_DEPTH;
use crate::task::outputs;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest log line kept, bytes.
const MAX_LOG_LINE: usize = 8 << 10;

/// The log so far.
#[derive(Default)]
pub(super) struct Log {
    text: String,
    dropped: u64,
}

/// What the guest has told about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: Option<u64>,
    /// What it is doing.
    pub phase: Option<String>,
    /// Figures: a JSON object.
    pub metrics: Option<serde_json::Value>,
}

impl Scope {
    /// Adds a line to the task's log. Control characters are escaped; above `limits.log` bytes lines are counted and dropped.
    pub fn log(&self, level: &str, message: &str) {
        let mut log = locked(&self.log);
        if log.text.len() as u64 >= self.limits.log {
            log.dropped += 1;
            return;
        }
        let room = (self.limits.log as usize).saturating_sub(log.text.len()).min(MAX_LOG_LINE);
        let at = self.started().elapsed().as_millis();
        let line = cut(message, room);
        let line: String = line.chars().flat_map(visible).collect();
        log.text.push_str(&format!("{at:>7} ms {level:<5} {line}\n"));
    }

    /// The log so far, with a last line that counts what was dropped.
    pub fn log_text(&self) -> String {
        let log = locked(&self.log);
        let mut text = log.text.clone();
        if log.dropped > 0 {
            text.push_str(&format!("… {} more lines dropped (limits.log is {} bytes)\n", log.dropped, self.limits.log));
        }
        text
    }

    /// Keeps the last progress. Figures nested too deep to be stored are left out.
    pub fn set_progress(&self, mut progress: Progress) {
        progress.metrics = progress.metrics.filter(|metrics| extent(metrics).0 <= MAX_DEPTH);
        *locked(&self.progress) = Some(progress);
    }

    /// The last progress, as a JSON object.
    pub fn progress(&self) -> Option<String> {
        locked(&self.progress)
            .as_ref()
            .map(|p| serde_json::json!({"done": p.done, "total": p.total, "phase": p.phase, "metrics": p.metrics}).to_string())
    }

    /// Counts a chunk of a streamed answer.
    pub fn emit(&self, chunk: &Payload) -> Result<(), Failure> {
        self.check()?;
        if chunk.len() as u64 > self.limits.payload {
            return Err(Failure::new(
                "too-large",
                format!("a chunk of {} bytes is over {} (limits.payload)", chunk.len(), self.limits.payload),
            ));
        }
        self.emitted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Adds wall time of a model run.
    pub fn count_inference(&self, took: Duration) {
        self.inference_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Adds processor time of the guest.
    pub fn count_cpu(&self, took: Duration) {
        self.cpu_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Notes the instance's largest memory.
    pub fn note_memory(&self, bytes: u64) {
        self.peak_memory.fetch_max(bytes, Ordering::Relaxed);
    }

    /// What was measured so far; the caller knows the queue wait.
    pub fn figures(&self, queue_wait: Duration) -> outputs::Figures {
        outputs::Figures {
            latency_ms: millis(self.started().elapsed()),
            cpu_ms: self.cpu_us.load(Ordering::Relaxed) as f64 / 1e3,
            inference_ms: self.inference_us.load(Ordering::Relaxed) as f64 / 1e3,
            peak_memory: self.peak_memory.load(Ordering::Relaxed),
            gpu_mem_gb: 0.0,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            queue_wait_ms: millis(queue_wait),
        }
    }
}

/// Milliseconds to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// A character as it may be shown on a terminal: controls and direction marks escaped.
fn visible(c: char) -> Vec<char> {
    if c.is_control() || crate::task::uri::is_invisible(c) { c.escape_unicode().collect() } else { vec![c] }
}
