//! Bounds on what an instance takes from the host: linear memory, tables, tensors.

use crate::task::limits::Limits;
use bytesize::ByteSize;
use wasmtime::ResourceLimiter;

/// Core instances of one component instance. An interpreter with its libraries has some thirty.
const MAX_INSTANCES: usize = 200;

/// Tables of one instance.
const MAX_TABLES: usize = 200;

/// Linear memories of one instance.
const MAX_MEMORIES: usize = 16;

/// Elements of one table. An interpreter has some ten thousand.
pub(super) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Counts and refuses.
pub(super) struct Limiter {
    limit: u64,
    used: u64,
    refused: Option<u64>,
}

impl Limiter {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limit: limits.memory, used: 0, refused: None }
    }

    /// Linear memory in use, bytes; it never shrinks.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Forgets earlier refusals: a new call begins.
    pub(super) fn begin(&mut self) {
        self.refused = None;
    }

    /// What was refused since `begin`, for an error text.
    pub(super) fn refusal(&self) -> Option<String> {
        let wanted = self.refused?;
        let (limit, used) = (ByteSize(self.limit), ByteSize(self.used));
        Some(format!(
            "asked for {} more memory while it had {}; the step's limit is {} (limits.memory)",
            ByteSize(wanted).display().iec(),
            used.display().iec(),
            limit.display().iec()
        ))
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The guest's own bound. Refused here, because a growth counted below is never taken back.
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64;
        let total = self.used.saturating_add(more);
        if total > self.limit {
            self.refused = Some(more);
            return Ok(false);
        }
        self.used = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(MAX_TABLE_ELEMENTS).min(MAX_TABLE_ELEMENTS))
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// Bytes of tensors an instance holds at once.
pub(super) struct TensorQuota {
    limit: u64,
    held: u64,
}

impl TensorQuota {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limit: limits.tensors, held: 0 }
    }

    /// Takes `bytes`, or says why not.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), String> {
        let total = self.held.saturating_add(bytes);
        if total > self.limit {
            return Err(format!(
                "a tensor of {bytes} bytes on top of {} held; the step's limit is {} (limits.tensors)",
                self.held, self.limit
            ));
        }
        self.held = total;
        Ok(())
    }

    /// Gives `bytes` back.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.held = self.held.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut limiter = Limiter::new(&Limits { memory: 100, ..Limits::default() });
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 41, None).unwrap());
        assert!(limiter.refusal().unwrap().contains("limits.memory"));
        limiter.begin();
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert_eq!((limiter.used(), limiter.refusal()), (100, None));
    }

    #[test]
    fn a_growth_over_the_guests_own_bound_is_not_counted() {
        let mut limiter = Limiter::new(&Limits { memory: 100, ..Limits::default() });
        for _ in 0..10 {
            assert!(!limiter.memory_growing(0, 60, Some(50)).unwrap());
        }
        assert_eq!(limiter.used(), 0);
    }

    #[test]
    fn tensors_come_and_go() {
        let mut quota = TensorQuota::new(&Limits { tensors: 10, ..Limits::default() });
        quota.take(10).unwrap();
        assert!(quota.take(1).unwrap_err().contains("limits.tensors"));
        quota.give_back(4);
        quota.take(4).unwrap();
        assert!(quota.take(u64::MAX).is_err());
    }
}
