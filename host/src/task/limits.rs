//! Every bound a guest runs under, with its default.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounds of one step's tasks. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory of an instance, all memories together.
    pub memory: u64,
    /// Wall time of `process` and `publish-next` together; also of `load-pipeline` and start-up, counted apart.
    pub wall: Duration,
    /// How long a guest may go on after it was asked to cancel.
    pub cancel_grace: Duration,
    /// Largest inline payload, in or out.
    pub payload: u64,
    /// Largest object that `storage.read` returns whole.
    pub read: u64,
    /// All bytes a task may write.
    pub output: u64,
    /// All files a task may write.
    pub files: u32,
    /// Children of one fan-out.
    pub children: u32,
    /// Steps from the root task to its furthest descendant.
    pub hops: u32,
    /// Log bytes kept of one attempt; the rest is counted and dropped.
    pub log: u64,
    /// Bytes of tensors an instance may hold at once.
    pub tensors: u64,
    /// Host resources (tensors, graphs, readers, ...) an instance may hold at once.
    pub resources: u32,
    /// Tasks an instance serves before it is replaced.
    pub recycle_after: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            wall: Duration::from_secs(60),
            cancel_grace: Duration::from_secs(10),
            payload: 1 << 20,
            read: 50 << 20,
            output: 1 << 30,
            files: 10_000,
            children: 10_000,
            hops: 32,
            log: 64 << 10,
            tensors: 512 << 20,
            resources: 10_000,
            recycle_after: 10_000,
        }
    }
}

/// Longest error text kept of a guest, in bytes; the rest is cut.
pub const MAX_ERROR_TEXT: usize = 4 << 10;

/// `text` cut to at most `max` bytes at a character boundary, with `…` where something was cut.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äöüß", 6), "ä…");
        assert_eq!(cut("", 0), "");
        assert_eq!(cut("abcdef", 5), "ab…");
    }
}
