//! Failures of inference, with the kinds that `wasi:nn` names.

use crate::error::Error;
use std::fmt;

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// A shape, a type, a length or a name does not fit.
    InvalidArgument,
    /// Not a model this host can read.
    InvalidEncoding,
    /// The task's deadline passed.
    Timeout,
    /// The backend failed.
    RuntimeError,
    /// The host does not do this.
    UnsupportedOperation,
    /// Over a limit.
    TooLarge,
    /// No model, or no output, of that name.
    NotFound,
    /// Not allowed for this step.
    Security,
    /// Anything else.
    Unknown,
}

impl ErrorCode {
    /// Its name in the standard, such as `invalid-argument`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::InvalidEncoding => "invalid-encoding",
            Self::Timeout => "timeout",
            Self::RuntimeError => "runtime-error",
            Self::UnsupportedOperation => "unsupported-operation",
            Self::TooLarge => "too-large",
            Self::NotFound => "not-found",
            Self::Security => "security",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.name())
    }
}

/// Why a model could not be loaded or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("inference {code}: {message}")]
pub struct InferenceError {
    /// What kind.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
}

impl InferenceError {
    /// A failure of that kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<InferenceError> for Error {
    /// Time-outs and failures of the backend may pass by another time; the other kinds are fatal. The code is `inference-<kind>`.
    fn from(error: InferenceError) -> Self {
        let code = format!("inference-{}", error.code);
        match error.code {
            ErrorCode::Timeout | ErrorCode::RuntimeError => Self::retryable(code, error.message),
            _ => Self::fatal(code, error.message),
        }
    }
}
