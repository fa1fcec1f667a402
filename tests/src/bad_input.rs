//! Bad input of every kind: one clear error that names the value and what to do, the right exit code, and nothing that panics.

use crate::binary::{Place, Printed, guest, root};
use std::fs;

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
