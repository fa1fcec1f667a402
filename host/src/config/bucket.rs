//! Where objects lie, as people write it: a bucket's name, an address, or a path.

use super::section::Section;
use crate::task::uri::Uri;
use serde_json::Value as Json;
use std::path::Path;

/// What is expected where a place of objects is named.
const EXPECTED: &str = "expected the name of a bucket, s3://NAME/PREFIX, file:///PATH, or a path that starts with / or .";

/// A prefix. A bare name is a bucket's: what is meant as a path starts with `/` or `.`.
pub(super) fn place(text: &str) -> Result<Uri, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        if !matches!(scheme, "file" | "s3") {
            return Err(format!("scheme '{scheme}' is none of objects; {EXPECTED}"));
        }
        // The slash at the end may be left out.
        let slash = if rest.ends_with('/') { "" } else { "/" };
        return Uri::parse(&format!("{text}{slash}"));
    }
    if text.starts_with(['/', '.']) {
        return std::path::absolute(text).map_err(|e| e.to_string()).and_then(|path| Uri::of_folder(&path));
    }
    if text.contains('/') {
        return Err(format!("is it a path, ./{text}, or a prefix of a bucket, s3://{text}? {EXPECTED}"));
    }
    Uri::parse(&format!("s3://{text}/")).map_err(|e| format!("{e}; {EXPECTED}"))
}

/// Reads `storage.bucket`; by default it is a folder in the data directory.
pub(super) fn read(section: &mut Section<'_>, data_dir: &Path) -> Uri {
    let default = Uri::of_folder(&data_dir.join("objects"));
    let text = section.text("bucket");
    let placed = text.as_deref().map(place);
    if let Some(Err(e)) = &placed {
        section.fault("bucket", text.as_deref().unwrap_or_default(), e.as_str());
    } else if let (None, Err(e)) = (&placed, &default) {
        section.fault("bucket", "", format!("none is set, and there can be none in data_dir: {e}"));
    }
    // Where a problem was reported, the whole is refused, and this is never used.
    let default = default.unwrap_or_else(|_| Uri::root());
    section.settle("bucket", placed.and_then(Result::ok), default, |uri| Json::from(uri.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_bucket_and_a_path_says_so() {
        let place = |text| place(text).map(|uri| uri.as_str().to_owned());
        for (text, uri) in [
            ("pages", "s3://pages/"),
            ("my.bucket-1", "s3://my.bucket-1/"),
            ("s3://pages", "s3://pages/"),
            ("s3://pages/a/b", "s3://pages/a/b/"),
            ("s3://pages/a/", "s3://pages/a/"),
            ("file:///srv/out", "file:///srv/out/"),
            ("/srv/out", "file:///srv/out/"),
            ("/srv/out/", "file:///srv/out/"),
        ] {
            assert_eq!(place(text).as_deref(), Ok(uri));
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(place("./out").unwrap(), format!("file://{}/out/", here.display()));
        assert_eq!(place(".").unwrap(), format!("file://{}/", here.display()));
        for (text, part) in [
            ("out/here", "./out/here"),
            ("gs://pages", "scheme 'gs'"),
            ("Pages", "names no valid bucket"),
            ("file://srv", "absolute path"),
            ("", "names no valid bucket"),
        ] {
            assert!(place(text).unwrap_err().contains(part), "{text}: {:?}", place(text));
        }
    }
}
