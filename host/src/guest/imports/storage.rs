//! `storage`: objects by grant, outputs under the task's own prefix. All rules are the scope's.
//!
//! An open reader or writer belongs to the run that opened it: the instance may keep the handle for its next task, but
//! nothing is behind it any more.

use crate::guest::bindings::wasm_worker::pipeline::{storage, types};
use crate::guest::scope::{Failure, OutputWriter};
use crate::guest::state::State;
use crate::object_store::ObjectReader;
use std::sync::Arc;
use wasmtime::component::Resource;

/// Most bytes of one read, by the contract.
const MAX_READ: u64 = 1 << 20;

/// Most readers and writers open at once in one run: each holds a file of the process, which has 1,024 by default for all.
const MAX_OPEN: usize = 16;

/// A `reader` of the guest. Empty once its run has ended.
pub struct Reader(Option<Box<dyn ObjectReader>>);

/// A `writer` of the guest. Empty once its run has ended.
pub struct Writer(Option<OutputWriter>);

type Answer<T> = wasmtime::Result<Result<T, types::Failure>>;

fn ended() -> Failure {
    Failure::new("denied", "the task that opened this has ended")
}

/// The contract's answer: a failure is the guest's to handle.
fn answer<T>(result: Result<T, Failure>) -> Answer<T> {
    Ok(result.map_err(Into::into))
}

impl State {
    /// Closes what the run has left open; unfinished outputs are dropped.
    pub(in crate::guest) fn close_streams(&mut self) {
        if self.open_streams == 0 {
            return;
        }
        for entry in self.table.iter_mut() {
            if let Some(reader) = entry.downcast_mut::<Reader>() {
                reader.0 = None;
            } else if let Some(writer) = entry.downcast_mut::<Writer>() {
                writer.0 = None;
            }
        }
        self.open_streams = 0;
    }

    /// Refuses one more open reader or writer than a run may have.
    fn may_open(&self) -> Result<(), Failure> {
        if self.open_streams < MAX_OPEN {
            return Ok(());
        }
        Err(Failure::new("too-large", format!("{MAX_OPEN} readers and writers are open already; close one")))
    }

    fn stream_closed(&mut self, was_open: bool) {
        self.open_streams -= usize::from(was_open && self.open_streams > 0);
    }
}

impl storage::Host for State {
    async fn read(&mut self, uri: String) -> Answer<Vec<u8>> {
        answer(Arc::clone(&self.scope).read(&uri).await)
    }

    async fn open(&mut self, uri: String) -> Answer<Resource<Reader>> {
        if let Err(failure) = self.may_open() {
            return answer(Err(failure));
        }
        match Arc::clone(&self.scope).open(&uri).await {
            Ok(reader) => {
                let handle = self.table.push(Reader(Some(reader)))?;
                self.open_streams += 1;
                Ok(Ok(handle))
            }
            Err(failure) => answer(Err(failure)),
        }
    }

    async fn write(&mut self, name: String, content_type: String, bytes: Vec<u8>) -> Answer<String> {
        answer(Arc::clone(&self.scope).write(&name, &content_type, bytes).await)
    }

    async fn create(&mut self, name: String, content_type: String) -> Answer<Resource<Writer>> {
        if let Err(failure) = self.may_open() {
            return answer(Err(failure));
        }
        match Arc::clone(&self.scope).create(&name, &content_type).await {
            Ok(writer) => {
                let handle = self.table.push(Writer(Some(writer)))?;
                self.open_streams += 1;
                Ok(Ok(handle))
            }
            Err(failure) => answer(Err(failure)),
        }
    }
}

impl storage::HostReader for State {
    fn size(&mut self, reader: Resource<Reader>) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&reader)?.0.as_ref().and_then(|reader| reader.size()))
    }

    async fn read(&mut self, reader: Resource<Reader>, max: u64) -> Answer<Vec<u8>> {
        let scope = Arc::clone(&self.scope);
        let Some(reader) = self.table.get_mut(&reader)?.0.as_mut() else {
            return answer(Err(ended()));
        };
        if let Err(failure) = scope.check() {
            return answer(Err(failure));
        }
        let read = reader.read(max.min(MAX_READ) as usize).await;
        if let Ok(bytes) = &read {
            scope.count_read(bytes.len());
        }
        answer(read.map_err(Into::into))
    }

    fn drop(&mut self, reader: Resource<Reader>) -> wasmtime::Result<()> {
        let reader = self.table.delete(reader)?;
        self.stream_closed(reader.0.is_some());
        Ok(())
    }
}

impl storage::HostWriter for State {
    async fn write(&mut self, writer: Resource<Writer>, chunk: Vec<u8>) -> Answer<()> {
        match self.table.get_mut(&writer)?.0.as_mut() {
            Some(writer) => answer(writer.write(&chunk).await),
            None => answer(Err(ended())),
        }
    }

    async fn finish(&mut self, writer: Resource<Writer>) -> Answer<String> {
        let writer = self.table.delete(writer)?.0;
        self.stream_closed(writer.is_some());
        match writer {
            Some(writer) => answer(writer.finish().await),
            None => answer(Err(ended())),
        }
    }

    fn drop(&mut self, writer: Resource<Writer>) -> wasmtime::Result<()> {
        let writer = self.table.delete(writer)?;
        self.stream_closed(writer.0.is_some());
        Ok(())
    }
}
