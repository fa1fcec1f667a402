//! The scope of one run of one task: what the guest may read and write, what it has written, logged and told so far,
//! and whether it is to stop. Made by the worker for each claim; every host call goes through it.
//!
//! Reading, writing and telling stand in files of their own. Which bytes end up as outputs is decided by the commit, not
//! here: a scope only stages.

mod reading;
mod telling;
mod writing;

pub use reading::INPUT_PAGE;
pub use telling::Progress;
pub use writing::OutputWriter;

use crate::object_store::{ObjectError, ObjectStore};
use crate::task::accept::Accept;
use crate::task::hooks::Work;
use crate::task::id::TaskKey;
use crate::task::lease::{Lease, LeaseView};
use crate::task::limits::Limits;
use crate::task::outputs::ManifestEntry;
use crate::task::uri::Uri;
use crate::task_store::TaskStore;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use telling::Log;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use writing::Written;

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
    /// The task's input, and the kinds of it that its step takes: confirmed by its first bytes when it is read.
    pub confirm: Option<(Uri, Accept)>,
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
}
