//! Compiled code on disk: `<folder>/<digest>-<key>.cwasm`, so that a component is compiled once per machine and build.
//!
//! Loading such a file is loading native code, so only files that this program wrote itself are taken: the folder and the
//! file must belong to this user and be writable by nobody else, and the file starts with a header that names the digest of
//! what follows, against torn writes and flipped bits. A file that fails a check is compiled and written anew.

use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use wasmtime::Engine;
use wasmtime::component::Component;

/// First bytes of a file; the number rises with the layout.
const MAGIC: &[u8; 16] = b"wasm-worker-cw1\n";

/// Bytes before the code: magic and SHA-256.
const HEADER: usize = MAGIC.len() + 32;

/// Largest file that is read: compiled code of a large interpreter has some 100 MiB.
const MAX_FILE: u64 = 1 << 30;

/// Age from which a file on its way is one that its writer left behind: writing takes seconds, on the slowest of disks minutes.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of compiled code.
pub(super) struct CodeCache {
    folder: PathBuf,
    key: String,
}

impl CodeCache {
    /// Makes the folder, private to this user, or checks that it is.
    pub(super) fn open(folder: &Path, engine: &Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        check_owner(&fs::metadata(folder)?)?;
        remove_abandoned(folder);
        Ok(Self { folder: folder.to_owned(), key: key(engine) })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}-{}.cwasm", self.key))
    }

    /// The compiled component, if there is one that passes every check.
    pub(super) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.path(digest);
        match read_checked(&path).and_then(|code| deserialize(engine, &code)) {
            Ok(component) => Some(component),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "compiled code is not used and made anew");
                None
            }
        }
    }

    /// Keeps the compiled component. Failing to is no fault, only slower the next time.
    pub(super) fn store(&self, digest: &str, component: &Component) {
        let path = self.path(digest);
        let written = component.serialize().map_err(io::Error::other).and_then(|code| write_private(&self.folder, &path, &code));
        if let Err(error) = written {
            tracing::warn!(file = %path.display(), %error, "compiled code is not kept");
        }
    }
}

/// Changes with the version of the host, of wasmtime, and with every setting that changes code.
fn key(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0 // Nobody asks: the digest is taken below.
        }
    }
    let mut hasher = Sha(Sha256::new_with_prefix(env!("CARGO_PKG_VERSION")));
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let mut text = hex::encode(hasher.0.finalize());
    text.truncate(16);
    text
}

fn check_owner(metadata: &fs::Metadata) -> io::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        return Err(io::Error::other(format!("it belongs to user {}, not to {me}", metadata.uid())));
    }
    if metadata.permissions().mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write to it"));
    }
    Ok(())
}

fn read_checked(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    check_owner(&metadata)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(io::Error::other("not a plain file, or too large"));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    let (magic, rest) = bytes.split_at_checked(MAGIC.len()).unwrap_or_default();
    let (sum, code) = rest.split_at_checked(HEADER - MAGIC.len()).unwrap_or_default();
    if magic != MAGIC || Sha256::digest(code)[..] != *sum {
        return Err(io::Error::other("its digest does not fit its content"));
    }
    Ok(bytes.split_off(HEADER))
}

/// Removes what processes left that were killed as they wrote. Other files, and those just being written, are nobody's business here;
/// what cannot be removed is in nobody's way.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"));
        // A time in the future is no age at all.
        let is_old = || entry.metadata().ok().and_then(|m| m.modified().ok()?.elapsed().ok()).is_some_and(|age| age > ABANDONED);
        if is_ours && is_old() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_private(folder: &Path, path: &Path, code: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!(".{}.tmp", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The file is of no use to anybody; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The one place where bytes become native code.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, code: &[u8]) -> io::Result<Component> {
    // SAFETY: wasmtime asks that the bytes be its own output, unmodified. `read_checked` took them from a file that only this
    // user can have written, in a folder that only this user can write to, under a name and a header that only this module
    // makes, and their digest fits. wasmtime itself checks its version and settings against the engine.
    unsafe { Component::deserialize(engine, code) }.map_err(|error| io::Error::other(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine::new(&wasmtime::Config::new()).unwrap()
    }

    /// An empty component.
    const EMPTY: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let cache = CodeCache::open(&folder.path().join("code"), &engine).unwrap();
        assert!(cache.load(&engine, "d").is_none());
        cache.store("d", &Component::new(&engine, EMPTY).unwrap());
        assert!(cache.load(&engine, "d").is_some());
        assert!(cache.load(&engine, "e").is_none());

        let path = cache.path("d");
        let good = fs::read(&path).unwrap();
        for at in [0, 20, HEADER, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(cache.load(&engine, "d").is_none(), "flipped byte {at}");
        }
        for length in [0, 10, HEADER, good.len() - 1] {
            fs::write(&path, &good[..length]).unwrap();
            assert!(cache.load(&engine, "d").is_none(), "cut at {length}");
        }
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
        assert!(cache.load(&engine, "d").is_none(), "others may write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(cache.load(&engine, "d").is_some());
    }

    #[test]
    fn what_a_killed_process_was_writing_is_removed_once_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let code = folder.path().join("code");
        CodeCache::open(&code, &engine).unwrap().store("d", &Component::new(&engine, EMPTY).unwrap());
        let long_ago = std::time::SystemTime::now() - ABANDONED - Duration::from_secs(60);
        for (name, age) in [(".old.tmp", Some(long_ago)), (".new.tmp", None), ("old.tmp", Some(long_ago)), (".old", Some(long_ago))] {
            let file = File::create(code.join(name)).unwrap();
            age.into_iter().for_each(|age| file.set_modified(age).unwrap());
        }
        let kept = CodeCache::open(&code, &engine).unwrap();
        assert!(kept.load(&engine, "d").is_some());
        let mut left: Vec<_> = fs::read_dir(&code).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.retain(|name| !name.ends_with(".cwasm"));
        left.sort();
        assert_eq!(left, [".new.tmp", ".old", "old.tmp"]);
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(CodeCache::open(folder.path(), &engine()).is_err());
    }

    #[test]
    fn files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let cache = CodeCache::open(&folder.path().join("a/b"), &engine).unwrap();
        cache.store("d", &Component::new(&engine, EMPTY).unwrap());
        assert_eq!(fs::metadata(cache.path("d")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path().join("a/b")).unwrap().mode() & 0o777, 0o700);
    }
}
