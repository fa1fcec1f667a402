//! The scope of one run of one task: what the guest may read and write, what it has written, logged and told so far,
//! and whether it is to stop. Made by the worker for each claim; every host call goes through it.
//!
//! Which bytes end up as outputs is decided by the commit, not here: a scope only stages.

use crate::object_store::{ObjectError, ObjectReader, ObjectStore, ObjectWriter};
use crate::task::hooks::{Input, Payload, Work};
use crate::task::id::{self, TaskKey};
use crate::task::lease::{Lease, LeaseView};
use crate::task::limits::{Limits, cut};
use crate::task::outputs::{self, INLINE_OUTPUT, ManifestEntry, Place};
use crate::task::uri::Uri;
use crate::task_store::TaskStore;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All small outputs of a task together ride inside the commit up to this size; what goes beyond is staged as files,
/// so that a row stays small.
const INLINE_TOTAL: usize = 1 << 20;

/// The outside as a scope reaches it.
#[derive(Clone)]
pub struct Services {
    /// Objects.
    pub objects: Arc<dyn ObjectStore>,
    /// The task store, for the inputs of a `then` task.
    pub tasks: Arc<dyn TaskStore>,
}

/// What a task may touch besides its own outputs.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// Addresses it may read: its input, and what its step was granted.
    pub read: Vec<Uri>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, String>,
    /// First segments of output names it may not use (step names, where it owns the job's prefix).
    pub reserved: BTreeSet<String>,
}

/// Why a host call failed; crosses to the guest as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `not-found`, `denied`, `too-large`, `invalid` or `unavailable`.
    pub code: &'static str,
    /// For a person.
    pub message: String,
    /// Whether the same call may work later.
    pub retryable: bool,
}

impl Failure {
    /// A failure that will not go away.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false }
    }
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        let code = match &error {
            ObjectError::NotFound(_) => "not-found",
            ObjectError::Denied(_) => "denied",
            ObjectError::TooLarge { .. } => "too-large",
            ObjectError::Invalid(_) => "invalid",
            ObjectError::Unavailable(_) => "unavailable",
        };
        Self { code, message: error.to_string(), retryable: error.is_retryable() }
    }
}

/// Why a run is to stop at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked for the task to stop, and the grace has passed.
    Cancelled,
    /// The worker is being drained, and the grace has passed.
    Drained,
    /// The lease is lost, or may be.
    LeaseLost,
}

/// One output, staged.
pub type StagedOutput = ManifestEntry;

/// What the guest has told about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: Option<u64>,
    /// What it is doing.
    pub phase: Option<String>,
    /// Figures: a JSON object.
    pub metrics: Option<serde_json::Value>,
}

#[derive(Default)]
struct Written {
    outputs: BTreeMap<String, StagedOutput>,
    order: Vec<String>,
    folded: BTreeSet<String>,
    inline: usize,
    pieces: u32,
}

#[derive(Default)]
struct Log {
    text: String,
    dropped: u64,
}

