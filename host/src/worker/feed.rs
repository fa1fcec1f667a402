//! Where a run takes tasks from: the table, or one queue; and when it may look there again.

use super::deliveries::Inbox;
use super::load::Reserved;
use std::time::Duration;
use tokio::task::Id;
use tokio::time::Instant;

/// How long an empty queue is left alone while there is work elsewhere.
const EMPTY_PAUSE: Duration = Duration::from_millis(100);

/// First pause after a failed look; it doubles up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// See the head of this file.
pub(super) struct Feed {
    /// None: the table.
    pub inbox: Option<Inbox>,
    /// Whether the last look found nothing.
    pub idle: bool,
    /// The look that is under way, and the room set aside for it.
    pub looking: Option<(Id, Reserved)>,
    /// Not looked at before.
    pub not_before: Instant,
    /// Until when room is gathered for its next look, if it is.
    pub gathering: Option<Instant>,
    failures: u32,
}

impl Feed {
    pub fn new(inbox: Option<Inbox>) -> Self {
        Self { inbox, idle: false, looking: None, not_before: Instant::now(), gathering: None, failures: 0 }
    }

    /// Its queue, for people.
    pub fn name(&self) -> &str {
        self.inbox.as_ref().map_or("", |inbox| &inbox.deliveries.spec.name)
    }

    /// Whether the last look found something: there may be more.
    pub fn is_busy(&self) -> bool {
        !self.idle && self.failures == 0
    }

    /// Whether the last look failed.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// A look went well. `elsewhere`: there is work in another feed.
    pub fn looked(&mut self, nothing: bool, elsewhere: bool) {
        self.idle = nothing;
        self.failures = 0;
        if nothing && elsewhere && self.inbox.is_some() {
            self.not_before = Instant::now() + EMPTY_PAUSE;
        }
    }

    /// A look failed: the next one waits. Whether there is anything cannot be told.
    pub fn failed(&mut self) {
        self.idle = false;
        let doublings = self.failures.min(16);
        self.not_before = Instant::now() + (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        self.failures += 1;
    }
}
