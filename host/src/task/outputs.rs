//! What a task leaves: names of outputs, content types, and the manifest that a commit fixes.

use super::id;
pub use super::media::{content_type_of, extension_of};
use super::uri::{MAX_SEGMENT, has_look_alike, is_invisible};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest output name, in bytes: an S3 key holds 1,024, and the prefix needs room too.
pub const MAX_NAME: usize = 512;

/// Outputs up to this size ride inside the commit; larger ones are staged first.
pub const INLINE_OUTPUT: usize = 64 << 10;

/// The name under which the host's own figures are written, last of all.
pub const METRICS_NAME: &str = "metrics.json";

/// Checks the name of an output: relative, `/`-separated, each segment visible text that is neither `.` nor `..`.
/// `reserved` are first segments the task may not use (step names, where the task owns the job's prefix).
pub fn check_name(name: &str, reserved: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let fault = |why: &str| {
        let shown: String = name.chars().take(80).collect();
        Err(format!("output name '{}' {why}", shown.escape_debug()))
    };
    if name.is_empty() || name.len() > MAX_NAME {
        return fault(&format!("must have 1 to {MAX_NAME} bytes"));
    }
    if let Some(bad) = name.chars().find(|c| c.is_control() || is_invisible(*c) || matches!(c, '\\' | '%' | '?' | '#' | ':')) {
        return fault(&format!("contains {bad:?}"));
    }
    // Unlike in an address, anywhere: the name is new, and nobody has to call a file so.
    if has_look_alike(name) {
        return fault("contains a look-alike of '.' or '/'");
    }
    for segment in name.split('/') {
        if segment.len() > MAX_SEGMENT {
            return fault(&format!("has a segment of more than {MAX_SEGMENT} bytes"));
        }
        if segment.is_empty() || segment == "." || segment == ".." || segment.ends_with([' ', '.']) || segment.starts_with(' ') {
            return fault("has a segment that is empty, '.', '..', or starts or ends with a space or dot");
        }
    }
    let first = name.split('/').next().unwrap_or_default();
    if first.starts_with('_') || reserved(first) {
        return fault("starts with a segment kept for the host ('_…' or the name of a step)");
    }
    let first = first.to_ascii_lowercase();
    if first == METRICS_NAME || first.starts_with("result.") {
        return fault("is written by the host itself (return a payload or metrics from process)");
    }
    Ok(())
}

/// Where the bytes of an output are until it has its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the manifest itself, base64.
    Inline(#[serde(with = "base64_bytes")] Vec<u8>),
    /// Staged below the attempt's folder, under this name.
    Staged(String),
    /// Under its final name.
    Final,
}

/// One output of a committed task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Name below the task's output prefix.
    pub name: String,
    /// Media type.
    pub content_type: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Where the bytes are.
    pub place: Place,
}

impl ManifestEntry {
    /// An entry whose bytes ride inside the commit.
    pub fn inline(name: impl Into<String>, content_type: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            content_type: content_type.into(),
            size: bytes.len() as u64,
            sha256: id::sha256(&bytes),
            place: Place::Inline(bytes),
        }
    }
}

/// The outputs that a commit fixed, in the order in which they take their names; `metrics.json` is last.
/// Only the committed epoch has one, so whoever finalises writes the same bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The attempt folder (`_attempts/<epoch>-<owner>/`) that staged entries lie in.
    pub folder: String,
    /// The outputs.
    pub entries: Vec<ManifestEntry>,
}

impl Manifest {
    /// True when finalising has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry that holds the payload which `process` returned.
    pub fn result(&self) -> Option<&ManifestEntry> {
        self.entries.iter().find(|e| e.name.starts_with("result.") && !e.name.contains('/'))
    }

    /// The manifest as it is kept once every output has its name.
    pub fn finalised(&self) -> Self {
        let mut kept = self.clone();
        for entry in &mut kept.entries {
            entry.place = Place::Final;
        }
        kept
    }
}

/// What the host measured of one run; becomes `metrics.json`, and stays in the row where a task has no files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Wall time of `process` and `publish-next`, milliseconds.
    pub latency_ms: f64,
    /// Processor time of the guest itself, milliseconds; inference is not in it.
    pub cpu_ms: f64,
    /// Wall time of model runs, milliseconds.
    pub inference_ms: f64,
    /// Largest linear memory of the instance so far, bytes.
    pub peak_memory: u64,
    /// Graphics memory of the models used, GiB; 0 on the processor.
    pub gpu_mem_gb: f64,
    /// Bytes read through `storage`.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// From ready to claimed, milliseconds.
    pub queue_wait_ms: f64,
}

/// Who ran what: the identifying part of `metrics.json`.
#[derive(Debug, Clone)]
pub struct RunIdentity<'a> {
    /// The job.
    pub job_id: &'a str,
    /// The task.
    pub task_id: &'a str,
    /// The step.
    pub step: &'a str,
    /// Digest of the guest.
    pub release: &'a str,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Hash of the message.
    pub payload_hash: &'a str,
}

/// Renders `metrics.json`: the host's keys, and the guest's own object under `guest`.
pub fn render_metrics(who: &RunIdentity<'_>, figures: &Figures, guest: Option<&Value>) -> Vec<u8> {
    let mut metrics = json!({
        "job_id": who.job_id,
        "task_id": who.task_id,
        "step": who.step,
        "attempt": who.attempt,
        "release": who.release,
        "payload_hash": who.payload_hash,
        "latency_ms": figures.latency_ms,
        "cpu_ms": figures.cpu_ms,
        "inference_ms": figures.inference_ms,
        "peak_memory": figures.peak_memory,
        "gpu_mem_gb": figures.gpu_mem_gb,
        "read_bytes": figures.read_bytes,
        "written_bytes": figures.written_bytes,
        "queue_wait_ms": figures.queue_wait_ms,
    });
    if let (Some(guest), Some(object)) = (guest, metrics.as_object_mut()) {
        object.insert("guest".to_owned(), guest.clone());
    }
    let mut text = format!("{metrics:#}").into_bytes();
    text.push(b'\n');
    text
}

mod base64_bytes {
    //! Bytes as base64 text in JSON.
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lie_are_refused() {
        let long = "n".repeat(1025);
        for bad in [
            "../x",
            "a//b",
            "%2e%2e",
            "a/../b",
            "\u{2024}\u{2024}/x",
            "a\0",
            &long,
            "metrics.json",
            "METRICS.json",
            "result.json",
            "result.json/x",
            "Metrics.json/x",
            &"s".repeat(256),
            "_x/a",
            "/a",
            "a/",
            "a\\b",
            "a ",
            "c:",
            "a\u{202e}b",
            "",
            ".",
            "recognize/x",
        ] {
            assert!(check_name(bad, &|s| s == "recognize").is_err(), "{bad:?}");
        }
        for good in ["a", "crops/000.png", "x.tar.gz", "deep/er/est.json", "ä.txt", "sub/result.json"] {
            check_name(good, &|s| s == "recognize").unwrap();
        }
    }

    #[test]
    fn a_manifest_survives_its_row() {
        let manifest = Manifest { folder: "_attempts/1-x/".into(), entries: vec![ManifestEntry::inline("a.bin", "x/y", vec![0, 255, 7])] };
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }
}
