//! What the faults have struck: steps of a task's way times kinds of fault, counted over all seeds. Cells that cannot be are named with
//! the reason; the others must have been hit often enough.

use std::fmt::Write as _;

/// A step of a task's way, as far as it awaits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Claim,
    Instance,
    Process,
    HostCall,
    PublishNext,
    Stage,
    Heartbeat,
    Commit,
    Finalise,
    End,
    Send,
    Mark,
    Ack,
    Settle,
    Sweep,
}

impl Step {
    pub const ALL: [Self; 15] = [
        Self::Claim,
        Self::Instance,
        Self::Process,
        Self::HostCall,
        Self::PublishNext,
        Self::Stage,
        Self::Heartbeat,
        Self::Commit,
        Self::Finalise,
        Self::End,
        Self::Send,
        Self::Mark,
        Self::Ack,
        Self::Settle,
        Self::Sweep,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Claim => "receive, claim",
            Self::Instance => "instance",
            Self::Process => "process",
            Self::HostCall => "host call",
            Self::PublishNext => "publish-next",
            Self::Stage => "stage",
            Self::Heartbeat => "heartbeat",
            Self::Commit => "commit",
            Self::Finalise => "finalise",
            Self::End => "end",
            Self::Send => "relay: send",
            Self::Mark => "relay: mark",
            Self::Ack => "hide, ack",
            Self::Settle => "settle",
            Self::Sweep => "sweep",
        }
    }

    /// How often a call of it is struck, per mille. Rare steps are struck more often, so that none stays untested; the loops that run all
    /// the time are struck less, so that work gets done between two faults.
    pub fn per_mille(self) -> u32 {
        match self {
            Self::Claim => 15,
            Self::Heartbeat => 60,
            Self::Sweep | Self::Mark | Self::Ack => 70,
            Self::Process | Self::PublishNext | Self::Instance => 60,
            Self::Commit | Self::Finalise | Self::End => 90,
            Self::HostCall => 100,
            Self::Settle => 150,
            Self::Send => 200,
            Self::Stage => 400,
        }
    }
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    CrashBefore,
    CrashAfter,
    Pause,
    Error,
    LostReply,
    Delay,
    ClockJump,
    Lost,
    Repeated,
    Reordered,
    Late,
}

impl Fault {
    pub const ALL: [Self; 11] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Pause,
        Self::Error,
        Self::LostReply,
        Self::Delay,
        Self::ClockJump,
        Self::Lost,
        Self::Repeated,
        Self::Reordered,
        Self::Late,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::CrashBefore => "crash<",
            Self::CrashAfter => "crash>",
            Self::Pause => "pause",
            Self::Error => "error",
            Self::LostReply => "no reply",
            Self::Delay => "delay",
            Self::ClockJump => "clock",
            Self::Lost => "lost",
            Self::Repeated => "twice",
            Self::Reordered => "reorder",
            Self::Late => "late",
        }
    }

    /// How often it is drawn beside the others. A crash costs every task of a worker its lease, and three of those end a task: crashes are
    /// rare where there is much to strike.
    pub fn weight(self, step: Step) -> u32 {
        match (self, step) {
            (Self::CrashBefore | Self::CrashAfter, Step::Stage | Step::Send | Step::HostCall | Step::Ack | Step::Heartbeat) => 3,
            (Self::CrashBefore | Self::CrashAfter, _) => 1,
            (Self::Pause, _) => 3,
            _ => 4,
        }
    }
}

const HOOK: &str = "runs in the worker's own process: its answer is lost only with the worker, which is `crash>`";
const NO_MESSAGE: &str = "carries no message of a broker";
const REMOVES: &str = "removes or hides one message: it loses, orders and delays none; one that comes again all the same is `twice`";

/// Why a fault cannot strike a step; none where it can.
pub fn inapplicable(step: Step, fault: Fault) -> Option<&'static str> {
    match (step, fault) {
        (Step::Instance | Step::Process | Step::PublishNext, Fault::LostReply) => Some(HOOK),
        (Step::Claim | Step::Send, Fault::Lost | Fault::Repeated | Fault::Reordered | Fault::Late) => None,
        (Step::Ack, Fault::Repeated) => None,
        (Step::Ack, Fault::Lost | Fault::Reordered | Fault::Late) => Some(REMOVES),
        (_, Fault::Lost | Fault::Repeated | Fault::Reordered | Fault::Late) => Some(NO_MESSAGE),
        _ => None,
    }
}

/// How often each fault struck each step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits([[u64; Fault::ALL.len()]; Step::ALL.len()]);

impl Hits {
    pub fn count(&mut self, step: Step, fault: Fault) {
        self.0[step as usize][fault as usize] += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (row, more) in self.0.iter_mut().zip(&other.0) {
            for (cell, more) in row.iter_mut().zip(more) {
                *cell += more;
            }
        }
    }

    /// Cells that apply and were hit less than `least` times.
    pub fn below(&self, least: u64) -> Vec<String> {
        let cells = Step::ALL.into_iter().flat_map(|step| Fault::ALL.map(|fault| (step, fault)));
        let low = cells.filter(|(step, fault)| inapplicable(*step, *fault).is_none() && self.0[*step as usize][*fault as usize] < least);
        low.map(|(step, fault)| format!("{} x {}: {}", step.name(), fault.name(), self.0[step as usize][fault as usize])).collect()
    }

    /// The table, and the reasons of the cells that are left out.
    pub fn table(&self) -> String {
        let mut text = format!("{:<16}", "step");
        for fault in Fault::ALL {
            let _ = write!(text, "{:>9}", fault.name());
        }
        let mut reasons: Vec<&str> = Vec::new();
        for step in Step::ALL {
            let _ = write!(text, "\n{:<16}", step.name());
            for fault in Fault::ALL {
                match inapplicable(step, fault) {
                    None => {
                        let _ = write!(text, "{:>9}", self.0[step as usize][fault as usize]);
                    }
                    Some(reason) => {
                        let number = reasons.iter().position(|r| *r == reason).unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        let _ = write!(text, "{:>9}", format!("({})", number + 1));
                    }
                }
            }
        }
        for (number, reason) in reasons.iter().enumerate() {
            let _ = write!(text, "\n({}) {reason}", number + 1);
        }
        text
    }
}
