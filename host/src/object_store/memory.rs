//! Objects in memory, for tests and simulations: the same promises as of files, and nothing that outlives the process.
//!
//! A write is there at once and whole. Publishing gives way to others between two items, so that whoever is interrupted there leaves the
//! first ones in place; nowhere else.

use super::{ObjectError, ObjectMeta, ObjectReader, ObjectStore, ObjectWriter, Publish, Source};
use crate::task::uri::Uri;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Objects = BTreeMap<Uri, Arc<[u8]>>;

/// See the head of this file. Clones share what is in it.
#[derive(Debug, Default, Clone)]
pub struct MemoryObjectStore {
    objects: Arc<Mutex<Objects>>,
}

impl MemoryObjectStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A change is never left half done, so a test that panicked while it looked on is no reason to stop.
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, uri: &Uri) -> Result<Arc<[u8]>, ObjectError> {
        self.objects().get(uri).cloned().ok_or_else(|| ObjectError::NotFound(uri.as_str().to_owned()))
    }
}

/// The address of one object; a prefix is none.
fn object(uri: &Uri) -> Result<&Uri, ObjectError> {
    if uri.is_prefix() { Err(ObjectError::Invalid(format!("'{uri}' is a prefix, not an object"))) } else { Ok(uri) }
}

fn meta(uri: &Uri, bytes: &[u8]) -> ObjectMeta {
    ObjectMeta { uri: uri.clone(), size: bytes.len() as u64 }
}

#[async_trait]
impl ObjectStore for MemoryObjectStore {
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError> {
        Ok(self.objects().get(uri).map(|bytes| meta(uri, bytes)))
    }

    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError> {
        let bytes = self.found(uri)?;
        let size = bytes.len() as u64;
        if size > limit { Err(ObjectError::TooLarge { uri: uri.as_str().to_owned(), size, limit }) } else { Ok(bytes.to_vec()) }
    }

    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError> {
        Ok(Box::new(MemoryReader { bytes: self.found(uri)?, at: 0 }))
    }

    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError> {
        self.objects().insert(object(uri)?.clone(), bytes.into());
        Ok(())
    }

    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        Ok(Box::new(MemoryWriter { store: self.clone(), uri: object(uri)?.clone(), bytes: Vec::new() }))
    }

    async fn publish(&self, items: Vec<Publish>, _scratch: &Uri) -> Result<(), ObjectError> {
        for (index, Publish { from, to }) in items.into_iter().enumerate() {
            if index > 0 {
                tokio::task::yield_now().await;
            }
            let target = object(&to)?.clone();
            let mut objects = self.objects();
            let bytes = match from {
                Source::Bytes(bytes) => bytes.into(),
                Source::Object(from) => objects.remove(&from).ok_or_else(|| ObjectError::NotFound(from.as_str().to_owned()))?,
            };
            objects.insert(target, bytes);
        }
        Ok(())
    }

    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError> {
        let prefix = prefix.as_prefix();
        let objects = self.objects();
        Ok(objects.range(&prefix..).take_while(|(uri, _)| prefix.covers(uri)).map(|(uri, bytes)| meta(uri, bytes)).collect())
    }

    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError> {
        self.objects().remove(uri);
        Ok(())
    }

    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError> {
        if !prefix.is_prefix() {
            return Err(ObjectError::Invalid(format!("'{prefix}' is no prefix")));
        }
        self.objects().retain(|uri, _| !prefix.covers(uri));
        Ok(())
    }
}

/// Reads the object as it was when it was opened.
struct MemoryReader {
    bytes: Arc<[u8]>,
    at: usize,
}

#[async_trait]
impl ObjectReader for MemoryReader {
    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError> {
        let piece: Vec<u8> = self.bytes.iter().skip(self.at).take(max).copied().collect();
        self.at += piece.len();
        Ok(piece)
    }
}

struct MemoryWriter {
    store: MemoryObjectStore,
    uri: Uri,
    bytes: Vec<u8>,
}

#[async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), ObjectError> {
        self.store.objects().insert(self.uri, self.bytes.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::conformance::suite;

    fn uri(text: &str) -> Uri {
        Uri::parse(&format!("file:///out/{text}")).unwrap()
    }

    async fn fresh() -> Option<(MemoryObjectStore, Uri, ())> {
        Some((MemoryObjectStore::new(), uri(""), ()))
    }

    suite!(fresh());

    #[tokio::test]
    async fn what_was_opened_is_read_to_its_end() {
        let store = MemoryObjectStore::new();
        store.put(&uri("a"), b"hello again").await.unwrap();
        let mut reader = store.open(&uri("a")).await.unwrap();
        assert_eq!(reader.read(5).await.unwrap(), b"hello");
        store.delete(&uri("a")).await.unwrap();
        assert_eq!(reader.read(100).await.unwrap(), b" again");
    }

    #[tokio::test]
    async fn publishing_moves_in_order_and_is_cut_between_items_only() {
        let store = MemoryObjectStore::new();
        let (scratch, staged) = (uri("_attempts/1/"), uri("_attempts/1/000001"));
        store.put(&staged, b"big").await.unwrap();
        let items = || {
            let small = Publish { from: Source::Bytes(b"small".to_vec()), to: uri("result.json") };
            vec![small, Publish { from: Source::Object(staged.clone()), to: uri("deep/big.bin") }]
        };
        let mut cut_short = Box::pin(store.publish(items(), &scratch));
        assert!(futures::poll!(&mut cut_short).is_pending());
        drop(cut_short);
        let there: Vec<Uri> = store.list(&uri("")).await.unwrap().into_iter().map(|meta| meta.uri).collect();
        assert_eq!(there, [staged.clone(), uri("result.json")]);
        store.publish(items(), &scratch).await.unwrap();
        assert_eq!(store.get(&uri("deep/big.bin"), 9).await.unwrap(), b"big");
        assert_eq!(store.head(&staged).await.unwrap(), None, "a source is gone afterwards");
        let again = store.publish(items(), &scratch).await.unwrap_err();
        assert!(matches!(&again, ObjectError::NotFound(at) if at.ends_with("000001")), "{again}");
    }
}
