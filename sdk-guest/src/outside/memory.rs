//! The same calls, answered by the [`testing::Host`] that the thread has entered. Without one every call that can fail is denied,
//! and the others are as silent as a host that nobody listens to.

use crate::context::{Level, Progress};
use crate::error::Failure;
use crate::inference::{ErrorCode, InferenceError, Tensor};
use crate::payload::Payload;
use crate::task::Input;
use crate::testing::{self, Host, LogLine};

fn host() -> Result<Host, Failure> {
    testing::entered().ok_or_else(|| Failure::new("denied", "no host here: run this inside a testing::Host"))
}

pub(crate) fn read(uri: &str) -> Result<Vec<u8>, Failure> {
    host()?.read(uri)
}

pub(crate) fn write(name: &str, content_type: &str, bytes: &[u8]) -> Result<String, Failure> {
    host()?.write(name, content_type, bytes.to_vec())
}

#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

impl Reader {
    pub(crate) fn open(uri: &str) -> Result<Self, Failure> {
        Ok(Self { bytes: read(uri)?, at: 0 })
    }

    pub(crate) fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    pub(crate) fn read(&mut self, max: u64) -> Result<Vec<u8>, Failure> {
        // The contract's limit for one piece.
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(1 << 20);
        let rest = &self.bytes[self.at..];
        let piece = rest[..rest.len().min(max)].to_vec();
        self.at += piece.len();
        Ok(piece)
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    host: Host,
    name: String,
    content_type: String,
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn create(name: &str, content_type: &str) -> Result<Self, Failure> {
        let host = host()?;
        host.check_write(name)?;
        Ok(Self { host, name: name.to_owned(), content_type: content_type.to_owned(), bytes: Vec::new() })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<String, Failure> {
        self.host.write(&self.name, &self.content_type, self.bytes)
    }
}

pub(crate) fn log(level: Level, message: &str, fields: &str) {
    if let Ok(host) = host() {
        host.state.borrow_mut().logs.push(LogLine { level, message: message.to_owned(), fields: fields.to_owned() });
    }
}

pub(crate) fn progress(progress: Progress) {
    if let Ok(host) = host() {
        host.state.borrow_mut().progress = Some(progress);
    }
}

pub(crate) fn is_cancelled() -> bool {
    host().is_ok_and(|host| host.state.borrow().cancelled)
}

pub(crate) fn emit(chunk: Payload) -> Result<(), Failure> {
    host()?.state.borrow_mut().chunks.push(chunk);
    Ok(())
}

pub(crate) fn inputs(offset: u32, limit: u32) -> Vec<Input> {
    let Ok(host) = host() else { return Vec::new() };
    let state = host.state.borrow();
    state.inputs.iter().skip(offset as usize).take(limit as usize).cloned().collect()
}

pub(crate) fn secret(name: &str) -> Option<String> {
    host().ok()?.state.borrow().secrets.get(name).cloned()
}

pub(crate) struct Graph(testing::Model);

impl std::fmt::Debug for Graph {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Graph")
    }
}

impl Graph {
    pub(crate) fn load(name: &str) -> Result<Self, InferenceError> {
        let model = host().ok().and_then(|host| host.state.borrow().models.get(name).cloned());
        model.map(Self).ok_or_else(|| InferenceError::new(ErrorCode::NotFound, format!("no model '{name}' is registered")))
    }

    pub(crate) fn compute(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, OutputTensor)>, InferenceError> {
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        Ok((self.0)(&inputs)?.into_iter().map(|(name, tensor)| (name, OutputTensor(tensor))).collect())
    }
}

#[derive(Debug)]
pub(crate) struct OutputTensor(Tensor);

impl OutputTensor {
    pub(crate) fn fetch(&self) -> Result<Tensor, InferenceError> {
        Ok(self.0.clone())
    }
}
