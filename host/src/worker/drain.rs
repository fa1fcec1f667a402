//! The end of a run, in stages: nothing more is begun, what runs may finish within the grace time, the rest is interrupted and handed
//! back at no cost.

use super::run::Shift;
use crate::guest::StopReason;
use futures::stream::StreamExt;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a run that ends waits for looks that may still bring a message. Cut short, a message that was on its way is seen again once
/// its visibility is over.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// How long claims and looks under way may go on once the grace time is over: then the store does not answer.
const LAST_CLAIMS: Duration = Duration::from_secs(5);

/// Further away than any run lasts.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

impl Shift<'_> {
    /// Waits for what is under way. Without limit where the run ends by itself; within the grace time once somebody asks it to end.
    pub(super) async fn drain(&mut self) {
        let began = Instant::now();
        let never = began + FOREVER;
        let (mut asked, mut last_look, mut interrupt, mut abandon) = (false, began + LAST_LOOK, never, never);
        while !(self.running.is_empty() && self.looks.is_empty() && self.claims.is_empty()) {
            tokio::select! {
                biased;
                () = self.drain.cancelled(), if !asked => {
                    asked = true;
                    let grace = self.worker.settings.grace;
                    tracing::info!(tasks = self.running.len(), ?grace, "draining: no new tasks, waiting for running ones");
                    interrupt = Instant::now() + grace;
                    last_look = last_look.min(interrupt);
                }
                Some(ended) = self.running.join_next() => self.load.ended(ended),
                Some(answered) = self.claims.next() => self.claimed(answered),
                Some(looked) = self.looks.join_next_with_id() => self.looked(looked),
                () = sleep_until(last_look) => {
                    self.closing.cancel();
                    last_look = never;
                }
                () = sleep_until(interrupt) => {
                    tracing::info!(tasks = self.running.len(), "the grace time is over: handing running tasks back");
                    self.worker.heartbeats.stop_all(StopReason::Drained);
                    self.worker.hurry.cancel();
                    (interrupt, abandon) = (never, Instant::now() + LAST_CLAIMS);
                }
                () = sleep_until(abandon) => {
                    // What they bring is found again as after a crash.
                    self.looks.abort_all();
                    self.claims.clear();
                    abandon = never;
                }
            }
        }
    }
}
