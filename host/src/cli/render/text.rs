//! Text from guests and messages, made safe for a terminal, and shortened.

use crate::task::limits::cut;
use crate::task::uri::is_invisible;

/// Text without anything that a terminal would obey: controls (newline and tab stay) and direction marks are escaped.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() && c != '\n' && c != '\t') || is_invisible(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The same on one line of at most `max` bytes.
pub fn line(text: &str, max: usize) -> String {
    cut(&plain(text).split_whitespace().collect::<Vec<_>>().join(" "), max)
}

/// A task id as lists show it: twelve digits of a derived id, which the commands accept; other ids whole.
pub fn short_id(id: &str) -> &str {
    let derived = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if derived { id.get(..12).unwrap_or(id) } else { id }
}

/// `1 task`, `2 tasks`.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc\u{202e}"), "a\\u{1b}[31mb\nc\\u{202e}");
        assert_eq!(line("a\n  b\tc", 80), "a b c");
        assert_eq!(line("abcdefgh", 6), "abc…");
    }

    #[test]
    fn derived_ids_are_short() {
        assert_eq!(short_id(&"ab".repeat(32)), "abababababab");
        assert_eq!(short_id("my-task"), "my-task");
        assert_eq!((count(1, "task"), count(0, "task"), size(1536)), ("1 task".into(), "0 tasks".into(), "1.5 KiB".into()));
    }
}
