//! Jobs as JSON lines: one object per line, shaped like a message. Every bad line is named; nothing is submitted unless all are good.

use super::failure::Failure;
use super::input;
use crate::app::Submission;
use crate::task::id;
use crate::task::message::{MAX_JOB_TASKS, nearest};
use crate::task::root::MAX_DELAY;
use crate::task::uri::Uri;
use crate::task_store::Feed;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::Path;
use std::time::Duration;

/// Longest line, bytes: a message's own bound.
const MAX_LINE: u64 = 2 << 20;

/// Most lines; more are a sign of the wrong file.
const MAX_LINES: usize = 1_000_000;

/// Most bad lines that are named.
const MAX_FAULTS: usize = 50;

/// Every key of a line.
const KEYS: &[&str] = &[
    "input",
    "params",
    "step",
    "function",
    "job_id",
    "task_id",
    "job_tasks",
    "priority",
    "max_attempts",
    "delay_ms",
    "output",
    "metadata",
];

/// Reads all lines; empty ones are skipped. `source` names the file in errors. With `feed`, and where a line says `job_tasks`, lines
/// of one `job_id` are tasks of one job.
pub fn read(from: impl BufRead, source: &str, feed: bool) -> Result<Vec<Submission>, Failure> {
    let mut from = from;
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    let mut seen = Seen::default();
    for number in 1.. {
        let mut line = String::new();
        let size = from.by_ref().take(MAX_LINE + 1).read_line(&mut line).map_err(|e| Failure::usage(format!("{source}:{number}: {e}")))?;
        if size == 0 {
            break;
        }
        if size as u64 > MAX_LINE || number > MAX_LINES {
            let bound = if number > MAX_LINES { format!("more than {MAX_LINES} lines") } else { format!("longer than {MAX_LINE} bytes") };
            return Err(Failure::usage(format!("{source}:{number}: {bound}")).help("is this a file of JSON lines?"));
        }
        if line.trim().is_empty() {
            continue;
        }
        match submission(&line) {
            Ok(mut submission) => {
                if feed && submission.feed == Feed::Single {
                    submission.feed = Feed::Open { queue: None, tasks: None };
                }
                faults.extend(seen.repeats(&submission, number).map(|why| format!("{source}:{number}: {why}")));
                good.push(submission);
            }
            Err(why) => faults.extend(why.into_iter().map(|why| format!("{source}:{number}: {why}"))),
        }
    }
    if !faults.is_empty() {
        let more = faults.len().saturating_sub(MAX_FAULTS);
        faults.truncate(MAX_FAULTS);
        if more > 0 {
            faults.push(format!("{source}: {more} more problems"));
        }
        return Err(
            Failure::usage(faults.join("\n")).help("nothing was submitted; a line looks like {\"input\": \"a.png\", \"params\": {}}")
        );
    }
    if good.is_empty() {
        return Err(Failure::usage(format!("{source} holds no job")));
    }
    Ok(good)
}

/// Ids of earlier lines, and where they stood.
#[derive(Default)]
struct Seen {
    jobs: HashMap<String, (usize, bool)>,
    tasks: HashMap<String, usize>,
}

impl Seen {
    /// Why a line cannot stand beside an earlier one.
    fn repeats(&mut self, submission: &Submission, number: usize) -> Option<String> {
        let is_fed = submission.feed != Feed::Single;
        let earlier_job = submission.job_id.as_ref().and_then(|id| self.jobs.insert(id.clone(), (number, is_fed)));
        let earlier_task = submission.task_id.as_ref().and_then(|id| self.tasks.insert(id.clone(), number));
        match (earlier_job, earlier_task) {
            (Some((earlier, was_fed)), _) if !is_fed || !was_fed => Some(format!(
                "job_id is that of line {earlier}; with job_tasks on each, or --feed, lines of one job_id are tasks of one job"
            )),
            (_, Some(earlier)) => Some(format!("task_id is that of line {earlier}")),
            _ => None,
        }
    }
}

/// One line; all that is wrong with it.
fn submission(line: &str) -> Result<Submission, Vec<String>> {
    let fields = match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => return Err(vec![format!("must be a JSON object, not {}", crate::task::hooks::kind(&other))]),
        Err(e) => return Err(vec![format!("no JSON: {e}")]),
    };
    let mut faults = Vec::new();
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())).take(16) {
        let hint = nearest(key, KEYS).map_or_else(|| format!("known: {}", KEYS.join(", ")), |near| format!("did you mean '{near}'?"));
        faults.push(format!("unknown key '{}'; {hint}", key.escape_debug()));
    }
    let mut take = Fields { fields, faults };
    let submission = Submission {
        input: take.text("input", |text| input::input(text).map_err(first_line)),
        params: take.object("params"),
        output: take.text("output", |text| output(text).map_err(first_line)),
        step: take.text("step", |text| id::check("step", text).map(|()| text.to_owned())),
        function: take.text("function", |text| id::check("function", text).map(|()| text.to_owned())),
        priority: take.number("priority", 0, 9).map(|n| n as u8),
        max_attempts: take.number("max_attempts", 1, 1000).map(|n| n as u32),
        delay: take.number("delay_ms", 0, MAX_DELAY.as_millis() as u64).map(Duration::from_millis),
        job_id: take.text("job_id", |text| id::check("job_id", text).map(|()| text.to_owned())),
        task_id: take.text("task_id", |text| id::check("task_id", text).map(|()| text.to_owned())),
        metadata: take.texts("metadata"),
        feed: match take.number("job_tasks", 1, MAX_JOB_TASKS) {
            Some(tasks) => Feed::Open { queue: None, tasks: Some(tasks) },
            None => Feed::Single,
        },
    };
    if take.faults.is_empty() { Ok(submission) } else { Err(take.faults) }
}

