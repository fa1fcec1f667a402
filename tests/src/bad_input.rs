//! Bad input of every kind: one clear error that names the value and what to do, the right exit code, and nothing that panics.

use crate::binary::{Place, Printed, guest, root};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use wasm_worker::task::checks::KEYS;
use wasm_worker::task::message::{MAX_MESSAGE, MAX_VALUES, Message, MessageBounds};

/// The minimal core module: magic number and version 1.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Exit code of a usage error, of bad input and of bad configuration.
const USAGE: Option<i32> = Some(2);

/// Asserts the exit code, and that standard error has an `error:` line, a `help:` line, and every one of `parts`.
fn refused(printed: &Printed, code: Option<i32>, parts: &[&str]) {
    let text = &printed.err;
    assert_eq!(printed.code, code, "{}\n{text}", printed.out);
    assert!(text.contains("error:"), "no error line: {text}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn what_is_no_guest_is_refused_by_name() {
    let place = Place::new();
    let files: [(&str, &[u8], &[&str]); 4] = [
        ("text.wasm", b"hello", &["text.wasm", "no WebAssembly"]),
        ("empty.wasm", b"", &["empty.wasm", "empty"]),
        ("core.wasm", CORE_MODULE, &["core.wasm", "core module", "wasm32-wasip2"]),
        ("native.cwasm", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", &["native.cwasm"]),
    ];
    for (name, bytes, parts) in files {
        fs::write(place.path().join(name), bytes).unwrap();
        refused(&place.run(&["run", name, "--params", "{}"]), USAGE, parts);
    }
    refused(&place.run(&["run", "absent.wasm", "--params", "{}"]), USAGE, &["absent.wasm"]);
    for (name, part) in [("missing_hook", "publish-next"), ("unknown_import", "import")] {
        refused(&place.run(&["run", guest(name).to_str().unwrap(), "--params", "{}"]), USAGE, &[name, part]);
    }
}

#[test]
fn bad_inputs_and_params_are_named() {
    let place = Place::new();
    let probe = guest("probe");
    let probe = probe.to_str().unwrap();
    refused(&place.run(&["run", probe, "--params", "{nonsense"]), USAGE, &["params"]);
    refused(&place.run(&["run", probe, "--params", "[1]"]), USAGE, &["params", "object"]);
    refused(&place.run(&["run", probe, "--params", "{}", "--input", "absent.png"]), USAGE, &["absent.png"]);
    refused(&place.run(&["run", probe, "--params", "{}", "--input", "."]), USAGE, &["."]);
    refused(&place.run(&["run", probe, "--params", "{}", "--model", "det=absent.onnx"]), USAGE, &["det", "absent.onnx"]);
    refused(&place.run(&["run", probe, "--no-such-flag"]), USAGE, &["--no-such-flag"]);
    let unknown = place.run(&["run", probe, "--params", r#"{"action": "dance"}"#]);
    refused(&unknown, Some(1), &["dance"]);
    let large = place.path().join("large.bin");
    fs::File::create(&large).unwrap().set_len(60 << 20).unwrap();
    let read = place.run(&["run", probe, "--params", r#"{"action": "read"}"#, "--input", "large.bin", "--json"]).ok().json();
    assert_eq!(read["result"]["error"]["code"], "too-large", "{read}");
    let streamed = place.run(&["run", probe, "--params", r#"{"action": "stream", "piece": 1000000}"#, "--input", "large.bin", "--json"]);
    assert_eq!(streamed.ok().json()["result"]["bytes"], 60 << 20);
}

#[test]
fn a_delay_beyond_a_year_is_a_mistake_of_units() {
    let place = Place::new();
    let probe = guest("probe");
    let probe = probe.to_str().unwrap();
    for delay in ["366days", "500000000000years"] {
        let printed = place.run(&["submit", probe, "--params", "{}", "--delay", delay]);
        refused(&printed, USAGE, &["--delay", delay, "365 days"]);
        assert_eq!(printed.out, "");
    }
    let line = place.write("far.jsonl", "{\"params\": {}}\n{\"params\": {}, \"delay_ms\": 31536000001}\n");
    refused(
        &place.run(&["submit", probe, "--jsonl", line.to_str().unwrap()]),
        USAGE,
        &["far.jsonl:2", "delay_ms", "nothing was submitted"],
    );
    refused(&place.run(&["submit", probe, "--params", "{}", "--delay", "soon"]), USAGE, &["--delay", "soon"]);
    place.run(&["submit", probe, "--params", "{}", "--delay", "365days"]).ok();
    let tasks = place.run(&["tasks", "list", "--json"]).ok().json();
    assert_eq!(tasks.as_array().unwrap().len(), 1);
}

#[test]
fn a_pipeline_file_is_checked_as_a_whole() {
    let place = Place::new();
    place.write(
        "p.toml",
        "name = \"p\"\nnmae = 1\n[steps.a]\nguest = \"a.wasm\"\nnext = \"b\"\nlimits = { wal = \"1s\" }\nmodels = [\"m\"]\n",
    );
    refused(
        &place.run(&["run", "p.toml"]),
        USAGE,
        &["p.toml", "nmae", "did you mean 'name'", "steps.a.next", "did you mean 'wall'", "no such model"],
    );
    place.write("broken.toml", "name = ");
    refused(&place.run(&["run", "broken.toml"]), USAGE, &["broken.toml"]);
    let mut command = place.command(&["jobs", "list"]);
    command.env("WASM_WORKER_LAESE", "1s").env("WASM_WORKER_GRACE", "soon");
    refused(&command.output().unwrap().into(), USAGE, &["WASM_WORKER_LEASE", "worker.grace"]);
}

#[test]
fn a_missing_library_or_model_is_said_before_anything_starts() {
    let place = Place::new();
    let pipeline = root().join("guests/ocr/pipeline.toml");
    let mut command = place.command(&["run", pipeline.to_str().unwrap(), "--backend", "onnxruntime", "--until-empty"]);
    refused(&command.env_remove("ORT_DYLIB_PATH").output().unwrap().into(), USAGE, &["onnxruntime", "ORT_DYLIB_PATH"]);
    let mut command = place.command(&["run", pipeline.to_str().unwrap(), "--backend", "onnxruntime", "--until-empty"]);
    refused(&command.env("ORT_DYLIB_PATH", "/nowhere/lib.so").output().unwrap().into(), USAGE, &["/nowhere/lib.so"]);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let place = Place::new();
    place.write("file", "not a folder");
    let probe = guest("probe");
    let submit = ["submit", probe.to_str().unwrap(), "--params", "{}", "--data-dir"];
    for words in [&["jobs", "list", "--data-dir"][..], &submit] {
        refused(&place.run(&[words, &["file"]].concat()), Some(1), &["file"]);
    }
    refused(&place.run(&[&submit[..], &["/proc/nowhere"]].concat()), Some(1), &["/proc/nowhere"]);
    let junk = place.path().join("junk");
    fs::create_dir(&junk).unwrap();
    fs::write(junk.join("wasm-worker.db"), vec![b'x'; 8192]).unwrap();
    refused(&place.run(&["jobs", "list", "--data-dir", "junk"]), Some(1), &["wasm-worker.db"]);
    // A device of which every write says that the disk is full.
    if std::path::Path::new("/dev/full").exists() {
        let full = place.path().join("full");
        fs::create_dir(&full).unwrap();
        std::os::unix::fs::symlink("/dev/full", full.join("wasm-worker.db")).unwrap();
        refused(&place.run(&["jobs", "list", "--data-dir", "full"]), Some(1), &["wasm-worker.db"]);
    }
}

#[test]
fn a_guest_that_misbehaves_is_a_failed_job_and_the_worker_goes_on() {
    let place = Place::new();
    let probe = guest("probe");
    let pipeline = place.write(
        "p.toml",
        &format!(
            "name = \"p\"\n[steps.probe]\nguest = {:?}\nmax_attempts = 1\nlimits = {{ wall = \"2s\", memory = \"64MiB\" }}\n",
            probe.to_str().unwrap()
        ),
    );
    let lines = [
        (r#"{"action": "trap", "hook": "process"}"#, "trap"),
        (r#"{"action": "trap", "hook": "publish_next"}"#, "trap"),
        (r#"{"action": "loop", "hook": "process"}"#, "wall-limit"),
        (r#"{"action": "loop", "hook": "publish_next"}"#, "wall-limit"),
        (r#"{"action": "allocate", "bytes": 5368709120}"#, "memory-limit"),
        (r#"{"action": "recurse"}"#, "trap"),
        (r#"{"action": "error_text", "bytes": 1000000}"#, "probe-text"),
        (r#"{"action": "write_late"}"#, "denied"),
        (r#"{"action": "fan_out", "n": 2, "step": "probe", "same_key": true}"#, "duplicate-child"),
        (r#"{"action": "fan_out", "n": 1, "step": "nowhere"}"#, "unknown-step"),
        (r#"{"action": "fan_out", "n": 1}"#, "no-next-step"),
        (r#"{"action": "fan_out", "n": 1, "step": "probe", "input_uri": "file:///etc/passwd"}"#, "child-input-denied"),
        (r#"{"action": "fan_out", "n": 10001, "step": "probe"}"#, "fan-out-limit"),
        (r#"{"action": "raw", "payload": "{broken"}"#, "bad-answer"),
        (r#"{"action": "body", "content_type": "x/y", "bytes": 2000000}"#, "payload-limit"),
    ];
    let text: String = lines.iter().map(|(params, _)| format!("{{\"params\": {params}}}\n")).collect();
    let jobs = place.write("jobs.jsonl", &format!("{text}{{\"params\": {{\"action\": \"json\", \"value\": 7}}}}\n"));
    place.run(&["submit", pipeline.to_str().unwrap(), "--jsonl", jobs.to_str().unwrap()]).ok();
    place.run(&["run", pipeline.to_str().unwrap(), "--until-empty"]).ok();
    let tasks = place.run(&["tasks", "list", "--json"]).ok().json();
    let state_of = |params: &str| {
        let wanted: serde_json::Value = serde_json::from_str(params).unwrap();
        tasks
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["message"]["params"] == wanted)
            .unwrap_or_else(|| panic!("{params} is not listed"))
            .clone()
    };
    for (params, code) in lines {
        let task = state_of(params);
        assert_eq!((task["state"].as_str(), task["error"]["code"].as_str()), (Some("DEAD"), Some(code)), "{params}: {}", task["error"]);
        assert!(task["error"]["message"].as_str().unwrap().len() <= 4096);
    }
    assert_eq!(state_of(r#"{"action": "json", "value": 7}"#)["state"], "DONE");
    assert_eq!(place.run(&["dlq", "list", "--json"]).ok().json().as_array().unwrap().len(), lines.len());
}

/// By its extension before anything is submitted, by its first bytes when the guest reads it.
#[test]
fn a_step_says_which_kinds_of_input_it_takes() {
    let place = Place::new();
    let step = |accept: &str| format!("[steps.probe]\nguest = {:?}\nmax_attempts = 1\naccept = {accept}\n", guest("probe"));
    place.write("bad.toml", &step("[\"png\", \"jpgg\"]"));
    refused(&place.run(&["run", "bad.toml"]), USAGE, &["steps.probe.accept", "jpgg", "did you mean \"jpg\""]);
    place.write("p.toml", &step("[\"png\", \"image/jpeg\"]"));
    for name in ["page.gif", "liar.png", "true.JPG"] {
        fs::write(place.path().join(name), if name == "true.JPG" { b"\xff\xd8\xff\xe0" } else { b"GIF8" }).unwrap();
    }
    let submit = |name: &str| place.run(&["run", "p.toml", "--params", r#"{"action": "read"}"#, "--input", name, "--json"]);
    refused(&submit("page.gif"), USAGE, &["/input_uri", "page.gif", "image/png, image/jpeg"]);
    assert_eq!(place.run(&["tasks", "list", "--json"]).ok().json(), serde_json::json!([]));
    let liar = submit("liar.png").ok().json();
    assert_eq!(liar["result"]["error"]["code"], "invalid", "{liar}");
    assert!(liar["result"]["error"].to_string().contains("is no image/png: it begins with 'GIF8'"), "{liar}");
    assert!(submit("true.JPG").ok().json()["result"]["error"].is_null());
}

/// `VmHWM` of this process: the most memory it ever had, in bytes.
fn most_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Texts that ask for much memory, by name.
fn hungry(name: &str) -> Vec<u8> {
    let whole = |params: String| format!(r#"{{"job_id":"j","task_id":"t","params":{{{params}}}}}"#).into_bytes();
    let fill = |piece: &str, size: usize| piece.repeat(size / piece.len());
    match name {
        "ten megabytes" => whole(format!(r#""x":"{}""#, fill("x", 10 << 20))),
        "ten megabytes deep" => fill("[", 10 << 20).into_bytes(),
        "no UTF-8" => vec![0xff; MAX_MESSAGE],
        "deep" => whole(format!(r#""x":{}"#, fill("[", MAX_MESSAGE - 100))),
        "deep objects" => whole(format!(r#""x":{}"#, fill(r#"{"a":"#, MAX_MESSAGE - 100))),
        "many numbers" => whole(format!(r#""x":[{}1]"#, fill("1,", MAX_MESSAGE - 100))),
        "many objects" => whole(format!(r#""x":[{}1]"#, fill(r#"{"":0},"#, MAX_MESSAGE - 100))),
        "one long text" => whole(format!(r#""x":"{}""#, fill("x", MAX_MESSAGE - 100))),
        "one long escaped text" => whole(format!(r#""x":"{}""#, fill("\\u00e9", MAX_MESSAGE - 100))),
        "a long key" => whole(format!(r#""{0}":1,"{0}":2"#, fill("k", MAX_MESSAGE / 2 - 100))),
        "a long unknown key" => format!(r#"{{"{}":1}}"#, fill("k", MAX_MESSAGE - 100)).into_bytes(),
        "much base64" => {
            let input = format!(r#"{{"content_type":"x/y","base64":"{}"}}"#, fill("AAAA", MAX_MESSAGE - 200));
            format!(r#"{{"job_id":"j","task_id":"t","params":{{}},"input":{input}}}"#).into_bytes()
        }
        other => panic!("no text is called {other}"),
    }
}

const HUNGRY: [&str; 12] = [
    "ten megabytes",
    "ten megabytes deep",
    "no UTF-8",
    "deep",
    "deep objects",
    "many numbers",
    "many objects",
    "one long text",
    "one long escaped text",
    "a long key",
    "a long unknown key",
    "much base64",
];

/// What a message may take besides twice its size: all values that one may hold, each with a key of its own.
const SLACK: usize = 400 * MAX_VALUES;

/// Each text is decoded in a process of its own, whose memory nobody else uses.
#[test]
fn no_message_takes_much_memory() {
    const WHICH: &str = "WASM_WORKER_TEST_TEXT";
    if let Some(name) = std::env::var_os(WHICH) {
        let text = hungry(name.to_str().unwrap());
        let before = most_memory();
        let decoded = Message::decode(&text, &MessageBounds::default());
        let took = most_memory() - before;
        println!("{name:?}: {} bytes, {took} bytes more to read it, {}", text.len(), if decoded.is_ok() { "read" } else { "refused" });
        // The text itself is in memory already.
        assert!(took <= text.len() + SLACK, "{name:?} of {} bytes took {took}", text.len());
        return;
    }
    for name in HUNGRY {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let again = again.args(["bad_input::no_message_takes_much_memory", "--exact", "--nocapture"]).env(WHICH, name).output().unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && said.contains("bytes more to read it"), "{said}\n{}", String::from_utf8_lossy(&again.stderr));
        said.lines().filter(|line| line.contains("bytes more")).for_each(|line| println!("{line}"));
    }
}

/// The page on messages says what the code does: its samples decode, and its table has every field.
#[test]
fn messages_are_as_their_page_says() {
    let page = fs::read_to_string(root().join("docs/messages.md")).unwrap();
    let fenced = page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let quoted = page.split('\'').filter(|text| text.starts_with("{\"job_id\""));
    let samples: Vec<Message> = fenced
        .chain(quoted)
        .map(|text| Message::decode(text.as_bytes(), &MessageBounds::default()).unwrap_or_else(|e| panic!("{text}: {e:?}")))
        .collect();
    assert_eq!(samples.len(), 4);
    let complete: serde_json::Value = serde_json::from_str(page.split("```json\n").nth(2).unwrap().split("```").next().unwrap()).unwrap();
    let keys = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect::<BTreeSet<_>>();
    let known = keys(&mut KEYS.iter().copied());
    assert_eq!(keys(&mut complete.as_object().unwrap().keys().map(String::as_str)), known);
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|line| line.split('|').next());
    assert_eq!(keys(&mut rows.flat_map(|row| row.split('`')).filter(|name| name.len() > 2)), known);
}
