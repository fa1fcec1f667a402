//! Objects. Reads by grant: the task's input, its inputs' outputs, what the step was granted, and what this task wrote.
//! Writes go under the task's output prefix, from `process` only, and are seen by others once the task is done.

pub use crate::error::Failure;

use crate::outside;
use std::io;

/// Bytes gathered before one piece goes to the host. A call costs microseconds, so small writes are worth joining;
/// the host takes pieces of any size.
const PIECE: usize = 256 << 10;

/// The whole object at `uri`, up to the host's limit (50 MiB by default; `too-large` above).
pub fn read(uri: &str) -> Result<Vec<u8>, Failure> {
    outside::read(uri)
}

/// Opens an object for reading from its start, whatever its size.
pub fn open(uri: &str) -> Result<Reader, Failure> {
    outside::Reader::open(uri).map(|raw| Reader { raw, buffer: Vec::new(), used: 0 })
}

/// Writes `name`; returns the URI it will have once the task is done. Writing a name twice replaces it.
pub fn write(name: &str, content_type: &str, bytes: &[u8]) -> Result<String, Failure> {
    outside::write(name, content_type, bytes)
}

/// Starts writing `name` piece by piece.
pub fn create(name: &str, content_type: &str) -> Result<Writer, Failure> {
    outside::Writer::create(name, content_type).map(|raw| Writer { raw, buffer: Vec::new() })
}

/// An object opened for reading. Errors of `read` carry a [`Failure`], which `?` takes out again in a hook.
#[derive(Debug)]
pub struct Reader {
    raw: outside::Reader,
    buffer: Vec<u8>,
    used: usize,
}

impl Reader {
    /// Size of the whole object in bytes, where it is known.
    pub fn size(&self) -> Option<u64> {
        self.raw.size()
    }
}

impl io::Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.used == self.buffer.len() {
            // A piece at a time: callers such as decoders ask for a few bytes, and each question to the host is a call.
            self.buffer = self.raw.read(PIECE.max(into.len()) as u64)?;
            self.used = 0;
        }
        let rest = &self.buffer[self.used..];
        let taken = rest.len().min(into.len());
        into[..taken].copy_from_slice(&rest[..taken]);
        self.used += taken;
        Ok(taken)
    }
}

/// An output being written. Dropping it without [`finish`](Self::finish) aborts it.
#[derive(Debug)]
#[must_use = "an output that is not finished is aborted"]
pub struct Writer {
    raw: outside::Writer,
    buffer: Vec<u8>,
}

impl Writer {
    /// Closes it; returns the URI it will have once the task is done.
    pub fn finish(mut self) -> Result<String, Failure> {
        self.send()?;
        self.raw.finish()
    }

    fn send(&mut self) -> Result<(), Failure> {
        if !self.buffer.is_empty() {
            self.raw.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > PIECE {
            self.send()?;
        }
        if bytes.len() >= PIECE {
            self.raw.write(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.send()?)
    }
}
