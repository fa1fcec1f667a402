//! Reading a table key by key, collecting every problem instead of stopping at the first, and noting what was read for whoever
//! wants to see it all.

use super::queue;
use crate::task::message::nearest;
use bytesize::ByteSize;
use serde_json::Value as Json;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use toml::{Table, Value};

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted.
    pub key: String,
    /// Its value as written, or empty where it is missing.
    pub value: String,
    /// The file or environment variable it came from.
    pub source: String,
    /// What is wrong, and what was expected.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.key.is_empty() {
            write!(f, "{}", self.key)?;
            if !self.value.is_empty() {
                write!(f, " = {}", self.value)?;
            }
            write!(f, ": ")?;
        }
        f.write_str(&self.expected)
    }
}

/// Everything wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Problem>);

impl ConfigError {
    /// A single problem with a whole source.
    pub fn of(source: &str, expected: impl Into<String>) -> Self {
        Self(vec![Problem { key: String::new(), value: String::new(), source: source.to_owned(), expected: expected.into() }])
    }
}

/// One key of a configuration as it is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key, dotted.
    pub key: String,
    /// Its value, as it would be written; secrets are masked. Null: it is not set, and has no default.
    pub value: Json,
    /// The file, variable or flag it came from; none: nobody has set it.
    pub source: Option<String>,
}

/// Collects problems of one source.
pub(super) struct Problems {
    source: String,
    /// Where single keys came from, other than from the source.
    origins: BTreeMap<String, String>,
    found: RefCell<Vec<Problem>>,
    noted: RefCell<Vec<Setting>>,
}

impl Problems {
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), origins: BTreeMap::new(), found: RefCell::default(), noted: RefCell::default() }
    }

    /// A key that came from elsewhere: a variable, a flag.
    pub(super) fn set_origin(&mut self, key: &str, origin: String) {
        self.origins.insert(key.to_owned(), origin);
    }

    /// Where a key came from: what is known of it, or else of the table around it.
    pub(super) fn origin(&self, key: &str) -> &str {
        let around = std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(around, _)| around));
        around.filter_map(|key| self.origins.get(key)).next().unwrap_or(&self.source)
    }

    /// What was read so far.
    pub(super) fn settings(&self) -> Vec<Setting> {
        self.noted.borrow().clone()
    }

    /// A problem with something that is no key: a variable.
    pub(super) fn add_from(&self, source: &str, name: &str, value: &str, expected: impl Into<String>) {
        let problem = Problem { key: name.to_owned(), value: value.to_owned(), source: source.to_owned(), expected: expected.into() };
        self.found.borrow_mut().push(problem);
    }

    pub(super) fn add(&self, key: &str, value: &str, expected: impl Into<String>) {
        let source = self.origin(key).to_owned();
        let problem = Problem { key: key.to_owned(), value: value.to_owned(), source, expected: expected.into() };
        self.found.borrow_mut().push(problem);
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        let found = self.found.into_inner();
        if found.is_empty() { Ok(value) } else { Err(ConfigError(found)) }
    }
}

