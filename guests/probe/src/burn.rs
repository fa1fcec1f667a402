//! Time, memory and stack: what limits have to stop.

use serde_json::json;
use std::hint::black_box;
use std::time::{Duration, Instant};
use wasm_worker_guest::{Error, Output};

/// One piece of an allocation.
const PIECE: u64 = 1 << 20;

/// Rounds between two looks at the clock, some 25 microseconds.
const ROUNDS: u64 = 10_000;

/// Never returns. The work cannot be taken out by the compiler.
pub(crate) fn forever() -> ! {
    let mut value = 1;
    loop {
        value = black_box(mix(value));
    }
}

/// Works until `time` is over; answers the rounds done.
pub(crate) fn spin(time: Duration) -> u64 {
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < time {
        black_box(compute(ROUNDS));
        rounds += ROUNDS;
    }
    rounds
}

/// A chain of dependent steps, so that no processor and no compiler can shorten it.
pub(crate) fn compute(rounds: u64) -> u64 {
    (0..rounds).fold(1, |value, _| black_box(mix(value)))
}

/// One round: xorshift, then a multiplication.
fn mix(mut value: u64) -> u64 {
    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
    value.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Takes and touches memory until it has `bytes` or is refused.
pub(crate) fn allocate(bytes: u64, polite: bool) -> Result<Output, Error> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    while (held.len() as u64) * PIECE < bytes {
        let mut piece: Vec<u8> = Vec::new();
        if polite && piece.try_reserve_exact(PIECE as usize).is_err() {
            break;
        }
        piece.resize(PIECE as usize, 1);
        held.push(black_box(piece));
    }
    Output::json(&json!({ "taken": held.len() as u64 * PIECE }))
}

/// Calls itself until the stack ends; the frame is used after the call, so that it cannot be a jump.
pub(crate) fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    let deeper = if black_box(true) { recurse(depth + 1) } else { 0 };
    deeper + black_box(frame)[0]
}
