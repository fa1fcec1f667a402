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

/// Most looks that do not wait for room after a wait in vain.
const MOST_HASTY: u32 = 256;

/// See the head of this file.
pub(super) struct Feed {
    /// None: the table.
    pub inbox: Option<Inbox>,
    /// Whether the last look found nothing, and nothing was being taken in.
    pub idle: bool,
    /// The receive that is under way, and when it was begun.
    pub receiving: Option<(Id, Instant, Reserved)>,
    /// What was received and is being taken in.
    pub taking_in: Vec<(Id, Reserved)>,
    /// When something was last taken in.
    taken_in: Instant,
    /// Not looked at before.
    pub not_before: Instant,
    /// Until when room is gathered for its next look, if it is.
    pub gathering: Option<Instant>,
    /// How many looks do not wait for room, as the last wait was in vain, and how many of them are left.
    hasty: (u32, u32),
    failures: u32,
}

impl Feed {
    pub fn new(inbox: Option<Inbox>) -> Self {
        let now = Instant::now();
        let (receiving, taking_in) = (None, Vec::new());
        Self { inbox, idle: false, receiving, taking_in, taken_in: now, not_before: now, gathering: None, hasty: (0, 0), failures: 0 }
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

    /// Whether a phase of one of its looks is this one.
    pub fn is_at(&self, phase: Id) -> bool {
        self.receiving.as_ref().is_some_and(|(id, ..)| *id == phase) || self.taking_in.iter().any(|(id, _)| *id == phase)
    }

    /// A phase has ended: the room that was set aside for it, and when it was begun; a receive, not before the last messages were taken
    /// in.
    pub fn ended(&mut self, phase: Id) -> Option<(Reserved, Instant)> {
        if let Some((_, began, room)) = self.receiving.take_if(|(id, ..)| *id == phase) {
            return Some((room, began.max(self.taken_in)));
        }
        let at = self.taking_in.iter().position(|(id, _)| *id == phase)?;
        let (_, room) = self.taking_in.swap_remove(at);
        Some((room, std::mem::replace(&mut self.taken_in, Instant::now())))
    }

    /// It was looked at from then on, and had something or nothing; while messages of it are taken in it does not count as empty.
    /// `elsewhere`: there is work in another feed.
    pub fn looked(&mut self, began: Instant, nothing: bool, elsewhere: bool) {
        self.idle = nothing && self.taking_in.is_empty();
        if let Some(inbox) = &self.inbox {
            inbox.deliveries.looked(began, self.idle);
        }
        if nothing && elsewhere && self.inbox.is_some() {
            self.not_before = Instant::now() + EMPTY_PAUSE;
        }
    }

    /// Whether its next look is to wait for more room, `longest` in all. Not where the last wait was in vain: then that many looks go as
    /// they are, unless `must`, and twice as many after the next one.
    pub fn gathers(&mut self, must: bool, longest: Duration) -> bool {
        let now = Instant::now();
        match self.gathering {
            Some(until) if until > now => return true,
            Some(_) => {
                let hasty = (self.hasty.0 * 2).clamp(1, MOST_HASTY);
                self.hasty = (hasty, hasty);
            }
            None if self.hasty.1 > 0 && !must => self.hasty.1 -= 1,
            None => {
                self.gathering = Some(now + longest);
                return true;
            }
        }
        self.gathering = None;
        false
    }

    /// There is all the room that its next look can want. Half of what was learnt stays: another feed may have taken it the other times.
    pub fn has_gathered(&mut self) {
        if self.gathering.take().is_some() {
            self.hasty = (self.hasty.0 / 2, 0);
        }
    }

    /// A look went well to its end.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A look failed: the next one waits. Whether there is anything cannot be told.
    pub fn failed(&mut self) {
        self.looked(Instant::now(), false, false);
        let doublings = self.failures.min(16);
        self.not_before = Instant::now() + (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const WAIT: Duration = Duration::from_millis(20);

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_vain_is_repeated_less_and_less() {
        let mut feed = Feed::new(None);
        let mut looks_between_waits = Vec::new();
        for _ in 0..4 {
            let mut looks = 0;
            while !feed.gathers(false, WAIT) {
                looks += 1;
            }
            looks_between_waits.push(looks);
            advance(WAIT / 2).await;
            assert!(feed.gathers(false, WAIT), "it waits on");
            advance(WAIT / 2).await;
            assert!(!feed.gathers(false, WAIT), "it goes with what there is");
        }
        assert_eq!(looks_between_waits, [0, 1, 2, 4]);
        assert!(feed.gathers(true, WAIT), "a call of the broker is worth a wait each time");
        feed.has_gathered();
        assert!(feed.gathers(false, WAIT), "a wait that had its end is repeated");
    }
}
