//! Logs: to standard error, as text for people or as JSON lines for machines. Results go to standard output, never here.

mod short;

use short::{Clock, Short};
use std::io::IsTerminal;
use tracing_subscriber::filter::EnvFilter;

/// Starts logging. `filter` is a level (`info`) or directives (`warn,wasm_worker=debug`); a bad one is named in the error.
/// Colours only on a terminal, and not where `NO_COLOR` is set (see no-color.org). On a terminal lines are short, unless `whole`
/// is asked for: what a person does not read is left to files and machines.
pub fn start(filter: &str, json: bool, no_color: bool, whole: bool) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(filter).map_err(|e| format!("log filter '{filter}' cannot be read: {e}; try info or warn,wasm_worker=debug"))?;
    let terminal = std::io::stderr().is_terminal();
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = if json {
        base.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else if terminal && !whole {
        base.with_ansi(!no_color).with_timer(Clock).fmt_fields(Short).try_init()
    } else {
        base.with_ansi(terminal && !no_color).try_init()
    };
    started.map_err(|e| format!("logs cannot be started: {e}"))
}
