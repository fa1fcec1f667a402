//! What the store keeps and for how long: jobs that are fed and sealed, letters that are purged, jobs that are pruned, and what follows
//! a task that was given up.

use crate::binary::{Place, Running, guest, until};
use serde_json::{Value, json};
use wasm_worker::task::hooks::TaskError;
use wasm_worker::task_store::{Durability, Refused, SqliteTaskStore, TaskStore};

/// Each case on a store of its own: a SQLite file, and a database of a real server.
macro_rules! on_each_store {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $case() {
                super::$case(&super::Place::new());
            })+
        }
        mod postgres {
            $(#[test]
            fn $case() {
                let Some(server) = crate::servers::postgres::Server::shared() else { return };
                super::$case(&super::Place::on(server.database()));
            })+
        }
    };
}

on_each_store! {
    a_fed_job_ends_when_it_is_sealed,
    the_last_of_the_tasks_a_feeder_announced_seals_the_job,
    a_fed_job_that_has_gone_quiet_is_closed,
    all_at_once_is_one_command,
    a_letter_has_a_number_and_can_be_purged,
    what_ended_long_ago_is_pruned_and_dead_letters_stay,
    a_task_that_is_given_up_is_followed_by_its_failure_step,
}

/// A pipeline file: `(step, guest, the rest of its table)`.
fn pipeline(place: &Place, steps: &[(&str, &str, &str)]) -> String {
    let table = |(name, of, rest): &(&str, &str, &str)| format!("[steps.{name}]\nguest = {:?}\n{rest}\n", guest(of).to_str().unwrap());
    let tables: String = steps.iter().map(table).collect();
    place.write("pipeline.toml", &format!("name = \"keep\"\n{tables}")).to_str().unwrap().to_owned()
}

fn json_of(place: &Place, words: &[&str]) -> Value {
    place.run(&[words, &["--json"]].concat()).ok().json()
}

fn job(place: &Place, id: &str) -> Value {
    json_of(place, &["jobs", "show", id])
}

fn run_down(place: &Place, pipeline: &str) {
    place.run(&["run", pipeline, "--until-empty"]).ok();
}

const VALUE: &str = r#"{"action": "json", "value": 1}"#;

fn a_fed_job_ends_when_it_is_sealed(place: &Place) {
    let file = pipeline(place, &[("work", "probe", "")]);
    let feed = ["submit", &file, "--feed", "--job-id", "album", "--params", VALUE];
    assert_eq!(place.run(&[&feed[..], &["--repeat", "3"]].concat()).ok().out, "album\n", "a line per job");
    run_down(place, &file);
    let open = job(place, "album");
    assert_eq!((&open["state"], &open["open"], &open["task_count"]), (&json!("PROCESSING"), &json!(true), &json!(3)));
    assert!(place.run(&["jobs", "list"]).ok().out.contains("open"));
    // Outputs of its tasks lie apart, below the job's own prefix.
    let prefix = open["output_prefix"].as_str().unwrap().to_owned();
    let outputs = |record: &Value| -> Vec<String> {
        let tasks = record["tasks"].as_array().unwrap();
        let mut uris: Vec<String> = tasks.iter().map(|t| t["outputs"][0].as_str().unwrap().to_owned()).collect();
        uris.sort();
        uris.dedup();
        uris
    };
    assert_eq!(outputs(&open).len(), 3);
    assert!(outputs(&open).iter().all(|uri| uri.starts_with(&format!("{prefix}work/"))), "{open}");
    assert_eq!((&open["result"], &open["task_id"]), (&Value::Null, &Value::Null), "none of its tasks is the final one");
    // It can be fed while others work on it, and by somebody else.
    place.run(&feed).ok();
    let sealed = json_of(place, &["jobs", "seal", "album"]);
    assert_eq!(sealed, json!({"job_id": "album", "state": "PROCESSING", "was_open": true}));
    let late = place.run(&feed);
    assert_eq!(late.code, Some(1), "{}", late.out);
    assert!(late.err.contains("takes no further tasks") && late.err.contains("album"), "{}", late.err);
    run_down(place, &file);
    let done = job(place, "album");
    assert_eq!((&done["state"], &done["open"], &done["task_count"]), (&json!("DONE"), &json!(false), &json!(4)));
    assert_eq!(json_of(place, &["jobs", "seal", "album"])["state"], "DONE", "sealing twice is no error");
    // Never fed: nothing joins it.
    place.run(&["submit", &file, "--job-id", "single", "--params", VALUE]).ok();
    let joined = place.run(&["submit", &file, "--feed", "--job-id", "single", "--params", VALUE]);
    assert_eq!(joined.code, Some(1), "{}{}", joined.out, joined.err);
}

