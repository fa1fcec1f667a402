//! A way to stop a run from outside. What happens on a stop is the backend's affair: ONNX Runtime ends at the next node,
//! rten runs to its end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Hook = Box<dyn Fn() + Send>;

/// Shared by a run and whoever may end it early.
#[derive(Clone, Default)]
pub struct Stop {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    stopped: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

impl Stop {
    /// Asks the run to end. Safe to call more than once, and after its end.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        if let Some(hook) = self.inner.hook.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            hook();
        }
    }

    /// Whether [`Stop::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::SeqCst)
    }

    /// Calls `hook` on a stop, at once if that has come already. The hook stands until the guard is dropped.
    pub fn on_stop(&self, hook: impl Fn() + Send + 'static) -> HookGuard<'_> {
        let mut slot = self.inner.hook.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: a stop that comes now waits for it, and then finds the hook.
        if self.is_stopped() {
            hook();
        }
        *slot = Some(Box::new(hook));
        HookGuard { stop: self }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("stopped", &self.is_stopped()).finish()
    }
}

/// Removes the hook when dropped.
#[must_use]
pub struct HookGuard<'a> {
    stop: &'a Stop,
}

impl Drop for HookGuard<'_> {
    fn drop(&mut self) {
        *self.stop.inner.hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Stop;

    #[test]
    fn a_hook_is_called_on_a_stop_and_when_it_comes_too_late() {
        let calls = Arc::new(AtomicUsize::new(0));
        let stop = Stop::default();
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = Arc::clone(calls);
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        let guard = stop.on_stop(count(&calls));
        stop.stop();
        drop(guard);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        stop.stop();
        assert_eq!(calls.load(Ordering::SeqCst), 1, "a dropped hook is gone");
        let _late = stop.on_stop(count(&calls));
        assert_eq!(calls.load(Ordering::SeqCst), 2, "a late hook runs at once");
    }
}
