//! Typed JSON at the boundary: a value that does not fit becomes an `invalid` error that points at the place.

use crate::error::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

/// Reads `text` as a `T`; `what` names it in the message.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    // The path is tracked only in a second reading: good input, the common case, does not pay for it.
    let plain = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let mut source = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut source) {
        Ok(_) => Err(Error::invalid("", format!("{what}: {plain}"))),
        Err(error) => Err(Error::invalid(pointer(error.path()), format!("{what}: {}", error.inner()))),
    }
}

/// JSON text of a value.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    Ok(serde_json::to_string(value)?)
}

/// RFC 6901. Enum names and unknown places are no part of the JSON text, so they add nothing.
fn pointer(path: &Path) -> String {
    let mut text = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                text.push('/');
                text.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}
