//! What a run of the kill loop did and found, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Faults by kind, and what was left of the tasks.
#[derive(Default)]
pub struct Report {
    pub store: &'static str,
    pub seed: u64,
    pub took: Duration,
    /// How often each fault was made.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often a worker aborted at each failpoint.
    pub points: BTreeMap<&'static str, u64>,
    /// What workers said of it: leases lost, work of others finished.
    pub seen: BTreeMap<&'static str, u64>,
    /// What the broker did of itself.
    pub broker: BTreeMap<&'static str, u64>,
    pub jobs: BTreeMap<String, u64>,
    pub tasks: BTreeMap<String, u64>,
    pub claims: BTreeMap<String, u64>,
    pub violations: Vec<String>,
}

/// Most violations that are shown: the first ones tell the story.
const SHOWN: usize = 40;

impl Report {
    /// Notes a fault.
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Workers, databases and brokers that were ended without a word.
    pub fn kills(&self) -> u64 {
        [KILLED, ABORTED, DATABASE_KILLED, BROKER_KILLED].iter().filter_map(|kind| self.faults.get(kind)).sum()
    }
}

pub const KILLED: &str = "worker killed at a random moment (SIGKILL)";
pub const ABORTED: &str = "worker aborted at a failpoint";
pub const SUBMITTER_KILLED: &str = "submit or cancel killed (SIGKILL)";
pub const DATABASE_KILLED: &str = "database killed (SIGKILL) and started again";
pub const BROKER_KILLED: &str = "Redis killed (SIGKILL) and started again";
pub const BROKER_FORGOT: &str = "of these, what it wrote last was lost";
pub const BROKER_STOPPED: &str = "Redis stopped for a while (SIGSTOP, SIGCONT)";
pub const WEATHER: &str = "other faults of SQS from now on";
pub const PUSHED: &str = "message of another producer, repeats included";
pub const PAUSED: &str = "worker stopped for two leases (SIGSTOP, SIGCONT)";
pub const TERMINATED: &str = "worker asked to stop (SIGTERM)";
pub const CLOCK_MOVED: &str = "wall clock moved by an hour";

fn line(counts: &BTreeMap<impl fmt::Display, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} kills in {:.1} s, seed {}", self.store, self.kills(), self.took.as_secs_f64(), self.seed)?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {count:6}  {kind}")?;
        }
        writeln!(f, "  failpoints  {}", line(&self.points))?;
        writeln!(f, "  workers say {}", line(&self.seen))?;
        if !self.broker.is_empty() {
            writeln!(f, "  broker      {}", line(&self.broker))?;
        }
        for (what, counts) in [("jobs", &self.jobs), ("tasks", &self.tasks), ("claims", &self.claims)] {
            writeln!(f, "  {:6}  {what}: {}", counts.values().sum::<u64>(), line(counts))?;
        }
        writeln!(f, "  {:6}  violations", self.violations.len())?;
        self.violations.iter().take(SHOWN).try_for_each(|violation| writeln!(f, "    {violation}"))
    }
}
