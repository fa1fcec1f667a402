//! Real servers that tests talk to, and what may stand between.

#[allow(dead_code, reason = "the host's own tests use it too, and each uses another part")]
pub mod moto;
#[allow(dead_code, reason = "the host's own tests use it too, and each uses another part")]
pub mod postgres;
#[allow(dead_code, reason = "the host's own tests use it too, and each uses another part")]
pub mod proxy;
#[allow(dead_code, reason = "the host's own tests and the benches use it too, and each uses another part")]
pub mod redis;
#[allow(dead_code, reason = "the host's own tests use it too, and each uses another part")]
pub mod sqs;
