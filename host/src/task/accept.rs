//! Which kinds of input a step takes: checked by extension before anything costs money, and by the first bytes when they are read.

use super::hooks::Payload;
use super::media::{self, HEAD, begins_as, content_type_of};
use super::message::Message;
use super::pointer::Violation;

/// Content types that a step takes. None: whatever it is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accept(Vec<&'static str>);

impl Accept {
    /// From extensions (`png`) or content types, as a pipeline file lists them; the error is the first that is neither.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        names.into_iter().map(|name| media::named(name).ok_or(name)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether it takes whatever it is given.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// What is wrong with a message's input, as far as names and inline bytes tell.
    pub fn check(&self, message: &Message) -> Vec<Violation> {
        if self.is_any() {
            return Vec::new();
        }
        let named = message.input_uri.as_deref().and_then(|uri| self.check_name(uri).err()).map(|why| Violation::at("/input_uri", why));
        let inline = message.payload().and_then(|payload| self.check_payload(&payload).err()).map(|why| Violation::at("/input", why));
        named.into_iter().chain(inline).collect()
    }

    /// Whether the extension of a name is that of a type it takes.
    fn check_name(&self, name: &str) -> Result<(), String> {
        self.check_type(content_type_of(name)).map_err(|_| {
            let file = name.rsplit('/').next().unwrap_or_default();
            format!("'{}' is no input of this step, by its extension: it takes {}", file.escape_debug(), self.shown())
        })
    }

    /// Whether the beginning of an object is that of the type that its name says. `head`: its first [`HEAD`] bytes, or all.
    pub fn check_head(&self, name: &str, head: &[u8]) -> Result<(), String> {
        if self.is_any() { Ok(()) } else { check_head(content_type_of(name), head) }
    }

    fn check_payload(&self, payload: &Payload) -> Result<(), String> {
        match payload {
            Payload::Json(_) => self.check_type("application/json"),
            Payload::Body { content_type, bytes } => {
                let bare = media::bare(content_type);
                self.check_type(&bare)?;
                check_head(&bare, bytes.get(..HEAD).unwrap_or(bytes))
            }
        }
    }

    fn check_type(&self, content_type: &str) -> Result<(), String> {
        if self.0.contains(&content_type) {
            return Ok(());
        }
        Err(format!("'{}' is no input of this step: it takes {}", content_type.escape_debug(), self.shown()))
    }

    fn shown(&self) -> String {
        self.0.join(", ")
    }
}

fn check_head(content_type: &str, head: &[u8]) -> Result<(), String> {
    if begins_as(content_type, head) {
        return Ok(());
    }
    let shown: String = head.iter().take(8).flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    Err(format!("is no {content_type}: it begins with '{shown}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn faults(accept: &Accept, uri: Option<&str>, input: Option<serde_json::Value>) -> Vec<String> {
        let message = Message { input_uri: uri.map(str::to_owned), input, ..Message::new("j", "t", Map::new()) };
        accept.check(&message).into_iter().map(|v| v.to_string()).collect()
    }

    #[test]
    fn inputs_are_told_apart_by_name_and_beginning() {
        let pictures = Accept::of(["png", "image/jpeg"]).unwrap();
        for good in ["s3://bucket/a.png", "s3://bucket/a.b/c.JPEG", "file:///x.jpg"] {
            assert_eq!(faults(&pictures, Some(good), None), [""; 0], "{good}");
        }
        for bad in ["s3://bucket/a.gif", "s3://bucket/png", "s3://bucket/a.png.exe", "s3://bucket/a.png/b"] {
            let found = faults(&pictures, Some(bad), None);
            assert!(found.len() == 1 && found[0].starts_with("/input_uri: ") && found[0].contains("image/png, image/jpeg"), "{found:?}");
        }
        let body = |kind: &str, base64: &str| Some(json!({"content_type": kind, "base64": base64}));
        assert_eq!(faults(&pictures, None, body("image/PNG; x=1", "iVBORw0KGgo=")), [""; 0]);
        for bad in [body("image/gif", "R0lGODlh"), body("image/png", "R0lGODlh"), body("image/png", ""), Some(json!({"a": 1}))] {
            let found = faults(&pictures, None, bad.clone());
            assert!(found.len() == 1 && found[0].starts_with("/input: "), "{bad:?}: {found:?}");
        }
        assert_eq!(faults(&pictures, None, None), [""; 0], "no input at all is no wrong one");
        assert_eq!(faults(&Accept::default(), Some("s3://bucket/a.exe"), body("x/y", "AA==")), [""; 0]);
        assert!(pictures.check_head("a.png", b"\x89PNG\r\n\x1a\n").is_ok());
        assert_eq!(pictures.check_head("a.png", b"GIF89a\0").unwrap_err(), "is no image/png: it begins with 'GIF89a\\x00'");
        assert_eq!(Accept::of(["png", "pgn"]), Err("pgn"));
    }
}
