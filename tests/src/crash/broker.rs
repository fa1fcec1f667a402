//! The broker under the steps' queues, and what goes wrong with it: a real Redis whose power is cut, or the strict SQS, which loses,
//! repeats and refuses by seed.

use super::clock::Clock;
use super::dice::Dice;
use super::report::{BROKER_FORGOT, BROKER_KILLED, BROKER_STOPPED, Report, WEATHER};
use super::site::signal_to;
use crate::servers::{redis, sqs};
use std::time::{Duration, Instant};

/// Name of the queue that the entry's tasks wait in, where messages of other producers come too, and of that of most other steps.
const ENTRY: &str = sqs::QUEUE;
const REST: &str = "rest";

/// For so long after a broker troubled anybody, workers may be found that gave up without it as they started.
const EXCUSED: Duration = Duration::from_secs(10);

/// Time left for work once some was done.
const SOON: Duration = Duration::from_millis(300);

/// Shares of calls and messages that SQS has go wrong, of which each fault gets one at a time.
const SHARES: &[f64] = &[0.0, 0.02, 0.05, 0.2];

/// See the head of this file.
pub enum Broker {
    Redis(redis::Server),
    Sqs(sqs::Fake),
}

impl Broker {
    /// Redis, which goes by the clock of the task store: what is hidden until some hour is due when everything else is.
    pub fn redis(clock: &Clock) -> Option<Self> {
        redis::Server::with(&clock.environment()).map(Self::Redis)
    }

    /// SQS, so far without faults; `seed` is theirs.
    pub fn sqs(seed: u64) -> Self {
        Self::Sqs(sqs::Fake::start(sqs::Config { seed, ..sqs::Config::default() }))
    }

    /// Addresses of the queues: the entry's, and the others'.
    pub fn queues(&self) -> [String; 2] {
        match self {
            Self::Redis(server) => [ENTRY, REST].map(|stream| format!("{}/0?stream={stream}", server.address())),
            Self::Sqs(fake) => [ENTRY, REST].map(|name| fake.queue(name)),
        }
    }

    /// What its clients find in the environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let all: &[(&str, &str)] = match self {
            Self::Redis(_) => &[],
            Self::Sqs(_) => &[("AWS_REGION", "us-east-1"), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")],
        };
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Puts a message into the entry's queue, as any producer does. Whether that was confirmed.
    pub fn put(&self, body: &str) -> bool {
        match self {
            Self::Redis(server) => {
                matches!(redis::ask(server.port(), &["XADD", ENTRY, "*", "body", body]), Ok(redis::Answer::Text(_)))
            }
            Self::Sqs(fake) => {
                fake.put([body.to_owned()]);
                true
            }
        }
    }

    /// Messages in all queues, hidden ones included.
    pub fn left(&self) -> usize {
        match self {
            Self::Redis(server) => [ENTRY, REST].map(|stream| server.ask(&["XLEN", stream]).number() as usize).iter().sum(),
            Self::Sqs(fake) => [ENTRY, REST].map(|name| fake.left_in(name)).iter().sum(),
        }
    }

    /// Has SQS deliver everything now. Redis does once its clock says so.
    pub fn show_all(&self) {
        if let Self::Sqs(fake) = self {
            fake.redeliver_all();
        }
    }
}

/// What is wrong with the broker, and what comes next.
pub struct Trouble {
    state: State,
    next: Instant,
    /// How far work had come as this state began.
    claims: i64,
    /// When it last troubled anybody.
    last: Option<Instant>,
    /// Whether it may have forgotten what it had confirmed to producers.
    pub forgot: bool,
}

enum State {
    Well,
    /// The power is cut soon; so long was the file then.
    Doomed(Option<u64>),
    /// It is away.
    Down,
    /// It is there, and says nothing.
    Stopped(u32),
}

impl Trouble {
    pub fn new(now: Instant) -> Self {
        Self { state: State::Well, next: now + Duration::from_secs(2), claims: 0, last: None, forgot: false }
    }

    /// Whether workers may give up without the broker as they start.
    pub fn excuses(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < EXCUSED)
    }

    /// Whether the broker can be asked.
    pub fn is_reachable(&self) -> bool {
        matches!(self.state, State::Well | State::Doomed(_))
    }

    /// Goes on. `claims`: how far work has come; on a slow machine the next cut waits until there was some since the last. Returns whether
    /// the broker has just come back and may have forgotten something.
    pub fn tick(&mut self, broker: &Broker, claims: i64, dice: &mut Dice, report: &mut Report) -> bool {
        let now = Instant::now();
        // Weather that lets no work through is not to last until some came through.
        if matches!((&self.state, broker), (State::Well, Broker::Redis(_))) && claims <= self.claims {
            self.next = self.next.max(now + SOON);
        }
        // SQS has something go wrong all the time, once it has begun.
        if !self.is_reachable() || (self.last.is_some() && matches!(broker, Broker::Sqs(_))) {
            self.last = Some(now);
        }
        if now < self.next {
            return false;
        }
        self.claims = claims;
        match broker {
            Broker::Sqs(fake) => {
                let mut share = || *dice.pick(SHARES);
                fake.set(sqs::Faults {
                    duplicates: share(),
                    entries: share(),
                    throttles: share(),
                    failures: share(),
                    lost_answers: share(),
                    forgets: share(),
                });
                report.fault(WEATHER);
                self.last = Some(now);
                self.next = now + dice.millis(1000, 5000);
                false
            }
            Broker::Redis(server) => self.cut(server, dice, report, now),
        }
    }

    /// The next step of a cut: what was written within a second is lost, or nothing where only the process dies.
    fn cut(&mut self, server: &redis::Server, dice: &mut Dice, report: &mut Report, now: Instant) -> bool {
        match self.state {
            State::Well if dice.below(3) == 0 => {
                let process = server.process();
                signal_to(process, "STOP");
                report.fault(BROKER_STOPPED);
                (self.state, self.last) = (State::Stopped(process), Some(now));
                // The longest are longer than anybody waits for an answer.
                self.next = now + dice.millis(300, 8000);
                false
            }
            State::Stopped(process) => {
                signal_to(process, "CONT");
                self.state = State::Well;
                self.next = now + dice.millis(1000, 5000);
                false
            }
            State::Well => {
                self.state = State::Doomed((dice.below(2) == 0).then(|| server.written()));
                self.next = now + dice.millis(0, 1000);
                false
            }
            State::Doomed(kept) => {
                server.kill();
                report.fault(BROKER_KILLED);
                if let Some(kept) = kept {
                    server.forget(kept);
                    self.forgot = true;
                    report.fault(BROKER_FORGOT);
                }
                (self.state, self.last) = (State::Down, Some(now));
                self.next = now + dice.millis(50, 1500);
                false
            }
            State::Down => {
                server.start();
                self.state = State::Well;
                self.next = Instant::now() + dice.millis(1500, 10_000);
                true
            }
        }
    }

    /// Nothing is wrong any more.
    pub fn end(&mut self, broker: &Broker, report: &mut Report) {
        match (broker, &self.state) {
            (Broker::Redis(server), State::Down) => server.start(),
            (Broker::Redis(_), State::Stopped(process)) => signal_to(*process, "CONT"),
            (Broker::Redis(_), _) => {}
            (Broker::Sqs(fake), _) => {
                fake.set(sqs::Faults::default());
                report.broker = fake.faults();
            }
        }
        self.state = State::Well;
    }
}
