//! Addresses of objects: `file:///absolute/path` and `s3://bucket/key`, and prefixes (addresses that end with `/`).
//!
//! The grammar is narrow on purpose: a URI has one spelling only, so that a prefix check is a string comparison.
//! What an address may be used for is decided elsewhere.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Longest address, in bytes. S3 keys end at 1,024; the rest is scheme, bucket and room for file paths.
pub const MAX_URI: usize = 2048;

/// An object's address, or a prefix if it ends with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uri(String);

impl Uri {
    /// Checks `text` against the grammar: a known scheme, a bucket or an absolute path, segments that are neither empty nor
    /// `.` nor `..`, no control characters, no backslash, no `%`, `?` or `#`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fault = |why: &str| {
            let shown: String = text.chars().take(80).collect();
            Err(format!("address '{}' {why}", shown.escape_debug()))
        };
        if text.len() > MAX_URI {
            return fault(&format!("is longer than {MAX_URI} bytes"));
        }
        let path = if let Some(rest) = text.strip_prefix("file://") {
            match rest.strip_prefix('/') {
                Some(path) => path,
                None => return fault("must be file:/// and an absolute path"),
            }
        } else if let Some(rest) = text.strip_prefix("s3://") {
            let Some((bucket, key)) = rest.split_once('/') else {
                return fault("must be s3://bucket/key");
            };
            let bucket_ok = bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
            if !(3..=63).contains(&bucket.len()) || !bucket_ok || !bucket.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                return fault("names no valid bucket (3 to 63 of a-z, 0-9, '-', '.')");
            }
            key
        } else {
            return fault("must start with file:// or s3://");
        };
        if let Some(bad) = path.chars().find(|c| c.is_control() || matches!(c, '\\' | '%' | '?' | '#') || is_invisible(*c)) {
            return fault(&format!("contains {:?}", bad));
        }
        let whole = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && whole.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
            return fault("has an empty, '.' or '..' segment");
        }
        Ok(Self(text.to_owned()))
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

    /// The local path, if this is a `file:` address.
    pub fn file_path(&self) -> Option<PathBuf> {
        self.0.strip_prefix("file://").map(PathBuf::from)
    }

    /// True for `…/`.
    pub fn is_prefix(&self) -> bool {
        self.0.ends_with('/')
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
        Self::parse(&format!("{}{name}", self.as_prefix().0))
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

/// Characters that show nothing or turn the text around: they make two names look alike.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{00ad}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        for good in ["file:///a/b.png", "file:///a/b/", "s3://my-bucket/a/b", "s3://my.bucket/", "file:///"] {
            Uri::parse(good).unwrap();
        }
        for bad in [
            "",
            "a/b",
            "/a",
            "file://a/b",
            "file:///a//b",
            "file:///a/../b",
            "file:///./b",
            "s3://b/x",
            "s3://Bucket/x",
            "s3://bucket",
            "http://x/y",
            "file:///a%2e%2e/b",
            "file:///a\0b",
            "file:///a\\b",
            "s3://bucket/a?x",
            "s3://bucket/a\u{202e}b",
        ] {
            assert!(Uri::parse(bad).is_err(), "{bad:?}");
        }
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
        assert!(!a.covers(&Uri::parse("s3://bucket/tenant-ab/x").unwrap()));
    }
}
