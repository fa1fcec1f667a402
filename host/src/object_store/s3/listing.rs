//! Listing and deleting, page by page.

use super::{Place, S3ObjectStore};
use crate::aws::Fault;
use crate::object_store::{ObjectError, ObjectMeta};
use crate::task::uri::Uri;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

/// Most objects listed at once, so that a prefix that somebody else fills does not fill this memory.
const MAX_LISTED: usize = 1_000_000;

/// Most keys of one deletion, as S3 has it.
const DELETED_AT_ONCE: usize = 1000;

/// Pages of unfinished uploads that one removal gives up: where they cannot be, the same page would come for ever.
const PAGES: usize = 16;

impl S3ObjectStore {
    async fn page(&self, prefix: &Place, token: Option<String>) -> Result<ListObjectsV2Output, ObjectError> {
        let list = self.client.list_objects_v2().bucket(&prefix.bucket).prefix(&prefix.key).max_keys(self.bounds.page);
        list.set_continuation_token(token).send().await.map_err(|e| self.failed(prefix, &e))
    }

    /// Objects below a prefix. Keys that no address can name are somebody else's, and left out.
    pub(super) async fn list_all(&self, prefix: &Place) -> Result<Vec<ObjectMeta>, ObjectError> {
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let page = self.page(prefix, token).await?;
            for object in page.contents() {
                let address = Uri::parse(&format!("s3://{}/{}", prefix.bucket, object.key().unwrap_or_default()));
                if let (Ok(uri), Ok(size)) = (address, u64::try_from(object.size().unwrap_or_default()))
                    && !uri.is_prefix()
                {
                    found.push(ObjectMeta { uri, size });
                }
            }
            if found.len() > MAX_LISTED {
                return Err(ObjectError::Invalid(format!("there are more than {MAX_LISTED} objects below {prefix}; list less")));
            }
            token = page.next_continuation_token;
            if token.is_none() {
                // Not every server lists in the order of bytes.
                found.sort_by(|a, b| a.uri.cmp(&b.uri));
                return Ok(found);
            }
        }
    }

    pub(super) async fn delete_below(&self, prefix: &Place) -> Result<(), ObjectError> {
        tokio::try_join!(self.delete_objects_below(prefix), self.give_up_below(prefix)).map(drop)
    }

    async fn delete_objects_below(&self, prefix: &Place) -> Result<(), ObjectError> {
        let mut token = None;
        loop {
            let page = self.page(prefix, token).await?;
            let keys = page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
            self.delete_all(keys.map(|key| Place { bucket: prefix.bucket.clone(), key }).collect()).await?;
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Deletes objects that may lie in several buckets; one that is not there is no error.
    pub(super) async fn delete_all(&self, mut places: Vec<Place>) -> Result<(), ObjectError> {
        places.sort_by(|a, b| a.bucket.cmp(&b.bucket));
        for places in places.chunk_by(|a, b| a.bucket == b.bucket).flat_map(|places| places.chunks(DELETED_AT_ONCE)) {
            self.delete_some(places).await?;
        }
        Ok(())
    }

    async fn delete_some(&self, places: &[Place]) -> Result<(), ObjectError> {
        let Some(first) = places.first() else { return Ok(()) };
        let keys: Result<Vec<_>, _> = places.iter().map(|place| ObjectIdentifier::builder().key(&place.key).build()).collect();
        let delete = keys.and_then(|keys| Delete::builder().set_objects(Some(keys)).quiet(true).build());
        let delete = delete.map_err(|e| ObjectError::Invalid(e.to_string()))?;
        let deleted = self.client.delete_objects().bucket(&first.bucket).delete(delete).send().await.map_err(|e| self.failed(first, &e))?;
        // The answer is a success though keys of it were not deleted.
        for refused in deleted.errors() {
            let place = Place { bucket: first.bucket.clone(), key: refused.key().unwrap_or_default().to_owned() };
            let (code, message) = (refused.code().unwrap_or_default().to_owned(), refused.message().unwrap_or_default().to_owned());
            let status = match code.as_str() {
                "NoSuchKey" => continue,
                "AccessDenied" => 403,
                // The rest passes, as far as is known: faults of the server, and its being busy.
                _ => 500,
            };
            return Err(self.classed(&place, Fault::Refused { status, code, message }, None));
        }
        Ok(())
    }

    /// Gives up the uploads that were begun below a prefix and not completed: nobody else removes what a killed process left. Who may
    /// not list them, or cannot, has a rule of the bucket for it.
    async fn give_up_below(&self, prefix: &Place) -> Result<(), ObjectError> {
        for _ in 0..PAGES {
            let list = self.client.list_multipart_uploads().bucket(&prefix.bucket).prefix(&prefix.key).send().await;
            let listed = match list.map_err(|e| self.failed(prefix, &e)) {
                Ok(listed) => listed,
                Err(error @ ObjectError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "unfinished uploads cannot be listed");
                    return Ok(());
                }
            };
            let uploads = listed.uploads.unwrap_or_default();
            for upload in &uploads {
                if let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) {
                    self.give_up(&Place { bucket: prefix.bucket.clone(), key: key.to_owned() }, id).await;
                }
            }
            if !listed.is_truncated.unwrap_or(false) || uploads.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
