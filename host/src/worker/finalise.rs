//! From COMMITTED to DONE: outputs take their names, then the end creates the children.
//!
//! Idempotent, and done by whoever comes: the worker that committed, or a sweeper after a crash. Only the committed epoch has a
//! manifest, so all of them write the same bytes.

use super::Worker;
use crate::failpoint::{Point, reach};
use crate::object_store::{ObjectError, ObjectStore, Publish, Source};
use crate::task::hooks::TaskError;
use crate::task::id::TaskKey;
use crate::task::outputs::{Manifest, ManifestEntry, Place};
use crate::task::state::TaskState;
use crate::task::uri::Uri;
use crate::task_store::StoreError;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::sleep;

/// Most tries by one worker before it leaves a committed task to the sweepers, which go on without limit.
const TRIES: u32 = 20;

/// Finalises and ends a committed task. Returns the state it is left in.
pub(super) async fn finish(worker: &Worker, key: &TaskKey, prefix: &Uri, manifest: &Manifest) -> TaskState {
    if manifest.is_empty() {
        // The commit was the end.
        return TaskState::Done;
    }
    let mut wait = Duration::from_millis(50);
    for _ in 0..TRIES {
        let error = match publish(worker.services.objects.as_ref(), prefix, manifest).await {
            Ok(()) => match end(worker, key).await {
                Ok(()) => {
                    reach(Point::AfterEnd);
                    tidy(worker, prefix, manifest).await;
                    return TaskState::Done;
                }
                Err(StoreError::Unavailable(error)) => error,
                Err(error) => return bury(worker, key, &format!("the end cannot be stored: {error}")).await,
            },
            Err(ObjectError::Unavailable(error)) => error,
            Err(error) => return bury(worker, key, &format!("committed outputs cannot be put in place: {error}")).await,
        };
        tracing::warn!(error, task_id = key.task_id, "outputs are committed and not in place yet; trying again");
        tokio::select! {
            biased;
            () = sleep(wait) => {}
            () = worker.hurry.cancelled() => return TaskState::Committed,
        }
        wait = (wait * 2).min(Duration::from_secs(10));
    }
    TaskState::Committed
}

async fn end(worker: &Worker, key: &TaskKey) -> Result<(), StoreError> {
    reach(Point::BeforeEnd);
    worker.services.tasks.end(key.clone()).await
}

async fn bury(worker: &Worker, key: &TaskKey, why: &str) -> TaskState {
    let error = TaskError::new("finalise", format!("{why}; redrive when it is mended"));
    tracing::error!(task_id = key.task_id, error = error.message, "task is dead, its staged outputs are kept");
    match worker.services.tasks.bury_committed(key.clone(), error).await {
        Ok(()) | Err(StoreError::NotFound(_)) => TaskState::Dead,
        Err(error) => {
            tracing::warn!(%error, "could not be stored; a sweeper will try again");
            TaskState::Committed
        }
    }
}

/// Gives every output its name, in the order of the manifest. Idempotent.
pub(super) async fn publish(objects: &dyn ObjectStore, prefix: &Uri, manifest: &Manifest) -> Result<(), ObjectError> {
    let scratch = at(prefix, &manifest.folder)?;
    let items = manifest.entries.iter().filter_map(|e| item(prefix, &scratch, e).transpose()).collect::<Result<Vec<_>, _>>()?;
    match objects.publish(items, &scratch).await {
        Err(ObjectError::NotFound(_)) => {}
        other => return other,
    }
    // Somebody was here before: what is gone from the stage must stand under its name, byte for byte.
    for entry in &manifest.entries {
        let Some(item) = item(prefix, &scratch, entry)? else { continue };
        let to = item.to.clone();
        match objects.publish(vec![item], &scratch).await {
            Err(ObjectError::NotFound(_)) if is_in_place(objects, &to, entry).await? => {}
            Err(ObjectError::NotFound(lost)) => return Err(ObjectError::NotFound(format!("staged output {lost}"))),
            other => other?,
        }
    }
    Ok(())
}

async fn is_in_place(objects: &dyn ObjectStore, to: &Uri, entry: &ManifestEntry) -> Result<bool, ObjectError> {
    let mut reader = match objects.open(to).await {
        Ok(reader) => reader,
        Err(ObjectError::NotFound(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut hash = Sha256::new();
    loop {
        let piece = reader.read(1 << 20).await?;
        if piece.is_empty() {
            return Ok(hex::encode(hash.finalize()) == entry.sha256);
        }
        hash.update(&piece);
    }
}

fn item(prefix: &Uri, scratch: &Uri, entry: &ManifestEntry) -> Result<Option<Publish>, ObjectError> {
    let from = match &entry.place {
        Place::Inline(bytes) => Source::Bytes(bytes.clone()),
        Place::Staged(piece) => Source::Object(at(scratch, piece)?),
        Place::Final => return Ok(None),
    };
    Ok(Some(Publish { from, to: at(prefix, &entry.name)? }))
}

fn at(prefix: &Uri, name: &str) -> Result<Uri, ObjectError> {
    prefix.join(name).map_err(ObjectError::Invalid)
}

/// Removes the folder of the attempt that won. Those of others are the sweeper's.
async fn tidy(worker: &Worker, prefix: &Uri, manifest: &Manifest) {
    if let Ok(folder) = at(prefix, &manifest.folder)
        && let Err(error) = worker.services.objects.delete_prefix(&folder).await
    {
        tracing::debug!(%error, "attempts left to the sweeper");
    }
}
