//! One worker, and what is to happen to it.

use super::dice::Dice;
use super::report::{ABORTED, KILLED, PAUSED, Report, TERMINATED};
use super::site::{GRACE, LEASE, Site, signal};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
use wasm_worker::failpoint::Point;

/// How long an armed worker is given to come to its failpoint.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a worker may take to leave after its grace time; generous, since the machine is busy.
const LEAVE: Duration = Duration::from_secs(20);

/// Pause before another worker is started for one that gave up: without one a slow machine would do nothing else.
const NEXT_START: Duration = Duration::from_millis(250);

/// What a worker logs once it serves.
const SERVING: &[u8] = b"worker started";

/// How long a worker that serves may wait for work to come on: where brokers lose and hide messages there may be none for a while.
const WORK: Duration = Duration::from_secs(5);

/// Numbers of signals.
const ABRT: i32 = 6;
const TERM: i32 = 15;

/// What is to happen to a worker.
#[derive(Debug, Clone, Copy)]
pub enum Plan {
    /// `kill -9` at that time.
    Kill(Instant),
    /// It aborts by itself; killed at that time if it never comes there.
    Abort(Point, Instant),
    /// SIGSTOP at that time.
    Pause(Instant),
    /// SIGCONT at that time.
    Resume(Instant),
    /// SIGTERM at that time.
    Terminate(Instant),
    /// It has to be gone by that time.
    Leave(Instant),
    /// It gave up as it started. Whoever runs it starts another one at that time, as a supervisor does; that one may come to the point.
    GaveUp(Instant, Option<Point>),
    /// Nothing.
    Live,
}

/// What was away a moment ago, so that a worker may have given up as it started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Away {
    pub database: bool,
    pub broker: bool,
}

impl Away {
    /// Whether that is what ended a worker with this log.
    fn explains(self, log: &str) -> bool {
        log.contains("error: ") && (self.database || (self.broker && log.contains(".queue: ")))
    }
}

impl Plan {
    /// The same, so much later.
    fn later(self, by: Duration) -> Self {
        match self {
            Self::Kill(at) => Self::Kill(at + by),
            Self::Abort(point, until) => Self::Abort(point, until + by),
            Self::Pause(at) => Self::Pause(at + by),
            Self::Terminate(at) => Self::Terminate(at + by),
            other => other,
        }
    }
}

/// What a plan waits for to begin. How long a start takes is the machine's and the broker's affair, and so is when there is work: a kill
/// before it hits nothing.
enum Waits {
    No,
    /// For the worker to serve.
    ToServe,
    /// For more claims than these, until then at most.
    ForWork(i64, Instant),
}

/// How a worker ended.
pub enum Ended {
    /// It runs.
    Not,
    /// As planned, or by a mistake that is on record.
    Yes,
    /// It was killed before it came to its failpoint.
    Unreached(Point),
}

/// See the head of this file.
pub struct Worker {
    child: Child,
    log: PathBuf,
    began: Instant,
    plan: Plan,
    waits: Waits,
    /// Where its log stood as the database died, until it was there again.
    outages: Vec<(usize, usize)>,
}

impl Worker {
    /// Starts one. `number` names its log.
    pub fn start(site: &Site, number: u64, plan: Plan, dice: &mut Dice) -> Self {
        let name = format!("worker{number:05}.log");
        let abort_at = match plan {
            // In a transaction the first times are claims and beats; later ones are ends as well.
            Plan::Abort(point, _) => Some(format!("{point}:{}", 1 + dice.below(4))),
            _ => None,
        };
        let log = site.path().join(&name);
        // One in five may be hit as it starts.
        let waits = if dice.below(5) > 0 { Waits::ToServe } else { Waits::No };
        Self { child: site.worker(&name, abort_at, dice), log, began: Instant::now(), plan, waits, outages: Vec::new() }
    }

    /// A failpoint, with the time it is given.
    pub fn abort(point: Point) -> Plan {
        Plan::Abort(point, Instant::now() + PATIENCE)
    }

    /// The database is about to die, or is not there as the worker starts.
    pub fn outage_begins(&mut self) {
        self.outages.push((self.said(), usize::MAX));
    }

    /// The database has been there again for a while.
    pub fn outage_ends(&mut self) {
        let said = self.said();
        self.outages.iter_mut().for_each(|(_, end)| *end = (*end).min(said));
    }

