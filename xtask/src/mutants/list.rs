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
    of_sql(
        "sql-commit-by-id",
        "a commit matches by id alone, without epoch and owner",
        &[(
            "AND tasks.task_id = c.task_id AND tasks.epoch = c.epoch AND tasks.owner = c.owner\n  AND tasks.state = 'PROCESSING'\nRETURNING id, job, grp, tasks.tenant, tasks.task_id, tasks.epoch, tasks.owner, pipeline",
            "AND tasks.task_id = c.task_id\n  AND tasks.state = 'PROCESSING'\nRETURNING id, job, grp, tasks.tenant, tasks.task_id, tasks.epoch, tasks.owner, pipeline",
        )],
    ),
    of_sql(
        "sql-commit-though-cancelled",
        "a commit takes effect though the task was asked to stop",
        &[("state = CASE WHEN cancel_at IS NOT NULL THEN 'CANCELLED' WHEN c.ends = 1", "state = CASE WHEN c.ends = 1")],
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
                "WHERE state = 'PROCESSING' AND lease_until < $1 ORDER BY lease_until LIMIT $2",
                "WHERE state = 'PROCESSING' ORDER BY lease_until LIMIT $2",
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
        &[(
            "WHEN EXISTS (SELECT 1 FROM tasks t WHERE t.job = jobs.id AND t.state = 'DEAD')",
            "WHEN EXISTS (SELECT 1 FROM tasks t WHERE t.job = jobs.id AND t.state = 'NONE')",
        )],
    ),
    of_sql(
        "sql-turns-not-taken",
        "the tasks of a big job come before those of a small one",
        &[("ORDER BY priority DESC, fair, id LIMIT $3", "ORDER BY priority DESC, id LIMIT $3")],
    ),
];
