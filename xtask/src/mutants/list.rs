//! The breaks. One that needs a switch in Rust code writes `crate::mutant::is("name")` into its replacement; one of a statement
//! gives the text in the statement and what stands there instead.

/// One break.
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What it does, for the table.
    pub breaks: &'static str,
    /// Which tests are to notice it.
    pub by: By,
    /// In Rust code.
    pub edits: &'static [Edit],
    /// In statements: text, and what stands there instead.
    pub sql: &'static [(&'static str, &'static str)],
}

/// Which tests are to notice a break.
#[derive(Clone, Copy)]
pub enum By {
    /// The simulation, within 2,000 seeds.
    Simulation,
    /// The suite that every task store passes, on SQLite and Postgres.
    Conformance,
}

impl By {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simulation => "simulation",
            Self::Conformance => "conformance",
        }
    }
}

/// One replacement.
pub struct Edit {
    /// The file, from the workspace's root.
    pub file: &'static str,
    /// A text that stands in it once.
    pub find: &'static str,
    /// What stands there instead.
    pub replace: &'static str,
}

/// A break of Rust code in one place.
const fn of_code(name: &'static str, breaks: &'static str, edits: &'static [Edit]) -> Mutant {
    Mutant { name, breaks, by: By::Simulation, edits, sql: &[] }
}

/// A break of a statement, for every task store in SQL.
const fn of_sql(name: &'static str, breaks: &'static str, sql: &'static [(&'static str, &'static str)]) -> Mutant {
    Mutant { name, breaks, by: By::Conformance, edits: &[], sql }
}

/// What every break of a statement needs: statements pass through [`rewrite`](super::SWITCH_FILE) where they are expanded.
pub const REWRITE: Edit = Edit {
    file: "host/src/task_store/sql/dialect.rs",
    find: "    let mut out = String::with_capacity(text.len() * 2);",
    replace: "    let text = &*crate::mutant::rewrite(text);\n    let mut out = String::with_capacity(text.len() * 2);",
};