    /// Bytes of its log so far.
    fn said(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |log| log.len() as usize)
    }

    /// Goes on with the plan. `claims`: how far work has come, of all workers.
    pub fn tick(&mut self, away: Away, claims: i64, dice: &mut Dice, report: &mut Report) -> Ended {
        let now = Instant::now();
        if let Plan::GaveUp(until, point) = self.plan {
            return if now < until { Ended::Not } else { point.map_or(Ended::Yes, Ended::Unreached) };
        }
        if let Some(status) = self.child.try_wait().unwrap() {
            return self.ended(status, away, report);
        }
        if self.waits(claims) {
            return Ended::Not;
        }
        match self.plan {
            Plan::Kill(at) if now >= at => {
                self.kill(report);
                return Ended::Yes;
            }
            Plan::Abort(point, until) if now >= until => {
                self.kill(report);
                return Ended::Unreached(point);
            }
            Plan::Pause(at) if now >= at => {
                signal(&self.child, "STOP");
                report.fault(PAUSED);
                self.plan = Plan::Resume(now + 2 * LEASE);
            }
            Plan::Resume(at) if now >= at => {
                signal(&self.child, "CONT");
                self.plan = Plan::Kill(now + dice.millis(200, 1500));
            }
            Plan::Terminate(at) if now >= at => self.terminate(report),
            Plan::Leave(by) if now >= by => {
                report.violations.push(format!("a worker did not leave {:?} after SIGTERM", GRACE + LEAVE));
                self.kill(report);
                return Ended::Yes;
            }
            _ => {}
        }
        Ended::Not
    }

    /// Whether the plan has not begun. It does so from now on.
    fn waits(&mut self, claims: i64) -> bool {
        match self.waits {
            Waits::No => return false,
            Waits::ToServe if !self.is_serving() && self.began.elapsed() < LEAVE => return true,
            Waits::ToServe => {
                self.waits = Waits::ForWork(claims, Instant::now() + WORK);
                return true;
            }
            Waits::ForWork(before, until) if claims <= before && Instant::now() < until => return true,
            Waits::ForWork(..) => {}
        }
        self.waits = Waits::No;
        self.plan = self.plan.later(self.began.elapsed());
        false
    }

    /// Whether it has said so: before, a signal ends it as it ends any program.
    fn is_serving(&self) -> bool {
        fs::read(&self.log).is_ok_and(|log| log.windows(SERVING.len()).any(|words| words == SERVING))
    }

    /// It ended, by its own doing or by SIGTERM.
    fn ended(&mut self, status: ExitStatus, away: Away, report: &mut Report) -> Ended {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let gave_up = status.code() == Some(1) && away.explains(&log);
        let well = match self.plan {
            Plan::Abort(..) => status.signal() == Some(ABRT),
            Plan::Leave(_) => status.success() || (status.signal() == Some(TERM) && !self.is_serving()),
            _ => false,
        };
        if gave_up {
            *report.seen.entry("no database or broker to start with").or_default() += 1;
        } else if !well {
            report.violations.push(format!("a worker ended by itself, {status}, while {:?} was planned: {log}", self.plan));
        }
        self.read_log(report);
        if gave_up {
            let point = if let Plan::Abort(point, _) = self.plan { Some(point) } else { None };
            self.plan = Plan::GaveUp(Instant::now() + NEXT_START, point);
            return Ended::Not;
        }
        match self.plan {
            Plan::Abort(point, _) if well => {
                report.fault(ABORTED);
                *report.points.entry(point.as_str()).or_default() += 1;
                Ended::Yes
            }
            Plan::Abort(point, _) => Ended::Unreached(point),
            _ => Ended::Yes,
        }
    }

    /// Asks it to stop; it has to be gone soon.
    pub fn terminate(&mut self, report: &mut Report) {
        if matches!(self.plan, Plan::GaveUp(..)) {
            return;
        }
        signal(&self.child, "TERM");
        report.fault(TERMINATED);
        self.plan = Plan::Leave(Instant::now() + GRACE + LEAVE);
    }

    /// `kill -9`. A stopped process dies of it too.
    pub fn kill(&mut self, report: &mut Report) {
        if matches!(self.plan, Plan::GaveUp(..)) {
            return;
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        report.fault(KILLED);
        self.read_log(report);
    }

    /// What it said. A log without anything wrong is removed: there will be thousands.
    fn read_log(&self, report: &mut Report) {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        for (what, sign) in [
            ("lease lost", "lease lost"),
            ("given up", "their workers died too often"),
            ("store busy", "no tasks could be"),
            ("messages lost", "messages seem lost"),
        ] {
            *report.seen.entry(what).or_default() += log.matches(sign).count() as u64;
        }
        let wrong = wrong(&log, &self.outages);
        if wrong.is_empty() {
            fs::remove_file(&self.log).ok();
        } else {
            report.violations.push(format!("{}: {}", self.log.display(), wrong.join(" | ")));
        }
    }
}

/// Lines that must not be. A guest that panics says so inside a line of the host's; the host's own panic begins one. The database
/// driver calls it an error of its own where a server dies under a new connection: nobody is to see that while the server lives.
fn wrong<'a>(log: &'a str, outages: &[(usize, usize)]) -> Vec<&'a str> {
    let mut at = 0;
    let lines = log.split_inclusive('\n').map(|line| {
        at += line.len();
        (at, line.trim_end())
    });
    // By its end: a line that was begun before the server died was not.
    let excused = |end: usize| outages.iter().any(|(first, last)| *first < end && end <= *last);
    let is_wrong = |(end, line): &(usize, &str)| {
        let of_driver = line.contains("returned from after_connect") && excused(*end);
        line.starts_with("thread '") || (line.contains(" ERROR ") && !of_driver)
    };
    lines.filter(is_wrong).map(|(_, line)| line).collect()
}

#[test]
fn the_driver_may_complain_of_a_dead_server_only() {
    let line = "2026-01-01 ERROR sqlx: error returned from after_connect\n";
    let log = [line, "all is well\n", line].concat();
    let one = line.len();
    assert_eq!(wrong(&log, &[]), [line.trim_end(); 2]);
    assert_eq!(wrong(&log, &[(0, one)]), [line.trim_end()], "it was there again as the second was said");
    assert_eq!(wrong(&log, &[(one, usize::MAX)]), [line.trim_end()]);
    assert_eq!(wrong(&log, &[(0, one), (one + 3, usize::MAX)]), [""; 0]);
    assert_eq!(wrong("thread 'main' panicked\nan ERROR in a word\n x ERROR y\n", &[(0, usize::MAX)]).len(), 3);
}
