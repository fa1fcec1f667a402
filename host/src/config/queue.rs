//! Queues as people write them: one grammar of addresses, for variables, the machine's file and pipeline files alike.
//!
//! | written | what it is |
//! |---|---|
//! | `sqlite:` | the tasks table itself, wherever tasks are kept: the default |
//! | `sqlite:PATH`, `postgres://USER:PASSWORD@HOST:PORT/DATABASE` | the tasks table of that store: the same as `DB_DSN` |
//! | `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME` | a queue of SQS |
//! | `http://HOST:PORT/ACCOUNT/NAME` | a queue of what speaks SQS |
//! | `redis://USER:PASSWORD@HOST:PORT/DB?stream=NAME`, `rediss://…` | a stream of Redis |
//! | `NAME` | the `url` of `[queues.NAME]` in the machine's file: pipeline files need hold no credentials |
//!
//! Rows and the outbox know a queue by its address without credentials, so that every worker calls it the same.

use super::bucket::place;
use super::section::Section;
use super::store::{self, StoreAt, masked};
use crate::queue::{RedisAddress, SqsAddress};
use crate::task::id;
use crate::task::uri::Uri;
use serde_json::Value as Json;
use std::fmt;
use std::path::Path;
use toml::{Table, Value};
use url::Url;

/// What is expected where a queue is named.
pub(super) const EXPECTED: &str = "expected the URL of a queue (redis://HOST:PORT?stream=NAME, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, \
                                   http://HOST:PORT/ACCOUNT/NAME), of a table (sqlite:, postgres://…), or a name from [queues]";

/// Where a step's tasks wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueAt {
    /// In the tasks table.
    Table,
    /// In a broker's queue.
    Broker(BrokerAt),
    /// What `[queues.NAME]` of the machine's file says; see [`super::placed`].
    Named(String),
}

/// Where Redis listens unless an address says otherwise.
const REDIS_PORT: u16 = 6379;

/// The address of a broker's queue. Shown without credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerAt(Url);

impl BrokerAt {
    /// All of it, for whoever connects.
    pub fn reveal(&self) -> &Url {
        &self.0
    }

    /// Whether it is a stream of Redis; one of SQS otherwise.
    pub fn is_redis(&self) -> bool {
        matches!(self.0.scheme(), "redis" | "rediss")
    }

    /// By what rows and the outbox know it: where it is, and nothing that differs from worker to worker, be it only in how it is written.
    pub fn name(&self) -> String {
        if let Some(stream) = self.stream().filter(|_| self.is_redis()) {
            let host = self.0.host_str().unwrap_or_default().to_ascii_lowercase();
            let (port, database) = (self.0.port().unwrap_or(REDIS_PORT), self.0.path().trim_matches('/'));
            let database = if database.is_empty() { "0" } else { database };
            return format!("{}://{host}:{port}/{database}?stream={stream}", self.0.scheme());
        }
        let mut plain = self.0.clone();
        // Fails only where there is no host, and then there is nothing to hide either.
        let _ = plain.set_username("");
        let _ = plain.set_password(None);
        plain.set_query(None);
        plain.set_fragment(None);
        plain.as_str().trim_end_matches('/').to_owned()
    }

    fn stream(&self) -> Option<String> {
        self.0.query_pairs().find(|(key, _)| key == "stream").map(|(_, value)| value.into_owned())
    }

    /// The step of what it carries, where nobody names one: its own name, so that whoever sends there and whoever reads agree.
    pub fn step(&self) -> String {
        let own = self.stream().unwrap_or_else(|| self.0.path_segments().and_then(Iterator::last).unwrap_or_default().to_owned());
        let own = own.strip_suffix(".fifo").unwrap_or(&own);
        let plain: String = own.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
        let plain: String = plain.trim_start_matches(['.', '_', '-']).chars().take(id::MAX_ID).collect();
        if plain.is_empty() { "queue".to_owned() } else { plain }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("{e}; {EXPECTED}"))?;
        if !matches!(url.scheme(), "redis" | "rediss" | "http" | "https") {
            return Err(format!("scheme '{}' is none of a queue; {EXPECTED}", url.scheme()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(format!("names no host; {EXPECTED}"));
        }
        let at = Self(url);
        if at.is_redis() {
            RedisAddress::parse(&at.0).map(drop)?
        } else {
            SqsAddress::parse(&at.0).map(drop)?
        }
        Ok(at)
    }
}

impl fmt::Debug for BrokerAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// What an address of a queue says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub at: QueueAt,
    /// The store that it names besides: of a table.
    pub store: Option<StoreAt>,
}