/// A table being read. Dropping it reports the keys nobody asked for.
pub(super) struct Section<'a> {
    path: String,
    table: Table,
    asked: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn new(table: Table, problems: &'a Problems) -> Self {
        Self { path: String::new(), table, asked: Vec::new(), problems }
    }

    fn key(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    /// A problem with one of this table's keys.
    pub(super) fn fault(&self, key: &str, value: &str, expected: impl Into<String>) {
        self.problems.add(&self.key(key), value, expected);
    }

    /// The rest of the table is not looked at: a problem that makes it moot was reported.
    pub(super) fn leave(&mut self) {
        self.table.clear();
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    /// Notes what is in force: what was read, or else the default.
    pub(super) fn settle<T>(&self, key: &str, read: Option<T>, default: T, shown: impl Fn(&T) -> Json) -> T {
        let source = read.is_some().then(|| self.problems.origin(&self.key(key)).to_owned());
        let value = read.unwrap_or(default);
        self.problems.noted.borrow_mut().push(Setting { key: self.key(key), value: shown(&value), source });
        value
    }

    /// Notes a key that is read here in another way, or that has no default; `shown` hides what is secret.
    pub(super) fn note<T>(&self, key: &str, read: Option<T>, shown: impl Fn(&T) -> Json) -> Option<T> {
        let source = read.is_some().then(|| self.problems.origin(&self.key(key)).to_owned());
        let value = read.as_ref().map_or(Json::Null, shown);
        self.problems.noted.borrow_mut().push(Setting { key: self.key(key), value, source });
        read
    }

    fn parsed<T>(&mut self, key: &'static str, expected: &str, parse: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(key)?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.fault(key, &shown(&value), format!("expected {expected}"));
        }
        parsed
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    /// The same, with a default.
    pub(super) fn text_or(&mut self, key: &'static str, default: &str) -> String {
        let read = self.text(key);
        self.settle(key, read, default.to_owned(), |text| Json::from(text.as_str()))
    }

    /// A text that may hold a secret: what is none is never shown.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<String> {
        let value = self.take(key)?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.fault(key, "…", "expected a string");
        }
        text
    }

    /// A list of strings, or one text with commas (from the environment).
    pub(super) fn list(&mut self, key: &'static str) -> Vec<String> {
        let read = self.parsed(key, "a list of strings", |v| match v {
            Value::String(text) => Some(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()),
            other => other.as_array()?.iter().map(|i| i.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>(),
        });
        self.settle(key, read, Vec::new(), |list| list.iter().map(String::as_str).collect())
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.parsed(key, "a list of strings", |v| v.as_array()?.iter().map(|i| i.as_str().map(str::to_owned)).collect()).unwrap_or_default()
    }

    /// `true`, `false`, or the same as text (from the environment).
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.parsed(key, "true or false", |v| v.as_bool().or_else(|| v.as_str()?.parse().ok()))
    }

    /// The same, with a default.
    pub(super) fn flag_or(&mut self, key: &'static str, default: bool) -> bool {
        let read = self.flag(key);
        self.settle(key, read, default, |flag| Json::from(*flag))
    }

    /// A whole number in a range; text is taken too (from the environment).
    pub(super) fn number(&mut self, key: &'static str, low: u64, high: u64) -> Option<u64> {
        let expected = format!("a whole number from {low} to {high}");
        self.parsed(key, &expected, |v| {
            let n = v.as_integer().or_else(|| v.as_str()?.parse().ok())?;
            u64::try_from(n).ok().filter(|n| (low..=high).contains(n))
        })
    }

    /// The same, with a default.
    pub(super) fn number_or(&mut self, key: &'static str, low: u64, high: u64, default: u64) -> u64 {
        let read = self.number(key, low, high);
        self.settle(key, read, default, |n| Json::from(*n))
    }

    /// `"512MiB"`, or a number of bytes.
    pub(super) fn size(&mut self, key: &'static str) -> Option<u64> {
        self.parsed(key, "a size such as \"512MiB\"", |v| match v {
            Value::Integer(n) => u64::try_from(*n).ok(),
            Value::String(s) => s.parse::<ByteSize>().ok().map(|b| b.as_u64()),
            _ => None,
        })
    }

    /// The same, with a default.
    pub(super) fn size_or(&mut self, key: &'static str, default: u64) -> u64 {
        let read = self.size(key);
        self.settle(key, read, default, |bytes| Json::from(size_text(*bytes)))
    }

    /// `"90s"`, `"5min"`, `"1h 30m"`: more than nothing, at most a year.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.parsed(key, "a duration such as \"90s\" (more than 0, at most a year)", |v| {
            humantime::parse_duration(v.as_str()?).ok().filter(|d| !d.is_zero() && *d <= YEAR)
        })
    }

    /// The same, with a default.
    pub(super) fn duration_or(&mut self, key: &'static str, default: Duration) -> Duration {
        let read = self.duration(key);
        self.settle(key, read, default, |time| Json::from(humantime::format_duration(*time).to_string()))
    }

    /// One of some names.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parsed(key, &format!("one of {}", names.join(", ")), |v| {
            let text = v.as_str()?;
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
        })
    }

    /// The same, with a default.
    pub(super) fn choice_or<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)], default: (&'static str, T)) -> T {
        let named: Vec<(&str, (&str, T))> = choices.iter().map(|choice| (choice.0, *choice)).collect();
        let read = self.choice(key, &named);
        self.settle(key, read, default, |(name, _)| Json::from(*name)).1
    }

    /// A table as JSON. Dates become text.
    pub(super) fn json(&mut self, key: &'static str) -> Option<Json> {
        self.parsed(key, "a table", |v| v.is_table().then(|| json_of(v)))
    }

    /// A table of strings.
    pub(super) fn text_map(&mut self, key: &'static str) -> Vec<(String, String)> {
        self.parsed(key, "a table of strings", |v| v.as_table()?.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect())
            .unwrap_or_default()
    }

    /// A table within; an empty one where it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let table = self.parsed(key, "a table", |v| v.as_table().cloned()).unwrap_or_default();
        Section { path: self.key(key), table, asked: Vec::new(), problems: self.problems }
    }

    /// A table of tables, in the order of the file.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<(String, Section<'a>)> {
        let tables = self.parsed(key, "a table of tables", |v| v.as_table().cloned()).unwrap_or_default();
        let mut sections = Vec::new();
        for (name, value) in tables {
            // Queues may be named by their URL.
            let plain = if name.contains("://") { queue::shown(&name) } else { name.clone() };
            let path = format!("{}.{plain}", self.key(key));
            match value {
                Value::Table(table) => sections.push((name, Section { path, table, asked: Vec::new(), problems: self.problems })),
                other => self.problems.add(&path, &shown(&other), "expected a table"),
            }
        }
        sections
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        for key in self.table.keys() {
            let near = nearest(key, &self.asked).map(|n| format!("did you mean '{n}'?"));
            let known = || format!("known here: {}", self.asked.join(", "));
            // Without its value: nobody knows what an unknown key holds.
            self.problems.add(&self.key(key), "", format!("unknown key; {}", near.unwrap_or_else(known)));
        }
    }
}

