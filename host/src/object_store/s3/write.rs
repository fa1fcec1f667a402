//! Writing piece by piece: what fits into one part is one request at the end, the rest goes in parts as it comes.

use super::upload::Upload;
use super::{Place, S3ObjectStore};
use crate::object_store::{ObjectError, ObjectWriter};
use async_trait::async_trait;
use aws_sdk_s3::types::CompletedPart;
use bytes::Bytes;

/// An object being written. It holds one part at most; those on their way are the store's to bound.
pub(super) struct S3Writer {
    store: S3ObjectStore,
    place: Place,
    part: Vec<u8>,
    size: u64,
    upload: Option<Upload>,
    failed: Option<ObjectError>,
}

impl S3Writer {
    pub fn new(store: S3ObjectStore, place: Place) -> Self {
        Self { store, place, part: Vec::new(), size: 0, upload: None, failed: None }
    }

    /// Adds bytes. Once it failed, or was cut short, it fails for good: a part may be missing.
    pub async fn add(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.failed = Some(ObjectError::Unavailable(format!("{}: an earlier write was cut short", self.place)));
        let added = self.try_add(bytes).await;
        self.failed = added.clone().err();
        if added.is_err() {
            // Gives up what is under way.
            self.upload = None;
        }
        added
    }

    async fn try_add(&mut self, mut bytes: &[u8]) -> Result<(), ObjectError> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            // A full part waits for the next byte: without one, it is the last.
            if self.part.len() == self.store.bounds.part {
                self.send_part().await?;
            }
            let (fits, rest) = bytes.split_at(bytes.len().min(self.store.bounds.part - self.part.len()));
            self.part.extend_from_slice(fits);
            bytes = rest;
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<(), ObjectError> {
        if self.upload.is_none() {
            self.upload = Some(Upload::begin(&self.store, &self.place).await?);
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let bytes = Bytes::from(std::mem::take(&mut self.part));
        upload.add(|store, place, id, number| async move { store.put_part(&place, &id, number, bytes).await }).await
    }
}

#[async_trait]
impl ObjectWriter for S3Writer {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.add(bytes).await
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ObjectError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.upload.is_none() {
            return self.store.put_whole(&self.place, self.part.into()).await;
        }
        self.send_part().await?;
        match self.upload.take() {
            Some(upload) => upload.complete(self.size).await,
            None => Ok(()),
        }
    }
}

impl S3ObjectStore {
    async fn put_part(&self, place: &Place, upload: &str, number: i32, bytes: Bytes) -> Result<CompletedPart, ObjectError> {
        let size = bytes.len() as u64;
        let put = self.client.upload_part().bucket(&place.bucket).key(&place.key).upload_id(upload).part_number(number).body(bytes.into());
        let put = put.customize().config_override(self.allowing(size)).send().await.map_err(|e| self.failed(place, &e))?;
        // What the server has compared goes into the completion, which it compares again.
        let part = CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).set_checksum_crc32(put.checksum_crc32);
        Ok(part.set_checksum_crc32_c(put.checksum_crc32_c).set_checksum_crc64_nvme(put.checksum_crc64_nvme).build())
    }
}
