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
use crate::task_store::{StoreError, Unfinished};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::sleep;

/// First pause after a try that failed for want of a store; it doubles up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Finalises and ends a committed task. Storage or a store that is out of reach is waited for without limit; the bound on what is under
/// way keeps others from being begun, whose outputs could not be put in place either. Returns the state it is left in: COMMITTED in a drain only.
pub(super) async fn finish(worker: &Worker, task: &Unfinished) -> TaskState {
    let mut pause = FIRST_PAUSE;
    for tries in 1_u64.. {
        match try_finish(worker, task).await {
            Ok(state) => return state,
            Err(error) => {
                tracing::warn!(error, tries, task_id = task.key.task_id, "outputs are committed and not in place yet; trying again")
            }
        }
        tokio::select! {
            biased;
            () = worker.hurry.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        // Meanwhile somebody else may have ended it, and its names may belong to another task by now.
        if let Ok(seen) = worker.services.tasks.task(&task.key.tenant, &task.key.task_id).await
            && seen.state != TaskState::Committed
        {
            return seen.state;
        }
    }
    TaskState::Committed
}

/// One try. The error says what was out of reach.
pub(super) async fn try_finish(worker: &Worker, task: &Unfinished) -> Result<TaskState, String> {
    if task.manifest.is_empty() {
        // The commit was the end.
        return Ok(TaskState::Done);
    }
    let prefix = match Uri::parse(&task.output_prefix) {
        Ok(prefix) => prefix,
        Err(error) => return bury(worker, &task.key, &error).await,
    };
    match publish(worker.services.objects.as_ref(), &prefix, &task.manifest).await {
        Ok(()) => {}
        Err(ObjectError::Unavailable(error)) => return Err(error),
        Err(error) => return bury(worker, &task.key, &format!("committed outputs cannot be put in place: {error}")).await,
    }
    reach(Point::BeforeEnd);
    match worker.services.tasks.end(task.key.clone()).await {
        Ok(()) => reach(Point::AfterEnd),
        Err(StoreError::Unavailable(error)) => return Err(error),
        Err(error) => return bury(worker, &task.key, &format!("the end cannot be stored: {error}")).await,
    }
    tidy(worker, &prefix, &task.manifest).await;
    Ok(TaskState::Done)
}

async fn bury(worker: &Worker, key: &TaskKey, why: &str) -> Result<TaskState, String> {
    let error = TaskError::new("finalise", format!("{why}; redrive when it is mended"));
    tracing::error!(task_id = key.task_id, error = error.message, "task is dead, its staged outputs are kept");
    match worker.services.tasks.bury_committed(key.clone(), error).await {
        Ok(()) | Err(StoreError::NotFound(_)) => Ok(TaskState::Dead),
        Err(error) => Err(error.to_string()),
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
