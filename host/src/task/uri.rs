//! Addresses of objects: `file:///absolute/path` and `s3://bucket/key`, and prefixes (addresses that end with `/`).
//!
//! The grammar is narrow on purpose: a URI has one spelling only, so that a prefix check is a string comparison.
//! What an address may be used for is decided elsewhere.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Longest address, in bytes. S3 keys end at 1,024; the rest is scheme, bucket and room for file paths.
pub const MAX_URI: usize = 2048;

/// Longest key in a bucket, in bytes: S3's own bound.
pub const MAX_KEY: usize = 1024;

/// Longest segment of a file's path, in bytes: what file systems take as one name.
pub const MAX_SEGMENT: usize = 255;

/// An object's address, or a prefix if it ends with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uri(String);

impl Uri {
    /// Checks `text` against the grammar: a known scheme, a bucket or an absolute path, segments that are neither empty nor
    /// `.` nor `..`, whichever dots and slashes they are written with, no control characters, no backslash, no `%`, `?` or `#`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::checked(text.to_owned())
    }

    fn checked(text: String) -> Result<Self, String> {
        match fault_of(&text) {
            None => Ok(Self(text)),
            Some(why) => Err(format!("address '{}' {why}", shown(&text))),
        }
    }

    /// The root of the local file system, as a prefix.
    pub fn root() -> Self {
        Self("file:///".to_owned())
    }

    /// The address of a local file. The path must be absolute and UTF-8; `.` and `..` in it are resolved by their text alone.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let path = plain(path);
        let text = path.to_str().ok_or_else(|| format!("path {} is not UTF-8", path.display()))?;
        Self::parse(&format!("file://{text}"))
    }

    /// The address of a local folder, as a prefix.
    pub fn of_folder(path: &Path) -> Result<Self, String> {
        let path = plain(path);
        let text = path.to_str().ok_or_else(|| format!("path {} is not UTF-8", path.display()))?;
        Self::parse(&format!("file://{}/", text.trim_end_matches('/')))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as an error shows it: no more than its first 80 characters.
    pub fn shown(&self) -> impl fmt::Display + '_ {
        shown(&self.0)
    }

    /// The local path, if this is a `file:` address.
    pub fn file_path(&self) -> Option<PathBuf> {
        self.0.strip_prefix("file://").map(PathBuf::from)
    }

    /// `file` or `s3`.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// Bucket and key, if this is an `s3:` address; the key of a whole bucket is empty.
    pub fn bucket_and_key(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix("s3://")?.split_once('/')
    }

    /// True for `…/`.
    pub fn is_prefix(&self) -> bool {
        self.0.ends_with('/')
    }

    /// How many bytes a name below this prefix may have, for its address to be one.
    pub fn room(&self) -> usize {
        let prefix = self.as_prefix();
        let key = prefix.0.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).map(|(_, key)| key.len());
        key.map_or(MAX_URI.saturating_sub(prefix.0.len()), |key| MAX_KEY.saturating_sub(key))
    }

    /// This address as a prefix.
    pub fn as_prefix(&self) -> Self {
        if self.is_prefix() { self.clone() } else { Self(format!("{}/", self.0)) }
    }

    /// Whether `other` lies at or below this address.
    pub fn covers(&self, other: &Uri) -> bool {
        if self.is_prefix() { other.0.starts_with(&self.0) } else { self.0 == other.0 }
    }

    /// The address of `name` below this prefix. `name` must already be a checked relative name.
    pub fn join(&self, name: &str) -> Result<Self, String> {
        let slash = if self.is_prefix() { "" } else { "/" };
        Self::checked([self.as_str(), slash, name].concat())
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn shown(text: &str) -> impl fmt::Display + '_ {
    let end = text.char_indices().nth(80).map_or(text.len(), |(end, _)| end);
    text.get(..end).unwrap_or(text).escape_debug()
}

