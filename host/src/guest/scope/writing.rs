//! What a run writes: names checked, bytes counted, small outputs kept in memory, large ones staged under the attempt's folder.

use super::{Failure, Scope, StagedOutput, locked};
use crate::failpoint::{Point, reach};
use crate::object_store::ObjectWriter;
use crate::task::checks::MAX_CONTENT_TYPE;
use crate::task::id;
use crate::task::limits::cut;
use crate::task::outputs::{self, INLINE_OUTPUT, ManifestEntry, Place};
use crate::task::uri::Uri;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// All small outputs of a task together ride inside the commit up to this size; what goes beyond is staged as files,
/// so that a row stays small.
const INLINE_TOTAL: usize = 1 << 20;

/// Most refused writes remembered.
const MAX_REFUSED: usize = 16;

/// What was written so far.
#[derive(Default)]
pub(super) struct Written {
    outputs: BTreeMap<String, StagedOutput>,
    order: Vec<String>,
    folded: BTreeSet<String>,
    inline: usize,
    pieces: u32,
}

impl Scope {
    /// From now on storage is read-only: `process` has ended.
    pub fn forbid_writes(&self) {
        self.may_write.store(false, Ordering::Relaxed);
    }

    /// Writes an output; returns the address it will have. The same name again replaces it.
    pub async fn write(&self, name: &str, content_type: &str, bytes: Vec<u8>) -> Result<String, Failure> {
        let target = self.writable(name)?;
        self.charge(bytes.len())?;
        let fits = bytes.len() <= INLINE_OUTPUT && locked(&self.written).inline + bytes.len() <= INLINE_TOTAL;
        let entry = if fits {
            ManifestEntry::inline(name, cut(content_type, MAX_CONTENT_TYPE), bytes)
        } else {
            let piece = self.next_piece()?;
            let (size, sha256) = (bytes.len() as u64, id::sha256(&bytes));
            self.services()?.objects.put(&self.staged_uri(&piece)?, &bytes).await?;
            ManifestEntry {
                name: name.to_owned(),
                content_type: cut(content_type, MAX_CONTENT_TYPE),
                size,
                sha256,
                place: Place::Staged(piece),
            }
        };
        self.check()?;
        self.keep(entry)?;
        Ok(target.as_str().to_owned())
    }

    /// Starts writing an output piece by piece. It is always staged.
    pub async fn create(self: &Arc<Self>, name: &str, content_type: &str) -> Result<OutputWriter, Failure> {
        let target = self.writable(name)?;
        let piece = self.next_piece()?;
        let writer = self.services()?.objects.create(&self.staged_uri(&piece)?).await?;
        Ok(OutputWriter {
            scope: Arc::clone(self),
            writer,
            target,
            name: name.to_owned(),
            content_type: cut(content_type, MAX_CONTENT_TYPE),
            piece,
            size: 0,
            hash: Sha256::new(),
        })
    }

    fn writable(&self, name: &str) -> Result<Uri, Failure> {
        let writable = self.checked_name(name);
        if let Err(failure) = &writable {
            let mut refused = locked(&self.refused);
            if refused.len() < MAX_REFUSED {
                refused.push(failure.message.clone());
            }
        }
        writable
    }

    fn checked_name(&self, name: &str) -> Result<Uri, Failure> {
        self.check()?;
        if !self.may_write.load(Ordering::Relaxed) {
            return Err(Failure::new("denied", "outputs are written from `process` only"));
        }
        outputs::check_name(name, &|first| self.grants.reserved.contains(first)).map_err(|e| Failure::new("invalid", e))?;
        self.prefix.join(name).map_err(|e| Failure::new("invalid", e))
    }

