//! From how a call into a guest broke off to a fault with a name and a text that a person can act on.

use super::GuestFault;
use super::bounded::Cut;
use super::imports::HostFault;
use super::state::State;
use crate::task::hooks::TaskError;
use crate::task::limits::{Limits, MAX_ERROR_TEXT, cut};
use wasmtime::{Error, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Functions named in a trap's text.
const MAX_FRAMES: usize = 12;

/// Bytes of the reason in a trap's text; the rest is for what the guest printed and where it was.
const MAX_REASON: usize = 1 << 10;

/// A call that did not come to its own end.
pub(super) fn of_cut(cut: Cut, limits: &Limits) -> GuestFault {
    match cut {
        Cut::WallLimit => {
            let wall = humantime::format_duration(limits.wall);
            GuestFault::Guest(TaskError::new("wall-limit", format!("stopped after {wall}, the step's wall limit (limits.wall)")))
        }
        Cut::Stopped => GuestFault::Stopped,
        Cut::Panic(text) => GuestFault::Host(TaskError::new("host-panic", format!("a host function panicked: {text}"))),
    }
}

/// A call that wasmtime broke off: a trap, a refused growth, an exit, or a host function that could not go on.
pub(super) fn of_error(error: &Error, state: &State) -> GuestFault {
    if let Some(HostFault(failure)) = error.downcast_ref::<HostFault>() {
        return GuestFault::Host(TaskError::new(failure.code, &failure.message));
    }
    if let Some(refusal) = state.limiter.refusal() {
        return GuestFault::Guest(TaskError::new("memory-limit", refusal));
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return GuestFault::Guest(TaskError::new("exit", format!("the guest called exit with code {}; hooks answer instead", exit.0)));
    }
    GuestFault::Guest(TaskError::new("trap", trap_text(error, &state.console.last_words())))
}

fn trap_text(error: &Error, last_words: &str) -> String {
    let reason = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let mut text = cut(&reason, MAX_REASON);
    if !last_words.is_empty() {
        text.push_str(&format!("\nlast on stderr: {last_words}"));
    }
    let frames: &[wasmtime::FrameInfo] = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
    for frame in frames.iter().take(MAX_FRAMES) {
        let name = frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), demangled);
        text.push_str(&format!("\n  in {}", cut(&name, 200)));
    }
    if frames.len() > MAX_FRAMES {
        text.push_str(&format!("\n  and {} more", frames.len() - MAX_FRAMES));
    }
    cut(&text, MAX_ERROR_TEXT)
}

/// A Rust symbol as it was written, without its hash; anything else as it is.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}