/// What keeps a text from being an address.
fn fault_of(text: &str) -> Option<String> {
    if text.len() > MAX_URI {
        return Some(format!("is longer than {MAX_URI} bytes"));
    }
    let (path, longest) = if let Some(rest) = text.strip_prefix("file://") {
        let Some(path) = rest.strip_prefix('/') else { return Some("must be file:/// and an absolute path".to_owned()) };
        (path, MAX_SEGMENT)
    } else if let Some(rest) = text.strip_prefix("s3://") {
        let Some((bucket, key)) = rest.split_once('/') else { return Some("must be s3://bucket/key".to_owned()) };
        if !is_bucket(bucket) {
            return Some(
                "names no valid bucket (3 to 63 of a-z, 0-9, '-' and single '.', beginning and ending with a letter or digit, no IP address)"
                    .to_owned(),
            );
        }
        if key.len() > MAX_KEY {
            return Some(format!("has a key of more than {MAX_KEY} bytes"));
        }
        (key, MAX_KEY)
    } else {
        return Some("must start with file:// or s3://".to_owned());
    };
    if let Some(bad) = path.chars().find(|c| c.is_control() || matches!(c, '\\' | '%' | '?' | '#') || is_invisible(*c)) {
        return Some(format!("contains {bad:?}"));
    }
    let whole = path.strip_suffix('/').unwrap_or(path);
    let fault_of_segment = |segment: &str| match segment {
        "" | "." | ".." => Some("has an empty, '.' or '..' segment".to_owned()),
        long if long.len() > longest => Some(format!("has a segment of more than {longest} bytes")),
        _ => None,
    };
    if !path.is_empty()
        && let Some(fault) = whole.split('/').find_map(fault_of_segment)
    {
        return Some(fault);
    }
    // Systems that fold look-alikes into the plain characters must not see a path that climbs.
    let climbs = !path.is_ascii() && folded(path).split('/').any(|s| s == "." || s == "..");
    climbs.then(|| "has a segment that looks like '.' or '..'".to_owned())
}

/// The names that S3 takes for a bucket.
fn is_bucket(name: &str) -> bool {
    let is_end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && is_end(name.bytes().next())
        && is_end(name.bytes().last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

/// The text with look-alikes of dots and slashes as the plain ones.
fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2024}' | '\u{3002}' | '\u{fe52}' | '\u{ff0e}' | '\u{ff61}' => folded.push('.'),
            '\u{2025}' | '\u{fe30}' => folded.push_str(".."),
            '\u{2044}' | '\u{2215}' | '\u{29f8}' | '\u{ff0f}' => folded.push('/'),
            c => folded.push(c),
        }
    }
    folded
}

/// Whether a text has look-alikes of `.` or `/`.
pub fn has_look_alike(text: &str) -> bool {
    !text.is_ascii() && folded(text) != text
}

