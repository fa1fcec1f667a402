//! One call into a guest, under its bounds: the wall limit and the order to stop are looked at before every turn, processor
//! time is metered turn by turn, and a panic in a host function ends the call, not the host.
//!
//! A turn ends when the guest waits, or at the next tick of the epoch. Busy threads may starve timers, so the deadline is
//! read from the clock at each turn; the timer only serves guests that wait.

use super::scope::Scope;
use super::ticker::Ticker;
use rustix::time::{ClockId, clock_gettime};
use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// What a call is bound by.
pub(super) struct Bounds<'a> {
    /// Kept going while the guest runs.
    pub ticker: &'a Ticker,
    /// May order a stop; takes the processor time.
    pub scope: &'a Scope,
    /// When the call ends, whatever the guest does. None where the clock does not reach that far.
    pub deadline: Option<Instant>,
    /// The instance's meter.
    pub meter: &'a mut Meter,
}

/// Why a call did not come to its own end.
#[derive(Debug)]
pub(super) enum Cut {
    /// The deadline passed.
    WallLimit,
    /// The scope was stopped.
    Stopped,
    /// A host function panicked; its text.
    Panic(String),
}

/// Calls shorter than this are metered by the clock on the wall: reading a thread's processor time is a system call, which
/// costs about as much as a whole call of a small hook, and so short a call is hardly ever interrupted.
const SHORT: Duration = Duration::from_micros(50);

/// How processor time is measured, call by call of one instance.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Whether the last call was short: then the first turn of the next is taken to be short as well.
    short: bool,
}

/// Adds up the processor time of the turns of one call, and hands it over also when the call is dropped.
struct Sum<'a> {
    scope: &'a Scope,
    spent: Duration,
}

impl Drop for Sum<'_> {
    fn drop(&mut self) {
        self.scope.count_cpu(self.spent);
    }
}

/// Runs `call` within `bounds`. After an error the guest's store is in the middle of something and must not be used again.
pub(super) async fn bounded<T>(call: impl Future<Output = T>, bounds: Bounds<'_>) -> Result<T, Cut> {
    let Bounds { ticker, scope, deadline, meter } = bounds;
    let mut sum = Sum { scope, spent: Duration::ZERO };
    let mut call = pin!(call);
    let mut bell = pin!(ring(scope, deadline));
    // Not `move`: that would copy the sum into the closure, and the one that is handed over would stay at zero.
    poll_fn(|cx| {
        if scope.check().is_err() {
            return Poll::Ready(Err(Cut::Stopped));
        }
        let start = Instant::now();
        if deadline.is_some_and(|deadline| start >= deadline) {
            return Poll::Ready(Err(Cut::WallLimit));
        }
        let running = ticker.running();
        let before = if meter.short { None } else { Some(thread_time()) };
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
        let took = start.elapsed();
        sum.spent += before.map_or(took, |before| thread_time().saturating_sub(before));
        meter.short = took < SHORT && matches!(polled, Ok(Poll::Ready(_)));
        drop(running);
        match polled {
            Ok(Poll::Ready(answer)) => Poll::Ready(Ok(answer)),
            // The bell is hung up only when the guest waits for the first time: most calls are over before that.
            Ok(Poll::Pending) => bell.as_mut().poll(cx).map(Err),
            Err(panic) => Poll::Ready(Err(Cut::Panic(panic_text(&*panic).to_owned()))),
        }
    })
    .await
}

async fn ring(scope: &Scope, deadline: Option<Instant>) -> Cut {
    let time_out = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = scope.stopped() => Cut::Stopped,
        () = time_out => Cut::WallLimit,
    }
}

/// Processor time of this thread so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}
