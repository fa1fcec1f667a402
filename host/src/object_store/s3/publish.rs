//! Giving objects their names: bytes are put, staged objects are copied by the server, and their sources are deleted when all have
//! their names. Until then everything can be repeated.
//!
//! All but the last item go side by side; the last, which says that the others are there, goes when they are.

use super::upload::Upload;
use super::{Place, S3ObjectStore};
use crate::failpoint::{Point, reach};
use crate::object_store::{ObjectError, Publish, Source};
use aws_sdk_s3::types::{CompletedPart, MetadataDirective};
use futures::{StreamExt as _, TryStreamExt as _, stream};

/// Items under way at once.
const AT_ONCE: usize = 8;

/// What a server copies in a second at least, bytes: nothing crosses the network.
const SLOWEST_COPY: u64 = 16 << 20;

impl S3ObjectStore {
    pub(super) async fn publish_all(&self, mut items: Vec<Publish>) -> Result<(), ObjectError> {
        let Some(last) = items.pop() else { return Ok(()) };
        // In their order, so that what stands before one that failed is in place.
        let others = stream::iter(items).map(|item| self.place_item(item)).buffered(AT_ONCE);
        let mut sources: Vec<Place> = others.try_filter_map(async |source| Ok(source)).try_collect().await?;
        sources.extend(self.place_item(last).await?);
        self.delete_all(sources).await
    }

    /// Gives one item its name; returns the source that is to be deleted.
    async fn place_item(&self, Publish { from, to }: Publish) -> Result<Option<Place>, ObjectError> {
        let to = Place::of(&to)?;
        let source = match from {
            Source::Bytes(bytes) => {
                self.put_bytes(to, bytes.into()).await?;
                None
            }
            Source::Object(from) => {
                let from = Place::of(&from)?;
                self.copy(&from, &to).await?;
                Some(from)
            }
        };
        reach(Point::BetweenFiles);
        Ok(source)
    }

    async fn copy(&self, from: &Place, to: &Place) -> Result<(), ObjectError> {
        let Some(found) = self.look(from).await? else { return Err(ObjectError::NotFound(from.to_string())) };
        let source = copy_source(from);
        if found.size > self.bounds.copy {
            return self.copy_in_parts(source, found.size, found.etag, to).await;
        }
        // The type is the new name's; the source's name has none.
        let copy = self.client.copy_object().bucket(&to.bucket).key(&to.key).copy_source(source).content_type(to.content_type());
        let copy = copy.metadata_directive(MetadataDirective::Replace).customize().config_override(self.allowing_copy(found.size));
        copy.send().await.map(drop).map_err(|e| match self.failed(to, &e) {
            // It was there a moment ago.
            ObjectError::NotFound(_) => ObjectError::NotFound(from.to_string()),
            other => other,
        })
    }

    async fn copy_in_parts(&self, source: String, size: u64, etag: Option<String>, to: &Place) -> Result<(), ObjectError> {
        let mut upload = Upload::begin(self, to).await?;
        let mut at = 0;
        while at < size {
            let end = (at + self.bounds.copy_part).min(size);
            let (source, etag, range) = (source.clone(), etag.clone(), format!("bytes={at}-{}", end - 1));
            let part = |store: Self, place: Place, id: String, number: i32| async move {
                let copy = store.client.upload_part_copy().bucket(&place.bucket).key(&place.key).upload_id(id).part_number(number);
                let copy = copy.copy_source(source).copy_source_range(range).set_copy_source_if_match(etag);
                let copied = copy.customize().config_override(store.allowing_copy(end - at)).send().await;
                let copied = copied.map_err(|e| store.failed(&place, &e))?.copy_part_result;
                let part = CompletedPart::builder().part_number(number);
                Ok(match copied {
                    Some(copied) => part.set_e_tag(copied.e_tag).set_checksum_crc32(copied.checksum_crc32).build(),
                    None => part.build(),
                })
            };
            upload.add(part).await?;
            at = end;
        }
        upload.complete(size).await
    }

    /// What a call overrides in which the server moves so many bytes by itself.
    pub(super) fn allowing_copy(&self, bytes: u64) -> aws_sdk_s3::config::Builder {
        self.allowing(bytes / SLOWEST_COPY * self.bounds.slowest)
    }
}

/// The header that names a copy's source: bucket and key, with everything escaped that has a meaning in an address.
fn copy_source(from: &Place) -> String {
    let mut text = format!("{}/", from.bucket);
    for byte in from.key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
