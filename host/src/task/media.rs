//! Kinds of content: the one table from file extension to content type, and how content of a kind begins.

/// Extension and content type; the first entry of a type names its extension.
const CONTENT_TYPES: &[(&str, &str)] = &[
    ("json", "application/json"),
    ("ndjson", "application/x-ndjson"),
    ("txt", "text/plain"),
    ("csv", "text/csv"),
    ("html", "text/html"),
    ("md", "text/markdown"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("tiff", "image/tiff"),
    ("tif", "image/tiff"),
    ("bmp", "image/bmp"),
    ("svg", "image/svg+xml"),
    ("pdf", "application/pdf"),
    ("zip", "application/zip"),
    ("gz", "application/gzip"),
    ("wav", "audio/wav"),
    ("mp3", "audio/mpeg"),
    ("flac", "audio/flac"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("onnx", "application/onnx"),
    ("parquet", "application/vnd.apache.parquet"),
    ("npy", "application/x-npy"),
    ("bin", "application/octet-stream"),
];

/// What everything is that has no known extension.
pub const UNKNOWN: &str = "application/octet-stream";

/// How many bytes of an object [`begins_as`] wants to see, if there are as many. Readers of PDF look as far for its mark.
pub const HEAD: usize = 1024;

/// The content type of a file name, by its extension; `application/octet-stream` when unknown.
pub fn content_type_of(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
    CONTENT_TYPES.iter().find(|(e, _)| *e == extension).map_or(UNKNOWN, |(_, t)| t)
}

/// The file extension of a content type (parameters such as `; charset` ignored); `bin` when unknown.
pub fn extension_of(content_type: &str) -> &'static str {
    let bare = bare(content_type);
    CONTENT_TYPES.iter().find(|(_, t)| *t == bare).map_or("bin", |(e, _)| e)
}

/// A content type without its parameters, in lower case.
pub fn bare(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The content type that a person means by an extension (`png`, `.png`) or by the type itself; none where the table has neither.
pub fn named(name: &str) -> Option<&'static str> {
    let (name, lower) = (bare(name), name.trim_start_matches('.').to_ascii_lowercase());
    CONTENT_TYPES.iter().find(|(e, t)| *e == lower || *t == name).map(|(_, t)| *t)
}

/// Every extension in the table.
pub fn extensions() -> impl Iterator<Item = &'static str> {
    CONTENT_TYPES.iter().map(|(e, _)| *e)
}

/// Whether content that begins so can be of that type. Types without a mark of their own are taken as they are.
pub fn begins_as(content_type: &str, head: &[u8]) -> bool {
    let starts = |marks: &[&[u8]]| marks.iter().any(|mark| head.starts_with(mark));
    let at = |place: usize, mark: &[u8]| head.get(place..).is_some_and(|rest| rest.starts_with(mark));
    match content_type {
        "image/png" => starts(&[b"\x89PNG\r\n\x1a\n"]),
        "image/jpeg" => starts(&[b"\xff\xd8\xff"]),
        "image/gif" => starts(&[b"GIF87a", b"GIF89a"]),
        "image/tiff" => starts(&[b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]),
        "image/bmp" => starts(&[b"BM"]),
        "image/webp" => starts(&[b"RIFF"]) && at(8, b"WEBP"),
        "audio/wav" => starts(&[b"RIFF", b"RF64"]) && at(8, b"WAVE"),
        "audio/flac" => starts(&[b"fLaC"]),
        // A tag, or eleven set bits.
        "audio/mpeg" => starts(&[b"ID3"]) || matches!(head, [0xff, second, ..] if second & 0xe0 == 0xe0),
        "video/mp4" => at(4, b"ftyp"),
        "video/webm" => starts(&[b"\x1a\x45\xdf\xa3"]),
        "application/pdf" => head.windows(5).take(HEAD).any(|five| five == b"%PDF-"),
        "application/zip" => starts(&[b"PK\x03\x04", b"PK\x05\x06"]),
        "application/gzip" => starts(&[b"\x1f\x8b"]),
        "application/vnd.apache.parquet" => starts(&[b"PAR1"]),
        "application/x-npy" => starts(&[b"\x93NUMPY"]),
        "application/json" => is_json(head.trim_ascii_start()),
        "application/x-ndjson" | "image/svg+xml" => !head.contains(&0),
        text if text.starts_with("text/") => !head.contains(&0),
        _ => true,
    }
}

/// Whether JSON may begin so.
fn is_json(head: &[u8]) -> bool {
    let is_word = [&b"true"[..], b"false", b"null"].iter().any(|word| head.starts_with(word));
    is_word || head.first().is_some_and(|first| b"{[\"-0123456789".contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_extensions_agree() {
        assert_eq!(content_type_of("a.PNG"), "image/png");
        assert_eq!(extension_of("image/jpeg"), "jpg");
        assert_eq!(extension_of("text/plain; charset=utf-8"), "txt");
        assert_eq!(content_type_of("noext"), UNKNOWN);
        for (extension, kind) in CONTENT_TYPES {
            assert_eq!(content_type_of(&format!("x.{extension}")), *kind);
            assert_eq!((named(extension), named(kind), named(&format!(".{extension}"))), (Some(*kind), Some(*kind), Some(*kind)));
        }
        assert_eq!((named("exe"), named("image/x"), named("")), (None, None, None));
    }

    #[test]
    fn no_kind_begins_as_another() {
        let heads: &[(&str, &[u8])] = &[
            ("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
            ("image/jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF"),
            ("image/gif", b"GIF89a\x01\0\x01\0"),
            ("image/tiff", b"II*\0\x08\0\0\0"),
            ("image/tiff", b"MM\0*\0\0\0\x08"),
            ("image/bmp", b"BM\x46\0\0\0\0\0"),
            ("image/webp", b"RIFF\x24\0\0\0WEBPVP8 "),
            ("audio/wav", b"RIFF\x24\0\0\0WAVEfmt "),
            ("audio/flac", b"fLaC\0\0\0\x22"),
            ("audio/mpeg", b"ID3\x04\0\0\0\0"),
            ("audio/mpeg", b"\xff\xfb\x90\x44\0\0\0\0"),
            ("video/mp4", b"\0\0\0\x20ftypisom"),
            ("video/webm", b"\x1a\x45\xdf\xa3\x01\0\0\0"),
            ("application/pdf", b"%PDF-1.7\n"),
            ("application/zip", b"PK\x03\x04\x14\0\0\0"),
            ("application/gzip", b"\x1f\x8b\x08\0\0\0\0\0"),
            ("application/vnd.apache.parquet", b"PAR1\x15\x04\x15\0"),
            ("application/x-npy", b"\x93NUMPY\x01\0"),
            ("application/json", b" \n{\"a\": 1}"),
        ];
        for (kind, head) in heads {
            assert!(begins_as(kind, head), "{kind}");
            assert!(!begins_as(kind, b""), "nothing begins as {kind}");
            for (other, _) in heads.iter().filter(|(other, _)| other != kind) {
                assert!(!begins_as(other, head), "{kind} as {other}");
            }
        }
        for kind in CONTENT_TYPES.iter().map(|(_, kind)| *kind).filter(|kind| heads.iter().all(|(known, _)| known != kind)) {
            assert!(begins_as(kind, b"plain text"), "{kind} has no mark of its own here");
        }
        assert!(!begins_as("text/plain", b"a\0b") && !begins_as("image/svg+xml", b"\0"));
    }
}
