//! The loop itself: workers at work, jobs coming in, and something always going wrong; then calm, until nothing is left to do.

use super::broker::Trouble;
use super::clock::HOUR;
use super::dice::Dice;
use super::errands::Errands;
use super::load::{self, Job};
use super::producer::Producer;
use super::report::{CLOCK_MOVED, DATABASE_KILLED, Report};
use super::rows;
use super::site::{LEASE, Site, Store, WORKERS};
use super::worker::{Away, Ended, Plan, Worker};
use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};
use wasm_worker::failpoint::Point;

/// Pause between two looks at everything.
const TICK: Duration = Duration::from_millis(5);

/// Pause between two questions to the database.
const ASK: Duration = Duration::from_millis(150);

/// Fewer open tasks than this: more jobs are submitted. Few enough that a kill hits something that matters.
const ENOUGH: i64 = 60;

/// Shortest pause between two batches of jobs.
const BATCH_PAUSE: Duration = Duration::from_millis(500);

/// Kills of a run in which every failpoint has to be met.
const MANY: u64 = 200;

/// How long the loop goes on, once it has killed enough, for failpoints that no worker has come to.
const LAST_POINTS: Duration = Duration::from_secs(60);

/// Points on the way of a broker's messages. Where the table is the queue nobody comes past them.
const OF_BROKERS: &[Point] = &[Point::AfterReceive, Point::BeforeSend, Point::AfterSend, Point::BeforeAck];

/// So many violations, and going on tells nothing new.
const HOPELESS: usize = 20;

/// For so long after the database came back, workers may be found that gave up without it as they started.
const EXCUSED: Duration = Duration::from_secs(10);

/// In the calm SQS delivers all that it hides so often: by then it may be acknowledged.
const SHOW: Duration = Duration::from_secs(5);

/// How long nothing may begin in the calm, before all has ended: the last leases, retries and sweeps.
const CALM: Duration = Duration::from_secs(120);

/// See the head of this file.
pub struct Driver<'a> {
    site: &'a mut Site,
    dice: Dice,
    report: Report,
    workers: Vec<Worker>,
    started: u64,
    errands: Errands,
    jobs: Vec<Job>,
    /// Failpoints to be aborted at before all others.
    points: VecDeque<Point>,
    next_batch: Instant,
    next_ask: Instant,
    clock_moves: Instant,
    database: Database,
    broker: Trouble,
    /// How far work has come, as far as is known, and how far it had as the database came up.
    claims: (i64, i64),
    producer: Producer,
    /// When work last came on.
    moved: Instant,
    /// Whether what workers say of a database that is away is no news.
    excused: bool,
}

/// Where the database stands; one that is part of the workers stays as it is.
enum Database {
    /// It runs, since the first time, and is killed at the second.
    Up(Option<Instant>, Instant),
    /// It is started again at that time.
    Down(Instant),
}

/// What was submitted, and the report so far.
pub struct Driven {
    pub jobs: Vec<Job>,
    pub report: Report,
}

/// The failpoints that workers come to here.
fn points(site: &Site) -> Vec<Point> {
    Point::ALL.iter().copied().filter(|point| site.broker.is_some() || !OF_BROKERS.contains(point)).collect()
}

impl<'a> Driver<'a> {
    pub fn new(site: &'a mut Site, seed: u64) -> Self {
        let report = Report { store: site.name(), seed, ..Report::default() };
        let now = Instant::now();
        let points = points(site).into();
        Self {
            site,
            dice: Dice::new(seed),
            report,
            workers: Vec::new(),
            started: 0,
            errands: Errands::default(),
            jobs: Vec::new(),
            points,
            next_batch: now,
            next_ask: now,
            clock_moves: now + Duration::from_secs(4),
            database: Database::Up(None, now + Duration::from_secs(3)),
            broker: Trouble::new(now),
            claims: (0, 0),
            producer: Producer::default(),
            moved: now,
            excused: false,
        }
    }

    /// Kills that often, each failpoint at least once; then lets all of it come to an end.
    pub fn run(mut self, kills: u64) -> Driven {
        let began = Instant::now();
        for _ in 0..WORKERS {
            let worker = self.worker();
            self.workers.push(worker);
        }
        let mut enough = None;
        while self.report.violations.len() < HOPELESS {
            self.tick();
            if self.report.kills() >= kills {
                let since: &Instant = enough.get_or_insert_with(Instant::now);
                if self.lacking().is_empty() || since.elapsed() > LAST_POINTS {
                    break;
                }
            }
            std::thread::sleep(TICK);
        }
        let lacking = self.lacking();
        // A short run may meet none of a rare one: it is printed, with how often each was met.
        if !lacking.is_empty() && kills >= MANY {
            self.report.violations.push(format!("no worker came to these failpoints: {lacking:?}"));
        }
        self.calm();
        self.report.took = began.elapsed();
        Driven { jobs: self.jobs, report: self.report }
    }

