//! The outside as this crate reaches it: in a component the host's imports, elsewhere the in-memory host of [`testing`](crate::testing).
//! Both files offer the same names, so nothing above this line knows which one it has.

#[cfg(target_family = "wasm")]
mod component;
#[cfg(target_family = "wasm")]
pub(crate) use component::*;

#[cfg(not(target_family = "wasm"))]
mod memory;
#[cfg(not(target_family = "wasm"))]
pub(crate) use memory::*;
