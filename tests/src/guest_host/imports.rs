//! What a guest reaches: its task, storage by grant, and nothing of the machine.

use super::{Bed, component};
use async_trait::async_trait;
use serde_json::json;
use std::fs;
use std::sync::Arc;
use wasm_worker::guest::{GuestFault, Services};
use wasm_worker::object_store::{FileObjectStore, ObjectError, ObjectMeta, ObjectReader, ObjectStore, ObjectWriter, Publish};
use wasm_worker::task::hooks::HookError;
use wasm_worker::task::outputs::Place;
use wasm_worker::task::uri::Uri;
use wasm_worker::task_store::MemoryTaskStore;

#[tokio::test]
async fn a_hook_sees_the_task_and_the_setup() {
    let bed = Bed::with(component("probe").await, |setup| setup.functions = vec!["a".into(), "b".into()]).await;
    let echo = bed.run(json!({"action": "echo"})).await.json();
    assert_eq!(echo["setup"], json!({"step": "probe", "functions": ["a", "b"], "models": []}));
    assert_eq!((&echo["tenant"], &echo["attempt"], &echo["metadata"]), (&json!("tenant"), &json!(1), &json!([["colour", "green"]])));
    let left = echo["deadline_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn outputs_are_written_and_read_back() {
    let bed = Bed::probe().await;
    let files = json!([{"name": "small.bin", "bytes": 100}, {"name": "large.bin", "bytes": 3 << 20, "piece": 700_000}]);
    let ran = bed.run(json!({"action": "write", "files": files})).await;
    let address = format!("file://{}/small.bin", bed.folder.path().display());
    assert_eq!(ran.json()["small.bin"], json!(address));
    let outputs = ran.scope.take_outputs();
    let sizes: Vec<_> = outputs.iter().map(|o| (o.name.as_str(), o.size, matches!(o.place, Place::Inline(_)))).collect();
    assert_eq!(sizes, [("small.bin", 100, true), ("large.bin", 3 << 20, false)]);
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_nothing() {
    let bed = Bed::probe().await;
    let file = json!({"name": "a.bin", "bytes": 1 << 20, "piece": 100_000, "abort": true});
    let ran = bed.run(json!({"action": "write", "files": [file]})).await;
    assert!(ran.answer.is_ok() && ran.scope.take_outputs().is_empty());
}

#[tokio::test]
async fn outputs_end_at_their_quota() {
    let bed = Bed::with(component("probe").await, |setup| setup.limits.output = 1 << 20).await;
    let file = json!({"name": "a.bin", "bytes": 1u64 << 40, "piece": 100_000});
    let ran = bed.run(json!({"action": "write", "files": [file]})).await;
    assert!(matches!(&ran.answer, Err(GuestFault::Hook(HookError::Fatal { code, .. })) if code == "too-large"), "{:?}", ran.answer);
    assert!(ran.scope.take_outputs().is_empty() && ran.reusable);
}

/// The code of the error that a hook failed with.
fn fatal(ran: &super::Ran) -> (&str, &str) {
    match &ran.answer {
        Err(GuestFault::Hook(HookError::Fatal { code, message })) => (code, message),
        other => panic!("no fatal error: {other:?}"),
    }
}

/// Each is a file of the process, of which there are few for all tasks.
#[tokio::test]
async fn a_run_holds_only_so_many_readers_and_writers() {
    let input = tempfile::NamedTempFile::new().unwrap();
    let uri = Uri::of_file(input.path()).unwrap();
    let bed = Bed::with(component("probe").await, |setup| setup.grants.read = vec![uri.clone()]).await;
    let open = |readers: u32, writers: u32| json!({"action": "open", "uri": uri.as_str(), "readers": readers, "writers": writers});
    for (readers, writers) in [(17, 0), (0, 17), (9, 8)] {
        let ran = bed.run(open(readers, writers)).await;
        assert_eq!(ran.json()["error"]["code"], "too-large", "{readers} {writers}");
        assert!(ran.json()["error"]["message"].as_str().unwrap().contains("close one"), "{}", ran.json());
        // What it held is closed with the run: the next on this instance may open as many again.
        assert!(ran.reusable);
        assert_eq!(bed.run(open(8, 8)).await.json(), json!({"opened": 16}));
    }
    let mut one_by_one = open(40, 40);
    one_by_one["close"] = json!(true);
    assert_eq!(bed.run(one_by_one).await.json(), json!({"opened": 80}));
}

/// One name written again and again is one output, and a piece on disk each time.
#[tokio::test]
async fn staged_pieces_are_bounded_as_files_are() {
    let bed = Bed::with(component("probe").await, |setup| setup.limits.files = 3).await;
    for piece in [json!(null), json!(50_000)] {
        let file = json!({"name": "a.bin", "bytes": 100_000, "piece": piece});
        let ran = bed.run(json!({"action": "write", "files": vec![&file; 3]})).await;
        assert_eq!(ran.scope.take_outputs().len(), 1, "{:?}", ran.answer);
        let ran = bed.run(json!({"action": "write", "files": vec![&file; 4]})).await;
        let (code, message) = fatal(&ran);
        assert_eq!(code, "too-large");
        assert!(message.contains("begun 3 large files (limits.files)"), "{message}");
    }
}

#[tokio::test]
async fn an_output_is_a_file_or_a_folder() {
    let bed = Bed::probe().await;
    let write = |names: [&str; 2], piece: serde_json::Value| {
        let files: Vec<_> = names.iter().map(|name| json!({"name": name, "bytes": 3, "piece": piece})).collect();
        json!({"action": "write", "files": files})
    };
    for names in [["a", "a/b"], ["a/b", "a"], ["a/b/c", "a"], ["a", "a/b/c"], ["a/b/c", "a/b"], ["A/b", "a"], ["a", "A/b"]] {
        for piece in [json!(null), json!(2)] {
            let ran = bed.run(write(names, piece)).await;
            let (code, message) = fatal(&ran);
            assert_eq!(code, "invalid", "{names:?}");
            assert!(message.contains(names[1]) && message.contains("file and a folder"), "{message}");
        }
    }
    for names in [["a", "a.b/c"], ["a", "ab/c"], ["a-b/c", "a"], ["a/b", "a/c"], ["a/b", "a/b"]] {
        assert!(bed.run(write(names, json!(null))).await.answer.is_ok(), "{names:?}");
    }
}

#[tokio::test]
async fn names_out_of_the_task_are_refused() {
    let bed = Bed::probe().await;
    for name in ["../x", "a//b", "%2e%2e", "metrics.json", "", "a\u{0}b"] {
        let ran = bed.run(json!({"action": "write_name", "name": name})).await;
        assert_eq!(ran.json()["error"]["code"], "invalid", "{name:?}");
    }
}

#[tokio::test]
async fn publish_next_writes_nothing() {
    let ran = Bed::probe().await.run(json!({"action": "write_late"})).await;
    assert!(matches!(&ran.answer, Err(GuestFault::Hook(HookError::Fatal { code, .. })) if code == "denied"), "{:?}", ran.answer);
}

#[tokio::test]
async fn reads_need_a_grant() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, other) = (folder.path().join("mine/a.txt"), folder.path().join("other.txt"));
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::write(&mine, "hello").unwrap();
    fs::write(&other, "secret").unwrap();
    let granted = Uri::of_folder(&folder.path().join("mine")).unwrap();
    let bed = Bed::with(component("probe").await, |setup| setup.grants.read = vec![granted]).await;
    let uri = |path: &std::path::Path| format!("file://{}", path.display());
    for action in [json!({"action": "read"}), json!({"action": "stream", "piece": 2})] {
        let with = |text: String| {
            let mut action = action.clone();
            action["uri"] = json!(text);
            action
        };
        let ran = bed.run(with(uri(&mine))).await;
        assert_eq!((&ran.json()["bytes"], &ran.json()["text"]), (&json!(5), &json!("hello")));
        assert_eq!(ran.figures().read_bytes, 5);
        for (address, code) in [(uri(&other), "denied"), ("file:///etc/passwd".into(), "denied"), ("http://x/".into(), "invalid")] {
            assert_eq!(bed.run(with(address.clone())).await.json()["error"]["code"], code, "{address}");
        }
        assert_eq!(bed.run(with(format!("{}x", uri(&mine)))).await.json()["error"]["code"], "not-found");
    }
}

