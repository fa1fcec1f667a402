//! What an entry of a stream says, and what names a delivery of it. No Redis here.

use crate::queue::QueueError;

/// The field that holds a message.
const BODY: &[u8] = b"body";

/// The message of an entry: its field `body`, or its only field, whatever that is called. An entry of another shape is no message; it
/// comes out as a JSON array of its fields, which becomes a dead letter that shows what was there.
pub(super) fn body(fields: Vec<Vec<u8>>) -> Vec<u8> {
    let named = fields.iter().step_by(2).position(|name| name == BODY).map(|pair| pair * 2 + 1);
    let at = if fields.len() == 2 { Some(1) } else { named };
    if let Some(at) = at.filter(|at| *at < fields.len()) {
        return fields.into_iter().nth(at).unwrap_or_default();
    }
    let texts: Vec<_> = fields.iter().map(|field| String::from_utf8_lossy(field)).collect();
    serde_json::to_vec(&texts).unwrap_or_default()
}

/// One delivery: the entry, and how often it had been delivered then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receipt<'a> {
    pub id: &'a str,
    pub deliveries: u32,
}

impl<'a> Receipt<'a> {
    /// Of a receipt as [`Receipt::to_string`] writes it. Another text names no delivery.
    pub fn parse(text: &'a str) -> Result<Self, QueueError> {
        let read = || {
            let (id, deliveries) = text.split_once('/')?;
            let (time, sequence) = id.split_once('-')?;
            let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u64>().is_ok();
            let deliveries = deliveries.parse().ok()?;
            (is_number(time) && is_number(sequence)).then_some(Self { id, deliveries })
        };
        read().ok_or_else(|| stale(text))
    }
}

impl std::fmt::Display for Receipt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.id, self.deliveries)
    }
}

/// The answer to a receipt whose message was delivered again, or is gone.
pub(super) fn stale(receipt: &str) -> QueueError {
    QueueError::NotFound(format!("delivery '{receipt}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_bytes() {
        let cases: [(&[&[u8]], &[u8]); 6] = [
            (&[b"body", b"{}"], b"{}"),
            (&[b"message", b"{}"], b"{}"),
            (&[b"due", b"{}"], b"{}"),
            (&[b"trace", b"x", b"body", b"\xff"], b"\xff"),
            (&[b"a", b"1", b"b", b"\xff"], "[\"a\",\"1\",\"b\",\"\u{fffd}\"]".as_bytes()),
            (&[], b"[]"),
        ];
        for (fields, wanted) in cases {
            assert_eq!(body(fields.iter().map(|field| field.to_vec()).collect()), wanted);
        }
    }

    #[test]
    fn a_receipt_is_read_as_it_is_written() {
        let receipt = Receipt { id: "1700000000000-3", deliveries: 2 };
        assert_eq!(Receipt::parse(&receipt.to_string()), Ok(receipt));
        for text in ["", "x", "1-1", "1-1/", "1-1/x", "1/1", "1-/1", "-1/1", "1-+1/1", "1-1/-1", "99999999999999999999-1/1", "1-1-1/1"] {
            assert!(matches!(Receipt::parse(text), Err(QueueError::NotFound(_))), "{text}");
        }
    }
}
