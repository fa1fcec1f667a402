//! How tasks come in: by submission, or as messages of a queue.

use super::{Claimed, StoreError, Unfinished};
use crate::task::children::{Delivery, NewTask};
use crate::task::hooks::TaskError;
use crate::task::state::TaskState;
use std::time::Duration;

/// A job about to exist, with its root task.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Whose job it is.
    pub tenant: String,
    /// Its id.
    pub job_id: String,
    /// The pipeline that runs it.
    pub pipeline: String,
    /// The job's own prefix, with `/` at its end; the root task owns it.
    pub prefix: String,
    /// The first task, or, where the job is fed, one of them.
    pub root: NewTask,
    /// Whether other root tasks may join it.
    pub feed: Feed,
}

impl NewJob {
    /// The prefix that whoever fed this task chose for it; none where the host derived one, which is like no other.
    pub(super) fn chosen_prefix(&self) -> Option<&str> {
        let chose = self.feed != Feed::Single && self.root.message.output_prefix.is_some();
        chose.then_some(self.root.output_prefix.as_str())
    }

    /// A job whose root task another system runs would have no row here, and no end.
    pub(super) fn begins_here(&self) -> Result<(), StoreError> {
        let Delivery::Foreign(queue) = &self.root.delivery else { return Ok(()) };
        let Self { job_id, root: NewTask { task_id, step, .. }, .. } = self;
        let text = format!(
            "task {task_id} of job {job_id} is for step '{step}', whose queue '{queue}' another system reads: no job can begin there; \
             name a step that runs here, or send the message to that queue yourself"
        );
        Err(StoreError::Invalid(text))
    }
}

/// Whether a job has one root task, or is fed from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Feed {
    /// The root task is the only one: the job ends with the last task that follows from it.
    #[default]
    Single,
    /// Others may come. The job ends once it has no live task and is sealed: by [`TaskStore::seal`](super::TaskStore::seal), by the
    /// arrival of the last of `tasks`, or by a sweep that finds it idle for long ([`SweepRequest::fed_idle`](super::SweepRequest)).
    Open {
        /// The queue they come from; none where they are submitted.
        queue: Option<String>,
        /// How many there will be, where the feeder says so. The first to say so counts.
        tasks: Option<u64>,
    },
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It is new.
    Created,
    /// The same job and task, with the same content, were there already: no effect.
    Repeated,
    /// The id is taken by something else. Nothing was changed, and nothing of the other is disclosed.
    Conflict,
    /// Its prefix is, covers or lies below that of a job that is still PROCESSING, or of a task that chose its own and has not ended: their
    /// outputs would mix.
    Occupied,
    /// The job takes no further root task: it was sealed, or it was never fed.
    Sealed,
}

/// What became of a message that was taken in, and so what its receiver does with it.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Leased: run it.
    Claimed(Box<Claimed>),
    /// COMMITTED by a worker that has gone: finalise and end it, then acknowledge.
    Unfinished(Box<Unfinished>),
    /// It has ended in this state: acknowledge.
    Ended(TaskState),
    /// Somebody's lease on it goes on for this long at least: hide the message until then, and leave it.
    Leased(Duration),
    /// Not due for so long: hide the message until then.
    NotDue(Duration),
    /// It can never be a task; a dead letter keeps it: acknowledge.
    Refused(TaskError),
}

/// A message that is no valid task, for a dead letter. Never a task row, even where the id it claims is in use.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Whose queue it came from.
    pub tenant: String,
    /// The queue.
    pub queue: String,
    /// The message as it came, cut to a bound by the caller; bytes that are no text are replaced.
    pub body: String,
    /// SHA-256 of the whole message, lower-case hex: a repeat adds no second letter.
    pub body_hash: String,
    /// Why.
    pub error: TaskError,
}
