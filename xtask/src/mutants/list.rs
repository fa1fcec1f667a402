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

/// See the head of this file.
pub const MUTANTS: &[Mutant] = &[Mutant {
    name: "read-back-skipped",
    breaks: "a commit whose answer was lost counts as done",
    by: By::Simulation,
    edits: &[Edit {
        file: "host/src/worker/execute.rs",
        find: "            Err(StoreError::Unavailable(error)) if !run.scope.has_lapsed() => {",
        replace: "            Err(StoreError::Unavailable(_)) if crate::mutant::is(\"read-back-skipped\") => return Ok(manifest),\n            Err(StoreError::Unavailable(error)) if !run.scope.has_lapsed() => {",
    }],
    sql: &[],
}];