/// Bytes as people write them: exact, so that what is shown can be written.
fn size_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units.iter().find(|(bits, _)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    fitting.map_or_else(|| format!("{bytes}B"), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

/// A value as a person wrote it, cut to a line.
fn shown(value: &Value) -> String {
    crate::task::limits::cut(&value.to_string(), 80)
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::String(s) => Json::from(s.as_str()),
        Value::Integer(n) => Json::from(*n),
        Value::Float(x) => Json::from(*x),
        Value::Boolean(b) => Json::from(*b),
        Value::Datetime(d) => Json::from(d.to_string()),
        Value::Array(items) => items.iter().map(json_of).collect(),
        Value::Table(table) => Json::Object(table.iter().map(|(k, v)| (k.clone(), json_of(v))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_at_once() {
        let problems = Problems::new("x.toml");
        let table = "lease = 3\nlog_fromat = 'json'\nmany = -1\nmemory = '5 parsecs'\n[worker]\nconcurrency = 'two'".parse().unwrap();
        {
            let mut root = Section::new(table, &problems);
            assert_eq!(root.duration("lease"), None);
            assert_eq!(root.text("log_format"), None);
            assert_eq!(root.number("many", 0, 9), None);
            assert_eq!(root.size("memory"), None);
            assert_eq!(root.section("worker").number("concurrency", 1, 9), None);
        }
        let text = problems.finish(()).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("x.toml: log_fromat: unknown key; did you mean 'log_format'?"), "{text}");
        assert!(text.contains("worker.concurrency = \"two\": expected a whole number from 1 to 9"), "{text}");
    }

    #[test]
    fn sizes_and_durations_as_people_write_them() {
        let problems = Problems::new("x");
        let mut root = Section::new("a = '512MiB'\nb = 1024\nc = '1m 30s'\nd = '64 KB'".parse().unwrap(), &problems);
        assert_eq!((root.size("a"), root.size("b")), (Some(512 << 20), Some(1024)));
        assert_eq!((root.duration("c"), root.size("d")), (Some(Duration::from_secs(90)), Some(64_000)));
    }
}
