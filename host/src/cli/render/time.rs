//! Durations and points in time.

use crate::task::Millis;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A duration with two or three digits that matter: `0.4 ms`, `12 ms`, `1.25 s`, `2 min 5 s`, `3 h 4 min`, `5 d 6 h`.
pub fn duration(ms: f64) -> String {
    let ms = if ms.is_finite() { ms.max(0.0) } else { 0.0 };
    let seconds = ms / 1e3;
    let whole = seconds.round() as u64;
    match ms {
        _ if ms == 0.0 => "0 ms".to_owned(),
        _ if ms < 9.95 => format!("{ms:.1} ms"),
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ if seconds < 9.995 => format!("{seconds:.2} s"),
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        _ if whole < 3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ if whole < 86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// The clock of this machine, Unix milliseconds; for showing only.
pub fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis)
}

/// RFC 3339, UTC, to the millisecond.
pub fn timestamp(at: Millis) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or(0).min(LAST_YEAR));
    humantime::format_rfc3339_millis(at).to_string()
}

/// The end of the year 9999, where RFC 3339 ends.
const LAST_YEAR: u64 = 253_402_300_799_000;

/// When something was, for a person: `3.2 s ago`, `in 5 min 0 s`; a timestamp for a machine.
pub fn when(at: Millis, now: Millis, relative: bool) -> String {
    let ms = now.saturating_sub(at) as f64;
    match relative {
        false => timestamp(at),
        true if ms < 0.0 => format!("in {}", duration(-ms)),
        true => format!("{} ago", duration(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_the_digits_that_matter() {
        for (ms, text) in [
            (0.0, "0 ms"),
            (0.42, "0.4 ms"),
            (9.94, "9.9 ms"),
            (12.4, "12 ms"),
            (999.4, "999 ms"),
            (999.6, "1.00 s"),
            (1250.0, "1.25 s"),
            (59_900.0, "59.9 s"),
            (59_990.0, "1 min 0 s"),
            (125_000.0, "2 min 5 s"),
            (11_040_000.0, "3 h 4 min"),
            (453_600_000.0, "5 d 6 h"),
            (f64::NAN, "0 ms"),
            (-5.0, "0 ms"),
        ] {
            assert_eq!(duration(ms), text, "{ms}");
        }
    }

    #[test]
    fn times_are_relative_for_people_only() {
        assert_eq!(when(1_000, 4_200, true), "3.20 s ago");
        assert_eq!(when(4_200, 1_000, true), "in 3.20 s");
        assert_eq!(when(1_000, 4_200, false), "1970-01-01T00:00:01.000Z");
        assert_eq!(timestamp(Millis::MAX), "9999-12-31T23:59:59.000Z");
    }
}