fn the_last_of_the_tasks_a_feeder_announced_seals_the_job(place: &Place) {
    let file = pipeline(place, &[("work", "probe", "")]);
    let line = |n: u32| format!("{{\"job_id\": \"album\", \"task_id\": \"album-{n}\", \"job_tasks\": 3, \"params\": {VALUE}}}\n");
    let first = place.write("first.jsonl", &(line(1) + &line(2)));
    let submitted = json_of(place, &["submit", &file, "--jsonl", first.to_str().unwrap()]);
    assert_eq!(submitted[1], json!({"job_id": "album", "task_id": "album-2", "submitted": "created"}));
    run_down(place, &file);
    let open = job(place, "album");
    assert_eq!((&open["state"], &open["open"], &open["expected"]), (&json!("PROCESSING"), &json!(true), &json!(3)));
    assert!(place.run(&["jobs", "show", "album"]).ok().out.contains("open, 3 expected"));
    // A repeat counts once; the third seals it.
    let rest = place.write("rest.jsonl", &(line(2) + &line(3)));
    let submitted = json_of(place, &["submit", &file, "--jsonl", rest.to_str().unwrap()]);
    assert_eq!([&submitted[0]["submitted"], &submitted[1]["submitted"]], ["repeated", "created"]);
    run_down(place, &file);
    assert_eq!((&job(place, "album")["state"], &job(place, "album")["task_count"]), (&json!("DONE"), &json!(3)));
}

/// Nobody seals it: it ends by itself once it has been quiet for long enough, and whoever comes later opens it again.
fn a_fed_job_that_has_gone_quiet_is_closed(place: &Place) {
    let file = pipeline(place, &[("work", "probe", "")]);
    let feed = ["submit", &file, "--feed", "--job-id", "album", "--params", VALUE];
    place.run(&feed).ok();
    let _worker = Running::start(place, &["run", &file, "--set", "worker.fed_idle=1s"], &[("WASM_WORKER_LEASE", "1500ms")]);
    for tasks in 1..=2 {
        let ended = until("the job to end", || Some(job(place, "album")).filter(|job| job["state"] == "DONE"));
        let last = ended["tasks"].as_array().unwrap().iter().map(|t| t["times"]["ended_at"].as_i64().unwrap()).max().unwrap();
        let idle = ended["times"]["ended_at"].as_i64().unwrap() - last;
        assert!(ended["task_count"] == tasks && idle >= 1000, "after {idle} ms: {ended}");
        place.run(&feed).ok();
    }
}

fn all_at_once_is_one_command(place: &Place) {
    let file = pipeline(place, &[("work", "probe", "")]);
    let _worker = Running::start(place, &["run", &file], &[]);
    let words = ["submit", &file, "--feed", "--seal", "--wait", "--params", VALUE, "--repeat", "5"];
    let submitted = json_of(place, &words);
    let submitted = submitted.as_array().unwrap();
    assert!(
        submitted.len() == 5 && submitted.iter().all(|r| r["job_id"] == submitted[0]["job_id"] && r["state"] == "DONE"),
        "{submitted:?}"
    );
}

