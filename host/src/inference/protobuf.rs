//! Just enough of the protobuf wire format to walk an ONNX file: fields of a message, in order, without a schema.
//!
//! Left out: groups (ONNX has none, and readers differ on them), and decoding of packed numbers beyond varints.

use super::InferenceError;

/// One field: its number and its value.
pub(super) type Field<'a> = (u32, Value<'a>);

/// A value on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// Integers, booleans, enums.
    Varint(u64),
    /// Strings, bytes, messages, packed numbers.
    Bytes(&'a [u8]),
    /// A fixed-size number, which no check here looks at.
    Fixed,
}

impl<'a> Value<'a> {
    /// The bytes of a length-delimited field.
    pub(super) fn bytes(self) -> Result<&'a [u8], InferenceError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(malformed("a number where a message or text belongs")),
        }
    }

    /// The text of a length-delimited field.
    pub(super) fn text(self) -> Result<&'a str, InferenceError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed("text that is not UTF-8"))
    }

    /// The number of a varint field.
    pub(super) fn number(self) -> Result<u64, InferenceError> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(malformed("bytes where a number belongs")),
        }
    }
}

/// Iterates over the fields of one message; ends after the first error.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<Field<'a>, InferenceError> {
        let key = varint(&mut self.rest)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number != 0).ok_or_else(|| malformed("a field number out of range"))?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = varint(&mut self.rest)?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| truncated())?)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            other => return Err(malformed(&format!("wire type {other}"))),
        };
        Ok((number, value))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], InferenceError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, InferenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Reads one varint off the front of `bytes`.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, InferenceError> {
    let mut number = 0_u64;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or_else(truncated)?;
        *bytes = rest;
        // The tenth byte holds one bit; protobuf drops what does not fit.
        number |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed("a number of more than ten bytes"))
}

fn truncated() -> InferenceError {
    malformed("it ends in the middle of a field")
}

/// The file is not what it should be; `what` was found.
pub(super) fn malformed(what: &str) -> InferenceError {
    InferenceError::InvalidEncoding(format!("not an ONNX model: {what}"))
}
