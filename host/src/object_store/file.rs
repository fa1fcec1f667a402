//! Local files as an object store: `file:///…` addresses are paths.
//!
//! Every write goes to a temporary name in the folder of its target, is fsynced and renamed, and the folder is fsynced:
//! after a power cut an object is whole or absent. Which paths may be touched at all is decided above, by grants and
//! prefixes. Symbolic links are followed: guests cannot make any, so a link inside a granted folder is its owner's word.

use super::{ObjectError, ObjectMeta, ObjectReader, ObjectStore, ObjectWriter, Publish, Source};
use crate::failpoint::{Point, reach};
use crate::task::uri::Uri;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tokio::task::spawn_blocking;

/// See the head of this file.
#[derive(Debug, Default, Clone, Copy)]
pub struct FileObjectStore;

impl FileObjectStore {
    /// The store. It holds nothing: addresses are absolute.
    pub fn new() -> Self {
        Self
    }
}

/// Maps an I/O error to what the caller does next.
fn classed(path: &Path, error: &io::Error) -> ObjectError {
    let at = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => ObjectError::NotFound(at.to_string()),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ObjectError::Denied(at.to_string()),
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            ObjectError::Invalid(format!("{at}: {error}"))
        }
        _ => ObjectError::Unavailable(format!("{at}: {error}")),
    }
}

fn path_of(uri: &Uri) -> Result<PathBuf, ObjectError> {
    uri.file_path().ok_or_else(|| ObjectError::Invalid(format!("'{uri}' is no file:// address, and no other storage is set up")))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static) -> Result<T, ObjectError> {
    spawn_blocking(work).await.map_err(|e| ObjectError::Unavailable(format!("the file operation was cut short: {e}")))?
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Makes a folder's entries durable. A rename is on disk only then.
fn sync_folder(folder: &Path) -> Result<(), ObjectError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| classed(folder, &e))
}

/// Tries to make a folder whose parent somebody else removes, empty as it was, before there is anything in it.
const FOLDER_TRIES: u32 = 10;

/// Creates a folder and makes its own entry durable too.
fn make_folder(folder: &Path) -> Result<(), ObjectError> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        if let Some(parent) = folder.parent() {
            make_folder(parent)?;
        }
        tries += 1;
        match fs::create_dir(folder) {
            Ok(()) => return sync_folder(folder_of(folder)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < FOLDER_TRIES => {}
            Err(e) => return Err(classed(folder, &e)),
        }
    }
}

/// A file on its way: removed when dropped before it got its name.
struct Temporary {
    path: PathBuf,
    file: Option<File>,
}

