//! Failpoints: named places on the way of a task where a developer can have the process abort, to see that nothing is lost.
//!
//! `WASM_WORKER_ABORT_AT=<point>[:<n>]` arms one: the process aborts as it comes there for the n-th time (the first, unless told
//! otherwise). Nothing is flushed, dropped or handed back then, as after `kill -9`. While none is armed, a point costs one relaxed
//! load of a byte. The room stands below all others, because stores and guests have such places too. The kill loop in
//! `tests/src/crash/` walks [`Point::ALL`], so a point is part of it once it stands in the table here.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// One table: the points and their names.
macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place where the process can be made to abort, in the order of a task's way.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Point] = &[$(Point::$point),*];

            /// Its name in `WASM_WORKER_ABORT_AT`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// A broker has delivered messages; the store has not seen them.
    AfterReceive = "after-receive",
    /// The store has leased tasks, and none has begun.
    AfterClaim = "after-claim",
    /// An instance is ready; no hook has run.
    BeforeProcess = "before-process",
    /// Bytes of an output are on their way to the attempt's own folder.
    InStaging = "in-staging",
    /// `process` has answered.
    AfterProcess = "after-process",
    /// `publish-next` has answered.
    AfterPublishNext = "after-publish-next",
    /// Every large output lies in the attempt's own folder.
    AfterStaging = "after-staging",
    /// The lease is let go of, the commit not yet sent.
    BeforeCommit = "before-commit",
    /// A transaction of the store, any, is complete and not yet committed.
    InTransaction = "in-transaction",
    /// A transaction of the store, any, is committed, and nobody has been told.
    AfterTransaction = "after-transaction",
    /// The worker knows that the commit took effect; no output has its name.
    AfterCommit = "after-commit",
    /// An output has its name, and others may not.
    BetweenFiles = "between-files",
    /// Every output has its name; the end is not yet sent.
    BeforeEnd = "before-end",
    /// The task is DONE; the attempt's own folder is still there.
    AfterEnd = "after-end",
    /// A run ended without a commit, and the store has not been told.
    BeforeSettle = "before-settle",
    /// The store knows how a run ended without a commit.
    AfterSettle = "after-settle",
    /// Leases are about to be renewed.
    BeforeHeartbeat = "before-heartbeat",
    /// Leases were renewed; the worker has not noted it.
    AfterHeartbeat = "after-heartbeat",
    /// The store has listed what a sweep is to do outside, and nothing of it is done.
    AfterSweep = "after-sweep",
    /// A sweeper has finished what another worker committed.
    AfterFinishing = "after-finishing",
    /// Old attempts are removed; the store has not been told.
    BeforeSwept = "before-swept",
    /// Rows of the outbox are taken, and nothing of them is sent.
    BeforeSend = "before-send",
    /// A broker has confirmed messages; their rows are still in the outbox.
    AfterSend = "after-send",
    /// The store holds all that messages asked for; the broker has not been told.
    BeforeAck = "before-ack",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where the process is to abort, and at which time of coming there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortAt {
    /// The place.
    pub point: Point,
    /// The n-th time, from 1.
    pub time: u32,
}

impl FromStr for AbortAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, time) = text.split_once(':').unwrap_or((text, "1"));
        let Some(point) = Point::ALL.iter().copied().find(|point| point.as_str() == name) else {
            let known: Vec<&str> = Point::ALL.iter().map(|point| point.as_str()).collect();
            return Err(format!("no failpoint '{name}'; known: {}", known.join(", ")));
        };
        let time = time.parse().ok().filter(|time| *time > 0);
        let time = time.ok_or_else(|| format!("expected <point>:<n> with n from 1 to {}, such as {point}:3", u32::MAX))?;
        Ok(Self { point, time })
    }
}

/// The armed point, as its number in the table plus one; 0 for none.
static ARMED: AtomicU8 = AtomicU8::new(0);

/// How many times it is still to be passed, the last one included.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Arms a point for the rest of this process.
pub fn arm(at: AbortAt) {
    LEFT.store(at.time, Ordering::Relaxed);
    ARMED.store(at.point as u8 + 1, Ordering::Release);
}

/// The way of a task comes past a point.
#[inline]
pub fn reach(point: Point) {
    if ARMED.load(Ordering::Relaxed) != 0 {
        reach_armed(point);
    }
}

#[cold]
fn reach_armed(point: Point) {
    // Whoever sees the point sees the number that was stored before it.
    if ARMED.load(Ordering::Acquire) == point as u8 + 1 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        eprintln!("aborted at failpoint {point}, as WASM_WORKER_ABORT_AT asked for");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_points() {
        for (number, point) in Point::ALL.iter().enumerate() {
            assert_eq!(*point as usize, number);
            assert_eq!(point.as_str().parse(), Ok(AbortAt { point: *point, time: 1 }));
        }
        assert_eq!("before-commit:7".parse(), Ok(AbortAt { point: Point::BeforeCommit, time: 7 }));
    }

    #[test]
    fn what_is_no_point_is_refused_with_those_there_are() {
        let error = "before-comit".parse::<AbortAt>().unwrap_err();
        assert!(error.contains("'before-comit'") && error.contains("after-claim, before-process"), "{error}");
        for bad in ["before-commit:0", "before-commit:x", "before-commit:"] {
            assert!(bad.parse::<AbortAt>().unwrap_err().contains("before-commit:3"), "{bad}");
        }
    }
}