/// Reads an address; see the head of this file.
pub(super) fn parse(text: &str) -> Result<Written, String> {
    if let Some(store) = StoreAt::parse(text) {
        return Ok(Written { at: QueueAt::Table, store });
    }
    if text.contains("://") {
        return BrokerAt::parse(text).map(|at| Written { at: QueueAt::Broker(at), store: None });
    }
    id::check("queue", text).map_err(|_| EXPECTED.to_owned())?;
    Ok(Written { at: QueueAt::Named(text.to_owned()), store: None })
}

/// The address as it may be shown.
pub(super) fn shown(text: &str) -> String {
    match parse(text) {
        Ok(Written { at: QueueAt::Broker(at), .. }) => at.name(),
        Ok(Written { at: QueueAt::Named(name), .. }) => name,
        Ok(Written { at: QueueAt::Table, store: None }) => "sqlite:".to_owned(),
        Ok(Written { at: QueueAt::Table, store: Some(_) }) | Err(_) => masked(text),
    }
}

/// The queues of the pipeline's entry, as `[queue]` or the environment say it.
#[derive(Debug, Clone, Default)]
pub struct QueueConfig {
    /// Where the entry's tasks wait; none: where the pipeline file says.
    pub url: Option<QueueAt>,
    /// Where the entry's children go; none: where the pipeline file says.
    pub next: Option<QueueAt>,
    /// Whether another system reads the next queue: its tasks have no rows here.
    pub next_foreign: bool,
    /// The step of a lone guest that reads `url`.
    pub step: Option<String>,
    /// The step of what goes to `next`.
    pub next_step: Option<String>,
    /// What messages of `url` may name as input beside their tenant's own area.
    pub inputs: Vec<Uri>,
}

/// What a machine knows of a queue: `[queues."URL or NAME"]`.
#[derive(Debug, Clone)]
pub struct QueueRules {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The queue.
    pub at: BrokerAt,
    /// Whose messages it carries; none: the machine's tenant.
    pub tenant: Option<String>,
    /// Whether a message may name another tenant.
    pub trusted: bool,
    /// What messages may name as input beside their tenant's own area.
    pub inputs: Vec<Uri>,
}

/// Reads `[queue]`. With the stores that the two addresses name.
pub(super) fn read(section: &mut Section<'_>) -> (QueueConfig, [Option<StoreAt>; 2]) {
    let mut address = |key: &'static str| {
        let text = section.secret(key);
        let text = section.note(key, text, |text| Json::from(shown(text)))?;
        parse(&text).map_err(|e| section.fault(key, &shown(&text), e)).ok()
    };
    let (url, next) = (address("url"), address("next"));
    let mut step = |key: &'static str| {
        let name = section.text(key);
        let name = section.note(key, name, |name| Json::from(name.as_str()))?;
        id::check("step", &name).map_err(|e| section.fault(key, &name, e)).ok()?;
        Some(name)
    };
    let (own, next_step) = (step("step"), step("next_step"));
    let next_foreign = section.flag_or("next_foreign", false);
    if next_foreign && !matches!(next, Some(Written { at: QueueAt::Broker(_) | QueueAt::Named(_), .. })) {
        section.fault("next_foreign", "true", "says that another system reads the next queue, and queue.next (NEXT_QUEUE_URL) names none");
    }
    let inputs = read_inputs(section);
    let stores = [&url, &next].map(|written| written.as_ref().and_then(|written| written.store.clone()));
    let at = |written: Option<Written>| written.map(|written| written.at);
    (QueueConfig { url: at(url), next: at(next), next_foreign, step: own, next_step, inputs }, stores)
}

/// Reads `[queues]`.
pub(super) fn read_rules(root: &mut Section<'_>) -> Vec<QueueRules> {
    root.sections("queues").into_iter().filter_map(|(key, mut section)| read_one(&key, &mut section)).collect()
}