/// A path without `.` and `..`. Paths come here from people and their files, never from guests or messages.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Characters that show nothing, break the line or turn the text around: they make two names look alike.
pub fn is_invisible(c: char) -> bool {
    !c.is_ascii()
        && matches!(c,
        '\u{00ad}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_spelling_only() {
        let (key, segment) = (format!("s3://bucket/{}", "k".repeat(MAX_KEY)), format!("file:///{}", "s".repeat(MAX_SEGMENT)));
        let good = [
            "file:///a/b.png",
            "file:///a/b/",
            "s3://my-bucket/a/b",
            "s3://my.bucket/",
            "file:///",
            "file:///a b+c=d&e@f:g",
            "file:///…",
            "file:///a/...",
            "file:///報告／最終。.png",
            &key,
            &segment,
        ];
        for good in good {
            Uri::parse(good).unwrap();
        }
        let (long_key, long_segment) = (format!("{key}k"), format!("file:///a/{}/b", "s".repeat(MAX_SEGMENT + 1)));
        let long = format!("file://{}", "/aaaaaaa".repeat(256));
        let bad = [
            "",
            "a/b",
            "/a",
            "file://a/b",
            "file:/a",
            "FILE:///a",
            "file:///a//b",
            "file:////a",
            "file:///a/../b",
            "file:///..",
            "file:///./b",
            "file:///a/..",
            "file:///a/./",
            "s3://b/x",
            "s3://Bucket/x",
            "s3://bucket",
            "s3:///x",
            "s3://-bucket/x",
            "s3://bucket-/x",
            "s3://buc..ket/x",
            "s3://.bucket/x",
            "s3://bucket./x",
            "s3://169.254.169.254/x",
            "s3://buck_et/x",
            "s3://user@bucket/x",
            "s3://bucket:80/x",
            "s3://bucket//x",
            "s3://bucket/a/../x",
            "s3://bucket/../other/x",
            "s3://büro/x",
            "http://x/y",
            "https://x/y",
            "http://169.254.169.254/latest/meta-data/",
            "ftp://x/y",
            "data:,x",
            "file:///a%2e%2e/b",
            "file:///%2e%2e/b",
            "s3://bucket/%00",
            "file:///a\0b",
            "file:///a\nb",
            "file:///a\u{7f}b",
            "file:///a\u{85}b",
            "file:///a\\b",
            "file:///a/..\\b",
            "s3://bucket/a?x",
            "s3://bucket/a#x",
            "s3://bucket/a\u{202e}b",
            "s3://bucket/a\u{200b}b",
            "s3://bucket/a\u{2028}b",
            "s3://bucket/a\u{e0041}b",
            "file:///a/\u{ff0e}\u{ff0e}/b",
            "file:///a/\u{2025}/b",
            "file:///a/.\u{2024}/b",
            "file:///a\u{ff0f}..\u{ff0f}b",
            "file:///a\u{2215}\u{fe52}\u{fe52}\u{2215}b",
            "file:///\u{3002}/b",
            &long_key,
            &long_segment,
            &long,
        ];
        for bad in bad {
            assert!(Uri::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_in_parts() {
        let parts =
            |text: &str| Uri::parse(text).map(|uri| (uri.scheme().to_owned(), uri.bucket_and_key().map(|(b, k)| format!("{b}|{k}"))));
        assert_eq!(parts("s3://my-bucket/a/b c").unwrap(), ("s3".into(), Some("my-bucket|a/b c".into())));
        assert_eq!(parts("s3://my-bucket/").unwrap(), ("s3".into(), Some("my-bucket|".into())));
        assert_eq!(parts("file:///a/b").unwrap(), ("file".into(), None));
    }

    #[test]
    fn paths_of_people_may_climb() {
        assert_eq!(Uri::of_file(Path::new("/a/b/../c/./d.png")).unwrap().as_str(), "file:///a/c/d.png");
        assert_eq!(Uri::of_folder(Path::new("/a/b/..")).unwrap().as_str(), "file:///a/");
    }

    #[test]
    fn a_prefix_does_not_cover_its_namesake() {
        let a = Uri::parse("s3://bucket/tenant-a/").unwrap();
        assert!(a.covers(&Uri::parse("s3://bucket/tenant-a/x").unwrap()));
        for other in ["s3://bucket/tenant-ab/x", "s3://bucket/tenant-a", "s3://bucket2/tenant-a/x", "file:///bucket/tenant-a/x"] {
            assert!(!a.covers(&Uri::parse(other).unwrap()), "{other}");
        }
    }

    /// Texts made of the pieces that matter, so that many of them nearly are addresses.
    fn nearly() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "//", ".", "..", "a", "b", "tenant", "x.png", "-", "%2e", "\0", "\\", "?", "\u{ff0e}", "\u{ff0f}", "\u{202e}", "é", " ",
            "s3://",
        ]);
        let head = prop::sample::select(vec!["file:///", "file://", "s3://bucket/", "s3://bucket", "s3://b/", "http://x/", ""]);
        (head, prop::collection::vec(piece, 0..8)).prop_map(|(head, rest)| format!("{head}{}", rest.concat()))
    }

    fn address() -> impl Strategy<Value = Uri> {
        let segment = prop::sample::select(vec!["a", "ab", "b", "tenant", "...", "é"]);
        let head = prop::sample::select(vec!["file:///", "s3://bucket/", "s3://bucket2/"]);
        (head, prop::collection::vec(segment, 0..4), any::<bool>()).prop_filter_map("no address", |(head, way, folder)| {
            let end = if folder && !way.is_empty() { "/" } else { "" };
            Uri::parse(&format!("{head}{}{end}", way.join("/"))).ok()
        })
    }

    proptest! {
        #[test]
        fn an_address_is_its_text(text in prop_oneof![nearly(), ".*"]) {
            if let Ok(uri) = Uri::parse(&text) {
                prop_assert_eq!(uri.as_str(), &text);
                prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri.clone()));
                prop_assert!(!text.contains("/../") && !text.ends_with("/..") && !text.contains('%'));
                if let Some(path) = uri.file_path() {
                    prop_assert!(path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))), "{:?}", path);
                }
            }
        }

        #[test]
        fn to_cover_is_a_partial_order(a in address(), b in address(), c in address()) {
            prop_assert!(a.covers(&a));
            prop_assert!(!(a.covers(&b) && b.covers(&a)) || a == b);
            prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
        }

        #[test]
        fn what_is_joined_stays_below(base in address(), name in prop_oneof![nearly(), ".*"]) {
            if let Ok(joined) = base.join(&name) {
                prop_assert!(base.as_prefix().covers(&joined));
                prop_assert_eq!(joined.as_str().strip_prefix(base.as_prefix().as_str()), Some(name.as_str()));
            }
        }
    }
}
