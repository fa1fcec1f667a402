//! Reading a table key by key, collecting every problem instead of stopping at the first.

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

/// Collects problems of one source.
pub(super) struct Problems {
    source: String,
    /// Where single keys came from, other than from the source.
    origins: BTreeMap<String, String>,
    found: RefCell<Vec<Problem>>,
}

impl Problems {
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), origins: BTreeMap::new(), found: RefCell::default() }
    }

    /// A key that came from elsewhere: a variable, a flag.
    pub(super) fn set_origin(&mut self, key: &str, origin: String) {
        self.origins.insert(key.to_owned(), origin);
    }

    pub(super) fn add(&self, key: &str, value: &str, expected: impl Into<String>) {
        let source = self.origins.get(key).unwrap_or(&self.source).clone();
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
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A problem with one of this table's keys.
    pub(super) fn fault(&self, key: &str, value: &str, expected: impl Into<String>) {
        self.problems.add(&self.key(key), value, expected);
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
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

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.parsed(key, "a list of strings", |v| v.as_array()?.iter().map(|i| i.as_str().map(str::to_owned)).collect()).unwrap_or_default()
    }

    /// `true`, `false`, or the same as text (from the environment).
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.parsed(key, "true or false", |v| v.as_bool().or_else(|| v.as_str()?.parse().ok()))
    }

    /// A whole number in a range; text is taken too (from the environment).
    pub(super) fn number(&mut self, key: &'static str, low: u64, high: u64) -> Option<u64> {
        let expected = format!("a whole number from {low} to {high}");
        self.parsed(key, &expected, |v| {
            let n = v.as_integer().or_else(|| v.as_str()?.parse().ok())?;
            u64::try_from(n).ok().filter(|n| (low..=high).contains(n))
        })
    }

    /// `"512MiB"`, or a number of bytes.
    pub(super) fn size(&mut self, key: &'static str) -> Option<u64> {
        self.parsed(key, "a size such as \"512MiB\"", |v| match v {
            Value::Integer(n) => u64::try_from(*n).ok(),
            Value::String(s) => s.parse::<ByteSize>().ok().map(|b| b.as_u64()),
            _ => None,
        })
    }

    /// `"90s"`, `"5min"`, `"1h 30m"`: more than nothing, at most a year.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.parsed(key, "a duration such as \"90s\" (more than 0, at most a year)", |v| {
            humantime::parse_duration(v.as_str()?).ok().filter(|d| !d.is_zero() && *d <= YEAR)
        })
    }

    /// One of some names.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parsed(key, &format!("one of {}", names.join(", ")), |v| {
            let text = v.as_str()?;
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
        })
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
            let path = format!("{}.{name}", self.key(key));
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