/// See the head of this file.
pub struct Scope {
    services: Option<Services>,
    lease: Lease,
    limits: Limits,
    prefix: Uri,
    grants: Grants,
    key: TaskKey,
    view: Mutex<Option<LeaseView>>,
    input_count: u32,
    inputs_read: Mutex<Option<Arc<BTreeSet<Uri>>>>,
    may_write: AtomicBool,
    written: Mutex<Written>,
    written_bytes: AtomicU64,
    read_bytes: AtomicU64,
    inference_us: AtomicU64,
    cpu_us: AtomicU64,
    peak_memory: AtomicU64,
    log: Mutex<Log>,
    progress: Mutex<Option<Progress>>,
    started: OnceLock<Instant>,
    cancel_requested: AtomicBool,
    emitted: AtomicU32,
    stop: CancellationToken,
    reason: Mutex<Option<StopReason>>,
    refused: Mutex<Vec<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while one of these plain values was held leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scope {
    /// A scope for one claim. `prefix` is the task's output prefix.
    pub fn new(services: Services, lease: Lease, limits: Limits, prefix: Uri, grants: Grants, work: &Work) -> Arc<Self> {
        Arc::new(Self::made(Some(services), lease, limits, prefix.as_prefix(), grants, work.input_count))
    }

    /// A scope that belongs to no task, for what a guest does before its first one (`load-pipeline`) or outside any
    /// (`describe`). Nothing can be written; without services nothing can be read either.
    pub fn apart(services: Option<Services>, limits: Limits, grants: Grants) -> Arc<Self> {
        let lease = Lease { key: TaskKey::new("", ""), epoch: 0, owner: String::new() };
        let scope = Self::made(services, lease, limits, Uri::root(), grants, 0);
        scope.forbid_writes();
        Arc::new(scope)
    }

    fn made(services: Option<Services>, lease: Lease, limits: Limits, prefix: Uri, grants: Grants, input_count: u32) -> Self {
        Self {
            services,
            key: lease.key.clone(),
            view: Mutex::new(None),
            lease,
            limits,
            prefix,
            grants,
            input_count,
            inputs_read: Mutex::new(None),
            may_write: AtomicBool::new(true),
            written: Mutex::default(),
            written_bytes: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            inference_us: AtomicU64::new(0),
            cpu_us: AtomicU64::new(0),
            peak_memory: AtomicU64::new(0),
            log: Mutex::default(),
            progress: Mutex::new(None),
            started: OnceLock::new(),
            cancel_requested: AtomicBool::new(false),
            emitted: AtomicU32::new(0),
            stop: CancellationToken::new(),
            reason: Mutex::new(None),
            refused: Mutex::default(),
        }
    }

    fn services(&self) -> Result<&Services, Failure> {
        self.services.as_ref().ok_or_else(|| Failure::new("denied", "nothing can be reached from here"))
    }

    /// The bounds it runs under.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// When the hooks began: at the first call of this. The wall limit counts from here, not from a wait for an instance.
    pub fn started(&self) -> Instant {
        *self.started.get_or_init(Instant::now)
    }

    // ---- stopping -------------------------------------------------------------------------------------------------

    /// Asks the guest to stop; it may go on for the grace time.
    pub fn request_cancel(&self) {
        self.cancel_requested.store(true, Ordering::Relaxed);
    }

    /// Whether the guest was asked to stop.
    pub fn is_cancel_requested(&self) -> bool {
        self.cancel_requested.load(Ordering::Relaxed)
    }

    /// Stops the run at once: no further host call is served. The first reason stays, except that a lost lease outranks all.
    pub fn stop(&self, reason: StopReason) {
        let mut kept = locked(&self.reason);
        if kept.is_none() || reason == StopReason::LeaseLost {
            *kept = Some(reason);
        }
        drop(kept);
        self.stop.cancel();
    }

    /// Why the run was stopped, if it was.
    pub fn stop_reason(&self) -> Option<StopReason> {
        *locked(&self.reason)
    }

    /// Resolves once the run is to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// What the worker believes about the lease from now on. Without one the scope never lapses (a dry run).
    pub fn renew(&self, view: LeaseView) {
        *locked(&self.view) = Some(view);
    }

    /// Whether the lease has lapsed on the worker's own clock. If so, the run is stopped.
    pub fn has_lapsed(&self) -> bool {
        let lapsed = locked(&self.view).is_some_and(|view| !view.holds(Instant::now().into_std()));
        if lapsed {
            self.stop(StopReason::LeaseLost);
        }
        lapsed
    }

    /// An error once the run was stopped or its lease has lapsed: the first line of every host call.
    pub fn check(&self) -> Result<(), Failure> {
        if self.has_lapsed() || self.stop.is_cancelled() { Err(Failure::new("denied", "the task was stopped")) } else { Ok(()) }
    }

    // ---- reading --------------------------------------------------------------------------------------------------

    /// Whether the guest may read `uri`, or give it to a child, as far as grants and its own outputs go.
    pub fn grants_read(&self, uri: &Uri) -> bool {
        self.grants.read.iter().any(|granted| granted.covers(uri)) || self.own_output(uri).is_some() || self.is_listed_input(uri)
    }

    fn is_listed_input(&self, uri: &Uri) -> bool {
        locked(&self.inputs_read).as_ref().is_some_and(|known| known.contains(uri))
    }

    fn own_output(&self, uri: &Uri) -> Option<StagedOutput> {
        let name = uri.as_str().strip_prefix(self.prefix.as_str())?;
        locked(&self.written).outputs.get(name).cloned()
    }

    async fn readable(&self, text: &str) -> Result<Uri, Failure> {
        self.check()?;
        let uri = Uri::parse(text).map_err(|e| Failure::new("invalid", e))?;
        if self.grants_read(&uri) {
            return Ok(uri);
        }
        self.list_inputs().await?;
        if self.is_listed_input(&uri) {
            return Ok(uri);
        }
        Err(Failure::new(
            "denied",
            format!("'{uri}' is neither the task's input, an output of its inputs, granted to the step, nor its own output"),
        ))
    }

    /// Learns the addresses of all outputs of the task's inputs, once: they are readable, and may be given to children.
    pub async fn list_inputs(&self) -> Result<(), Failure> {
        if self.input_count == 0 || locked(&self.inputs_read).is_some() {
            return Ok(());
        }
        let mut known = BTreeSet::new();
        let mut offset = 0;
        loop {
            let page = self.inputs(offset, INPUT_PAGE).await?;
            for input in &page {
                let prefix = Uri::parse(&input.output_prefix).map_err(|e| Failure::new("invalid", e))?;
                known.extend(input.outputs.iter().filter_map(|o| prefix.join(&o.name).ok()));
            }
            offset += page.len() as u32;
            if page.len() < INPUT_PAGE as usize {
                break;
            }
        }
        *locked(&self.inputs_read) = Some(Arc::new(known));
        Ok(())
    }

    /// The whole object, up to `limits.read`.
    pub async fn read(&self, text: &str) -> Result<Vec<u8>, Failure> {
        let uri = self.readable(text).await?;
        let at = match self.own_output(&uri) {
            Some(StagedOutput { place: Place::Inline(bytes), .. }) => return Ok(bytes),
            Some(StagedOutput { place: Place::Staged(name), .. }) => self.staged_uri(&name)?,
            _ => uri,
        };
        let bytes = self.services()?.objects.get(&at, self.limits.read).await?;
        self.check()?;
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Opens an object for reading piece by piece.
    pub async fn open(&self, text: &str) -> Result<Box<dyn ObjectReader>, Failure> {
        let uri = self.readable(text).await?;
        let at = match self.own_output(&uri) {
            Some(StagedOutput { place: Place::Staged(name), .. }) => self.staged_uri(&name)?,
            Some(StagedOutput { place: Place::Inline(bytes), .. }) => return Ok(Box::new(InlineReader { bytes, at: 0 })),
            _ => uri,
        };
        Ok(self.services()?.objects.open(&at).await?)
    }

    /// Counts bytes read through an opened reader.
    pub fn count_read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A page of the inputs of a `then` task.
    pub async fn inputs(&self, offset: u32, limit: u32) -> Result<Vec<Input>, Failure> {
        self.check()?;
        if offset >= self.input_count {
            return Ok(Vec::new());
        }
        let page = self.services()?.tasks.inputs(self.key.clone(), offset, limit.min(INPUT_PAGE)).await;
        page.map_err(|e| Failure { code: "unavailable", message: e.to_string(), retryable: true })
    }

    /// The payload an input returned, read from where it was committed; at most `limits.payload` bytes.
    pub async fn input_payload(&self, input: &Input) -> Result<Option<Payload>, Failure> {
        let Some(entry) = input.outputs.iter().find(|e| e.name.starts_with("result.") && !e.name.contains('/')) else {
            return Ok(None);
        };
        let uri = Uri::parse(&input.output_prefix).and_then(|p| p.join(&entry.name)).map_err(|e| Failure::new("invalid", e))?;
        let bytes = match &entry.place {
            Place::Inline(bytes) => bytes.clone(),
            _ => self.services()?.objects.get(&uri, self.limits.payload).await?,
        };
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if entry.content_type == "application/json" {
            let text = String::from_utf8(bytes).map_err(|_| Failure::new("invalid", format!("{uri} is not UTF-8")))?;
            return Ok(Some(Payload::Json(text)));
        }
        Ok(Some(Payload::Body { content_type: entry.content_type.clone(), bytes }))
    }

    /// A secret granted to the step.
    pub fn secret(&self, name: &str) -> Option<String> {
        self.check().ok().and_then(|()| self.grants.secrets.get(name).cloned())
    }

    // ---- writing --------------------------------------------------------------------------------------------------

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
            let piece = self.next_piece();
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
        let piece = self.next_piece();
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

    fn next_piece(&self) -> String {
        let mut written = locked(&self.written);
        written.pieces += 1;
        format!("{:06}", written.pieces)
    }

    fn staged_uri(&self, piece: &str) -> Result<Uri, Failure> {
        self.prefix.join(&format!("{}{piece}", self.lease.attempt_folder())).map_err(|e| Failure::new("invalid", e))
    }

    fn keep(&self, entry: StagedOutput) -> Result<(), Failure> {
        let mut written = locked(&self.written);
        let known = written.outputs.contains_key(&entry.name);
        if !known && written.outputs.len() >= self.limits.files as usize {
            return Err(Failure::new("too-large", format!("the task has written {} files (limits.files)", self.limits.files)));
        }
        // Two names that differ by case only are one file on some systems.
        if !known && !written.folded.insert(entry.name.to_lowercase()) {
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

    // ---- telling --------------------------------------------------------------------------------------------------

    /// Adds a line to the task's log. Control characters are escaped; above `limits.log` bytes lines are counted and dropped.
    pub fn log(&self, level: &str, message: &str) {
        let mut log = locked(&self.log);
        if log.text.len() as u64 >= self.limits.log {
            log.dropped += 1;
            return;
        }
        let room = (self.limits.log as usize).saturating_sub(log.text.len()).min(MAX_LOG_LINE);
        let at = self.started().elapsed().as_millis();
        let line = cut(message, room);
        let line: String = line.chars().flat_map(visible).collect();
        log.text.push_str(&format!("{at:>7} ms {level:<5} {line}\n"));
    }

    /// The log so far, with a last line that counts what was dropped.
    pub fn log_text(&self) -> String {
        let log = locked(&self.log);
        let mut text = log.text.clone();
        if log.dropped > 0 {
            text.push_str(&format!("… {} more lines dropped (limits.log is {} bytes)\n", log.dropped, self.limits.log));
        }
        text
    }

    /// Keeps the last progress.
    pub fn set_progress(&self, progress: Progress) {
        *locked(&self.progress) = Some(progress);
    }

    /// The last progress, as a JSON object.
    pub fn progress(&self) -> Option<String> {
        locked(&self.progress)
            .as_ref()
            .map(|p| serde_json::json!({"done": p.done, "total": p.total, "phase": p.phase, "metrics": p.metrics}).to_string())
    }

    /// Counts a chunk of a streamed answer.
    pub fn emit(&self, chunk: &Payload) -> Result<(), Failure> {
        self.check()?;
        if chunk.len() as u64 > self.limits.payload {
            return Err(Failure::new(
                "too-large",
                format!("a chunk of {} bytes is over {} (limits.payload)", chunk.len(), self.limits.payload),
            ));
        }
        self.emitted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    // ---- measuring ------------------------------------------------------------------------------------------------

    /// Adds wall time of a model run.
    pub fn count_inference(&self, took: Duration) {
        self.inference_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Adds processor time of the guest.
    pub fn count_cpu(&self, took: Duration) {
        self.cpu_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Notes the instance's largest memory.
    pub fn note_memory(&self, bytes: u64) {
        self.peak_memory.fetch_max(bytes, Ordering::Relaxed);
    }

    /// What was measured so far; the caller knows the queue wait.
    pub fn figures(&self, queue_wait: Duration) -> outputs::Figures {
        outputs::Figures {
            latency_ms: millis(self.started().elapsed()),
            cpu_ms: self.cpu_us.load(Ordering::Relaxed) as f64 / 1e3,
            inference_ms: self.inference_us.load(Ordering::Relaxed) as f64 / 1e3,
            peak_memory: self.peak_memory.load(Ordering::Relaxed),
            gpu_mem_gb: 0.0,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            queue_wait_ms: millis(queue_wait),
        }
    }
}

/// Most inputs handed over in one page, so that one call stays small.
pub const INPUT_PAGE: u32 = 256;

/// Longest content type kept, bytes. RFC 6838 allows 127 on either side of the slash.
const MAX_CONTENT_TYPE: usize = 255;

/// Most refused writes remembered.
const MAX_REFUSED: usize = 16;

/// Longest log line kept, bytes.
const MAX_LOG_LINE: usize = 8 << 10;

/// Milliseconds to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// A character as it may be shown on a terminal: controls and direction marks escaped.
fn visible(c: char) -> Vec<char> {
    if c.is_control() || crate::task::uri::is_invisible(c) { c.escape_unicode().collect() } else { vec![c] }
}

/// An output of this very task, read back before it was staged.
struct InlineReader {
    bytes: Vec<u8>,
    at: usize,
}

#[async_trait::async_trait]
impl ObjectReader for InlineReader {
    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError> {
        let piece = self.bytes.iter().skip(self.at).take(max).copied().collect::<Vec<u8>>();
        self.at += piece.len();
        Ok(piece)
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
        Ok(self.writer.write(bytes).await?)
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
