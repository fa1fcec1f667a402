//! How a hook fails, and how a host call failed. What the host does with each kind is the host's business.

use std::io;
use std::time::Duration;

/// One fault of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer (RFC 6901) into the task's params, or into the step's config in `load_pipeline`; empty for the whole of it.
    pub pointer: String,
    /// What is wrong and what is expected.
    pub message: String,
}

/// How a hook fails. `?` turns the errors of [`storage`](crate::storage), [`context`](crate::context),
/// [`inference`](crate::inference), `std::io` and `serde_json` into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Worth another attempt.
    #[error("{code}: {message} (retryable)")]
    Retryable {
        /// A short stable name, such as `upstream-busy`.
        code: String,
        /// For a person; the host cuts it at 4 KiB.
        message: String,
        /// Not before this long from now; none leaves it to the host's backoff.
        after: Option<Duration>,
    },
    /// The input can never work; all violations at once.
    #[error("invalid input: {}", listed(.0))]
    Invalid(Vec<Violation>),
    /// Give up.
    #[error("{code}: {message}")]
    Fatal {
        /// A short stable name, such as `labels-missing`.
        code: String,
        /// For a person; the host cuts it at 4 KiB.
        message: String,
    },
    /// The guest saw [`is_cancelled`](crate::context::is_cancelled) and stopped.
    #[error("cancelled")]
    Cancelled,
}

fn listed(violations: &[Violation]) -> String {
    let each = |v: &Violation| if v.pointer.is_empty() { v.message.clone() } else { format!("{} {}", v.pointer, v.message) };
    violations.iter().map(each).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// A failure worth another attempt.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Retryable { code: code.into(), message: message.into(), after: None }
    }

    /// Asks that a retryable failure wait this long (rounded down to milliseconds); leaves other errors as they are.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        match self {
            Self::Retryable { code, message, .. } => Self::Retryable { code, message, after: Some(wait) },
            other => other,
        }
    }

    /// An input that can never work, with its first fault; add others with [`and_invalid`](Self::and_invalid).
    pub fn invalid(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { pointer: pointer.into(), message: message.into() }])
    }

    /// One more fault. An error that is not about the input stays what it is.
    #[must_use]
    pub fn and_invalid(mut self, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        if let Self::Invalid(all) = &mut self {
            all.push(Violation { pointer: pointer.into(), message: message.into() });
        }
        self
    }

    /// Fails with every violation found, and passes if there is none: the end of a check that looks at everything first.
    pub fn any_of(violations: Vec<Violation>) -> Result<(), Self> {
        if violations.is_empty() { Ok(()) } else { Err(Self::Invalid(violations)) }
    }

    /// A failure that no further attempt will mend.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Fatal { code: code.into(), message: message.into() }
    }

    /// The guest stopped because it was asked to.
    pub fn cancelled() -> Self {
        Self::Cancelled
    }
}

/// Why a host call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// `not-found`, `denied`, `too-large`, `invalid` or `unavailable`.
    pub code: String,
    /// For a person.
    pub message: String,
    /// Whether the same call may work later.
    pub retryable: bool,
}

impl Failure {
    /// A failure that will not go away by itself.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false }
    }
}

impl From<Failure> for Error {
    /// Keeps code and message; retryable where the failure says so, else fatal.
    fn from(failure: Failure) -> Self {
        if failure.retryable { Self::retryable(failure.code, failure.message) } else { Self::fatal(failure.code, failure.message) }
    }
}

impl From<Failure> for io::Error {
    /// Carries the failure inside, so that the way back to [`Error`] loses nothing.
    fn from(failure: Failure) -> Self {
        let kind = match failure.code.as_str() {
            "not-found" => io::ErrorKind::NotFound,
            "denied" => io::ErrorKind::PermissionDenied,
            "invalid" => io::ErrorKind::InvalidInput,
            "too-large" => io::ErrorKind::FileTooLarge,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, failure)
    }
}

impl From<io::Error> for Error {
    /// The host's failure where one is inside; fatal `io` otherwise.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Failure>() {
            Ok(failure) => failure.into(),
            Err(error) => Self::fatal("io", error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Error {
    /// A broken stream keeps its own failure; anything else is fatal `json`: the text will not change by itself.
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() { io::Error::from(error).into() } else { Self::fatal("json", error.to_string()) }
    }
}