#[tokio::test]
async fn nothing_of_the_machine_is_there() {
    let bed = Bed::probe().await;
    assert_eq!(bed.run(json!({"action": "environment"})).await.json(), json!({"variables": {}, "arguments": []}));
    for path in ["/etc/passwd", "Cargo.toml", "."] {
        assert!(bed.run(json!({"action": "open_file", "path": path})).await.json()["error"].is_object(), "{path}");
    }
    for address in ["127.0.0.1:80", "localhost:80"] {
        assert!(bed.run(json!({"action": "connect", "address": address})).await.json()["error"].is_object(), "{address}");
    }
    assert_eq!(bed.run(json!({"action": "secret", "name": "PATH"})).await.json()["secret"], json!(null));
}

#[tokio::test]
async fn granted_secrets_are_told() {
    let bed = Bed::with(component("probe").await, |setup| {
        setup.grants.secrets.insert("token".into(), "s3".into());
    })
    .await;
    assert_eq!(bed.run(json!({"action": "secret", "name": "token"})).await.json()["secret"], "s3");
}

#[tokio::test]
async fn the_log_takes_lines_and_ends_at_its_limit() {
    let bed = Bed::with(component("probe").await, |setup| setup.limits.log = 4096).await;
    let ran = bed.run(json!({"action": "print", "stdout": "out \u{1b}[31m", "stderr": "err \u{202e}x", "times": 2})).await;
    let log = ran.scope.log_text();
    assert_eq!(log.lines().filter(|l| l.contains("stdout out \\u{1b}[31m")).count(), 2, "{log}");
    assert_eq!(log.lines().filter(|l| l.contains("stderr err \\u{202e}x")).count(), 2, "{log}");

    let ran = bed.run(json!({"action": "log", "lines": 100_000, "bytes": 100})).await;
    let log = ran.scope.log_text();
    assert!(log.len() < 8192 && log.contains("more lines dropped"), "{} bytes", log.len());
    let flood = bed.run(json!({"action": "print", "stdout": "x".repeat(1 << 20), "stderr": "", "times": 20})).await;
    assert!(flood.answer.is_ok() && flood.scope.log_text().len() < 8192);
}