    /// One batch of jobs, and nothing goes wrong.
    pub fn run_undisturbed(mut self) -> Driven {
        self.submit();
        self.calm();
        Driven { jobs: self.jobs, report: self.report }
    }

    fn tick(&mut self) {
        let excused = match self.database {
            Database::Up(since, _) => since.is_some_and(|since| since.elapsed() < EXCUSED),
            Database::Down(_) => true,
        };
        if self.excused && !excused {
            self.workers.iter_mut().for_each(Worker::outage_ends);
        }
        self.excused = excused;
        for number in 0..self.workers.len() {
            let away = Away { database: excused, broker: self.broker.excuses() };
            let ended = self.workers[number].tick(away, self.claims.0, &mut self.dice, &mut self.report);
            if let Ended::Unreached(point) = ended {
                self.points.push_back(point);
            }
            if !matches!(ended, Ended::Not) {
                self.points.retain(|point| !self.report.points.contains_key(point.as_str()));
                self.workers[number] = self.worker();
            }
        }
        self.errands.tick(self.site, &mut self.dice, &mut self.report);
        let now = Instant::now();
        if now >= self.clock_moves {
            self.move_clock(now);
        }
        self.database(now);
        if let Some(broker) = &self.site.broker {
            if self.broker.tick(broker, self.claims.0, &mut self.dice, &mut self.report) {
                self.producer.doubt();
            }
            if self.broker.is_reachable() {
                self.producer.tick(self.site, broker, &mut self.report);
            }
        }
        if now >= self.next_ask {
            self.next_ask = now + ASK;
            let open = rows::open(self.site);
            let claims = open.as_ref().map_or(self.claims.0, |open| open.claims);
            if claims > self.claims.0 {
                (self.claims.0, self.moved) = (claims, now);
            } else if self.moved.elapsed() > SHOW
                && let Some(broker) = &self.site.broker
            {
                // Hidden by a clock that was an hour ahead, messages would keep others out for as long.
                broker.show_all();
                self.moved = now;
            }
            if now >= self.next_batch && open.is_ok_and(|open| open.live < ENOUGH) && self.has_room() {
                self.next_batch = now + BATCH_PAUSE;
                self.submit();
            }
        }
    }

    /// A new worker, with something that will happen to it.
    fn worker(&mut self) -> Worker {
        let soon = Instant::now() + self.dice.millis(20, 2500);
        let plan = match (self.dice.below(20), self.points.pop_front()) {
            (0..=13, Some(point)) => Worker::abort(point),
            (roll, skipped) => {
                skipped.into_iter().for_each(|point| self.points.push_front(point));
                match roll {
                    0..=2 | 14 => Plan::Pause(soon),
                    3..=4 | 15 => Plan::Terminate(soon),
                    5..=11 => Worker::abort(self.any_point()),
                    _ => Plan::Kill(soon),
                }
            }
        };
        self.started += 1;
        let mut worker = Worker::start(self.site, self.started, plan, &mut self.dice);
        if self.excused {
            worker.outage_begins();
        }
        worker
    }

    fn any_point(&mut self) -> Point {
        *self.dice.pick(&points(self.site))
    }

    /// Failpoints at which no worker has aborted so far.
    fn lacking(&self) -> Vec<Point> {
        points(self.site).into_iter().filter(|point| !self.report.points.contains_key(point.as_str())).collect()
    }

    /// An hour on, and back after a while.
    fn move_clock(&mut self, now: Instant) {
        let (to, pause) = if self.site.clock.moved() == 0 { (HOUR, (1000, 3000)) } else { (0, (5000, 15_000)) };
        self.site.clock.set(to);
        self.report.fault(CLOCK_MOVED);
        self.clock_moves = now + self.dice.millis(pause.0, pause.1);
    }

    /// Kills the database's server, and starts it again after a while.
    fn database(&mut self, now: Instant) {
        let Store::Postgres { server, .. } = &self.site.store else { return };
        match self.database {
            // On a slow machine it is not killed again before anything was done.
            Database::Up(_, until) if now >= until && self.claims.0 > self.claims.1 => {
                self.workers.iter_mut().for_each(Worker::outage_begins);
                server.kill();
                self.report.fault(DATABASE_KILLED);
                self.database = Database::Down(now + self.dice.millis(50, 1500));
            }
            Database::Down(until) if now >= until => {
                server.start();
                let now = Instant::now();
                self.claims.1 = self.claims.0;
                self.database = Database::Up(Some(now), now + self.dice.millis(2000, 12_000));
            }
            _ => {}
        }
    }

