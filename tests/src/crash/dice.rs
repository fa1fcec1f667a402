//! Random choices from a seed: what was chosen can be chosen again, when it strikes cannot.

use std::time::Duration;

/// A xorshift generator.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    /// From `low` to `high` milliseconds, short ones more often.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        let (a, b) = (self.below(high - low), self.below(high - low));
        Duration::from_millis(low + a.min(b))
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}
