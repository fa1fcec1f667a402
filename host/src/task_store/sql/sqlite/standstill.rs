//! Noticing that the clock ran ahead of the time that passed here: the machine was asleep, or its clock was set.
//!
//! By that clock every lease has lapsed then, and yet nobody has died: workers stood still as well, and go on. A claim or a sweep may
//! come before their next heartbeats, so for a while it takes nothing back. Only for a file: all who use it are on this machine.

use std::time::Duration;
use tokio::time::Instant;

/// What clocks may differ by, as they are put right all the time.
const ALLOWED: Duration = Duration::from_secs(5);

/// How long leases count as held after a standstill: two of the longest pauses between heartbeats.
const GRACE: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    /// The clock, in Unix milliseconds, and the time here, when they were last compared.
    last: Option<(i64, Instant)>,
    until: Option<Instant>,
}

impl Standstill {
    /// Compares: `clock` in Unix milliseconds, `here` at the same time. True where leases may only seem to have lapsed.
    pub fn is_over_lately(&mut self, clock: i64, here: Instant) -> bool {
        if let Some((before, seen)) = self.last.replace((clock, here)) {
            let passed = here.saturating_duration_since(seen) + ALLOWED;
            if i64::try_from(passed.as_millis()).is_ok_and(|passed| clock.saturating_sub(before) > passed) {
                tracing::info!(seconds = clock.saturating_sub(before) / 1000, "the clock ran ahead: leases are taken back a little later");
                self.until = Some(here + GRACE);
            }
        }
        self.until.is_some_and(|until| here < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_ran_ahead_is_noticed_and_forgotten() {
        let (mut standstill, start) = (Standstill::default(), Instant::now());
        let mut at = |clock: u64, here: u64| standstill.is_over_lately(clock as i64 * 1000, start + Duration::from_secs(here));
        // An hour passes on both; three seconds are nothing; back is nothing.
        let quiet = [(0, 0), (3600, 3600), (3610, 3607), (3000, 3608)].map(|(clock, here)| at(clock, here));
        assert_eq!(quiet, [false; 4]);
        let jumped = [(6600, 3610), (6608, 3618), (6610, 3620)].map(|(clock, here)| at(clock, here));
        assert_eq!(jumped, [true, true, false]);
    }
}
