//! Plain values and pure rules about tasks: what a message, an id, a lease, a retry and an output are.
//!
//! Nothing here waits, reads, writes or asks for the time: time comes in as an argument. The rules are those of the
//! state machine described in `ARCHITECTURE.md`; the rooms above only carry them out.

pub mod accept;
pub mod checks;
pub mod children;
pub mod hooks;
pub mod id;
pub mod json;
pub mod lease;
pub mod limits;
pub mod media;
pub mod message;
pub mod outcome;
pub mod outputs;
pub mod pointer;
pub mod retry;
pub mod root;
pub mod schema;
pub mod state;
pub mod uri;

/// Milliseconds since the Unix epoch, by the task store's clock.
pub type Millis = i64;
