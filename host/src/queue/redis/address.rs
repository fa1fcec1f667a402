//! The address of a queue in Redis: where the server is, and which stream of it.
//!
//! `redis://[user:password@]host[:port][/db]?stream=NAME[&group=NAME][&maxlen=N][&dead=NAME]`, or `rediss://` for TLS. Reading it
//! connects to nothing.

use crate::task::message::nearest;
use redis::{ConnectionInfo, IntoConnectionInfo as _};
use std::fmt;
use std::str::FromStr;
use url::Url;

/// What may stand behind the question mark.
const KEYS: &[&str] = &["stream", "group", "maxlen", "dead"];

/// The consumer group of all workers, unless named.
const GROUP: &str = "wasm-worker";

/// Longest name of a key: more is an accident, and every command carries it.
const MAX_NAME: usize = 512;

/// See the head of this file.
#[derive(Clone)]
pub struct RedisAddress {
    pub(super) server: ConnectionInfo,
    /// The stream.
    pub(super) stream: String,
    /// The consumer group: all workers of a queue are one.
    pub(super) group: String,
    /// Most entries that the stream may hold; none: as many as there is memory.
    pub(super) maxlen: Option<u64>,
    /// The stream that takes entries which nobody ever answers.
    pub(super) dead: Option<String>,
}

impl RedisAddress {
    /// Reads an address. The error says what is wrong with which part, and never shows the password.
    pub fn parse(url: &Url) -> Result<Self, String> {
        if !matches!(url.scheme(), "redis" | "rediss") {
            return Err(format!("scheme '{}': must be redis or rediss", url.scheme()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("names no host: redis://HOST:PORT/DB?stream=NAME".to_owned());
        }
        if url.fragment().is_some() {
            return Err("has a part behind '#', which means nothing here; write # as %23".to_owned());
        }
        let path = url.path().trim_start_matches('/');
        // A password with a slash or a question mark in it ends the host too early, and the rest of it would be shown.
        if [path, url.query().unwrap_or_default()].iter().any(|part| part.contains('@')) {
            return Err("has an '@' behind the host; in a user or password write / as %2F, ? as %3F, # as %23 and @ as %40".to_owned());
        }
        if !path.is_empty() && path.parse::<u16>().is_err() {
            return Err(format!("'/{path}': the path is the number of the database, such as /0; the stream goes into ?stream="));
        }
        let mut server = url.clone();
        // What stands there is ours; the client library would read options of its own out of it.
        server.set_query(None);
        let server = server.into_connection_info().map_err(|error| error.to_string())?;
        let mut address = Self { server, stream: String::new(), group: GROUP.to_owned(), maxlen: None, dead: None };
        let mut seen = Vec::new();
        for (key, value) in url.query_pairs() {
            if seen.contains(&key) {
                return Err(format!("'{key}' is given twice"));
            }
            address.set(&key, &value)?;
            seen.push(key);
        }
        if address.stream.is_empty() {
            return Err("names no stream: add ?stream=NAME".to_owned());
        }
        if address.dead.as_ref() == Some(&address.stream) {
            return Err("dead: must be another stream than the queue's own".to_owned());
        }
        Ok(address)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "stream" => self.stream = name(key, value)?,
            "group" => self.group = name(key, value)?,
            "dead" => self.dead = Some(name(key, value)?),
            "maxlen" => {
                let number = value.parse().ok().filter(|n| *n > 0);
                self.maxlen = Some(number.ok_or_else(|| format!("maxlen '{value}': must be a number of entries, 1 or more"))?);
            }
            other => {
                let hint = nearest(other, KEYS).map_or_else(|| format!("known: {}", KEYS.join(", ")), |n| format!("did you mean '{n}'?"));
                return Err(format!("'{other}' is unknown; {hint}"));
            }
        }
        Ok(())
    }

    /// The key of something that belongs to this queue. It lies in the stream's own slot of a cluster, as scripts ask for.
    pub(super) fn key(&self, what: &str) -> String {
        let Self { stream, group, .. } = self;
        if stream.contains('{') { format!("{stream}:{group}:{what}") } else { format!("{{{stream}}}:{group}:{what}") }
    }
}

impl FromStr for RedisAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(&Url::parse(text).map_err(|error| error.to_string())?)
    }
}