    fn submit(&mut self) {
        let name = format!("b{:04}", self.jobs.len());
        let mut jobs = load::batch(&name, &mut self.dice);
        if self.site.broker.is_some() && self.dice.below(2) == 0 {
            jobs = jobs.into_iter().map(|job| job.fed(&mut self.dice)).collect();
            self.producer.add(jobs.iter().flat_map(|job| &job.messages), &mut self.dice);
            return self.cancel_some(jobs);
        }
        let file = self.site.path().join(format!("{name}.jsonl"));
        fs::write(&file, jobs.iter().map(|job| format!("{}\n", job.line)).collect::<String>()).unwrap();
        let words = ["submit", self.site.pipeline(), "--jsonl", file.to_str().unwrap()];
        self.errands.add(&words, Duration::ZERO, self.dice.below(3) == 0);
        self.cancel_some(jobs);
    }

    fn cancel_some(&mut self, jobs: Vec<Job>) {
        for job in &jobs {
            // A cancellation before the job is there does not succeed, and is given again.
            if job.must_be_cancelled || (job.messages.len() < 2 && self.dice.below(12) == 0) {
                let after = self.dice.millis(50, 1500);
                self.errands.add(&["jobs", "cancel", &job.id], after, self.dice.below(6) == 0);
            }
        }
        self.jobs.extend(jobs);
    }

    /// Nothing goes wrong any more. Leases, retries and waits that began while the clock was ahead are due at once.
    fn calm(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.kill(&mut self.report));
        self.site.clock.set(2 * HOUR);
        if let (Store::Postgres { server, .. }, Database::Down(_)) = (&self.site.store, &self.database) {
            server.start();
        }
        if let Some(broker) = &self.site.broker {
            self.broker.end(broker, &mut self.report);
            broker.show_all();
            if self.broker.forgot {
                self.producer.doubt();
            }
        }
        let start = |site: &Site, number: u64, dice: &mut Dice| Worker::start(site, number, Plan::Live, dice);
        self.workers = (0..WORKERS as u64).map(|i| start(self.site, self.started + 1 + i, &mut self.dice)).collect();
        let began = Instant::now();
        let (mut next_show, mut claims, mut moved) = (began + SHOW, 0, began);
        loop {
            self.errands.tick(self.site, &mut self.dice, &mut self.report);
            self.workers.retain_mut(|worker| matches!(worker.tick(Away::default(), 0, &mut self.dice, &mut self.report), Ended::Not));
            let open = rows::open(self.site).unwrap();
            let mut is_drained = true;
            if let Some(broker) = &self.site.broker {
                self.producer.tick(self.site, broker, &mut self.report);
                is_drained = self.producer.is_done() && broker.left() == 0;
                if Instant::now() >= next_show {
                    next_show += SHOW;
                    broker.show_all();
                }
            }
            if self.errands.are_done() && is_drained && (open.live, open.leftovers, open.outgoing) == (0, 0, 0) {
                break;
            }
            if open.claims > claims {
                (claims, moved) = (open.claims, Instant::now());
            }
            if moved.elapsed() > CALM || self.workers.is_empty() {
                self.report.violations.push(format!(
                    "after {:?} without faults not everything has ended: {open:?}, {} in queues",
                    began.elapsed(),
                    self.waiting()
                ));
                break;
            }
            std::thread::sleep(TICK * 4);
        }
        // Whatever anybody still does on behalf of an ended task shows now.
        std::thread::sleep(LEASE);
        let (waiting, outgoing) = (self.waiting(), rows::open(self.site).unwrap().outgoing);
        if waiting > 0 || outgoing > 0 {
            self.report
                .violations
                .push(format!("{waiting} messages are in the queues and {outgoing} in the outbox, and no task needs one"));
        }
        self.workers.iter_mut().for_each(|worker| worker.terminate(&mut self.report));
        while !self.workers.is_empty() {
            self.workers.retain_mut(|worker| matches!(worker.tick(Away::default(), 0, &mut self.dice, &mut self.report), Ended::Not));
            std::thread::sleep(TICK);
        }
    }
    /// Whether the broker has few messages too: those of other producers are no tasks yet.
    fn has_room(&self) -> bool {
        self.site.broker.is_none() || (self.broker.is_reachable() && self.waiting() < ENOUGH as usize)
    }

    /// Messages in the broker's queues.
    fn waiting(&self) -> usize {
        self.site.broker.as_ref().map_or(0, |broker| broker.left())
    }
}
