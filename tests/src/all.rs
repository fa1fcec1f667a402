//! Every test that needs more than one room: one crate, one binary. Each file tests one promise.

mod bad_input;
mod binary;
mod checklist;
mod crash;
mod drain;
mod floors;
mod guest_host;
mod keeping;
mod looking;
mod ocr;
mod operating;
mod outside;
mod servers;
mod simulation;
mod spin;
