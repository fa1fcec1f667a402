//! Objects: bytes under addresses. The port and its types; adapters stand beside it.
//!
//! Writes are atomic: a reader sees the whole object or none. Who may read or write what is decided above.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod faulty;
mod file;
mod memory;
mod routed;
mod s3;

pub use file::FileObjectStore;
pub use memory::MemoryObjectStore;
pub use routed::RoutedObjectStore;
pub use s3::{S3Config, S3ObjectStore};
#[cfg(test)]
pub(crate) use {faulty::FaultyObjectStore, s3::tests::fresh as fresh_bucket};

use crate::task::uri::Uri;
use async_trait::async_trait;

/// Why the store did not do it, classed by what the caller does next.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ObjectError {
    /// There is no such object.
    #[error("{0} not found")]
    NotFound(String),
    /// The system refuses: permissions, a read-only folder.
    #[error("{0}: permission denied")]
    Denied(String),
    /// The object is larger than the caller allows.
    #[error("{uri} has {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// Which object.
        uri: String,
        /// Its size.
        size: u64,
        /// The caller's bound.
        limit: u64,
    },
    /// The address makes no sense for this store; trying again will not help.
    #[error("{0}")]
    Invalid(String),
    /// Disk full, I/O error, out of reach: try again.
    #[error("storage unavailable: {0}")]
    Unavailable(String),
}

impl ObjectError {
    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its address.
    pub uri: Uri,
    /// Size in bytes.
    pub size: u64,
}

/// An object open for reading from its start.
#[async_trait]
pub trait ObjectReader: Send {
    /// Size in bytes, where known.
    fn size(&self) -> Option<u64>;
    /// At most `max` further bytes; empty at the end.
    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError>;
}

/// An object being written. Dropped without `finish`, it leaves nothing.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Adds bytes.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError>;
    /// Makes the object durable and visible.
    async fn finish(self: Box<Self>) -> Result<(), ObjectError>;
}

/// One thing to publish: where it comes from, and the address it gets.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The bytes, or where they lie. A source object is gone afterwards.
    pub from: Source,
    /// The address it gets.
    pub to: Uri,
}

/// Where published bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// From memory.
    Bytes(Vec<u8>),
    /// From another object.
    Object(Uri),
}

/// The port.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Size and presence; none if there is no such object.
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError>;
    /// The whole object, refused above `limit` bytes without being read.
    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError>;
    /// Opens it for reading piece by piece.
    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError>;
    /// Writes the whole object, durably, replacing what was there.
    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError>;
    /// Starts writing piece by piece.
    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError>;
    /// Gives each item its address, durably, replacing what was there; a reader sees each whole or not at all. The last one gets its
    /// address when all others have theirs. Bytes may be written below `scratch` first, which the caller removes in the end. `NotFound`
    /// names a vanished source; items before it are in place.
    async fn publish(&self, items: Vec<Publish>, scratch: &Uri) -> Result<(), ObjectError>;
    /// Objects below a prefix, in the order of their addresses.
    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError>;
    /// Removes an object; no error if there is none.
    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError>;
    /// Removes everything below a prefix.
    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError>;
}
