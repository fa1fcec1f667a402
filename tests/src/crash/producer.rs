//! A producer that puts complete messages into the entry's queue, and knows nothing of us: at least once, as producers do. What a broker
//! may have forgotten is put in again unless its task is there.

use super::broker::Broker;
use super::dice::Dice;
use super::report::{PUSHED, Report};
use super::rows;
use super::site::Site;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pause before a message is put in that the broker did not take, and between two questions to the database.
const AGAIN: Duration = Duration::from_millis(100);

/// See the head of this file.
#[derive(Default)]
pub struct Producer {
    /// What is to be put in, and when.
    waiting: VecDeque<(Instant, String)>,
    /// Everything there is: id of the task, and message.
    all: Vec<(String, String)>,
    /// When to ask which messages the broker may have forgotten.
    ask: Option<Instant>,
}

impl Producer {
    /// Messages for now; some of them come a second time.
    pub fn add<'a>(&mut self, messages: impl Iterator<Item = &'a Value>, dice: &mut Dice) {
        let now = Instant::now();
        for message in messages {
            let body = message.to_string();
            self.all.push((message["task_id"].as_str().unwrap().to_owned(), body.clone()));
            if dice.below(6) == 0 {
                self.waiting.push_back((now + dice.millis(0, 3000), body.clone()));
            }
            self.waiting.push_back((now, body));
        }
    }

    /// The broker may have forgotten what it took.
    pub fn doubt(&mut self) {
        self.ask = Some(Instant::now());
    }

    /// Whether the broker has taken everything.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.ask.is_none()
    }

    /// Puts in what is due.
    pub fn tick(&mut self, site: &Site, broker: &Broker, report: &mut Report) {
        let now = Instant::now();
        if self.ask.is_some_and(|at| at <= now) {
            self.ask = match rows::roots(site) {
                Ok(there) => {
                    let lost = self.all.iter().filter(|(id, _)| !there.contains(id));
                    let lost: Vec<_> = lost.map(|(_, body)| (now, body.clone())).collect();
                    self.waiting.extend(lost);
                    None
                }
                Err(_) => Some(now + AGAIN),
            };
        }
        for _ in 0..self.waiting.len() {
            let Some((due, body)) = self.waiting.pop_front() else { return };
            if due > now {
                self.waiting.push_back((due, body));
            } else if broker.put(&body) {
                report.fault(PUSHED);
            } else {
                // It may be there nevertheless.
                self.waiting.push_back((now + AGAIN, body));
            }
        }
    }
}
