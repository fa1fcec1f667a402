//! Reading: one request for the whole object, and where its body breaks another one for the rest.
//!
//! The rest is asked for with the entity tag of what was read, so that an object which changes meanwhile is an error, never a mix. The
//! SDK compares a whole body with the checksum that the server keeps of it; the last piece is handed out after that. A body that was
//! resumed is not compared. A server that sends, but too slowly, is out of reach: each piece has a deadline by its size.

use super::{Place, S3ObjectStore};
use crate::aws;
use crate::object_store::{ObjectError, ObjectReader};
use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Largest piece handed out at once, bytes; it bounds what a reader holds.
const PIECE: usize = 1 << 20;

/// How often a body may break without a byte in between.
const BREAKS: u32 = 3;

/// Pause before the first resumption that follows no byte; it doubles.
const PAUSE: Duration = Duration::from_millis(50);

/// What HEAD tells.
pub(super) struct Found {
    pub size: u64,
    pub etag: Option<String>,
    /// The mark of the upload that made it, if one did.
    pub mark: Option<String>,
}

impl S3ObjectStore {
    /// What there is at a place.
    pub(super) async fn look(&self, place: &Place) -> Result<Option<Found>, ObjectError> {
        let head = match self.client.head_object().bucket(&place.bucket).key(&place.key).send().await {
            Ok(head) => head,
            Err(error) => {
                return match self.failed(place, &error) {
                    ObjectError::NotFound(_) => Ok(None),
                    other => Err(other),
                };
            }
        };
        let size = self.size_of(place, head.content_length)?;
        let mark = head.metadata.and_then(|mut metadata| metadata.remove(super::upload::MARK));
        Ok(Some(Found { size, etag: head.e_tag, mark }))
    }

    fn size_of(&self, place: &Place, length: Option<i64>) -> Result<u64, ObjectError> {
        let size = length.and_then(|length| u64::try_from(length).ok());
        size.ok_or_else(|| ObjectError::Unavailable(format!("{place}: {} did not tell its size", self.endpoint)))
    }
}

/// An object open for reading.
pub(super) struct S3Reader {
    store: S3ObjectStore,
    place: Place,
    etag: Option<String>,
    size: u64,
    /// What is handed out already.
    at: u64,
    /// Bytes that came and are not handed out.
    came: Bytes,
    /// None where the next byte has to be asked for, and at the end.
    body: Option<ByteStream>,
    breaks: u32,
}

impl S3Reader {
    pub async fn open(store: &S3ObjectStore, place: Place) -> Result<Self, ObjectError> {
        let got = store.client.get_object().bucket(&place.bucket).key(&place.key).send().await.map_err(|e| store.failed(&place, &e))?;
        let GetObjectOutput { content_length, e_tag, body, .. } = got;
        let size = store.size_of(&place, content_length)?;
        Ok(Self { store: store.clone(), place, etag: e_tag, size, at: 0, came: Bytes::new(), body: Some(body), breaks: 0 })
    }

    /// All of it, refused above `limit` bytes before it is read.
    pub async fn whole(mut self, limit: u64) -> Result<Vec<u8>, ObjectError> {
        if self.size > limit {
            return Err(ObjectError::TooLarge { uri: self.place.to_string(), size: self.size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.size).unwrap_or(0));
        while self.at < self.size {
            self.fill(&mut bytes, PIECE).await?;
        }
        Ok(bytes)
    }

    /// Adds at most `max` further bytes; fewer only at the end.
    async fn fill(&mut self, bytes: &mut Vec<u8>, max: usize) -> Result<(), ObjectError> {
        let wanted = u64::try_from(max).unwrap_or(u64::MAX).min(self.size - self.at);
        let allowed = self.store.allowed(wanted);
        match timeout(allowed, self.fill_in_time(bytes, wanted)).await {
            Ok(filled) => filled,
            Err(_) => Err(ObjectError::Unavailable(format!(
                "{} at {}: {wanted} bytes did not come within {allowed:?}",
                self.place, self.store.endpoint
            ))),
        }
    }

    async fn fill_in_time(&mut self, bytes: &mut Vec<u8>, wanted: u64) -> Result<(), ObjectError> {
        let end = self.at + wanted;
        while self.at < end {
            if self.came.is_empty() {
                self.came = self.next().await?;
            }
            let left = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(self.came.len());
            bytes.extend_from_slice(&self.came.split_to(left));
            self.at += left as u64;
        }
        if self.at == self.size { self.end().await } else { Ok(()) }
    }

    /// The next bytes of the body, resumed where it breaks.
    async fn next(&mut self) -> Result<Bytes, ObjectError> {
        loop {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.resumed().await?,
            };
            let why = match body.next().await {
                Some(Ok(bytes)) => {
                    self.body = Some(body);
                    if bytes.is_empty() {
                        continue;
                    }
                    self.breaks = 0;
                    return Ok(bytes);
                }
                Some(Err(error)) => aws::text(&error),
                None => "the body ended early".to_owned(),
            };
            self.broke(&why)?;
            if self.breaks > 1 {
                sleep(PAUSE * (1 << self.breaks.min(8))).await;
            }
        }
    }

    fn broke(&mut self, why: &str) -> Result<(), ObjectError> {
        self.breaks += 1;
        let (place, at, size) = (&self.place, self.at, self.size);
        let told = || ObjectError::Unavailable(format!("{place} at {}: {why} after {at} of {size} bytes", self.store.endpoint));
        if self.breaks > BREAKS || self.etag.is_none() { Err(told()) } else { Ok(()) }
    }

    /// The rest, of the very object that was opened.
    async fn resumed(&self) -> Result<ByteStream, ObjectError> {
        let (place, last) = (&self.place, self.size.saturating_sub(1));
        let get = self.store.client.get_object().bucket(&place.bucket).key(&place.key);
        let got = get.range(format!("bytes={}-{last}", self.at)).set_if_match(self.etag.clone()).send().await;
        let changed = || ObjectError::Unavailable(format!("{place} changed while it was read; read it from its start"));
        match got {
            // Who knows no ranges sends it from its start.
            Ok(got) if got.e_tag == self.etag && u64::try_from(got.content_length.unwrap_or(-1)) == Ok(self.size - self.at) => Ok(got.body),
            Ok(_) => Err(changed()),
            Err(error) if error.raw_response().is_some_and(|raw| matches!(raw.status().as_u16(), 412 | 416)) => Err(changed()),
            Err(error) => Err(self.store.failed(place, &error)),
        }
    }

    /// All bytes are there: hears the body out, which is when a checksum that differs shows.
    async fn end(&mut self) -> Result<(), ObjectError> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        let wrong = |why: &str| ObjectError::Unavailable(format!("{} at {}: {why}", self.place, self.store.endpoint));
        match body.next().await {
            None => Ok(()),
            Some(Ok(more)) if more.is_empty() => Ok(()),
            Some(Ok(_)) => Err(wrong("more bytes came than it has")),
            Some(Err(error)) => Err(wrong(&aws::text(&error))),
        }
    }
}

#[async_trait]
impl ObjectReader for S3Reader {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError> {
        let mut bytes = Vec::new();
        self.fill(&mut bytes, max.min(PIECE)).await?;
        Ok(bytes)
    }
}
