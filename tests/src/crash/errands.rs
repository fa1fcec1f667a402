//! Commands that a person would give beside the workers: submitting jobs, cancelling them. They are killed too, and given again until
//! they succeed, which must have no second effect.

use super::dice::Dice;
use super::report::{Report, SUBMITTER_KILLED};
use super::site::Site;
use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// Most tries of one command. Each may wait ten seconds for the database.
const TRIES: u32 = 30;

/// Shortest and longest life of a command that is killed, milliseconds: a whole one takes some ten.
const LIFE: (u64, u64) = (1, 14);

struct Errand {
    words: Vec<String>,
    due: Instant,
    tries: u32,
    /// It is to be killed, the first time.
    strike: bool,
}

struct Running {
    errand: Errand,
    child: Child,
    kill_at: Option<Instant>,
    log: PathBuf,
}

/// A queue of commands, one at a time.
#[derive(Default)]
pub struct Errands {
    waiting: VecDeque<Errand>,
    running: Option<Running>,
}

impl Errands {
    /// A command for later; `strike`: it is killed once.
    pub fn add(&mut self, words: &[&str], after: Duration, strike: bool) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.waiting.push_back(Errand { words, due: Instant::now() + after, tries: 0, strike });
    }

    /// Whether all of them have succeeded.
    pub fn are_done(&self) -> bool {
        self.waiting.is_empty() && self.running.is_none()
    }

    /// Starts what is due, kills what is to be killed, and gives again what did not succeed.
    pub fn tick(&mut self, site: &Site, dice: &mut Dice, report: &mut Report) {
        let Some(mut running) = self.running.take() else { return self.next(site, dice) };
        if let Some(status) = running.child.try_wait().unwrap() {
            if !status.success() {
                self.again(running.errand, report, &fs::read_to_string(&running.log).unwrap_or_default());
            }
        } else if running.kill_at.is_some_and(|at| Instant::now() >= at) {
            running.child.kill().unwrap();
            running.child.wait().unwrap();
            report.fault(SUBMITTER_KILLED);
            self.again(running.errand, report, "killed");
        } else {
            self.running = Some(running);
        }
    }

    fn next(&mut self, site: &Site, dice: &mut Dice) {
        let now = Instant::now();
        let Some(place) = self.waiting.iter().position(|errand| errand.due <= now) else { return };
        let mut errand = self.waiting.remove(place).unwrap();
        let words: Vec<&str> = errand.words.iter().map(String::as_str).collect();
        let child = site.start(&words, "errand.log");
        let kill_at = std::mem::take(&mut errand.strike).then(|| now + dice.millis(LIFE.0, LIFE.1));
        self.running = Some(Running { errand, child, kill_at, log: site.path().join("errand.log") });
    }

    fn again(&mut self, errand: Errand, report: &mut Report, why: &str) {
        if errand.tries >= TRIES {
            report.violations.push(format!("`{}` does not succeed: {why}", errand.words.join(" ")));
            return;
        }
        // Ever later: a job that comes as a message is there some time after it was sent.
        let due = Instant::now() + Duration::from_millis(50) * (1 + errand.tries);
        // At the back: a cancellation that comes before its job must not keep the submission waiting.
        self.waiting.push_back(Errand { tries: errand.tries + 1, due, ..errand });
    }
}
