//! Each task by itself: it ended, as the guest's doing or the kills explain, with one commit at most and with claims that add up.

use super::Found;
use crate::crash::probe::{self, End};
use crate::crash::rows::Task;
use std::collections::{HashMap, HashSet};
use wasm_worker::task::outcome::{MAX_CRASHES, MAX_HANDBACKS};

pub fn check(found: &mut Found) {
    for task in found.rows.tasks.clone() {
        claims(found, &task);
        end(found, &task);
    }
    owners(found);
    letters(found);
}

/// Epochs without a gap, every claim ended, at most one commit and nothing after it, counters that say what the claims say.
fn claims(found: &mut Found, task: &Task) {
    let claims = found.claims.get(&task.id).cloned().unwrap_or_default();
    let epochs: Vec<i64> = claims.iter().map(|claim| claim.epoch).collect();
    if epochs != (1..=task.epoch).collect::<Vec<_>>() {
        found.wrong(task, format!("epochs {epochs:?}, and the task is at {}", task.epoch));
    }
    let ends: Vec<&str> = claims.iter().map(|claim| claim.ended.as_deref().unwrap_or("open")).collect();
    let count = |names: &[&str]| ends.iter().filter(|end| names.contains(end)).count() as i64;
    let commits = count(&["committed"]);
    if commits != i64::from(task.state == "DONE") || (commits == 1 && ends.last() != Some(&"committed")) {
        found.wrong(task, format!("{commits} commits"));
    }
    if count(&["open"]) > 0 {
        found.wrong(task, "a claim that never ended");
    }
    let counted = [
        ("attempts", task.attempts, count(&["retried", "dead"]), task.max_attempts),
        ("hand-backs", task.handbacks, count(&["handed-back"]), i64::from(MAX_HANDBACKS)),
        ("crashes", task.crashes, count(&["lapsed"]), i64::from(MAX_CRASHES)),
    ];
    for (what, stored, claimed, most) in counted {
        if stored != claimed || stored > most {
            found.wrong(task, format!("{stored} {what} on record, {claimed} by its claims, at most {most} allowed"));
        }
    }
}

/// How a task may end: as the guest makes it, by three lapsed leases, or cancelled where somebody asked.
fn end(found: &mut Found, task: &Task) {
    let expected = probe::end(&task.params(), task.max_attempts);
    let well = match task.state.as_str() {
        "DONE" => matches!(expected, End::Done { failures } if failures == task.attempts) && task.code().is_none(),
        "DEAD" if task.code().as_deref() == Some("crashed") => task.crashes == i64::from(MAX_CRASHES),
        "DEAD" => task.code().is_some_and(|code| expected == End::Dead { code, attempts: task.attempts }),
        "CANCELLED" => found.is_cancelled(task),
        _ => false,
    };
    if !well {
        found.wrong(task, format!("the guest says {expected:?}; {} attempts, error {:?}", task.attempts, task.code()));
    }
}

/// Every claim has an owner of its own: the fence is worth nothing otherwise.
fn owners(found: &mut Found) {
    let mut seen = HashSet::new();
    let twice: Vec<String> = found.rows.claims.iter().filter(|claim| !seen.insert(&claim.owner)).map(|c| c.owner.clone()).collect();
    found.violations.extend(twice.into_iter().map(|owner| format!("two claims have the owner {owner}")));
}

/// One dead letter per dead task, with its code, and no other.
fn letters(found: &mut Found) {
    let mut letters: HashMap<Option<i64>, Vec<String>> = HashMap::new();
    for letter in &found.rows.letters {
        letters.entry(letter.task).or_default().push(letter.code.clone());
    }
    for task in found.rows.tasks.clone() {
        let own = letters.remove(&Some(task.id)).unwrap_or_default();
        let expected: Vec<String> = if task.state == "DEAD" { task.code().into_iter().collect() } else { Vec::new() };
        if own != expected {
            found.wrong(&task, format!("dead letters {own:?}"));
        }
    }
    found.violations.extend(letters.into_values().map(|codes| format!("dead letters of no task: {codes:?}")));
}