impl Temporary {
    fn beside(target: &Path) -> Result<Self, ObjectError> {
        let folder = folder_of(target);
        make_folder(folder)?;
        let path = folder.join(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|e| classed(&path, &e))?;
        Ok(Self { path, file: Some(file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(|e| classed(&self.path, &e)),
            None => Err(ObjectError::Invalid(format!("{} is closed", self.path.display()))),
        }
    }

    /// Durable bytes under the target's name; the folder is left to the caller.
    fn rename_to(mut self, target: &Path) -> Result<(), ObjectError> {
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(|e| classed(&self.path, &e))?;
        }
        let moved = fs::rename(&self.path, target).map_err(|e| classed(target, &e));
        if moved.is_ok() {
            self.path = PathBuf::new();
        }
        moved
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn put_now(target: &Path, bytes: &[u8]) -> Result<(), ObjectError> {
    let mut temporary = Temporary::beside(target)?;
    temporary.write(bytes)?;
    temporary.rename_to(target)?;
    sync_folder(folder_of(target))
}

fn publish_now(items: Vec<(Source, PathBuf)>, scratch: &Path) -> Result<(), ObjectError> {
    let mut folders = BTreeSet::new();
    for (source, target) in items {
        make_folder(folder_of(&target))?;
        match source {
            Source::Bytes(bytes) => {
                let mut temporary = Temporary::beside(&scratch.join("piece"))?;
                temporary.write(&bytes)?;
                temporary.rename_to(&target)?;
            }
            Source::Object(from) => {
                let from = path_of(&from)?;
                fs::rename(&from, &target).map_err(|e| classed(&from, &e))?;
            }
        }
        folders.insert(folder_of(&target).to_owned());
        reach(Point::BetweenFiles);
    }
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

fn list_now(folder: &Path, found: &mut Vec<(PathBuf, u64)>) -> Result<(), ObjectError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(classed(folder, &e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| classed(folder, &e))?;
        let meta = entry.metadata().map_err(|e| classed(&entry.path(), &e))?;
        if meta.is_dir() {
            list_now(&entry.path(), found)?;
        } else {
            found.push((entry.path(), meta.len()));
        }
    }
    Ok(())
}

#[async_trait]
impl ObjectStore for FileObjectStore {
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError> {
        let (path, uri) = (path_of(uri)?, uri.clone());
        blocking(move || match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => Ok(None),
            Ok(meta) => Ok(Some(ObjectMeta { uri, size: meta.len() })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(classed(&path, &e)),
        })
        .await
    }

    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError> {
        let (path, uri) = (path_of(uri)?, uri.clone());
        blocking(move || {
            let file = open_plain(&path)?;
            let size = file.metadata().map_err(|e| classed(&path, &e))?.len();
            let too_large = |size| ObjectError::TooLarge { uri: uri.as_str().to_owned(), size, limit };
            if size > limit {
                return Err(too_large(size));
            }
            let mut bytes = Vec::with_capacity(size as usize);
            // The file may grow while it is read.
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| classed(&path, &e))?;
            if bytes.len() as u64 > limit { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
        })
        .await
    }

    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError> {
        let path = path_of(uri)?;
        blocking(move || {
            let file = open_plain(&path)?;
            let size = file.metadata().map_err(|e| classed(&path, &e))?.len();
            Ok(Box::new(FileReader { path, file: Some(file), size }) as Box<dyn ObjectReader>)
        })
        .await
    }

    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError> {
        let (path, bytes) = (path_of(uri)?, bytes.to_vec());
        blocking(move || put_now(&path, &bytes)).await
    }

    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        let path = path_of(uri)?;
        blocking(move || {
            let temporary = Temporary::beside(&path)?;
            Ok(Box::new(FileWriter { target: path, temporary: Some(temporary) }) as Box<dyn ObjectWriter>)
        })
        .await
    }

    async fn publish(&self, items: Vec<Publish>, scratch: &Uri) -> Result<(), ObjectError> {
        let scratch = path_of(scratch)?;
        let items = items.into_iter().map(|item| Ok((item.from, path_of(&item.to)?))).collect::<Result<Vec<_>, ObjectError>>()?;
        blocking(move || publish_now(items, &scratch)).await
    }

    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError> {
        let folder = path_of(prefix)?;
        blocking(move || {
            let mut found = Vec::new();
            list_now(&folder, &mut found)?;
            let mut metas = found
                .into_iter()
                .map(|(path, size)| Ok(ObjectMeta { uri: Uri::of_file(&path).map_err(ObjectError::Invalid)?, size }))
                .collect::<Result<Vec<_>, ObjectError>>()?;
            metas.sort_by(|a, b| a.uri.cmp(&b.uri));
            Ok(metas)
        })
        .await
    }

    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError> {
        let path = path_of(uri)?;
        blocking(move || gone(fs::remove_file(&path), &path)).await
    }

    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError> {
        if !prefix.is_prefix() {
            return Err(ObjectError::Invalid(format!("'{prefix}' is no prefix")));
        }
        let folder = path_of(prefix)?;
        blocking(move || {
            gone(fs::remove_dir_all(&folder), &folder)?;
            // Object storage knows no empty folders. One that holds something, or cannot go, stays; it is in nobody's way.
            let _ = fs::remove_dir(folder_of(&folder));
            Ok(())
        })
        .await
    }
}

/// Absence is what a deletion wants.
fn gone(result: io::Result<()>, path: &Path) -> Result<(), ObjectError> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(classed(path, &e)),
        _ => Ok(()),
    }
}

/// Opens a regular file; a folder, pipe or device is refused, as reading one could hang.
fn open_plain(path: &Path) -> Result<File, ObjectError> {
    let meta = fs::metadata(path).map_err(|e| classed(path, &e))?;
    if !meta.is_file() {
        return Err(ObjectError::Invalid(format!("{} is not a regular file", path.display())));
    }
    File::open(path).map_err(|e| classed(path, &e))
}

struct FileReader {
    path: PathBuf,
    file: Option<File>,
    size: u64,
}

#[async_trait]
impl ObjectReader for FileReader {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError> {
        let Some(file) = self.file.take() else { return Ok(Vec::new()) };
        let path = self.path.clone();
        let (file, bytes) = blocking(move || {
            let mut bytes = Vec::with_capacity(max.min(1 << 20));
            let mut limited = file.take(max as u64);
            limited.read_to_end(&mut bytes).map_err(|e| classed(&path, &e))?;
            Ok((limited.into_inner(), bytes))
        })
        .await?;
        self.file = Some(file);
        Ok(bytes)
    }
}

