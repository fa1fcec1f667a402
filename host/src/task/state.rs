//! The one vocabulary of states: in messages, SQL, the command line and metrics.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TaskState {
    /// A `then` task whose siblings have not all ended.
    Waiting,
    /// Ready, or ready once its `not_before` has come.
    Queued,
    /// Leased by a worker.
    Processing,
    /// Its result is fixed; outputs are being given their names.
    Committed,
    /// Ended well.
    Done,
    /// Given up; kept as a dead letter.
    Dead,
    /// Ended by request.
    Cancelled,
}

impl TaskState {
    /// All states, in the order of a task's life.
    pub const ALL: [TaskState; 7] =
        [Self::Waiting, Self::Queued, Self::Processing, Self::Committed, Self::Done, Self::Dead, Self::Cancelled];

    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Queued => "QUEUED",
            Self::Processing => "PROCESSING",
            Self::Committed => "COMMITTED",
            Self::Done => "DONE",
            Self::Dead => "DEAD",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// True when nothing more happens to the task by itself.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TaskState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("'{text}' is no task state; one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// Where a job stands. A job is PROCESSING until its root group has no live task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobState {
    /// Some task of it is live.
    Processing,
    /// Every task ended well.
    Done,
    /// A task is DEAD.
    Failed,
    /// It was cancelled, and no task is DEAD.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [JobState; 4] = [Self::Processing, Self::Done, Self::Failed, Self::Cancelled];

    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "PROCESSING",
            Self::Done => "DONE",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// True once the job has ended.
    pub fn is_ended(self) -> bool {
        self != Self::Processing
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("'{text}' is no job state; one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}
