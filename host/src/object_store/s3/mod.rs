//! S3, and what speaks it (R2, MinIO and others): `s3://bucket/key` addresses.
//!
//! An object appears whole when its upload ends: one request up to 8 MiB, parts above. Every upload carries a checksum that the server
//! compares, and whole objects are compared with theirs as they are read, where the server keeps one; where a server knows no such
//! checksums, `AWS_REQUEST_CHECKSUM_CALCULATION=when_required` leaves them out. Parts have one size, which R2 asks for.
//!
//! The SDK attempts a call up to three times within its deadline; whatever is left then is for the caller. Every call here can be
//! repeated: a write puts the same bytes, a deletion of nothing is none.
//!
//! Left out: conditional writes. Names are given by whoever holds the committed manifest, always to the same bytes, so that the last
//! writer may win. Uploads that a killed process left are given up with everything else below a prefix ([`ObjectStore::delete_prefix`]).

mod config;
mod fault;
mod listing;
mod publish;
mod read;
#[cfg(test)]
pub(crate) mod tests;
mod upload;
mod write;

pub use config::S3Config;

use super::{ObjectError, ObjectMeta, ObjectReader, ObjectStore, ObjectWriter, Publish};
use crate::aws;
use crate::task::outputs::content_type_of;
use crate::task::uri::Uri;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use bytes::Bytes;
use config::Bounds;
use read::S3Reader;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use write::S3Writer;

/// Longest key, in bytes, as S3 has it.
const MAX_KEY: usize = 1024;

/// See the head of this file. Clones share connections and bounds.
#[derive(Debug, Clone)]
pub struct S3ObjectStore {
    client: Client,
    /// What messages call the place: an endpoint, or a region of AWS.
    endpoint: Arc<str>,
    bounds: Bounds,
    /// One permit for each part on its way.
    parts: Arc<Semaphore>,
}

/// An object's place.
#[derive(Debug, Clone)]
struct Place {
    bucket: String,
    key: String,
}

impl Place {
    /// The place of one object: a prefix is none.
    fn of(uri: &Uri) -> Result<Self, ObjectError> {
        let place = Self::below(uri)?;
        if uri.is_prefix() {
            return Err(ObjectError::Invalid(format!("'{uri}' is a prefix, not an object")));
        }
        if place.key.len() > MAX_KEY {
            return Err(ObjectError::Invalid(format!("the key of '{uri}' is longer than the {MAX_KEY} bytes that S3 takes")));
        }
        Ok(place)
    }

    /// The place of a prefix, or of an object.
    fn below(uri: &Uri) -> Result<Self, ObjectError> {
        let (bucket, key) = uri.bucket_and_key().ok_or_else(|| ObjectError::Invalid(format!("'{uri}' is no s3:// address")))?;
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    fn content_type(&self) -> &'static str {
        content_type_of(&self.key)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl S3ObjectStore {
    /// How long something may take that moves so many bytes.
    fn allowed(&self, bytes: u64) -> Duration {
        self.bounds.patience + Duration::from_secs(bytes / self.bounds.slowest.max(1))
    }

    /// What one call overrides so that it may move so many bytes.
    fn allowing(&self, bytes: u64) -> aws_sdk_s3::config::Builder {
        let attempt = self.allowed(bytes);
        aws_sdk_s3::Config::builder().timeout_config(aws::timeouts(attempt, attempt * 2))
    }

    /// Writes an object by one request.
    async fn put_whole(&self, place: &Place, bytes: Bytes) -> Result<(), ObjectError> {
        let size = bytes.len() as u64;
        let put = self.client.put_object().bucket(&place.bucket).key(&place.key).content_type(place.content_type()).body(bytes.into());
        put.customize().config_override(self.allowing(size)).send().await.map_err(|e| self.failed(place, &e)).map(drop)
    }

    async fn put_bytes(&self, place: Place, bytes: Bytes) -> Result<(), ObjectError> {
        if bytes.len() <= self.bounds.part {
            return self.put_whole(&place, bytes).await;
        }
        let mut writer = S3Writer::new(self.clone(), place);
        writer.add(&bytes).await?;
        Box::new(writer).finish().await
    }
}

#[async_trait]
impl ObjectStore for S3ObjectStore {
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError> {
        let found = self.look(&Place::of(uri)?).await?;
        Ok(found.map(|found| ObjectMeta { uri: uri.clone(), size: found.size }))
    }

    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError> {
        S3Reader::open(self, Place::of(uri)?).await?.whole(limit).await
    }

    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError> {
        Ok(Box::new(S3Reader::open(self, Place::of(uri)?).await?))
    }

    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError> {
        self.put_bytes(Place::of(uri)?, Bytes::copy_from_slice(bytes)).await
    }

    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        Ok(Box::new(S3Writer::new(self.clone(), Place::of(uri)?)))
    }

    async fn publish(&self, items: Vec<Publish>, _scratch: &Uri) -> Result<(), ObjectError> {
        self.publish_all(items).await
    }

    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError> {
        self.list_all(&Place::below(&prefix.as_prefix())?).await
    }

    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError> {
        let place = Place::of(uri)?;
        let deleted = self.client.delete_object().bucket(&place.bucket).key(&place.key).send().await;
        match deleted.map_err(|e| self.failed(&place, &e)) {
            Err(ObjectError::NotFound(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError> {
        if !prefix.is_prefix() {
            return Err(ObjectError::Invalid(format!("'{prefix}' is no prefix")));
        }
        self.delete_below(&Place::below(prefix)?).await
    }
}
