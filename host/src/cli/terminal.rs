//! Standard output and error: what goes where, whether it is a terminal, whether colours are wanted. A broken pipe is no error.

use super::failure::Failure;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// What the two outputs are.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Results go to a person.
    pub shows_results: bool,
    /// Progress goes to a person.
    pub shows_progress: bool,
    /// Results may be coloured.
    pub colours: bool,
}

impl Terminal {
    /// Looks at the two outputs, and at `NO_COLOR` (any text but the empty one, see no-color.org) and `TERM`.
    pub fn detect() -> Self {
        let plain = is_no_color() || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let shows_results = io::stdout().is_terminal();
        Self { shows_results, shows_progress: io::stderr().is_terminal(), colours: shows_results && !plain }
    }
}

/// Whether the user asked for no colours.
pub fn is_no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

/// Writes text to standard output, with a newline where it has none.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        // Whoever read has had enough: `jobs list | head -1`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Failure::failed(format!("standard output cannot be written: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a value to standard output as indented JSON.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::failed(format!("no JSON: {e}")))?;
    print(&text)
}

/// Tells a person something on standard error; lost where nobody listens.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
