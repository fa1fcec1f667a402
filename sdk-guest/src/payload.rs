//! A small value that crosses the boundary by copy. Larger ones go through [`storage`](crate::storage).

use crate::error::Error;
use crate::json;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// At most 1 MiB; the host refuses more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// JSON text; as a result it becomes `result.json`.
    Json(String),
    /// Anything else; as a result it becomes `result.<extension of the content type>`.
    Body {
        /// RFC 6838 media type, such as `image/png`.
        content_type: String,
        /// The bytes themselves.
        bytes: Vec<u8>,
    },
}

impl Payload {
    /// A value as JSON. Fails where the value has no JSON form, such as a map with keys that are not text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        json::encode(value).map(Self::Json)
    }

    /// Bytes with their media type.
    pub fn body(content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self::Body { content_type: content_type.into(), bytes: bytes.into() }
    }

    /// Reads a JSON payload as a `T`. Invalid, with a pointer, where it does not fit or is no JSON payload.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match self {
            Self::Json(text) => json::decode("payload", text),
            Self::Body { content_type, .. } => Err(Error::invalid("", format!("payload: expected JSON, found {content_type}"))),
        }
    }

    /// The bytes, whichever kind it is.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Json(text) => text.as_bytes(),
            Self::Body { bytes, .. } => bytes,
        }
    }

    /// Its media type.
    pub fn content_type(&self) -> &str {
        match self {
            Self::Json(_) => "application/json",
            Self::Body { content_type, .. } => content_type,
        }
    }
}
