//! From how a run ended to what happens to the task. Pure: only the run loop applies it.

use super::hooks::{HookError, TaskError};
use super::retry::RetryPolicy;
use std::time::Duration;

/// Most times a task is handed back for faults of the host before it is given up.
pub const MAX_HANDBACKS: u32 = 20;

/// Lapsed leases before a task is given up; after the one before the last it runs alone.
pub const MAX_CRASHES: u32 = 3;

/// Why a run did not reach its commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A hook answered with an error.
    Hook(HookError),
    /// The guest's own doing: a trap, a limit, an answer that breaks the contract. Counts as an attempt.
    Guest(TaskError),
    /// The guest's own doing, and another attempt would end the same way.
    Broken(TaskError),
    /// The host's doing: instance, model, store or storage. Costs no attempt.
    Host(TaskError),
    /// Somebody asked for the task to stop.
    Cancelled,
    /// The worker is being drained. Costs nothing.
    Drained,
    /// The lease is another's by now, or may be: nothing may be written.
    LeaseLost,
}

/// How often a task has failed, before this run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Failures of the guest.
    pub attempts: u32,
    /// Times handed back for faults of the host.
    pub handbacks: u32,
    /// Lapsed leases.
    pub crashes: u32,
    /// Attempts before it is given up.
    pub max_attempts: u32,
}

/// What happens to the task.
#[derive(Debug, Clone, PartialEq)]
pub enum Disposition {
    /// QUEUED again after a wait; one more attempt is counted.
    Retry {
        /// The wait.
        after: Duration,
        /// The failure.
        error: TaskError,
    },
    /// QUEUED again after a wait; one more hand-back is counted.
    HandBack {
        /// The wait.
        after: Duration,
        /// The failure.
        error: TaskError,
    },
    /// QUEUED again at once; nothing is counted.
    GiveBack,
    /// DEAD: a dead letter.
    Dead(TaskError),
    /// CANCELLED.
    Cancelled,
    /// Nothing: the task is somebody else's.
    Leave,
}

/// Decides. `jitter` is drawn evenly from 0 to 1; `patient` is false in a one-job run, where a fault of the host fails at once.
pub fn dispose(fault: Fault, counters: Counters, policy: &RetryPolicy, jitter: f64, patient: bool) -> Disposition {
    let retry = |error: TaskError, after: Option<Duration>| {
        let failures = counters.attempts + 1;
        if failures >= counters.max_attempts {
            return Disposition::Dead(error);
        }
        Disposition::Retry { after: after.unwrap_or_else(|| policy.wait(failures, jitter)), error }
    };
    match fault {
        Fault::Hook(HookError::Retryable { code, message, after_ms }) => {
            retry(TaskError::new(code, message), after_ms.map(|ms| Duration::from_millis(ms).min(MAX_GUEST_WAIT)))
        }
        Fault::Hook(HookError::Invalid(violations)) => Disposition::Dead(TaskError::invalid(violations)),
        Fault::Hook(HookError::Fatal { code, message }) => Disposition::Dead(TaskError::new(code, message)),
        Fault::Hook(HookError::Cancelled) => {
            // Nobody asked: the guest gave up by itself.
            Disposition::Dead(TaskError::new("cancelled", "the guest answered `cancelled`, though nobody cancelled the task"))
        }
        Fault::Guest(error) => retry(error, None),
        Fault::Broken(error) => Disposition::Dead(error),
        Fault::Host(error) => {
            if !patient || counters.handbacks + 1 > MAX_HANDBACKS {
                return Disposition::Dead(error);
            }
            Disposition::HandBack { after: policy.wait(counters.handbacks + 1, jitter), error }
        }
        Fault::Cancelled => Disposition::Cancelled,
        Fault::Drained => Disposition::GiveBack,
        Fault::LeaseLost => Disposition::Leave,
    }
}

/// Longest wait that a guest may ask for: a day. Longer ones are a mistake of units more often than a wish.
const MAX_GUEST_WAIT: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn after(fault: Fault, counters: Counters) -> Disposition {
        dispose(fault, counters, &RetryPolicy::default(), 1.0, true)
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let fault = || Fault::Guest(TaskError::new("trap", "x"));
        let counters = Counters { max_attempts: 2, ..Counters::default() };
        assert!(matches!(after(fault(), counters), Disposition::Retry { after, .. } if after == Duration::from_secs(1)));
        assert!(matches!(after(fault(), Counters { attempts: 1, ..counters }), Disposition::Dead(_)));
        assert!(matches!(after(fault(), Counters { max_attempts: 1, ..counters }), Disposition::Dead(_)));
    }

    #[test]
    fn faults_of_the_host_cost_no_attempt_but_are_bounded() {
        let fault = || Fault::Host(TaskError::new("storage", "x"));
        let counters = Counters { max_attempts: 1, ..Counters::default() };
        assert!(matches!(after(fault(), counters), Disposition::HandBack { .. }));
        assert!(matches!(after(fault(), Counters { handbacks: 20, ..counters }), Disposition::Dead(_)));
        assert!(matches!(dispose(fault(), counters, &RetryPolicy::default(), 1.0, false), Disposition::Dead(_)));
    }

    #[test]
    fn the_guest_names_its_wait() {
        let fault = Fault::Hook(HookError::retryable("busy", "later", Some(1500)));
        let counters = Counters { max_attempts: 5, ..Counters::default() };
        assert!(matches!(after(fault, counters), Disposition::Retry { after, .. } if after == Duration::from_millis(1500)));
    }
}