fn read_one(key: &str, section: &mut Section<'_>) -> Option<QueueRules> {
    let is_url = key.contains("://");
    let url = section.secret("url");
    let url = section.note("url", url, |text| Json::from(shown(text)));
    let tenant = section.text("tenant");
    let tenant = section.note("tenant", tenant, |tenant| Json::from(tenant.as_str()));
    let trusted = section.flag_or("trusted", false);
    let inputs = read_inputs(section);
    if let Some(e) = tenant.as_ref().and_then(|tenant| id::check("tenant", tenant).err()) {
        section.fault("tenant", tenant.as_deref().unwrap_or_default(), e);
    }
    if !is_url && let Err(e) = id::check("queue", key) {
        section.fault("", "", e);
        return None;
    }
    let (text, of) = match (&url, is_url) {
        (Some(url), false) => (url.as_str(), "url"),
        (None, true) => (key, ""),
        (Some(url), true) => {
            section.fault("url", &shown(url), "this table is named by the URL of its queue already; leave url out");
            return None;
        }
        (None, false) => {
            section.fault("url", "", "is missing; expected the URL of the queue that this name stands for");
            return None;
        }
    };
    match parse(text) {
        Ok(Written { at: QueueAt::Broker(at), .. }) => {
            Some(QueueRules { name: (!is_url).then(|| key.to_owned()), at, tenant, trusted, inputs })
        }
        Ok(_) => {
            section.fault(of, &shown(text), "is no queue of a broker; expected a URL such as redis://HOST:PORT?stream=NAME");
            None
        }
        Err(e) => {
            section.fault(of, &shown(text), e);
            None
        }
    }
}

fn read_inputs(section: &mut Section<'_>) -> Vec<Uri> {
    let mut inputs = Vec::new();
    for text in section.list("inputs") {
        match place(&text) {
            Ok(uri) => inputs.push(uri),
            Err(e) => section.fault("inputs", &text, e),
        }
    }
    inputs
}

/// Makes relative paths of tables in the file start at the file's folder.
pub(super) fn anchor(table: &mut Table, folder: &Path) {
    if let Some(Value::Table(queue)) = table.get_mut("queue") {
        for key in ["url", "next"] {
            if let Some(Value::String(text)) = queue.get_mut(key) {
                store::anchor_text(text, folder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(text: &str) -> BrokerAt {
        match parse(text).unwrap().at {
            QueueAt::Broker(at) => at,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn one_grammar_of_addresses() {
        assert_eq!(parse("sqlite:").unwrap(), Written { at: QueueAt::Table, store: None });
        let file = parse("sqlite:/a/b.db").unwrap();
        assert_eq!(file, Written { at: QueueAt::Table, store: Some(StoreAt::File("/a/b.db".into())) });
        assert!(matches!(parse("postgres://u:p@h/d").unwrap(), Written { at: QueueAt::Table, store: Some(StoreAt::Server(_)) }));
        assert_eq!(parse("pages").unwrap().at, QueueAt::Named("pages".into()));
        let redis = broker("redis://u:secret@h:7000/2?stream=pages&group=g");
        assert_eq!((redis.name().as_str(), redis.step().as_str()), ("redis://h:7000/2?stream=pages", "pages"));
        assert_eq!(format!("{redis:?}"), "redis://h:7000/2?stream=pages");
        for written in ["redis://h?stream=s", "redis://u:p@H:6379?stream=s&group=g", "redis://h/0?stream=s", "redis://h/?maxlen=9&stream=s"]
        {
            assert_eq!(broker(written).name(), "redis://h:6379/0?stream=s", "one queue has one name");
        }
        let sqs = broker("https://sqs.eu-west-1.amazonaws.com/123456789012/pages.fifo");
        assert_eq!((sqs.step().as_str(), sqs.is_redis()), ("pages", false));
        assert_eq!(broker("http://127.0.0.1:5000/1/q").name(), "http://127.0.0.1:5000/1/q");
        assert_eq!(broker("redis://h?stream=%7Bt%7D/a b").step(), "t--a-b");
    }

    #[test]
    fn what_is_no_queue_is_told_without_secrets() {
        for (text, part) in [
            ("amqp://u:secret@h/q", "scheme 'amqp'"),
            ("redis://u:secret@h", "?stream=NAME"),
            ("redis://u:secret@h?stream=", "stream ''"),
            ("redis://u:secret@h?streem=s", "did you mean 'stream'?"),
            ("https://sqs.eu-west-1.amazonaws.com/pages", "/ACCOUNT/NAME"),
            ("http://h:notaport/1/q", "port"),
            ("a b", "expected the URL"),
            ("", "expected the URL"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret") && !shown(text).contains("secret"), "{text}: {error}");
        }
    }
}
