//! What a user hands to a job: a file to work on, parameters, a folder for the outputs. Each is checked before anything starts.

use super::failure::Failure;
use crate::task::hooks::parse_object;
use crate::task::uri::Uri;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest `--params`: a message with them must stay below its own bound of 2 MiB.
const MAX_PARAMS: u64 = 2 << 20;

/// The address of the one object that `--input` grants: a path, a `file:///` address, or `s3://BUCKET/KEY`. Links are followed now, so
/// that the grant names the file itself; what lies in S3 is looked for by the task.
pub fn input(text: &str) -> Result<Uri, Failure> {
    let fault = |why: String| Failure::usage(format!("input '{text}' {why}"));
    let path = match text.split_once("://") {
        Some(("file", path)) => Path::new(path),
        Some(("s3", _)) => {
            let uri = Uri::parse(text).map_err(|e| Failure::usage(e).help("write s3://BUCKET/KEY"))?;
            let one = (!uri.is_prefix()).then_some(uri);
            return one.ok_or_else(|| fault("is a prefix".to_owned()).help("give one object, s3://BUCKET/KEY"));
        }
        Some((scheme, _)) => {
            return Err(fault(format!("has the scheme {scheme}://, which is not built in")).help("give a path, or s3://BUCKET/KEY"));
        }
        None => Path::new(text),
    };
    let path = path.canonicalize().map_err(|e| fault(format!("cannot be read: {e}")).help("check the path; quote it if it has spaces"))?;
    let meta = path.metadata().map_err(|e| fault(format!("cannot be read: {e}")))?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "is a folder" } else { "is no regular file" };
        return Err(fault(what.to_owned()).help("give one file; `submit` takes many"));
    }
    File::open(&path).map_err(|e| fault(format!("cannot be read: {e}")).help("check its permissions"))?;
    Uri::of_file(&path).map_err(|e| fault(format!("has no address: {e}")).help("rename or copy the file"))
}

/// Parameters: a JSON object, or `@FILE` that holds one (`@-`: standard input).
pub fn params(text: &str) -> Result<Map<String, Value>, Failure> {
    let example = r#"write an object such as '{"threshold": 0.3}', or @FILE"#;
    let json = match text.strip_prefix('@') {
        None => text.to_owned(),
        Some("-") => read_bounded(std::io::stdin().lock()).map_err(|e| Failure::usage(format!("--params from standard input: {e}")))?,
        Some(file) => File::open(file)
            .and_then(read_bounded)
            .map_err(|e| Failure::usage(format!("--params file '{file}' cannot be read: {e}")).help(example))?,
    };
    parse_object("--params", &json).map_err(|e| Failure::usage(e).help(example))
}

fn read_bounded(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    let size = from.take(MAX_PARAMS + 1).read_to_string(&mut text)?;
    if size as u64 > MAX_PARAMS {
        return Err(std::io::Error::other(format!(
            "more than {MAX_PARAMS} bytes; put large values in a file of their own, and name it with --input"
        )));
    }
    Ok(text)
}

/// A folder for the outputs of a job, made if need be. It must be empty: two jobs never mix. `own` is the prefix of a job
/// that is being submitted again; its own folder may hold its outputs.
pub fn output_folder(folder: &Path, own: Option<&str>) -> Result<Uri, Failure> {
    let shown = folder.display();
    let fault = |why: String| Failure::usage(format!("output folder '{shown}' {why}"));
    std::fs::create_dir_all(folder).map_err(|e| fault(format!("cannot be made: {e}")))?;
    let path = folder.canonicalize().map_err(|e| fault(format!("cannot be read: {e}")))?;
    let uri = Uri::of_folder(&path).map_err(|e| fault(format!("has no address: {e}")))?;
    if own == Some(uri.as_str()) {
        return Ok(uri);
    }
    let mut entries = std::fs::read_dir(&path).map_err(|e| fault(format!("cannot be read: {e}")))?;
    if entries.next().is_some() {
        return Err(fault("is not empty: the outputs of two jobs would mix".to_owned()).help("name a new folder, or empty this one"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_one_readable_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a b.txt");
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, folder.path().join("link")).unwrap();
        let uri = input(folder.path().join("link").to_str().unwrap()).unwrap();
        assert!(uri.as_str().starts_with("file:///") && uri.as_str().ends_with("/a b.txt"), "{uri}");
        assert_eq!(input(uri.as_str()).unwrap(), uri);
        assert_eq!(input("s3://bucket/a/b.png").unwrap().as_str(), "s3://bucket/a/b.png");
        for (bad, why) in [
            (folder.path().to_str().unwrap(), "is a folder"),
            ("no/such", "cannot be read"),
            ("gs://bucket/x", "gs://"),
            ("s3://bucket/x/", "is a prefix"),
            ("s3://x", "s3://bucket/key"),
        ] {
            let text = input(bad).unwrap_err().to_string();
            assert!(text.contains(why) && text.contains("help:"), "{text}");
        }
    }

    #[test]
    fn params_are_an_object_from_text_or_file() {
        assert_eq!(params(r#"{"a": 1}"#).unwrap()["a"], 1);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, r#"{"a": 2}"#).unwrap();
        assert_eq!(params(&format!("@{}", file.path().display())).unwrap()["a"], 2);
        for bad in ["[1]", "{", "@no/such/file"] {
            assert!(params(bad).unwrap_err().to_string().contains("help:"), "{bad}");
        }
        std::fs::write(&file, vec![b' '; (2 << 20) + 1]).unwrap();
        assert!(params(&format!("@{}", file.path().display())).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn two_jobs_never_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new/out");
        let uri = output_folder(&out, None).unwrap();
        assert!(uri.is_prefix());
        std::fs::write(out.join("result.json"), "1").unwrap();
        assert!(output_folder(&out, None).unwrap_err().to_string().contains("not empty"));
        assert_eq!(output_folder(&out, Some(uri.as_str())).unwrap(), uri);
    }
}
