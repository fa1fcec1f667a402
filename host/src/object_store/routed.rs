//! Several stores as one: each address goes to the store of its scheme.
//!
//! Publishing from one store to another copies through this process, in bounded pieces.

use super::{ObjectError, ObjectMeta, ObjectReader, ObjectStore, ObjectWriter, Publish, Source};
use crate::task::uri::Uri;
use async_trait::async_trait;
use std::sync::Arc;

/// Bytes that are carried at once from one store to another.
const PIECE: usize = 1 << 20;

/// See the head of this file.
#[derive(Clone)]
pub struct RoutedObjectStore {
    stores: Vec<(&'static str, Arc<dyn ObjectStore>)>,
}

impl RoutedObjectStore {
    /// Stores by their schemes, such as `file` and `s3`.
    pub fn new(stores: impl IntoIterator<Item = (&'static str, Arc<dyn ObjectStore>)>) -> Self {
        Self { stores: stores.into_iter().collect() }
    }

    fn store(&self, uri: &Uri) -> Result<&dyn ObjectStore, ObjectError> {
        let found = self.stores.iter().find(|(scheme, _)| *scheme == uri.scheme());
        found.map(|(_, store)| store.as_ref()).ok_or_else(|| {
            let known: Vec<String> = self.stores.iter().map(|(scheme, _)| format!("{scheme}://")).collect();
            ObjectError::Invalid(format!("'{uri}': no storage is set up for {}:// (there is {})", uri.scheme(), known.join(", ")))
        })
    }

    /// Publishes an item for which another store has to be read, or whose scratch lies in another.
    async fn carry(&self, Publish { from, to }: &Publish) -> Result<(), ObjectError> {
        match from {
            Source::Bytes(bytes) => self.store(to)?.put(to, bytes).await,
            Source::Object(from) => {
                let mut reader = self.store(from)?.open(from).await?;
                let mut writer = self.store(to)?.create(to).await?;
                loop {
                    let piece = reader.read(PIECE).await?;
                    if piece.is_empty() {
                        break;
                    }
                    writer.write(&piece).await?;
                }
                writer.finish().await?;
                self.store(from)?.delete(from).await
            }
        }
    }
}

/// Whether one store has all that an item and its scratch need.
fn is_at_home(item: &Publish, scratch: &Uri) -> bool {
    let from = match &item.from {
        Source::Bytes(_) => scratch,
        Source::Object(from) => from,
    };
    from.scheme() == item.to.scheme() && scratch.scheme() == item.to.scheme()
}

#[async_trait]
impl ObjectStore for RoutedObjectStore {
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError> {
        self.store(uri)?.head(uri).await
    }

    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError> {
        self.store(uri)?.get(uri, limit).await
    }

    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError> {
        self.store(uri)?.open(uri).await
    }

    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError> {
        self.store(uri)?.put(uri, bytes).await
    }

    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        self.store(uri)?.create(uri).await
    }

    async fn publish(&self, items: Vec<Publish>, scratch: &Uri) -> Result<(), ObjectError> {
        // Runs of items that one store can do by itself, one after the other: the last item is still the last.
        for run in items.chunk_by(|a, b| is_at_home(a, scratch) && is_at_home(b, scratch)) {
            match run {
                [only] if !is_at_home(only, scratch) => self.carry(only).await?,
                _ => self.store(scratch)?.publish(run.to_vec(), scratch).await?,
            }
        }
        Ok(())
    }

    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError> {
        self.store(prefix)?.list(prefix).await
    }

    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError> {
        self.store(uri)?.delete(uri).await
    }

    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError> {
        self.store(prefix)?.delete_prefix(prefix).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::conformance::suite;
    use crate::object_store::{FileObjectStore, MemoryObjectStore};

    /// What stands for a bucket is in memory.
    fn stores() -> (RoutedObjectStore, Uri, Uri, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (files, bucket): (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>) =
            (Arc::new(FileObjectStore::new()), Arc::new(MemoryObjectStore::new()));
        let store = RoutedObjectStore::new([("file", files), ("s3", bucket)]);
        (store, Uri::of_folder(folder.path()).unwrap(), Uri::parse("s3://bucket/out/").unwrap(), folder)
    }

    async fn fresh() -> Option<(RoutedObjectStore, Uri, tempfile::TempDir)> {
        let (store, prefix, _, folder) = stores();
        Some((store, prefix, folder))
    }

    suite!(fresh());

    #[tokio::test]
    async fn what_is_published_crosses_over_in_order() {
        let (store, files, bucket, _folder) = stores();
        let big: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        for (here, there) in [(&files, &bucket), (&bucket, &files)] {
            let (scratch, staged) = (here.join("_attempts/1/").unwrap(), here.join("_attempts/1/x").unwrap());
            store.put(&staged, &big).await.unwrap();
            store.put(&there.join("_attempts/1/y").unwrap(), b"y").await.unwrap();
            let items = || {
                vec![
                    Publish { from: Source::Bytes(b"here".to_vec()), to: here.join("bytes").unwrap() },
                    Publish { from: Source::Object(staged.clone()), to: there.join("big").unwrap() },
                    Publish { from: Source::Bytes(b"there".to_vec()), to: there.join("bytes").unwrap() },
                    Publish { from: Source::Object(there.join("_attempts/1/y").unwrap()), to: here.join("last").unwrap() },
                ]
            };
            store.publish(items(), &scratch).await.unwrap();
            assert!(store.get(&there.join("big").unwrap(), u64::MAX).await.unwrap() == big);
            for (uri, text) in [(here.join("bytes"), "here"), (there.join("bytes"), "there"), (here.join("last"), "y")] {
                assert_eq!(store.get(&uri.unwrap(), 9).await.unwrap(), text.as_bytes());
            }
            store.delete(&here.join("last").unwrap()).await.unwrap();
            let again = store.publish(items(), &scratch).await.unwrap_err();
            assert!(matches!(&again, ObjectError::NotFound(text) if text.ends_with("_attempts/1/x")), "{again:?}");
            assert_eq!(store.head(&here.join("last").unwrap()).await.unwrap(), None);
            for prefix in [here, there] {
                store.delete_prefix(prefix).await.unwrap();
                assert_eq!(store.list(prefix).await.unwrap(), []);
            }
        }
    }

    #[tokio::test]
    async fn a_scheme_without_a_store_is_named() {
        let (_, files, bucket, _folder) = stores();
        let store = RoutedObjectStore::new([("file", Arc::new(FileObjectStore::new()) as Arc<dyn ObjectStore>)]);
        let (uri, item) = (bucket.join("x").unwrap(), files.join("x").unwrap());
        store.put(&item, b"x").await.unwrap();
        let publish = vec![Publish { from: Source::Object(item), to: uri.clone() }];
        for error in [store.put(&uri, b"").await.err(), store.head(&uri).await.err(), store.publish(publish, &files).await.err()] {
            assert!(
                matches!(&error, Some(ObjectError::Invalid(text)) if text.contains("s3://bucket/out/x") && text.contains("there is file://")),
                "{error:?}"
            );
        }
    }
}
