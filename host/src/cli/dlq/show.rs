//! Dead letters as people see them.

use super::super::render::{table, text, time};
use super::super::terminal::Terminal;
use crate::task_store::DeadLetter;

/// A row per letter. The queue has a column where a letter came from one.
pub(super) fn list(letters: &[DeadLetter], terminal: Terminal) -> String {
    let now = time::now();
    let queued = letters.iter().any(|letter| letter.queue.is_some());
    let or_dash = |text: &Option<String>| table::cell(text.as_deref().map_or_else(|| "-".to_owned(), |text| text::line(text, 256)));
    let mut headings = vec!["#NUMBER", "TASK", "JOB", "STEP", "#ATTEMPTS", "DIED", "ERROR"];
    if queued {
        headings.insert(4, "QUEUE");
    }
    let mut rows = table::Rows::new(terminal, &headings);
    for letter in letters {
        let mut row = vec![
            table::cell(letter.id.to_string()),
            table::cell(text::short_id(letter.task_id.as_deref().unwrap_or("-"))),
            or_dash(&letter.job_id),
            or_dash(&letter.step),
        ];
        if queued {
            row.push(or_dash(&letter.queue));
        }
        row.extend([
            table::cell(letter.attempts.to_string()),
            table::cell(time::when(letter.died_at, now, terminal.shows_results)),
            table::cell(text::line(&format!("{}: {}", letter.error.code, letter.error.message), 120)),
        ]);
        rows.row(row);
    }
    rows.render()
}

/// One letter with all of its error and its message.
pub(super) fn show(letter: &DeadLetter, terminal: Terminal) -> String {
    let mut out = list(std::slice::from_ref(letter), terminal);
    if letter.task_id.is_none() {
        out.push_str("\nnever a task: the message was refused when it arrived\n");
    }
    out.push_str(&format!("\n{}: {}\n", letter.error.code, text::plain(&letter.error.message)));
    for violation in &letter.error.violations {
        out.push_str(&format!("  {}\n", text::plain(&violation.to_string())));
    }
    let message = serde_json::from_str::<serde_json::Value>(&letter.message).map_or_else(|_| letter.message.clone(), |m| format!("{m:#}"));
    out.push_str(&format!("\n{}\n", text::plain(&message)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::hooks::TaskError;

    const PIPED: Terminal = Terminal { shows_results: false, shows_progress: false, colours: false };

    fn letter(task: Option<&str>, queue: Option<&str>) -> DeadLetter {
        DeadLetter {
            id: 7,
            tenant: "t".into(),
            task_id: task.map(str::to_owned),
            job_id: task.map(|_| "j".to_owned()),
            step: task.map(|_| "s".to_owned()),
            queue: queue.map(str::to_owned),
            error: TaskError::new("bad-message", "no JSON\u{1b}[2J"),
            attempts: 0,
            message: "{broken\u{202e}".into(),
            died_at: 0,
        }
    }

    #[test]
    fn what_never_was_a_task_says_so_and_where_it_came_from() {
        let text = show(&letter(None, Some("redis://q/in")), PIPED);
        assert!(text.contains("QUEUE") && text.contains("redis://q/in") && text.contains("never a task"), "{text}");
        assert!(text.contains("{broken\\u{202e}") && !text.contains('\u{1b}'), "{text}");
        let text = show(&letter(Some("task"), None), PIPED);
        assert!(!text.contains("QUEUE") && !text.contains("never a task"), "{text}");
    }
}