    fn charge(&self, bytes: usize) -> Result<(), Failure> {
        let before = self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) > self.limits.output {
            return Err(Failure::new("too-large", format!("the task has written more than {} bytes (limits.output)", self.limits.output)));
        }
        Ok(())
    }

    /// A name for staged bytes. Bounded as files are: one name written again and again leaves a piece each time.
    fn next_piece(&self) -> Result<String, Failure> {
        let mut written = locked(&self.written);
        if written.pieces >= self.limits.files {
            return Err(Failure::new("too-large", format!("the task has begun {} large files (limits.files)", self.limits.files)));
        }
        written.pieces += 1;
        Ok(format!("{:06}", written.pieces))
    }

    /// What this run wrote under an address, if anything.
    pub(super) fn own_output(&self, uri: &Uri) -> Option<StagedOutput> {
        let name = uri.as_str().strip_prefix(self.prefix.as_str())?;
        locked(&self.written).outputs.get(name).cloned()
    }

    /// Where a staged piece lies.
    pub(super) fn staged_uri(&self, piece: &str) -> Result<Uri, Failure> {
        self.prefix.join(&format!("{}{piece}", self.lease.attempt_folder())).map_err(|e| Failure::new("invalid", e))
    }

    fn keep(&self, entry: StagedOutput) -> Result<(), Failure> {
        let mut written = locked(&self.written);
        let known = written.outputs.contains_key(&entry.name);
        if !known && written.outputs.len() >= self.limits.files as usize {
            return Err(Failure::new("too-large", format!("the task has written {} files (limits.files)", self.limits.files)));
        }
        let folded = entry.name.to_lowercase();
        let above = folded.match_indices('/').filter_map(|(at, _)| folded.get(..at)).any(|above| written.folded.contains(above));
        let folder = format!("{folded}/");
        let below = written.folded.range::<str, _>((Bound::Included(folder.as_str()), Bound::Unbounded)).next();
        if above || below.is_some_and(|below| below.starts_with(&folder)) {
            return Err(Failure::new("invalid", format!("output name '{}' would be a file and a folder at once", entry.name)));
        }
        // Two names that differ by case only are one file on some systems.
        if !known && !written.folded.insert(folded) {
            return Err(Failure::new("invalid", format!("output name '{}' differs from another by case only", entry.name)));
        }
        if let Place::Inline(bytes) = &entry.place {
            written.inline += bytes.len();
        }
        if !known {
            written.order.push(entry.name.clone());
        }
        if let Some(StagedOutput { place: Place::Inline(old), .. }) = written.outputs.insert(entry.name.clone(), entry) {
            written.inline -= old.len();
        }
        Ok(())
    }

    /// The outputs written so far, in the order of their first writing. They are the caller's now.
    pub fn take_outputs(&self) -> Vec<StagedOutput> {
        let mut written = locked(&self.written);
        let order = std::mem::take(&mut written.order);
        order.iter().filter_map(|name| written.outputs.remove(name)).collect()
    }

    /// Why writes were refused, whatever the guest made of it; at most 16 are kept.
    pub fn refused_writes(&self) -> Vec<String> {
        locked(&self.refused).clone()
    }

    /// The folder that staged outputs lie in.
    pub fn attempt_folder(&self) -> String {
        self.lease.attempt_folder()
    }
}

/// An output being written piece by piece. Dropped without `finish`, it leaves nothing.
pub struct OutputWriter {
    scope: Arc<Scope>,
    writer: Box<dyn ObjectWriter>,
    target: Uri,
    name: String,
    content_type: String,
    piece: String,
    size: u64,
    hash: Sha256,
}

impl OutputWriter {
    /// Adds bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.scope.check()?;
        self.scope.charge(bytes.len())?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.writer.write(bytes).await?;
        reach(Point::InStaging);
        Ok(())
    }

    /// Makes it an output; returns the address it will have.
    pub async fn finish(self) -> Result<String, Failure> {
        self.scope.writable(&self.name)?;
        self.writer.finish().await?;
        self.scope.check()?;
        self.scope.keep(ManifestEntry {
            name: self.name,
            content_type: self.content_type,
            size: self.size,
            sha256: hex::encode(self.hash.finalize()),
            place: Place::Staged(self.piece),
        })?;
        Ok(self.target.as_str().to_owned())
    }
}
