//! Standard WASI 0.2: all of it is linked, because interpreters import it whether they use it or not. Nothing is granted:
//! folders, arguments and environment are empty, sockets and names are denied. Clocks and randomness work.

use crate::guest::state::State;
use wasmtime::component::Linker;

/// Packages that count as standard, for the check of a component's imports.
pub(in crate::guest) const PACKAGES: &[&str] =
    &["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Links the six packages.
pub(in crate::guest) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}
