//! The checker: reads database and files once everything has ended, and names whatever breaks an invariant.
//!
//! `state` looks at each task by itself, `family` at what follows from what, `files` at the disk.

mod family;
mod files;
mod state;
#[cfg(test)]
mod tests;

use super::load;
use super::report::Report;
use super::rows::{self, Claim, Job, Rows, Task};
use super::site::Site;
use std::collections::{BTreeMap, HashMap};

/// Everything that was found, with ways through it.
struct Found {
    rows: Rows,
    jobs: HashMap<i64, Job>,
    tasks: HashMap<i64, usize>,
    claims: HashMap<i64, Vec<Claim>>,
    /// In fan-out order, a `then` last.
    children: HashMap<i64, Vec<i64>>,
    violations: Vec<String>,
}

impl Found {
    fn new(rows: Rows) -> Self {
        let mut claims: HashMap<i64, Vec<Claim>> = HashMap::new();
        let mut children: HashMap<i64, Vec<i64>> = HashMap::new();
        for claim in &rows.claims {
            claims.entry(claim.task).or_default().push(claim.clone());
        }
        for task in &rows.tasks {
            if let Some(parent) = task.parent {
                children.entry(parent).or_default().push(task.id);
            }
        }
        Self {
            jobs: rows.jobs.iter().map(|job| (job.id, job.clone())).collect(),
            tasks: rows.tasks.iter().enumerate().map(|(index, task)| (task.id, index)).collect(),
            claims,
            children,
            rows,
            violations: Vec::new(),
        }
    }

    fn task(&self, id: i64) -> &Task {
        &self.rows.tasks[self.tasks[&id]]
    }

    fn children(&self, id: i64) -> Vec<Task> {
        self.children.get(&id).into_iter().flatten().map(|child| self.task(*child).clone()).collect()
    }

    fn is_cancelled(&self, task: &Task) -> bool {
        self.jobs[&task.job].cancel_at.is_some()
    }

    /// Something about a task that must not be.
    fn wrong(&mut self, task: &Task, what: impl std::fmt::Display) {
        let ends: Vec<String> = self.claims.get(&task.id).into_iter().flatten().map(|c| c.ended.clone().unwrap_or_default()).collect();
        let job = &self.jobs[&task.job].job_id;
        let (id, step, key, state) = (&task.task_id, &task.step, &task.key, &task.state);
        self.violations.push(format!("task {id:.12} ({job}, {step}/{key}, {state}, claims {}): {what}", ends.join(" ")));
    }
}

/// Checks all of it; what is wrong, and counts of what was there, go into the report.
pub fn check(site: &Site, submitted: &[load::Job], report: &mut Report) {
    let mut found = look(site, rows::read(site), submitted);
    count(&found, report);
    report.violations.append(&mut found.violations);
}

fn look(site: &Site, rows: Rows, submitted: &[load::Job]) -> Found {
    let mut found = Found::new(rows);
    state::check(&mut found);
    family::check(&mut found, submitted);
    files::check(&mut found, site);
    found
}

fn count(found: &Found, report: &mut Report) {
    let tally = |names: &mut dyn Iterator<Item = String>| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        names.for_each(|name| *counts.entry(name).or_default() += 1);
        counts
    };
    report.jobs = tally(&mut found.rows.jobs.iter().map(|job| job.state.clone()));
    report.tasks = tally(&mut found.rows.tasks.iter().map(|task| match task.state.as_str() {
        "DEAD" => format!("DEAD of {}", task.code().unwrap_or_default()),
        state => state.to_owned(),
    }));
    report.claims = tally(&mut found.rows.claims.iter().map(|claim| claim.ended.clone().unwrap_or_else(|| "open".to_owned())));
}
