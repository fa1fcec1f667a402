//! States of tasks and jobs: their colours, and counts of them on a line.

use crate::task::state::{JobState, TaskState};
use comfy_table::Color;
use std::collections::BTreeMap;

/// A task's state as a cell.
pub fn task(state: TaskState) -> (String, Option<Color>) {
    let colour = match state {
        TaskState::Done => Some(Color::Green),
        TaskState::Dead => Some(Color::Red),
        TaskState::Cancelled => Some(Color::Yellow),
        TaskState::Processing | TaskState::Committed => Some(Color::Cyan),
        TaskState::Waiting | TaskState::Queued => None,
    };
    (state.to_string(), colour)
}

/// A job's state as a cell.
pub fn job(state: JobState) -> (String, Option<Color>) {
    let colour = match state {
        JobState::Done => Color::Green,
        JobState::Failed => Color::Red,
        JobState::Cancelled => Color::Yellow,
        JobState::Processing => Color::Cyan,
    };
    (state.to_string(), Some(colour))
}

/// `3 DONE, 1 DEAD`, in the order of a task's life; empty for none.
pub fn counts(tasks: &BTreeMap<TaskState, u64>) -> String {
    let counted = TaskState::ALL.iter().filter_map(|state| Some((state, tasks.get(state).filter(|n| **n > 0)?)));
    counted.map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_a_tasks_life() {
        let tasks = BTreeMap::from([(TaskState::Dead, 1), (TaskState::Queued, 2), (TaskState::Done, 0)]);
        assert_eq!(counts(&tasks), "2 QUEUED, 1 DEAD");
        assert_eq!(job(JobState::Failed).1, Some(Color::Red));
    }
}
