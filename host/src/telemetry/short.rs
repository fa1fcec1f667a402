//! Log lines on a terminal: the time of day, and of the fields those that a person looks at.

use std::fmt::{self, Debug};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Fields for machines and for those who search: the same on every line, or to be looked up by the task's id.
const LEFT_OUT: &[&str] = &["job_id", "tenant", "release", "epoch", "trace_id", "gpu_mem_gb"];

/// Longest id shown: what the commands accept as the beginning of a derived one.
const ID: usize = 12;

/// The time of day, UTC, to the second.
pub(super) struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        w.write_str(now.get(11..19).unwrap_or(&now))
    }
}

/// The message, then the fields that are not left out.
pub(super) struct Short;

impl<'w> FormatFields<'w> for Short {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, begun: false, written: Ok(()) };
        fields.record(&mut line);
        line.written
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    begun: bool,
    written: fmt::Result,
}

impl Line<'_> {
    fn put(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if self.written.is_err() || LEFT_OUT.contains(&name) {
            return;
        }
        let gap = if self.begun { " " } else { "" };
        self.begun = true;
        self.written = match name {
            "message" => write!(self.writer, "{gap}{value}"),
            _ => write!(self.writer, "{gap}{name}={value}"),
        };
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            // A derived id is a digest: its beginning is as good as all of it.
            "task_id" if value.len() == 64 => self.put("task", format_args!("{}", value.get(..ID).unwrap_or(value))),
            "task_id" => self.put("task", format_args!("{value}")),
            "message" => self.put("message", format_args!("{value}")),
            // Quoted, so that nothing in it is obeyed by the terminal.
            name if value.contains(|c: char| !c.is_ascii_graphic()) => self.put(name, format_args!("{value:?}")),
            name => self.put(name, format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "latency_ms" => self.put("took", format_args!("{value:?}ms")),
            name => self.put(name, format_args!("{value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_person_sees_what_a_person_reads() {
        let kept = Kept::default();
        let writer = kept.clone();
        let logs = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_target(false)
            .with_ansi(false)
            .with_timer(Clock)
            .fmt_fields(Short)
            .finish();
        tracing::subscriber::with_default(logs, || {
            let (id, latency_ms) = ("ab".repeat(32), Some(412_u64));
            tracing::info!(job_id = "j", task_id = id, step = "detect", tenant = "t", epoch = 1, gpu_mem_gb = 0.0, latency_ms, "task ran");
            tracing::warn!(task_id = "mine", error = "a\u{1b}[2J b", attempt = 2_u32, "task failed");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.get(8..).unwrap()).collect();
        assert_eq!(
            lines,
            ["  INFO task ran task=abababababab step=detect took=412ms", "  WARN task failed task=mine error=\"a\\u{1b}[2J b\" attempt=2"]
        );
        assert_eq!(text.as_bytes()[2], b':');
    }
}
