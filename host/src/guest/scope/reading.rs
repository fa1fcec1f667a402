//! What a run may read, and reading it: grants, the task's own outputs, and the inputs of a `then` task.

use super::{Failure, Scope, StagedOutput, locked};
use crate::object_store::{ObjectError, ObjectReader};
use crate::task::accept::Accept;
use crate::task::hooks::{Input, Payload};
use crate::task::media::HEAD;
use crate::task::outputs::Place;
use crate::task::uri::Uri;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most inputs handed over in one page, so that one call stays small.
pub const INPUT_PAGE: u32 = 256;

impl Scope {
    /// Whether the guest may read `uri`, or give it to a child, as far as grants and its own outputs go.
    pub fn grants_read(&self, uri: &Uri) -> bool {
        self.grants.read.iter().any(|granted| granted.covers(uri)) || self.own_output(uri).is_some() || self.is_listed_input(uri)
    }

    fn is_listed_input(&self, uri: &Uri) -> bool {
        locked(&self.inputs_read).as_ref().is_some_and(|known| known.contains(uri))
    }

    async fn readable(&self, text: &str) -> Result<Uri, Failure> {
        self.check()?;
        let uri = Uri::parse(text).map_err(|e| Failure::new("invalid", e))?;
        if self.grants_read(&uri) {
            return Ok(uri);
        }
        self.list_inputs().await?;
        if self.is_listed_input(&uri) {
            return Ok(uri);
        }
        Err(Failure::new(
            "denied",
            format!("'{uri}' is neither the task's input, an output of its inputs, granted to the step, nor its own output"),
        ))
    }

    /// Learns the addresses of all outputs of the task's inputs, once: they are readable, and may be given to children.
    pub async fn list_inputs(&self) -> Result<(), Failure> {
        if self.input_count == 0 || locked(&self.inputs_read).is_some() {
            return Ok(());
        }
        let mut known = BTreeSet::new();
        let mut offset = 0;
        loop {
            let page = self.inputs(offset, INPUT_PAGE).await?;
            for input in &page {
                let prefix = Uri::parse(&input.output_prefix).map_err(|e| Failure::new("invalid", e))?;
                known.extend(input.outputs.iter().filter_map(|o| prefix.join(&o.name).ok()));
            }
            offset += page.len() as u32;
            if page.len() < INPUT_PAGE as usize {
                break;
            }
        }
        *locked(&self.inputs_read) = Some(Arc::new(known));
        Ok(())
    }

    /// The whole object, up to `limits.read`.
    pub async fn read(&self, text: &str) -> Result<Vec<u8>, Failure> {
        let uri = self.readable(text).await?;
        let at = match self.own_output(&uri) {
            Some(StagedOutput { place: Place::Inline(bytes), .. }) => return Ok(bytes),
            Some(StagedOutput { place: Place::Staged(name), .. }) => self.staged_uri(&name)?,
            _ => uri,
        };
        let bytes = self.services()?.objects.get(&at, self.limits.read).await?;
        self.check()?;
        self.confirm(&at, bytes.get(..HEAD).unwrap_or(&bytes))?;
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Opens an object for reading piece by piece.
    pub async fn open(&self, text: &str) -> Result<Box<dyn ObjectReader>, Failure> {
        let uri = self.readable(text).await?;
        let at = match self.own_output(&uri) {
            Some(StagedOutput { place: Place::Staged(name), .. }) => self.staged_uri(&name)?,
            Some(StagedOutput { place: Place::Inline(bytes), .. }) => return Ok(Box::new(InlineReader { bytes, at: 0 })),
            _ => uri,
        };
        let reader = self.services()?.objects.open(&at).await?;
        if self.to_confirm(&at).is_none() {
            return Ok(reader);
        }
        let (head, rest) = split_head(reader).await?;
        self.confirm(&at, &head)?;
        Ok(Box::new(Reread { head: InlineReader { bytes: head, at: 0 }, rest }))
    }

    fn to_confirm(&self, uri: &Uri) -> Option<&Accept> {
        self.grants.confirm.as_ref().filter(|(input, accept)| input == uri && !accept.is_any()).map(|(_, accept)| accept)
    }

    /// Whether an object that begins so is what its name says, where it is the task's input and the step takes only some kinds.
    fn confirm(&self, uri: &Uri, head: &[u8]) -> Result<(), Failure> {
        let Some(accept) = self.to_confirm(uri) else { return Ok(()) };
        accept.check_head(uri.file_name(), head).map_err(|why| Failure::new("invalid", format!("'{uri}' {why}")))
    }

    /// Counts bytes read through an opened reader.
    pub fn count_read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A page of the inputs of a `then` task.
    pub async fn inputs(&self, offset: u32, limit: u32) -> Result<Vec<Input>, Failure> {
        self.check()?;
        if offset >= self.input_count {
            return Ok(Vec::new());
        }
        let page = self.services()?.tasks.inputs(self.key.clone(), offset, limit.min(INPUT_PAGE)).await;
        page.map_err(|e| Failure { code: "unavailable", message: e.to_string(), retryable: true })
    }

    /// The payload an input returned, read from where it was committed; at most `limits.payload` bytes.
    pub async fn input_payload(&self, input: &Input) -> Result<Option<Payload>, Failure> {
        self.check()?;
        let Some(entry) = input.outputs.iter().find(|e| e.name.starts_with("result.") && !e.name.contains('/')) else {
            return Ok(None);
        };
        let uri = Uri::parse(&input.output_prefix).and_then(|p| p.join(&entry.name)).map_err(|e| Failure::new("invalid", e))?;
        let bytes = match &entry.place {
            Place::Inline(bytes) => bytes.clone(),
            _ => self.services()?.objects.get(&uri, self.limits.payload).await?,
        };
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if entry.content_type == "application/json" {
            let text = String::from_utf8(bytes).map_err(|_| Failure::new("invalid", format!("{uri} is not UTF-8")))?;
            return Ok(Some(Payload::Json(text)));
        }
        Ok(Some(Payload::Body { content_type: entry.content_type.clone(), bytes }))
    }

    /// A secret granted to the step.
    pub fn secret(&self, name: &str) -> Option<String> {
        self.check().ok().and_then(|()| self.grants.secrets.get(name).cloned())
    }
}

/// An output of this very task, read back before it was staged.
struct InlineReader {
    bytes: Vec<u8>,
    at: usize,
}

#[async_trait::async_trait]
impl ObjectReader for InlineReader {
    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError> {
        let piece = self.bytes.iter().skip(self.at).take(max).copied().collect::<Vec<u8>>();
        self.at += piece.len();
        Ok(piece)
    }
}

/// The first [`HEAD`] bytes of what a reader reads, or all, and the reader of the rest.
async fn split_head(mut reader: Box<dyn ObjectReader>) -> Result<(Vec<u8>, Box<dyn ObjectReader>), ObjectError> {
    let mut head = Vec::new();
    while head.len() < HEAD {
        let piece = reader.read(HEAD - head.len()).await?;
        if piece.is_empty() {
            break;
        }
        head.extend(piece);
    }
    Ok((head, reader))
}

/// An object whose first bytes were looked at already.
struct Reread {
    head: InlineReader,
    rest: Box<dyn ObjectReader>,
}

#[async_trait::async_trait]
impl ObjectReader for Reread {
    fn size(&self) -> Option<u64> {
        self.rest.size()
    }

    async fn read(&mut self, max: usize) -> Result<Vec<u8>, ObjectError> {
        let piece = self.head.read(max).await?;
        if piece.is_empty() { self.rest.read(max).await } else { Ok(piece) }
    }
}
