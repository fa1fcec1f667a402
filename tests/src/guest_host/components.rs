//! What is taken as a guest, and what is said about what is not.

use super::{Bed, component, engine};
use crate::binary::guest;
use serde_json::json;
use std::fs;
use std::path::Path;
use wasm_worker::guest::{Component, ComponentError, EngineConfig, GuestEngine, GuestFault};

async fn refused(file: &Path) -> ComponentError {
    Component::load(&engine(), file).await.expect_err("the component was taken")
}

async fn refused_text(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("given.wasm");
    fs::write(&file, bytes).unwrap();
    let text = refused(&file).await.to_string();
    assert!(text.contains("given.wasm"), "{text}");
    text
}

#[tokio::test]
async fn a_good_one_is_known_by_digest_imports_and_manifest() {
    let probe = component("probe").await;
    let seen = probe.inspect().await.unwrap();
    assert_eq!((seen.digest.len(), seen.digest.as_str()), (64, probe.digest()));
    assert_eq!(seen.size, fs::metadata(guest("probe")).unwrap().len());
    assert!(seen.exports.iter().any(|e| e.starts_with("wasm-worker:pipeline/hooks@")), "{:?}", seen.exports);
    assert!(seen.imports.iter().any(|i| i.starts_with("wasi:nn/graph@")), "{:?}", seen.imports);
    assert_eq!(seen.manifest.unwrap()["name"], "probe");
}

#[tokio::test]
async fn a_manifest_that_is_no_json_is_the_guests_fault() {
    let fault = component("bad_describe").await.describe().await.unwrap_err();
    assert!(matches!(&fault, GuestFault::Guest(error) if error.code == "bad-answer"), "{fault:?}");
}

#[tokio::test]
async fn missing_hooks_are_named() {
    let error = refused(&guest("missing_hook")).await;
    let ComponentError::MissingHooks { missing, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains(&missing.join(", ")) && !missing.is_empty(), "{error}");
}

#[tokio::test]
async fn an_unknown_import_is_named() {
    let error = refused(&guest("unknown_import")).await;
    let ComponentError::UnknownImport { import, .. } = &error else { panic!("{error:?}") };
    assert!(import.contains("teleport"), "{import}");
}

#[tokio::test]
async fn other_files_are_told_apart() {
    assert!(matches!(refused(Path::new("no/such/file.wasm")).await, ComponentError::Unreadable { .. }));
    let folder = tempfile::tempdir().unwrap();
    assert!(refused(folder.path()).await.to_string().contains("is a folder"));
    assert!(refused_text(b"").await.contains("is empty"));
    assert!(refused_text(b"(component)").await.contains("no WebAssembly"));
    assert!(refused_text(b"\0asm\x01\0\0\0").await.contains("core module"));
    assert!(refused_text(b"\0asm\x0d\0\x01\0garbage").await.contains("no valid component"));
    let native = engine().wasmtime().precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
    assert!(refused_text(&native).await.contains(".cwasm"));
    let empty = refused(&write(&folder, b"\0asm\x0d\0\x01\0")).await;
    assert!(matches!(&empty, ComponentError::MissingHooks { missing, .. } if missing.len() == 3), "{empty:?}");
}

fn write(folder: &tempfile::TempDir, bytes: &[u8]) -> std::path::PathBuf {
    let file = folder.path().join("component.wasm");
    fs::write(&file, bytes).unwrap();
    file
}

#[tokio::test]
async fn hooks_of_other_types_are_refused() {
    let text = r#"(component
        (type $f (func (param "setup" string) (result string)))
        (component $c (import "f" (func $f (type $f)))
            (export "load-pipeline" (func $f)) (export "process" (func $f)) (export "publish-next" (func $f)))
        (core module $m (memory (export "memory") 1)
            (func (export "f") (param i32 i32) (result i32) i32.const 0)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $g (type $f) (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
        (instance $hooks (instantiate $c (with "f" (func $g))))
        (export "wasm-worker:pipeline/hooks@0.1.0" (instance $hooks)))"#;
    let folder = tempfile::tempdir().unwrap();
    let error = refused(&write(&folder, &wat::parse_str(text).unwrap())).await;
    assert!(matches!(&error, ComponentError::WrongTypes { what, .. } if what == "hook load-pipeline"), "{error}");
}

#[tokio::test]
async fn ten_thousand_tables_are_refused() {
    let text = format!("(component (core module $m {}) (core instance (instantiate $m)))", "(table 1 funcref)".repeat(10_000));
    let text = refused_text(&wat::parse_str(text).unwrap()).await;
    assert!(text.contains("table"), "{text}");
}

#[tokio::test]
async fn compiled_code_is_kept_and_a_damaged_file_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("code");
    let config = EngineConfig { cache_dir: Some(cache.clone()), ..EngineConfig::for_cores(1) };
    let start = || GuestEngine::start(&config).unwrap();
    let load = async |engine| Component::load(&engine, &guest("noop")).await.unwrap();
    load(start()).await;
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let good = fs::read(&files[0]).unwrap();
    load(start()).await;
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&files[0], bad).unwrap();
    let component = load(start()).await;
    assert_eq!(fs::read(&files[0]).unwrap().len(), good.len());
    assert!(component.describe().await.unwrap().is_some());
}

#[tokio::test]
async fn a_pool_is_not_needed() {
    let config = EngineConfig { pooling: false, ..EngineConfig::for_cores(1) };
    let engine = GuestEngine::start(&config).unwrap();
    let component = Component::load(&engine, &guest("noop")).await.unwrap();
    assert!(component.describe().await.unwrap().is_some());
}

#[tokio::test]
async fn what_does_not_load_is_the_hosts_fault_and_says_why() {
    for (config, code, text) in [
        (json!({"load": "fatal"}), "load-pipeline", "probe-load: asked to fail to load"),
        (json!({"load": "retry"}), "load-pipeline", "for now"),
        (json!({"load": "trap"}), "trap", "probe: asked to trap in load-pipeline"),
        (json!({"load": "lop"}), "load-pipeline", "invalid config: /load"),
    ] {
        let bed = Bed::with(component("probe").await, |setup| setup.config = config.to_string()).await;
        let ran = bed.run(json!({"action": "none"})).await;
        let Err(GuestFault::Host(error)) = &ran.answer else { panic!("{:?}", ran.answer) };
        assert_eq!(error.code, code, "{}", error.message);
        assert!(error.message.contains(text), "{}", error.message);
    }
}
