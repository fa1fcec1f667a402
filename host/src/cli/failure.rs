//! How a command ends: exit codes, and errors that name the value and the next step.

use crate::app::AppError;
use crate::config::ConfigError;
use crate::task_store::StoreError;
use std::fmt;
use std::process::ExitCode;

/// The exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or drained.
    Done = 0,
    /// It ran and failed.
    Failed = 1,
    /// Wrong usage, input or configuration: nothing was done.
    Usage = 2,
    /// A one-job run was interrupted: 128 and the number of SIGINT, as shells have it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do it.
#[derive(Debug)]
pub struct Failure {
    /// The code it ends with.
    pub exit: Exit,
    message: String,
    help: Option<String>,
}

impl Failure {
    /// Something the user gave is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), help: None }
    }

    /// It was tried, and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into(), help: None }
    }

    /// The next step for whoever reads it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    /// `error: …`, one line per problem, then `help: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.message.lines() {
            writeln!(f, "error: {line}")?;
        }
        match &self.help {
            Some(help) => writeln!(f, "help: {help}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = Self::failed(error.to_string());
        match error {
            StoreError::NotFound(_) => failure.help("`wasm-worker jobs list` and `wasm-worker tasks list` show what there is"),
            StoreError::Denied(_) => {
                failure.help("a file must be writable, and its folder too (--data-dir names another); a database must let you in (DB_DSN)")
            }
            StoreError::Unavailable(_) => failure.help("try again; its server may be away, or another process may be holding its file"),
            StoreError::Conflict(_) | StoreError::Invalid(_) => failure,
        }
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        let text = error.to_string();
        match error {
            AppError::Config(error) => error.into(),
            AppError::Store(error) => error.into(),
            AppError::DataDir { .. } => Self::failed(text).help("--data-dir, or data_dir in wasm-worker.toml, names another folder"),
            AppError::OpenStore { why, .. } => Self { message: text, ..Self::from(why) },
            AppError::Queue { .. } | AppError::Bucket { .. } => {
                Self::failed(text).help("`wasm-worker doctor` tries each of the places outside")
            }
            AppError::Engine(_) => Self::failed(text),
            AppError::Component(_) | AppError::Guest { .. } => Self::usage(text).help("`wasm-worker check` tries a guest hook by hook"),
            AppError::Model { .. } => Self::usage(text).help("look at the pipeline's [models] table, or at --model and --backend"),
            AppError::Submission { .. } => Self::usage(text).help("nothing was submitted"),
            AppError::Secret { ref name, .. } => Self::usage(text).help(format!("set the environment variable WASM_WORKER_SECRET_{name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_a_line_and_the_help_is_last() {
        let failure = Failure::usage("a = 1: no\nb = 2: no").help("look at the file");
        assert_eq!(failure.to_string(), "error: a = 1: no\nerror: b = 2: no\nhelp: look at the file\n");
        assert_eq!(Failure::from(StoreError::NotFound("job 'x'".into())).exit, Exit::Failed);
    }
}
