//! Real servers that tests talk to.

#[allow(dead_code, reason = "the host's own tests use it too, and each uses another part")]
pub mod moto;
#[allow(dead_code, reason = "the host's own tests use it too, and each uses another part")]
pub mod postgres;
#[allow(dead_code, reason = "the host's own tests use it too, and each uses another part")]
pub mod sqs;
