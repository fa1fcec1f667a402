//! Every test that needs more than one room: one crate, one binary. Each file tests one promise.

mod bad_input;
mod binary;
mod checklist;
mod drain;
mod floors;
mod guest_host;
mod kill;
mod looking;
mod ocr;
mod servers;
mod simulation;
mod spin;
