//! Faults as a decorator, for tests: around any store, each kind of call on each name fails twice before it passes. The first time
//! nothing is done, as after a 503; the second time all of it is done and the answer is lost, as after a time-out. Streams come slowly
//! and in crumbs.

use super::{ObjectError, ObjectMeta, ObjectReader, ObjectStore, ObjectWriter, Publish};
use crate::task::uri::Uri;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Most bytes that a stream hands out at once, and the pause before them.
const CRUMB: usize = 10_000;
const PAUSE: Duration = Duration::from_millis(5);

/// See the head of this file.
pub(crate) struct FaultyObjectStore<S> {
    store: S,
    calls: Mutex<BTreeMap<(&'static str, String), u32>>,
}

impl<S> FaultyObjectStore<S> {
    pub fn new(store: S) -> Self {
        Self { store, calls: Mutex::default() }
    }

    /// How often a kind of call was made.
    pub fn calls(&self, kind: &str) -> u32 {
        self.calls.lock().unwrap().iter().filter(|((named, _), _)| *named == kind).map(|(_, calls)| calls).sum()
    }

    /// Attempts have folders of their own, so only an address's last segment counts.
    async fn call<T>(&self, kind: &'static str, uri: &Uri, call: impl Future<Output = Result<T, ObjectError>>) -> Result<T, ObjectError> {
        let time = {
            let mut calls = self.calls.lock().unwrap();
            let time = calls.entry((kind, uri.file_name().to_owned())).or_default();
            *time += 1;
            *time
        };
        match time {
            1 => Err(ObjectError::Unavailable(format!("{uri}: 503"))),
            2 => call.await.and(Err(ObjectError::Unavailable(format!("{uri}: no answer")))),
            _ => call.await,
        }
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for FaultyObjectStore<S> {
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError> {
        self.call("head", uri, self.store.head(uri)).await
    }

    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError> {
        self.call("get", uri, self.store.get(uri, limit)).await
    }

    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError> {
        let reader = self.call("open", uri, self.store.open(uri)).await?;
        Ok(Box::new(Slow(reader)))
    }

    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError> {
        self.call("put", uri, self.store.put(uri, bytes)).await
    }

    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        self.call("create", uri, self.store.create(uri)).await
    }

    async fn publish(&self, items: Vec<Publish>, scratch: &Uri) -> Result<(), ObjectError> {
        let first = items.first().map_or(scratch, |item| &item.to).clone();
        self.call("publish", &first, self.store.publish(items, scratch)).await
    }

    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError> {
        self.call("list", prefix, self.store.list(prefix)).await
    }

    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError> {
        self.call("delete", uri, self.store.delete(uri)).await
    }

    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError> {
        self.call("delete_prefix", prefix, self.store.delete_prefix(prefix)).await
    }
}

struct Slow(Box<dyn ObjectReader>);

#[async_trait]
impl ObjectReader for Slow {
    fn size(&self) -> Option<u64> {
        self.0.size()
    }

    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError> {
        tokio::time::sleep(PAUSE).await;
        self.0.read(max.min(CRUMB)).await
    }
}
