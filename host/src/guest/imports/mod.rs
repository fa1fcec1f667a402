//! What guests may call: the contract's `context` and `storage`, standard `wasi:nn`, and standard WASI without grants.
//!
//! Every call goes through the scope of the run, which decides what is allowed. A call answers with the contract's own
//! failures; it traps only where the guest misuses a handle, or where the contract leaves no room for a failure.

pub(super) mod context;
pub(super) mod nn;
pub(super) mod storage;
pub(super) mod wasi;

use super::bindings::wasm_worker::pipeline::types;
use super::scope::Failure;
use crate::task::limits::{MAX_ERROR_TEXT, cut};

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code.to_owned(), message: cut(&failure.message, MAX_ERROR_TEXT), retryable: failure.retryable }
    }
}

/// A fault of the host in a call that has no failures: it ends the call of the guest, and costs the task no attempt.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub(super) struct HostFault(pub Failure);
