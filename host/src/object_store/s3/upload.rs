//! An object that comes in parts: it appears when all are there and the upload is completed, and given up it leaves nothing.
//!
//! Each upload carries a mark of its own in the object's metadata. A completion whose answer was lost is repeated, and a server that has
//! forgotten the upload by then says there is none; another one answers in words that the SDK cannot read (moto does). Whatever was
//! answered, the mark tells whether the object that stands there is this one.

use super::{Place, S3ObjectStore};
use crate::object_store::ObjectError;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use std::future::Future;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The name of the mark in the metadata.
pub(super) const MARK: &str = "upload";

/// Most parts of an object, as S3 has it.
const MAX_PARTS: i32 = 10_000;

/// An upload on its way. Dropped before it is completed, it is given up.
pub(super) struct Upload {
    store: S3ObjectStore,
    place: Place,
    id: String,
    mark: String,
    begun: i32,
    running: JoinSet<Result<CompletedPart, ObjectError>>,
    done: Vec<CompletedPart>,
    is_over: bool,
}

impl Upload {
    pub async fn begin(store: &S3ObjectStore, place: &Place) -> Result<Self, ObjectError> {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let create = store.client.create_multipart_upload().bucket(&place.bucket).key(&place.key).content_type(place.content_type());
        let created = create.metadata(MARK, &mark).send().await.map_err(|e| store.failed(place, &e))?;
        let Some(id) = created.upload_id else {
            return Err(ObjectError::Unavailable(format!("{place}: {} began an upload without a name", store.endpoint)));
        };
        let (store, place) = (store.clone(), place.clone());
        Ok(Self { store, place, id, mark, begun: 0, running: JoinSet::new(), done: Vec::new(), is_over: false })
    }

    /// Sends the next part beside those on their way, once there is room for it. An error may be an earlier part's.
    pub async fn add<F>(&mut self, part: impl FnOnce(S3ObjectStore, Place, String, i32) -> F) -> Result<(), ObjectError>
    where
        F: Future<Output = Result<CompletedPart, ObjectError>> + Send + 'static,
    {
        if self.begun >= MAX_PARTS {
            return Err(ObjectError::Invalid(format!("{} would have more than {MAX_PARTS} parts, which S3 does not take", self.place)));
        }
        let parts = self.store.parts.clone();
        let permit = parts.acquire_owned().await.map_err(|e| ObjectError::Unavailable(e.to_string()))?;
        while let Some(ended) = self.running.try_join_next() {
            self.done.push(joined(ended)?);
        }
        self.begun += 1;
        let part = part(self.store.clone(), self.place.clone(), self.id.clone(), self.begun);
        self.running.spawn(async move {
            let sent = part.await;
            drop(permit);
            sent
        });
        Ok(())
    }

    /// Waits for the parts and makes them one object of so many bytes.
    pub async fn complete(mut self, size: u64) -> Result<(), ObjectError> {
        while let Some(ended) = self.running.join_next().await {
            self.done.push(joined(ended)?);
        }
        let mut parts = std::mem::take(&mut self.done);
        parts.sort_by_key(|part| part.part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let (client, place) = (&self.store.client, &self.place);
        let complete = client.complete_multipart_upload().bucket(&place.bucket).key(&place.key).upload_id(&self.id).multipart_upload(parts);
        // A server may put the parts together before it answers.
        let sent = complete.customize().config_override(self.store.allowing_copy(size)).send().await;
        if let Err(error) = sent
            && !self.is_there().await
        {
            return Err(match self.store.failed(place, &error) {
                // What is not found is the upload. Somebody gave it up; beginning anew helps.
                ObjectError::NotFound(_) => ObjectError::Unavailable(format!("{place}: its upload is gone; write it again")),
                other => other,
            });
        }
        self.is_over = true;
        Ok(())
    }

    /// Whether the object that stands there is known to be made by this upload.
    async fn is_there(&self) -> bool {
        matches!(self.store.look(&self.place).await, Ok(Some(found)) if found.mark.as_ref() == Some(&self.mark))
    }
}

fn joined(ended: Result<Result<CompletedPart, ObjectError>, tokio::task::JoinError>) -> Result<CompletedPart, ObjectError> {
    ended.map_err(|e| ObjectError::Unavailable(format!("a part's upload was cut short: {e}")))?
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime the process ends; what a killed one left is given up with the folder it lies in.
        let Ok(runtime) = Handle::try_current() else { return };
        if self.is_over {
            return;
        }
        let (store, place, id) = (self.store.clone(), self.place.clone(), std::mem::take(&mut self.id));
        let mut running = std::mem::take(&mut self.running);
        runtime.spawn(async move {
            // A part that arrives later would stay.
            running.shutdown().await;
            store.give_up(&place, &id).await;
        });
    }
}

impl S3ObjectStore {
    /// Gives an upload up. Where that fails, whoever removes its folder does it.
    pub(super) async fn give_up(&self, place: &Place, upload: &str) {
        let abort = self.client.abort_multipart_upload().bucket(&place.bucket).key(&place.key).upload_id(upload);
        if let Err(error) = abort.send().await {
            let error = self.failed(place, &error);
            if !matches!(error, ObjectError::NotFound(_)) {
                tracing::debug!(%error, %place, "an unfinished upload is left for later");
            }
        }
    }
}