#[tokio::test]
async fn progress_is_kept() {
    let ran = Bed::probe().await.run(json!({"action": "progress", "done": 3, "total": 9})).await;
    let progress: serde_json::Value = serde_json::from_str(&ran.scope.progress().unwrap()).unwrap();
    assert_eq!(progress, json!({"done": 3, "total": 9, "phase": "probe", "metrics": {"done": 3}}));
}

#[tokio::test]
async fn emitted_chunks_are_bounded() {
    let bed = Bed::with(component("probe").await, |setup| setup.limits.payload = 1000).await;
    assert_eq!(bed.run(json!({"action": "emit", "chunks": 3, "bytes": 10})).await.json(), json!({"emitted": 3}));
    assert_eq!(bed.run(json!({"action": "emit", "chunks": 1, "bytes": 2000})).await.json()["error"]["code"], "too-large");
}

/// Objects on disk, except that one address panics.
struct Panics(FileObjectStore);

#[async_trait]
impl ObjectStore for Panics {
    async fn head(&self, uri: &Uri) -> Result<Option<ObjectMeta>, ObjectError> {
        self.0.head(uri).await
    }
    async fn get(&self, uri: &Uri, limit: u64) -> Result<Vec<u8>, ObjectError> {
        assert!(!uri.as_str().ends_with("/panic"), "a bug of the host");
        self.0.get(uri, limit).await
    }
    async fn open(&self, uri: &Uri) -> Result<Box<dyn ObjectReader>, ObjectError> {
        self.0.open(uri).await
    }
    async fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<(), ObjectError> {
        self.0.put(uri, bytes).await
    }
    async fn create(&self, uri: &Uri) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        self.0.create(uri).await
    }
    async fn publish(&self, pieces: Vec<Publish>, last: &Uri) -> Result<(), ObjectError> {
        self.0.publish(pieces, last).await
    }
    async fn list(&self, prefix: &Uri) -> Result<Vec<ObjectMeta>, ObjectError> {
        self.0.list(prefix).await
    }
    async fn delete(&self, uri: &Uri) -> Result<(), ObjectError> {
        self.0.delete(uri).await
    }
    async fn delete_prefix(&self, prefix: &Uri) -> Result<(), ObjectError> {
        self.0.delete_prefix(prefix).await
    }
}

#[tokio::test]
async fn a_panic_in_the_host_costs_the_instance_only() {
    let services = Services { objects: Arc::new(Panics(FileObjectStore::new())), tasks: Arc::new(MemoryTaskStore::new()) };
    let bed = Bed::on(component("probe").await, services, |setup| setup.grants.read = vec![Uri::root()]).await;
    let ran = bed.run(json!({"action": "read", "uri": "file:///panic"})).await;
    assert!(matches!(&ran.answer, Err(GuestFault::Host(error)) if error.code == "host-panic"), "{:?}", ran.answer);
    assert!(!ran.reusable);
    assert_eq!(bed.run(json!({"action": "json", "value": 1})).await.json(), 1);
}
