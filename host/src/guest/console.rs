//! What a guest prints: its standard output and error, line by line into the log of the task it runs.
//!
//! A guest that panics says why on standard error and then traps, so the last of it is kept for the error text.

use super::scope::Scope;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Longest line taken whole; the scope cuts at the same length.
const MAX_LINE: usize = 8 << 10;

/// Bytes a guest may write at once; it may write again at once.
const PERMIT: usize = 64 << 10;

/// Bytes of standard error kept for an error text.
const MAX_LAST_WORDS: usize = 1 << 10;

/// Which of the two streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

#[derive(Default)]
struct Lines {
    scope: Option<Arc<Scope>>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last_words: Vec<u8>,
}

/// The streams of one instance.
#[derive(Default)]
pub(super) struct Console(Mutex<Lines>);

impl Console {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether lines go to `scope` already.
    pub(super) fn is_for(&self, scope: &Arc<Scope>) -> bool {
        self.lines().scope.as_ref().is_some_and(|known| Arc::ptr_eq(known, scope))
    }

    /// From now on lines go to `scope`.
    pub(super) fn attach(&self, scope: &Arc<Scope>) {
        self.detach();
        self.lines().scope = Some(Arc::clone(scope));
    }

    /// Hands over unfinished lines; what comes later is lost.
    pub(super) fn detach(&self) {
        let mut lines = self.lines();
        lines.flush(Stream::Stdout);
        lines.flush(Stream::Stderr);
        lines.last_words.clear();
        lines.scope = None;
    }

    /// The end of what was written to standard error since `attach`.
    pub(super) fn last_words(&self) -> String {
        String::from_utf8_lossy(&self.lines().last_words).trim().to_owned()
    }

    /// One of its streams, for WASI.
    pub(super) fn stream(self: &Arc<Self>, which: Stream) -> ConsoleStream {
        ConsoleStream { console: Arc::clone(self), which }
    }

    fn write(&self, which: Stream, bytes: &[u8]) {
        let mut lines = self.lines();
        if which == Stream::Stderr {
            lines.last_words.extend_from_slice(bytes.get(bytes.len().saturating_sub(MAX_LAST_WORDS)..).unwrap_or_default());
            let excess = lines.last_words.len().saturating_sub(MAX_LAST_WORDS);
            lines.last_words.drain(..excess);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = MAX_LINE.saturating_sub(lines.buffer(which).len());
            lines.buffer(which).extend_from_slice(text.get(..room).unwrap_or(text));
            if ended {
                lines.flush(which);
            }
        }
    }
}

impl Lines {
    fn buffer(&mut self, which: Stream) -> &mut Vec<u8> {
        match which {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn flush(&mut self, which: Stream) {
        if self.buffer(which).is_empty() {
            return;
        }
        let line = std::mem::take(self.buffer(which));
        if let Some(scope) = &self.scope {
            scope.log(which.name(), &String::from_utf8_lossy(&line));
        }
    }
}

/// One stream of a [`Console`], as WASI wants it.
pub(super) struct ConsoleStream {
    console: Arc<Console>,
    which: Stream,
}

impl ConsoleStream {
    fn again(&self) -> Self {
        Self { console: Arc::clone(&self.console), which: self.which }
    }
}

impl IsTerminal for ConsoleStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ConsoleStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.again())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.again())
    }
}

#[async_trait::async_trait]
impl Pollable for ConsoleStream {
    async fn ready(&mut self) {}
}

impl OutputStream for ConsoleStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.console.write(self.which, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

impl AsyncWrite for ConsoleStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.console.write(self.which, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