struct FileWriter {
    target: PathBuf,
    temporary: Option<Temporary>,
}

#[async_trait]
impl ObjectWriter for FileWriter {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        let Some(mut temporary) = self.temporary.take() else {
            return Err(ObjectError::Invalid(format!("{} failed earlier", self.target.display())));
        };
        let bytes = bytes.to_vec();
        self.temporary = Some(blocking(move || temporary.write(&bytes).map(|()| temporary)).await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ObjectError> {
        let Some(temporary) = self.temporary.take() else {
            return Err(ObjectError::Invalid(format!("{} failed earlier", self.target.display())));
        };
        let target = std::mem::take(&mut self.target);
        blocking(move || {
            temporary.rename_to(&target)?;
            sync_folder(folder_of(&target))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::conformance::suite;

    fn store() -> (tempfile::TempDir, Uri, FileObjectStore) {
        let folder = tempfile::tempdir().unwrap();
        let prefix = Uri::of_folder(folder.path()).unwrap();
        (folder, prefix, FileObjectStore::new())
    }

    async fn fresh() -> Option<(FileObjectStore, Uri, tempfile::TempDir)> {
        let (folder, prefix, store) = store();
        Some((store, prefix, folder))
    }

    suite!(fresh());

    #[tokio::test]
    async fn no_temporary_file_stays() {
        let (folder, prefix, store) = store();
        let mut writer = store.create(&prefix.join("x").unwrap()).await.unwrap();
        writer.write(b"half").await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// A file system of a quarter of a mebibyte; gone with this value.
    struct SmallDisk(tempfile::TempDir);

    impl SmallDisk {
        fn mount() -> Option<Self> {
            let folder = tempfile::tempdir().unwrap();
            let mut mount = std::process::Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(folder.path());
            mount.output().is_ok_and(|out| out.status.success()).then(|| Self(folder))
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg(self.0.path()).output();
        }
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_write_and_changes_nothing() {
        let Some(disk) = SmallDisk::mount() else {
            eprintln!("\n*** SKIPPED: no file system can be mounted here (only root may) ***\n");
            return;
        };
        let (prefix, store) = (Uri::of_folder(disk.0.path()).unwrap(), FileObjectStore::new());
        let (uri, scratch, large) = (prefix.join("x").unwrap(), prefix.join("s/").unwrap(), vec![1; 1 << 20]);
        store.put(&uri, b"what was there").await.unwrap();
        let mut writer = store.create(&uri).await.unwrap();
        let streamed = writer.write(&large).await;
        let put = store.put(&uri, &large).await;
        let publish = store.publish(vec![Publish { from: Source::Bytes(large), to: uri.clone() }], &scratch).await;
        for failed in [streamed, put, publish] {
            assert!(matches!(failed, Err(ObjectError::Unavailable(_))), "{failed:?}");
        }
        assert!(writer.finish().await.is_err());
        assert_eq!(store.get(&uri, 99).await.unwrap(), b"what was there");
        store.delete_prefix(&scratch).await.unwrap();
        assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 1, "no temporary file stays");
        store.put(&uri, b"there is room again").await.unwrap();
    }

    /// One task's attempts are removed as another's begin in the same place.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_folder_goes_with_the_last_in_it_and_keeps_nobody_from_beginning() {
        let (folder, prefix, store) = store();
        let at = |name: &str| prefix.join(&format!("_attempts/{name}/")).unwrap();
        for name in ["1-a", "2-b"] {
            store.put(&at(name).join("piece").unwrap(), b"x").await.unwrap();
        }
        store.delete_prefix(&at("1-a")).await.unwrap();
        assert_eq!(store.list(&prefix).await.unwrap().len(), 1);
        store.delete_prefix(&at("2-b")).await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let come_and_go = async |name: &'static str| {
            for n in 0..300 {
                let own = at(&format!("{n}-{name}"));
                store.put(&own.join("piece").unwrap(), b"x").await.unwrap();
                store.delete_prefix(&own).await.unwrap();
            }
        };
        tokio::join!(come_and_go("a"), come_and_go("b"), come_and_go("c"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_folder_or_device_is_no_object() {
        let (_folder, prefix, store) = store();
        let folder = Uri::parse(prefix.as_str().trim_end_matches('/')).unwrap();
        assert!(matches!(store.get(&folder, 10).await, Err(ObjectError::Invalid(_))));
        assert!(matches!(store.get(&Uri::parse("file:///dev/zero").unwrap(), 10).await, Err(ObjectError::Invalid(_))));
        assert!(matches!(store.get(&Uri::parse("s3://bucket/x").unwrap(), 10).await, Err(ObjectError::Invalid(_))));
    }
}
