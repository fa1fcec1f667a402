//! When a failed task runs again.

use std::time::Duration;

/// Exponential backoff with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper bound of the first wait.
    pub first: Duration,
    /// Upper bound of any wait.
    pub max: Duration,
}

impl Default for RetryPolicy {
    /// 1 s doubling to 5 min.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

impl RetryPolicy {
    /// The wait after failure number `failures` (1 for the first), `jitter` drawn evenly from 0 to 1.
    /// Full jitter spreads a crowd of retries over the whole window.
    pub fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let bound = self.first.saturating_mul(1u32 << doublings).min(self.max);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait(1, 1.0), Duration::from_secs(1));
        assert_eq!(policy.wait(4, 1.0), Duration::from_secs(8));
        assert_eq!(policy.wait(4, 0.25), Duration::from_secs(2));
        assert_eq!(policy.wait(60, 1.0), Duration::from_secs(300));
        assert_eq!(policy.wait(u32::MAX, 1.0), Duration::from_secs(300));
    }
}