fn a_letter_has_a_number_and_can_be_purged(place: &Place) {
    let file = pipeline(place, &[("work", "probe", "max_attempts = 1")]);
    for id in ["a", "b", "c"] {
        let params = format!(r#"{{"action": "fatal", "code": "probe-{id}", "message": "m"}}"#);
        place.run(&["submit", &file, "--job-id", id, "--params", &params]).ok();
    }
    run_down(place, &file);
    let letters = json_of(place, &["dlq", "list"]);
    let number = |job: &str| letters.as_array().unwrap().iter().find(|l| l["job_id"] == job).unwrap()["id"].to_string();
    for words in [&["dlq", "show", &number("a")][..], &["dlq", "show", "--id", &number("a")]] {
        assert_eq!(json_of(place, words)["error"]["code"], "probe-a", "{words:?}");
    }
    assert_eq!(json_of(place, &["dlq", "list", "--id", &number("b")]).as_array().unwrap().len(), 1);
    let back = json_of(place, &["dlq", "redrive", "--id", &number("c"), "--dry-run"]);
    assert_eq!((back["redriven"].as_array().unwrap().len(), &back["redriven"][0]["job_id"]), (1, &json!("c")));
    for words in [&["dlq", "redrive", "--id", "999"][..], &["dlq", "purge", "--id", "999"], &["dlq", "show", "999"]] {
        let missing = place.run(words);
        assert!(missing.code == Some(1) && missing.err.contains("no dead letter '999'"), "{words:?}: {}", missing.err);
    }
    assert_eq!(place.run(&["dlq", "purge"]).code, Some(2), "nothing says which");
    let dry = json_of(place, &["dlq", "purge", "--all", "--dry-run"]);
    assert_eq!((dry["purged"].as_array().unwrap().len(), &dry["dry_run"]), (3, &json!(true)));
    let gone = json_of(place, &["dlq", "purge", "--code", "probe-a"]);
    assert_eq!((gone["purged"].as_array().unwrap().len(), &gone["purged"][0]["job_id"]), (1, &json!("a")));
    assert_eq!(json_of(place, &["dlq", "list"]).as_array().unwrap().len(), 2);
    // Its task stays as it is, and cannot be put back.
    assert_eq!(json_of(place, &["tasks", "show", "a"])["state"], "DEAD");
    assert_eq!(json_of(place, &["dlq", "redrive", "--job", "a"])["redriven"], json!([]));
    assert!(place.run(&["dlq", "purge", "--all"]).ok().err.contains("2 letters removed"));
    assert_eq!(json_of(place, &["dlq", "list"]), json!([]));
}

/// A message that a worker refused on arrival is a letter without a task: shown with its queue, never put back, purged by its number.
#[tokio::test]
async fn a_refused_message_is_a_letter_of_its_own() {
    let place = Place::new();
    let file = pipeline(&place, &[("work", "probe", "max_attempts = 1")]);
    place.run(&["submit", &file, "--job-id", "dead", "--params", r#"{"action": "fatal", "code": "x", "message": "m"}"#]).ok();
    run_down(&place, &file);
    let store = SqliteTaskStore::open(&place.path().join("data/wasm-worker.db"), Durability::Full).await.unwrap();
    let refused = Refused {
        tenant: "default".into(),
        queue: "redis://broker/in".into(),
        body: "{\"job_id\": \"j\u{202e}".into(),
        body_hash: "ab".repeat(32),
        error: TaskError::new("bad-message", "no JSON"),
    };
    store.refuse(vec![refused.clone()]).await.unwrap();
    store.refuse(vec![refused]).await.unwrap();
    let letters = json_of(&place, &["dlq", "list"]);
    assert_eq!(letters.as_array().unwrap().len(), 2, "a repeat adds none: {letters}");
    let letter = &letters[0];
    assert_eq!(
        (&letter["task_id"], &letter["queue"], &letter["error"]["code"]),
        (&Value::Null, &json!("redis://broker/in"), &json!("bad-message"))
    );
    let number = letter["id"].to_string();
    let table = place.run(&["dlq", "list"]).ok().out;
    assert!(table.contains("QUEUE") && table.contains("redis://broker/in"), "{table}");
    let shown = place.run(&["dlq", "show", &number]).ok().out;
    assert!(shown.contains("never a task") && shown.contains("{\"job_id\": \"j\\u{202e}") && !shown.contains('\u{202e}'), "{shown}");
    for words in [&["dlq", "redrive", "--id", &number][..], &["dlq", "redrive", "--id", &number, "--dry-run"]] {
        let refused = place.run(words);
        assert_eq!(refused.code, Some(1), "{}", refused.out);
        assert!(refused.err.contains("never was a task") && refused.err.contains("redis://broker/in"), "{}", refused.err);
    }
    let back = json_of(&place, &["dlq", "redrive", "--all", "--dry-run"])["redriven"].clone();
    assert_eq!((back.as_array().unwrap().len(), &back[0]["job_id"]), (1, &json!("dead")));
    assert_eq!(json_of(&place, &["dlq", "purge", "--id", &number])["purged"][0]["id"].to_string(), number);
    assert_eq!(json_of(&place, &["dlq", "list"]).as_array().unwrap().len(), 1);
}

fn what_ended_long_ago_is_pruned_and_dead_letters_stay(place: &Place) {
    let file = pipeline(place, &[("work", "probe", "max_attempts = 1"), ("each", "probe", "")]);
    place.run(&["submit", &file, "--params", r#"{"action": "fan_out", "n": 2, "step": "each"}"#, "--repeat", "3"]).ok();
    place.run(&["submit", &file, "--job-id", "dead", "--params", r#"{"action": "fatal", "code": "x", "message": "m"}"#]).ok();
    run_down(place, &file);
    let sweep = || {
        std::thread::sleep(std::time::Duration::from_millis(2100));
        place.run(&["run", &file, "--until-empty", "--set", "worker.lease=1s"]).ok();
    };
    let of =
        |dry_run: bool, jobs: u32, tasks: u32, unswept: u32| json!({"dry_run": dry_run, "jobs": jobs, "tasks": tasks, "unswept": unswept});
    assert_eq!(json_of(place, &["prune", "--older-than", "1ms"]), of(false, 0, 0, 3), "what attempts left is not swept yet");
    let told = place.run(&["prune", "--older-than", "1ms"]).ok();
    assert!(told.out == "0 jobs with 0 tasks removed\n" && told.err.contains("3 jobs as old stay"), "{}", told.err);
    sweep();
    place.run(&["submit", &file, "--job-id", "waits", "--params", VALUE]).ok();
    assert_eq!(json_of(place, &["prune"]), of(false, 0, 0, 0), "nothing is 30 days old");
    assert_eq!(json_of(place, &["prune", "--dry-run", "--set", "store.retention=1ms"])["jobs"], 3);
    assert_eq!(json_of(place, &["prune", "--older-than", "1ms", "--dry-run"]), of(true, 3, 9, 0));
    assert_eq!(json_of(place, &["jobs", "list"]).as_array().unwrap().len(), 5);
    assert_eq!(place.run(&["prune", "--older-than", "1ms"]).ok().out, "3 jobs with 9 tasks removed\n");
    let left = json_of(place, &["jobs", "list"]);
    let left: Vec<&Value> = left.as_array().unwrap().iter().map(|j| &j["job_id"]).collect();
    assert_eq!(left, ["waits", "dead"]);
    // Once nobody wants to put it back, it goes too; what waits never does.
    place.run(&["dlq", "purge", "--all"]).ok();
    assert_eq!(json_of(place, &["prune", "--older-than", "1ms"]), of(false, 0, 0, 1));
    run_down(place, &file);
    assert_eq!(job(place, "waits")["state"], "DONE");
    sweep();
    assert_eq!(json_of(place, &["prune", "--older-than", "1ms"]), of(false, 2, 2, 0));
    assert_eq!(json_of(place, &["jobs", "list"]), json!([]));
}

/// `failure` in `transitions`: the host itself makes one task, with what the dead one was given and why it died.
fn a_task_that_is_given_up_is_followed_by_its_failure_step(place: &Place) {
    let work = "max_attempts = 2\nretry = { first = \"10ms\", max = \"10ms\" }\ntransitions = { failure = \"sorry\" }";
    let file = pipeline(place, &[("work", "probe", work), ("sorry", "noop", "")]);
    let trap = json!({"action": "trap", "hook": "process"});
    place.run(&["submit", &file, "--job-id", "bad", "--params", &trap.to_string()]).ok();
    place.run(&["submit", &file, "--job-id", "good", "--params", VALUE]).ok();
    run_down(place, &file);
    let tasks = json_of(place, &["tasks", "list", "--job", "bad"]);
    let of = |step: &str| tasks.as_array().unwrap().iter().filter(|t| t["step"] == step).collect::<Vec<_>>();
    let ([dead], [sorry]) = (&of("work")[..], &of("sorry")[..]) else { panic!("{tasks}") };
    assert_eq!((&dead["state"], &dead["attempts"], &dead["error"]["code"]), (&json!("DEAD"), &json!(2), &json!("trap")));
    assert_eq!((&sorry["state"], &sorry["parent"]), (&json!("DONE"), &dead["task_id"]));
    let params = &sorry["message"]["params"];
    assert_eq!((&params["action"], &params["error"]["code"]), (&json!("trap"), &json!("trap")), "{params}");
    assert_eq!((&job(place, "bad")["state"], &job(place, "good")["task_count"]), (&json!("FAILED"), &json!(1)));
}
