//! Reading and writing through `storage`, on the raw bindings.

use crate::action::FileSpec;
use crate::report;
use serde_json::{Map, Value, json};
use wasm_worker_guest::bindings::wasm_worker::pipeline::storage;
use wasm_worker_guest::bindings::wasm_worker::pipeline::types::Failure;
use wasm_worker_guest::{Error, Output};

/// Bytes `from` to `from + len` of the pattern that every written file has.
pub(crate) fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..).take(len).map(|i| (i % 251) as u8).collect()
}

pub(crate) fn write_all(files: &[FileSpec]) -> Result<Output, Error> {
    let mut written = Map::new();
    for file in files {
        let uri = write(file).map_err(|f| Error::from(plain(f)))?;
        written.insert(file.name.clone(), uri.map_or(Value::Null, Value::String));
    }
    Output::json(&written)
}

/// Writes one file; none where it was asked to abort.
fn write(file: &FileSpec) -> Result<Option<String>, Failure> {
    let Some(piece) = file.piece else {
        return storage::write(&file.name, &file.content_type, &pattern(0, file.bytes as usize)).map(Some);
    };
    let writer = storage::create(&file.name, &file.content_type)?;
    let mut at = 0;
    while at < file.bytes {
        let len = piece.max(1).min(file.bytes - at);
        writer.write(&pattern(at, len as usize))?;
        at += len;
    }
    if file.abort {
        return Ok(None);
    }
    storage::Writer::finish(writer).map(Some)
}

pub(crate) fn write_name(name: &str) -> Result<Output, Error> {
    report(storage::write(name, "text/plain", b"here").map(|uri| json!({ "uri": uri })).map_err(parts))
}

/// What `publish-next` fails with after it tried to write.
pub(crate) fn write_late() -> Error {
    match storage::write("late.txt", "text/plain", b"late") {
        Ok(uri) => Error::fatal("late-write-accepted", uri),
        Err(failure) => Error::fatal(failure.code, failure.message),
    }
}

pub(crate) fn read(uri: &str) -> Result<Output, Error> {
    let mut seen = Digest::new();
    report(storage::read(uri).map(|bytes| seen.add(&bytes)).map(|()| seen.json()).map_err(parts))
}

pub(crate) fn stream(uri: &str, piece: usize) -> Result<Output, Error> {
    report(stream_through(uri, piece).map_err(parts))
}

fn stream_through(uri: &str, piece: usize) -> Result<Value, Failure> {
    let reader = storage::open(uri)?;
    let mut seen = Digest::new();
    loop {
        let bytes = reader.read(piece as u64)?;
        if bytes.is_empty() {
            return Ok(seen.json());
        }
        seen.add(&bytes);
    }
}

/// Opens so many readers and writers, all at once or one after the other.
pub(crate) fn open_many(uri: &str, readers: u32, writers: u32, close: bool) -> Result<Output, Error> {
    report(try_open_many(uri, readers, writers, close).map(|opened| json!({ "opened": opened })).map_err(parts))
}

fn try_open_many(uri: &str, readers: u32, writers: u32, close: bool) -> Result<usize, Failure> {
    let (mut reading, mut writing) = (Vec::new(), Vec::new());
    let mut opened = 0;
    for _ in 0..readers {
        reading.push(storage::open(uri)?);
        opened += 1;
        if close {
            reading.clear();
        }
    }
    for i in 0..writers {
        writing.push(storage::create(&format!("w{i}"), "text/plain")?);
        opened += 1;
        if close {
            writing.clear();
        }
    }
    Ok(opened)
}

fn parts(failure: Failure) -> (String, String) {
    (failure.code, failure.message)
}

fn plain(failure: Failure) -> wasm_worker_guest::storage::Failure {
    wasm_worker_guest::storage::Failure { code: failure.code, message: failure.message, retryable: failure.retryable }
}

/// Size, FNV-1a 64 and the first 256 bytes of what was read.
struct Digest {
    bytes: u64,
    fnv: u64,
    head: Vec<u8>,
}

impl Digest {
    fn new() -> Self {
        Self { bytes: 0, fnv: 0xcbf2_9ce4_8422_2325, head: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.fnv = bytes.iter().fold(self.fnv, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let room = 256 - self.head.len();
        self.head.extend(bytes.iter().take(room));
    }

    fn json(&self) -> Value {
        json!({ "bytes": self.bytes, "fnv": format!("{:016x}", self.fnv), "text": String::from_utf8_lossy(&self.head) })
    }
}
