//! What follows from what: the jobs that were submitted and no others, the children that the guest names and no others, groups and
//! jobs whose counters are at rest, and every `then` with the inputs that it must have had.

use super::Found;
use crate::crash::load;
use crate::crash::probe;
use crate::crash::rows::Task;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use wasm_worker::task::id;

pub fn check(found: &mut Found, submitted: &[load::Job]) {
    roots(found, submitted);
    for task in found.rows.tasks.clone() {
        children(found, &task);
        if task.state == "DONE" && task.params()["action"] == "sum" {
            gathered(found, &task);
        }
    }
    groups(found);
    jobs(found);
}

/// Every job that was submitted is there once, with its params; and no other.
fn roots(found: &mut Found, submitted: &[load::Job]) {
    let asked: BTreeSet<&str> = submitted.iter().map(|job| job.id.as_str()).collect();
    let there: BTreeSet<String> = found.rows.jobs.iter().map(|job| job.job_id.clone()).collect();
    if there.len() != found.rows.jobs.len() || !there.iter().map(String::as_str).eq(asked.iter().copied()) {
        found.violations.push(format!("{} jobs were submitted, {} are there", asked.len(), found.rows.jobs.len()));
    }
    let jobs: HashMap<&str, &load::Job> = submitted.iter().map(|job| (job.id.as_str(), job)).collect();
    let roots: Vec<Task> = found.rows.tasks.iter().filter(|task| task.parent.is_none()).cloned().collect();
    let expected: usize = submitted.iter().map(|job| job.roots().len()).sum();
    if roots.len() != expected {
        found.violations.push(format!("{} root tasks in {} jobs, and {expected} were asked for", roots.len(), found.rows.jobs.len()));
    }
    for root in roots {
        let job = &found.jobs[&root.job];
        let asked = jobs.get(job.job_id.as_str()).map(|job| job.roots()).unwrap_or_default();
        // The id of a task that is submitted is the job's first; a fed one has its own, whichever comes first.
        let is_it = |id: Option<&str>| id.unwrap_or(&job.root_task) == root.task_id;
        if !asked.iter().any(|(id, params)| is_it(*id) && **params == root.params()) {
            found.wrong(&root, "not the root task that was submitted");
        }
    }
}

/// A task that is DONE has the children that the guest names for it, all of them or, once its job was cancelled, none; any other
/// task has none.
fn children(found: &mut Found, task: &Task) {
    let there = found.children(task.id);
    let expected = if task.state == "DONE" { probe::children(&task.params()) } else { Vec::new() };
    if task.child_count != there.len() as i64 {
        found.wrong(task, format!("{} children on record, {} there", task.child_count, there.len()));
    }
    if there.is_empty() && (expected.is_empty() || found.is_cancelled(task)) {
        return;
    }
    let fits = |(child, expected): (&Task, &probe::Child)| {
        let derived = id::child(&task.tenant, &task.task_id, &expected.step, &expected.key);
        child.task_id == derived && child.step == expected.step && child.key == expected.key && child.params() == expected.params
    };
    if there.len() != expected.len() || !there.iter().zip(&expected).all(fits) {
        let names = |names: Vec<String>| names.join(" ");
        let (is, should) = (there.iter().map(|c| c.key.clone()).collect(), expected.iter().map(|c| c.key.clone()).collect());
        found.wrong(task, format!("its children are [{}], the guest names [{}]", names(is), names(should)));
    }
    let inner = expected.iter().any(|child| child.is_then) && expected.len() > 1;
    for (child, expected) in there.iter().zip(&expected) {
        let alone = child.grp == task.grp;
        if alone == (inner && !expected.is_then) || child.waits.is_some() != (inner && expected.is_then) {
            found.wrong(child, "stands in the wrong group");
        }
    }
}

/// The tasks without children below these, in fan-out order; the `then` of a fan-out stands for it.
fn leaves(found: &Found, tasks: &[Task]) -> Vec<Task> {
    let mut leaves = Vec::new();
    for task in tasks {
        let children = found.children(task.id);
        let then = children.iter().find(|child| child.waits.is_some()).cloned();
        match then {
            Some(then) => leaves.extend(self::leaves(found, &[then])),
            None if children.is_empty() => leaves.push(task.clone()),
            None => leaves.extend(self::leaves(found, &children)),
        }
    }
    leaves
}

fn answer(task: &Task) -> Value {
    let folder = task.output_prefix.trim_start_matches("file://");
    let text = fs::read_to_string(Path::new(folder).join("result.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// What a `then` says of its inputs is what stands there.
fn gathered(found: &mut Found, task: &Task) {
    let siblings: Vec<Task> = found.children(task.parent.unwrap()).into_iter().filter(|s| s.id != task.id).collect();
    let inputs = leaves(found, &siblings);
    let value = |input: &Task| {
        let said = answer(input);
        said.get("sum").or(said.get("value")).and_then(Value::as_i64).unwrap_or(0)
    };
    let read = task.params()["read_outputs"] == true;
    let bytes = |input: &Task| input.entries().iter().filter_map(|entry| entry["size"].as_u64()).sum::<u64>();
    let done = |input: &&Task| input.state == "DONE";
    let expected = json!({
        "count": inputs.len(),
        "keys": inputs.iter().map(|i| i.key.clone()).collect::<Vec<_>>(),
        "ends": inputs.iter().map(|i| i.state.to_lowercase()).collect::<Vec<_>>(),
        "sum": inputs.iter().filter(done).map(value).sum::<i64>(),
        "bytes": inputs.iter().filter(done).filter(|_| read).map(bytes).sum::<u64>(),
    });
    let said = answer(task);
    let wrong: Vec<_> = expected.as_object().unwrap().iter().filter(|(name, value)| said.get(*name) != Some(value)).collect();
    if !wrong.is_empty() {
        found.wrong(task, format!("it gathered {said}, there is {wrong:?}"));
    }
}

/// No group counts a live task, and each knows its leaves.
fn groups(found: &mut Found) {
    for group in found.rows.groups.clone() {
        if group.live != 0 {
            found.violations.push(format!("group {} of {} counts {} live tasks", group.id, found.jobs[&group.job].job_id, group.live));
        }
        let Some(then) = group.then_task else { continue };
        let then = found.task(then).clone();
        let siblings: Vec<Task> = found.children(then.parent.unwrap()).into_iter().filter(|s| s.id != then.id).collect();
        let leaves = leaves(found, &siblings).len() as i64;
        if then.waits != Some(group.id) || group.leaves != leaves {
            found.wrong(&then, format!("its group counts {} leaves, there are {leaves}", group.leaves));
        }
    }
}

/// A job that has ended, by the worst of its tasks.
fn jobs(found: &mut Found) {
    for job in found.rows.jobs.clone() {
        let states: Vec<&str> = found.rows.tasks.iter().filter(|task| task.job == job.id).map(|task| task.state.as_str()).collect();
        let expected = match () {
            () if states.contains(&"DEAD") => "FAILED",
            () if job.cancel_at.is_some() => "CANCELLED",
            () => "DONE",
        };
        if job.state != expected || job.live != 0 || job.ended_at.is_none() {
            found.violations.push(format!("job {} is {} with {} live tasks, and should be {expected}", job.job_id, job.state, job.live));
        }
    }
}