/// See the head of this file.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "read-back-skipped",
        breaks: "a commit whose answer was lost counts as done",
        by: By::Simulation,
        edits: &[Edit {
            file: "host/src/worker/execute.rs",
            find: "            Err(StoreError::Unavailable(error)) if !run.scope.has_lapsed() => {",
            replace: "            Err(StoreError::Unavailable(_)) if crate::mutant::is(\"read-back-skipped\") => return Ok(manifest),\n            Err(StoreError::Unavailable(error)) if !run.scope.has_lapsed() => {",
        }],
        sql: &[],
    },
    of_code(
        "commit-unfenced",
        "a commit matches by id alone, without epoch and owner",
        &[Edit {
            file: "host/src/task_store/memory/run_end.rs",
            find: "let Some(id) = self.held(&lease).map(|task| task.id) else { return self.answer(&lease, \"committed\") };",
            replace: "let loose = self.rows.tasks.by_key(&lease.key).filter(|task| crate::mutant::is(\"commit-unfenced\") && task.state == TaskState::Processing);\n        let Some(id) = self.held(&lease).or(loose).map(|task| task.id) else { return self.answer(&lease, \"committed\") };",
        }],
    ),
    of_code(
        "fence-by-time",
        "a lease is told by its time alone",
        &[Edit {
            file: "host/src/task_store/memory/run_end.rs",
            find: "(task.state == TaskState::Processing && task.epoch == lease.epoch && task.owner == lease.owner).then_some(task)",
            replace: "let fits = if crate::mutant::is(\"fence-by-time\") { task.lease_until > self.now } else { task.epoch == lease.epoch && task.owner == lease.owner };\n        (task.state == TaskState::Processing && fits).then_some(task)",
        }],
    ),
    of_code(
        "children-before-end",
        "children exist from the commit on",
        &[
            Edit {
                file: "host/src/task_store/memory/run_end.rs",
                find: "        let mut follows = None;\n",
                replace: "        let mut follows = None;\n        if crate::mutant::is(\"children-before-end\") && !ends {\n            let early = children.clone();\n            self.insert_children(id, (0..).zip(early.tasks).collect(), early.then);\n        }\n",
            },
            Edit {
                file: "host/src/task_store/memory/end.rs",
                find: "    fn insert_children(",
                replace: "    pub(super) fn insert_children(",
            },
        ],
    ),
    of_code(
        "then-without-count",
        "a `then` does not wait for its group",
        &[Edit {
            file: "host/src/task_store/memory/end.rs",
            find: "group.then_task.filter(|_| group.live == 0)",
            replace: "group.then_task.filter(|_| group.live == 0 || crate::mutant::is(\"then-without-count\"))",
        }],
    ),
    of_code(
        "job-ends-early",
        "a job ends whatever still lives",
        &[Edit {
            file: "host/src/task_store/memory/end.rs",
            find: "let state = if job.live > 0 || open {",
            replace: "let state = if (job.live > 0 && !crate::mutant::is(\"job-ends-early\")) || open {",
        }],
    ),
    of_code(
        "epoch-stays",
        "a claim does not raise the epoch",
        &[Edit {
            file: "host/src/task_store/memory/claim.rs",
            find: "            task.epoch += 1;",
            replace: "            task.epoch += u64::from(task.epoch == 0 || !crate::mutant::is(\"epoch-stays\"));",
        }],
    ),
    of_code(
        "attempts-not-counted",
        "a retry is no attempt",
        &[Edit {
            file: "host/src/task_store/memory/run_end.rs",
            find: "            task.attempts += attempts;",
            replace: "            task.attempts += if crate::mutant::is(\"attempts-not-counted\") { 0 } else { attempts };",
        }],
    ),
    of_code(
        "ack-before-commit",
        "a message is acknowledged as soon as its task is claimed",
        &[Edit {
            file: "host/src/worker/execute.rs",
            find: "    let left = run(worker, claimed, sent, slot).await;\n    close(worker, left, delivery).await\n",
            replace: "    let delivery = match delivery {\n        Some(early) if crate::mutant::is(\"ack-before-commit\") => {\n            early.answer(super::deliveries::Verdict::Acknowledge).await;\n            None\n        }\n        other => other,\n    };\n    let left = run(worker, claimed, sent, slot).await;\n    close(worker, left, delivery).await\n",
        }],
    ),
    of_code(
        "names-before-commit",
        "outputs take their names before the commit",
        &[Edit {
            file: "host/src/worker/execute.rs",
            find: "    reach(Point::BeforeCommit);\n",
            replace: "    reach(Point::BeforeCommit);\n    if crate::mutant::is(\"names-before-commit\") {\n        let _ = super::finalise::publish(worker.services.objects.as_ref(), &run.prefix, &manifest).await;\n    }\n",
        }],
    ),
    of_code(
        "manifest-ignored",
        "a task is finalised without its manifest",
        &[Edit {
            file: "host/src/worker/finalise.rs",
            find: "    let scratch = at(prefix, &manifest.folder)?;\n",
            replace: "    if crate::mutant::is(\"manifest-ignored\") {\n        return Ok(());\n    }\n    let scratch = at(prefix, &manifest.folder)?;\n",
        }],
    ),
    of_code(
        "sweeper-blind",
        "nobody finishes what a dead worker committed",
        &[Edit {
            file: "host/src/worker/sweep.rs",
            find: "    let finish = async |task: Unfinished| {\n",
            replace: "    let finish = async |task: Unfinished| {\n        if crate::mutant::is(\"sweeper-blind\") {\n            return;\n        }\n",
        }],
    ),
    of_code(
        "outbox-forgets",
        "a message that could not be sent counts as sent",
        &[Edit {
            file: "host/src/worker/relay.rs",
            find: "Ok(Err(error @ QueueError::Unavailable(_))) => Some(",
            replace: "Ok(Err(QueueError::Unavailable(_))) if crate::mutant::is(\"outbox-forgets\") => Some(vec![Ok(()); rows.len()]),\n        Ok(Err(error @ QueueError::Unavailable(_))) => Some(",
        }],
    ),
    of_code(
        "lost-lease-ignored",
        "a zero-row heartbeat stops nothing",
        &[Edit {
            file: "host/src/worker/heartbeat.rs",
            find: "                Beat::Lost => {\n",
            replace: "                Beat::Lost if crate::mutant::is(\"lost-lease-ignored\") => {}\n                Beat::Lost => {\n",
        }],
    ),
    of_code(
        "host-calls-after-loss",
        "host calls are served after a lost lease",
        &[Edit {
            file: "host/src/guest/scope/mod.rs",
            find: "if self.has_lapsed() || self.stop.is_cancelled() {",
            replace: "if (self.has_lapsed() || self.stop.is_cancelled()) && !crate::mutant::is(\"host-calls-after-loss\") {",
        }],
    ),
    of_code(
        "self-fence-skipped",
        "a worker does not fence itself by its own clock",
        &[
            Edit {
                file: "host/src/guest/scope/mod.rs",
                find: "let lapsed = locked(&self.view)",
                replace: "let lapsed = !crate::mutant::is(\"self-fence-skipped\") && locked(&self.view)",
            },
            Edit {
                file: "host/src/worker/heartbeat.rs",
                find: "            if held.scope.has_lapsed() {\n                continue;\n            }\n            if held.cancel_at",
                replace: "            if held.scope.has_lapsed() || (crate::mutant::is(\"self-fence-skipped\") && now >= Instant::from_std(held.view.lapses_at())) {\n                continue;\n            }\n            if held.cancel_at",
            },
        ],
    ),
    of_code(
        "tenants-mixed",
        "a guest may read what is another tenant's",
        &[Edit {
            file: "host/src/guest/scope/reading.rs",
            find: "        if self.grants_read(&uri) {",
            replace: "        if self.grants_read(&uri) || crate::mutant::is(\"tenants-mixed\") {",
        }],
    ),
    of_code(
        "handbacks-unbounded",
        "a task is handed back without bound",
        &[Edit {
            file: "host/src/task/outcome.rs",
            find: "counters.handbacks + 1 > MAX_HANDBACKS",
            replace: "(counters.handbacks + 1 > MAX_HANDBACKS && !crate::mutant::is(\"handbacks-unbounded\"))",
        }],
    ),
    of_sql(
        "sql-commit-by-id",
        "a commit matches by id alone, without epoch and owner",
        &[("WHERE t.epoch = w.epoch AND t.owner = w.owner AND t.state = 'PROCESSING') c", "WHERE t.state = 'PROCESSING') c")],
    ),
    of_sql(
        "sql-commit-though-cancelled",
        "a commit takes effect though the task was asked to stop",
        &[("CASE WHEN t.cancel_at IS NULL THEN 0 ELSE 1 END AS cancelled", "0 AS cancelled")],
    ),
    of_sql(
        "sql-heartbeat-by-id",
        "a heartbeat renews a lease that is another's",
        &[(
            "AND tasks.epoch = c.epoch AND tasks.owner = c.owner\n  AND tasks.state = 'PROCESSING'\nRETURNING tasks.tenant",
            "AND tasks.state = 'PROCESSING'\nRETURNING tasks.tenant",
        )],
    ),
    of_sql(
        "sql-live-leases-lapse",
        "leases that still run count as lapsed",
        &[
            (
                "WHERE state = 'PROCESSING' AND lease_until < $1 ORDER BY lease_until {limit $2}",
                "WHERE state = 'PROCESSING' ORDER BY lease_until {limit $2}",
            ),
            ("AND state = 'PROCESSING' AND lease_until < $1\nRETURNING", "AND state = 'PROCESSING'\nRETURNING"),
        ],
    ),
    of_sql(
        "sql-epoch-stays",
        "a claim does not raise the epoch",
        &[("epoch = epoch + 1, owner = c.owner", "epoch = {max}(epoch, 1), owner = c.owner")],
    ),
    of_sql(
        "sql-crashes-not-counted",
        "a lapsed lease is no crash: a poison task kills workers for ever",
        &[("    crashes = crashes + 1,\n", "")],
    ),
    of_sql(
        "sql-end-from-any-state",
        "an end counts for a task that is not COMMITTED",
        &[("WHERE t.state = 'COMMITTED'", "WHERE t.manifest IS NOT NULL")],
    ),
    of_sql(
        "sql-job-done-though-dead",
        "a job with a dead task ends DONE",
        &[("AND d.body_hash IS NULL) THEN 'FAILED'", "AND d.body_hash IS NULL) THEN 'DONE'")],
    ),
    of_sql(
        "sql-turns-not-taken",
        "the tasks of a big job come before those of a small one",
        &[("ORDER BY priority DESC, fair, id {limit $3}", "ORDER BY priority DESC, id {limit $3}")],
    ),
];
