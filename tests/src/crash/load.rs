//! The jobs that run while workers are killed: every kind of end, fan-outs in fan-outs, small and large outputs, waits, cancellations.

use super::dice::Dice;
use serde_json::{Value, json};

/// The steps of the pipeline, all of them the probe. An outcome leads to `review`. With queues of a broker: the entry's, which a `then`
/// shares, and the others'.
pub fn pipeline(guest: &str, queues: Option<&[String; 2]>) -> String {
    let step = |name: &str, more: &str| {
        let queue = queues.map(|[entry, rest]| if matches!(name, "first" | "all") { entry } else { rest });
        let queue = queue.map(|queue| format!("queue = {queue:?}\n")).unwrap_or_default();
        format!("[steps.{name}]\nguest = {guest:?}\n{queue}{more}")
    };
    let steps = [
        step("first", "transitions = { needs_review = \"review\" }\n"),
        step("each", ""),
        step("all", ""),
        // Narrower than its worker, so that some tasks wait for room.
        step("review", "concurrency = 1\n"),
    ];
    format!("name = \"crash\"\n{}", steps.concat())
}

/// A job as it is submitted.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: String,
    /// A line for `submit --jsonl`.
    pub line: Value,
    /// Somebody has to cancel it, or it never ends.
    pub must_be_cancelled: bool,
    /// Where another producer feeds it: the messages of its tasks. None: it is submitted.
    pub messages: Vec<Value>,
}

/// Most tasks of a job that is fed.
const MOST_FED: u64 = 3;

impl Job {
    /// The same, fed by a producer that knows nothing of us but the format of messages. What its job gets in all stands in each of them.
    pub fn fed(mut self, dice: &mut Dice) -> Self {
        // A job that is cancelled has one task, as whether another one came in time is up to the broker.
        let tasks = if self.must_be_cancelled { 1 } else { 1 + dice.below(MOST_FED) };
        let message = |number: u64| {
            let mut message = self.line.clone();
            message["task_id"] = format!("{}-{number}", self.id).into();
            message["job_tasks"] = tasks.into();
            // Whoever submits says how long to wait, a message until when: that is not of its format.
            message.as_object_mut().unwrap().remove("delay_ms");
            message
        };
        self.messages = (0..tasks).map(message).collect();
        self
    }

    /// Params of each task without a parent, and its id where it is known.
    pub fn roots(&self) -> Vec<(Option<&str>, &Value)> {
        if self.messages.is_empty() {
            return vec![(None, &self.line["params"])];
        }
        self.messages.iter().map(|message| (message["task_id"].as_str(), &message["params"])).collect()
    }
}

/// One job of each kind, with ids that begin with `name`.
pub fn batch(name: &str, dice: &mut Dice) -> Vec<Job> {
    let kinds = kinds(dice);
    kinds
        .into_iter()
        .enumerate()
        .map(|(number, (kind, params, more))| {
            let id = format!("{name}-{number:02}-{kind}");
            let mut line = json!({"job_id": id, "params": params, "priority": dice.below(10)});
            more.as_object().unwrap().iter().for_each(|(key, value)| line[key] = value.clone());
            Job { id, line, must_be_cancelled: kind.starts_with("stop"), messages: Vec::new() }
        })
        .collect()
}

fn kinds(dice: &mut Dice) -> Vec<(&'static str, Value, Value)> {
    let plain = || json!({});
    // The first is over the bound for what rides inside a commit, and comes in pieces.
    let files = json!({"action": "write", "files": [
        {"name": "a.bin", "bytes": 70_000 + dice.below(9000), "piece": 10_000},
        {"name": "deep/b.txt", "bytes": 900, "content_type": "text/plain"},
        {"name": "c.bin", "bytes": 66_000},
    ]});
    let gathered = |child: Value| {
        json!({"action": "fan_out", "n": 3, "step": "each", "child": child,
               "then": {"action": "sum", "read_outputs": true}, "then_step": "all"})
    };
    let sleep = |ms: u64| json!({"action": "sleep", "ms": ms});
    let waiting = json!({"action": "until_cancelled", "poll_ms": 20, "answer": dice.below(2) == 0});
    let mut delayed = gathered(json!({"action": "json", "value": {"value": 7}}));
    delayed["delay_ms"] = (50 + dice.below(300)).into();
    vec![
        ("files", gathered(files.clone()), plain()),
        ("write", files, plain()),
        ("nested", gathered(gathered(json!({"action": "body", "content_type": "application/octet-stream", "bytes": 66_000}))), plain()),
        ("tree", json!({"action": "chain", "depth": 2, "width": 2, "step": "each", "then_step": "all"}), plain()),
        ("loose", json!({"action": "chain", "depth": 2, "width": 2, "step": "each"}), plain()),
        ("empty", json!({"action": "fan_out", "n": 0, "step": "each", "then": {"action": "sum"}, "then_step": "all"}), plain()),
        ("retry", json!({"action": "retry", "times": 2, "after_ms": 20}), plain()),
        ("spent", json!({"action": "retry", "times": 9, "after_ms": 10}), json!({"max_attempts": 2})),
        ("fatal", json!({"action": "fatal", "code": "probe-fatal", "message": "as asked"}), plain()),
        ("trap", json!({"action": "trap", "hook": "publish_next"}), json!({"max_attempts": 2})),
        ("losses", gathered(json!({"action": "fatal", "code": "probe-loss", "message": "as asked"})), plain()),
        ("spin", gathered(json!({"action": "spin", "ms": 20 + dice.below(60)})), plain()),
        ("sleep", gathered(sleep(300 + dice.below(400))), plain()),
        ("none", json!({"action": "none"}), json!({"delay_ms": dice.below(400)})),
        ("metrics", json!({"action": "metrics", "figures": {"pages": 3}}), plain()),
        ("outcome", json!({"action": "outcome", "name": "needs_review", "n": 2}), plain()),
        ("delayed", delayed, plain()),
        ("stop", waiting.clone(), plain()),
        ("stopmany", gathered(waiting), plain()),
    ]
}