/// A key's name. Braces mean something to Redis Cluster: only a whole hash tag at the front can be told from an accident.
fn name(key: &str, value: &str) -> Result<String, String> {
    if value.is_empty() || value.len() > MAX_NAME || value.chars().any(char::is_control) {
        return Err(format!("{key} '{}': must have 1 to {MAX_NAME} bytes, none of them control characters", value.escape_default()));
    }
    let rest = match value.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((tag, rest)) if !tag.is_empty() && !tag.contains('{') => rest,
        _ => value,
    };
    if rest.contains(['{', '}']) {
        return Err(format!("{key} '{value}': braces only as one hash tag at the front, such as {{tag}}name"));
    }
    Ok(value.to_owned())
}

/// Where it is, as it may be shown: without user and password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if matches!(self.server.addr(), redis::ConnectionAddr::TcpTls { .. }) { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}/{}?stream={}", self.server.addr(), self.server.redis_settings().db(), self.stream)
    }
}

/// With the user's name, and a mask for the password.
impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, group, maxlen, dead, .. } = self;
        let settings = server.redis_settings();
        let password = settings.password().map(|_| "***");
        f.debug_struct("RedisAddress")
            .field("at", &self.to_string())
            .field("user", &settings.username())
            .field("password", &password)
            .field("group", group)
            .field("maxlen", maxlen)
            .field("dead", dead)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RedisAddress, String> {
        text.parse()
    }

    #[test]
    fn every_part_is_read() {
        let address = parse("rediss://us%40er:p%23ss%2Fword@example.org:7000/3?stream=a%20b&group=g&maxlen=10&dead=%7Btag%7Dold").unwrap();
        let settings = address.server.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("us@er"), Some("p#ss/word"), 3));
        assert_eq!((address.stream.as_str(), address.group.as_str()), ("a b", "g"));
        assert_eq!((address.maxlen, address.dead.as_deref()), (Some(10), Some("{tag}old")));
        assert_eq!(address.to_string(), "rediss://example.org:7000/3?stream=a b");
        let plain = parse("redis://:secret@[::1]?stream=s").unwrap();
        assert_eq!((plain.server.redis_settings().username(), plain.server.redis_settings().password()), (None, Some("secret")));
        assert_eq!((plain.to_string().as_str(), plain.group.as_str()), ("redis://::1:6379/0?stream=s", "wasm-worker"));
    }

    #[test]
    fn the_password_is_never_shown() {
        for text in ["redis://u:secret@h?stream=s", "redis://:secret@h?stream=s"] {
            let address = parse(text).unwrap();
            assert!(!format!("{address:?} {address}").contains("secret"), "{address:?}");
        }
        let bad = ["redis://u:secret@h/x?stream=s", "redis://u:secret@h", "redis://u:secret@h?streem=s", "redis://u:%FFsecret@h?stream=s"];
        // A password that is not written as URLs want it.
        for bad in
            bad.into_iter().chain(["redis://u:/secret@h/0?stream=s", "redis://u:1/secret@h/0?stream=s", "redis://u:1?secret@h/0?stream=s"])
        {
            let error = parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("http://h?stream=s", "scheme 'http'"),
            ("redis:///0?stream=s", "no host"),
            ("redis://h", "?stream=NAME"),
            ("redis://h?stream=", "stream ''"),
            ("redis://h/tasks?stream=s", "'/tasks'"),
            ("redis://h/-1?stream=s", "'/-1'"),
            ("redis://h?streem=s", "did you mean 'stream'?"),
            ("redis://h?stream=s&protocol=resp3", "known: stream, group, maxlen, dead"),
            ("redis://h?stream=s&stream=t", "'stream' is given twice"),
            ("redis://h?stream=s&maxlen=0", "maxlen '0'"),
            ("redis://h?stream=s&maxlen=many", "maxlen 'many'"),
            ("redis://h?stream=s&dead=s", "another stream"),
            ("redis://h?stream=s#t", "%23"),
            ("redis://h?stream=s%00", "control characters"),
            ("redis://h?stream=a%7Bb", "braces"),
            ("redis://h?stream=%7B%7Da", "braces"),
            ("redis://h?stream=%7Ba%7Db%7Bc%7D", "braces"),
        ];
        for (text, part) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn all_keys_of_a_queue_share_one_hash_tag() {
        assert_eq!(parse("redis://h?stream=s").unwrap().key("hidden"), "{s}:wasm-worker:hidden");
        assert_eq!(parse("redis://h?stream=%7Bt%7Ds&group=g").unwrap().key("hidden"), "{t}s:g:hidden");
    }
}
