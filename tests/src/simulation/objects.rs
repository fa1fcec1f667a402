//! Object storage as one worker reaches it: with faults, and with an eye on every byte that takes its final name.

use super::coverage::Step;
use super::process::Process;
use super::world::World;
use async_trait::async_trait;
use std::sync::Arc;
use wasm_worker::object_store::{ObjectError, ObjectMeta, ObjectReader, ObjectStore, ObjectWriter, Publish};
use wasm_worker::task::uri::Uri;

/// See the head of this file.
pub struct FaultyObjectStore {
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

fn unavailable() -> ObjectError {
    ObjectError::Unavailable("simulated".into())
}

/// Whether an address lies in a folder of attempts.
pub fn is_staged(uri: &Uri) -> bool {
    uri.as_str().contains("/_attempts/")
}

impl FaultyObjectStore {
    fn objects(&self) -> &dyn ObjectStore {
        self.world.objects.as_ref()
    }

    /// Gives the names one by one, so that a crash can come in the middle: the first `whole` are in place by then.
    async fn publish_inside(&self, items: Vec<Publish>, scratch: &Uri) -> Result<(), ObjectError> {
        for item in &items {
            self.world.check_publish(&self.process.name, item).await;
        }
        self.objects().publish(items, scratch).await
    }
}

#[async_trait]
impl ObjectStore for FaultyObjectStore {
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError> {
        self.world.call(&self.process, Step::Finalise, unavailable, self.objects().head(uri)).await
    }

    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError> {
        self.world.call(&self.process, Step::HostCall, unavailable, self.objects().get(uri, limit)).await
    }

    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError> {
        self.world.call(&self.process, Step::Finalise, unavailable, self.objects().open(uri)).await
    }

    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError> {
        let step = if uri.file_name() == "result" { Step::Stage } else { Step::HostCall };
        if !is_staged(uri) {
            self.world.ledger().violate(3, format_args!("{uri} is written under its final name, not published"));
        }
        self.world.call(&self.process, step, unavailable, self.objects().put(uri, bytes)).await
    }

    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        self.world.call(&self.process, Step::HostCall, unavailable, self.objects().create(uri)).await
    }

    async fn publish(&self, items: Vec<Publish>, scratch: &Uri) -> Result<(), ObjectError> {
        // One call a piece: whatever goes wrong may do so between two names.
        let half = items.len() / 2;
        let (first, second) = (items.iter().take(half).cloned().collect::<Vec<_>>(), items.into_iter().skip(half).collect::<Vec<_>>());
        if !first.is_empty() {
            self.world.call(&self.process, Step::Finalise, unavailable, self.publish_inside(first, scratch)).await?;
        }
        self.world.call(&self.process, Step::Finalise, unavailable, self.publish_inside(second, scratch)).await
    }

    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError> {
        self.world.call(&self.process, Step::Sweep, unavailable, self.objects().list(prefix)).await
    }

    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError> {
        self.world.call(&self.process, Step::Sweep, unavailable, self.objects().delete(uri)).await
    }

    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError> {
        if !is_staged(prefix) {
            self.world.ledger().violate(3, format_args!("{prefix} is removed, and is no folder of attempts"));
        }
        self.world.call(&self.process, Step::Sweep, unavailable, self.objects().delete_prefix(prefix)).await
    }
}