/// A prefix, or a folder; made only when the job writes.
fn output(text: &str) -> Result<Uri, Failure> {
    let uri = if text.contains("://") {
        Uri::parse(text).map(|u| u.as_prefix())
    } else {
        std::path::absolute(Path::new(text)).map_err(|e| e.to_string()).and_then(|path| Uri::of_folder(&path))
    };
    uri.map_err(|e| Failure::usage(format!("output: {e}")))
}

fn first_line(failure: Failure) -> String {
    failure.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

struct Fields {
    fields: Map<String, Value>,
    faults: Vec<String>,
}

impl Fields {
    fn value(&mut self, key: &str) -> Option<Value> {
        self.fields.remove(key).filter(|value| !value.is_null())
    }

    fn fault(&mut self, key: &str, expected: &str, value: &Value) {
        let shown = crate::task::limits::cut(&value.to_string(), 80);
        self.faults.push(format!("{key} must be {expected}, not {shown}"));
    }

    fn text<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match self.value(key)? {
            Value::String(text) => parse(&text).map_err(|e| self.faults.push(e)).ok(),
            other => {
                self.fault(key, "a string", &other);
                None
            }
        }
    }

    fn number(&mut self, key: &str, low: u64, high: u64) -> Option<u64> {
        let value = self.value(key)?;
        let number = value.as_u64().filter(|n| (low..=high).contains(n));
        if number.is_none() {
            self.fault(key, &format!("a whole number from {low} to {high}"), &value);
        }
        number
    }

    fn object(&mut self, key: &str) -> Map<String, Value> {
        match self.value(key) {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(other) => {
                self.fault(key, "an object", &other);
                Map::new()
            }
        }
    }

    fn texts(&mut self, key: &str) -> std::collections::BTreeMap<String, String> {
        let mut texts = std::collections::BTreeMap::new();
        for (name, value) in self.object(key) {
            match value {
                Value::String(text) => {
                    texts.insert(name, text);
                }
                other => self.fault(&format!("{key}.{name}"), "a string", &other),
            }
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Submission>, String> {
        read(text.as_bytes(), "jobs.jsonl", false).map_err(|e| e.to_string())
    }

    #[test]
    fn every_bad_line_is_named_by_its_number() {
        let text =
            "{\"params\": {}}\n\nnope\n[1]\n{\"parmas\": {}, \"priority\": 10, \"metadata\": {\"a\": 1}}\n{\"input\": \"no/such\"}\n";
        let error = parse(text).unwrap_err();
        for part in [
            "jobs.jsonl:3: no JSON",
            "jobs.jsonl:4: must be a JSON object, not an array",
            "jobs.jsonl:5: unknown key 'parmas'; did you mean 'params'?",
            "jobs.jsonl:5: priority must be a whole number from 0 to 9, not 10",
            "jobs.jsonl:5: metadata.a must be a string",
            "jobs.jsonl:6: input 'no/such'",
            "nothing was submitted",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn a_line_says_all_of_a_job() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = serde_json::json!({
            "input": file.path(), "params": {"n": 1}, "step": "s", "function": "f", "job_id": "j", "task_id": "t", "priority": 9,
            "max_attempts": 2, "delay_ms": 1500, "output": "out/x", "metadata": {"k": "v"},
        });
        let jobs = parse(&line.to_string()).unwrap();
        let job = &jobs[0];
        assert!(job.input.is_some() && job.output.as_ref().unwrap().is_prefix());
        assert_eq!((job.priority, job.max_attempts, job.delay), (Some(9), Some(2), Some(Duration::from_millis(1500))));
        assert_eq!((job.job_id.as_deref(), job.step.as_deref(), job.metadata["k"].as_str()), (Some("j"), Some("s"), "v"));
    }

    #[test]
    fn lines_of_one_job_say_so() {
        let fed =
            parse("{\"job_id\": \"a\", \"task_id\": \"1\", \"job_tasks\": 2}\n{\"job_id\": \"a\", \"task_id\": \"2\", \"job_tasks\": 2}");
        let feeds: Vec<Feed> = fed.unwrap().into_iter().map(|s| s.feed).collect();
        assert_eq!(feeds, vec![Feed::Open { queue: None, tasks: Some(2) }; 2]);
        let mixed = parse("{\"job_id\": \"a\", \"job_tasks\": 2}\n{\"job_id\": \"a\"}").unwrap_err();
        assert!(mixed.contains("jobs.jsonl:2: job_id is that of line 1; with job_tasks on each, or --feed"), "{mixed}");
        let twice = "{\"job_id\": \"a\", \"task_id\": \"1\"}\n{\"job_id\": \"a\", \"task_id\": \"1\"}";
        let error = read(twice.as_bytes(), "x", true).map_err(|e| e.to_string()).unwrap_err();
        assert!(error.contains("x:2: task_id is that of line 1"), "{error}");
        let all = read("{\"job_id\": \"a\"}\n{\"job_id\": \"a\", \"job_tasks\": 7}".as_bytes(), "x", true).unwrap();
        assert_eq!([&all[0].feed, &all[1].feed], [&Feed::Open { queue: None, tasks: None }, &Feed::Open { queue: None, tasks: Some(7) }]);
        assert!(parse("{\"job_tasks\": 0}").unwrap_err().contains("job_tasks must be a whole number"));
    }

    #[test]
    fn one_id_stands_for_one_job() {
        assert!(parse("{\"job_id\": \"a\"}\n{\"job_id\": \"a\"}").unwrap_err().contains("jobs.jsonl:2: job_id is that of line 1"));
        assert!(parse("\n").unwrap_err().contains("holds no job"));
        assert!(parse(&"x".repeat((2 << 20) + 1)).unwrap_err().contains("longer than"));
    }
}
