//! `wasi:nn` from a guest: a model runs, and no tensor, name or target brings the host down.

use super::{Bed, component, model};
use serde_json::{Value, json};
use std::fs;
use wasm_worker::guest::StepSetup;
use wasm_worker::task::limits::Limits;

/// A field of a protobuf message: length-delimited.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128);
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// A field of a protobuf message: a small number.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// An ONNX model with one node: `y = Relu(x)` over three 32-bit floats.
fn relu() -> Vec<u8> {
    let value = |name: &[u8]| {
        let shape = field(2, &field(1, &number(1, 3)));
        let tensor = [number(1, 1), shape].concat();
        [field(1, name), field(2, &field(1, &tensor))].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Relu")].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &value(b"x")), field(12, &value(b"y"))].concat();
    [number(1, 8), field(7, &graph), field(8, &number(2, 13))].concat()
}

async fn bed(change: impl FnOnce(&mut StepSetup)) -> (Bed, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relu.onnx");
    fs::write(&file, relu()).unwrap();
    let bed = Bed::with(component("probe").await, |setup| {
        setup.models.insert("relu".into(), model("relu", &file));
        setup.models.insert("gone".into(), model("gone", &folder.path().join("gone.onnx")));
        setup.grants.read = vec![wasm_worker::task::uri::Uri::of_folder(folder.path()).unwrap()];
        change(setup);
    })
    .await;
    (bed, folder)
}

fn infer(name: &str, dims: &[u32], element: &str, bytes: Option<usize>) -> Value {
    let tensor = json!({"name": name, "dims": dims, "element": element, "values": [-1.0, 0.5, 2.0], "bytes": bytes});
    json!({"action": "infer", "model": "relu", "inputs": [tensor]})
}

#[tokio::test]
async fn a_model_runs() {
    let (bed, _folder) = bed(|_| {}).await;
    let ran = bed.run(infer("x", &[3], "f32", None)).await;
    assert_eq!(ran.json()["outputs"], json!([{"name": "y", "dims": [3], "element": "f32", "bytes": 12, "head": [0.0, 0.5, 2.0]}]));
    assert!(ran.figures().inference_ms > 0.0);
}

#[tokio::test]
async fn wrong_tensors_are_told_apart_and_none_is_a_panic() {
    let (bed, _folder) = bed(|_| {}).await;
    let mut wrong = vec![
        infer("x", &[3], "f32", Some(11)),
        infer("x", &[3], "f32", Some(0)),
        infer("x", &[4], "f32", None),
        infer("x", &[], "f32", None),
        infer("x", &[3, 1], "f32", None),
        infer("x", &[u32::MAX, u32::MAX, u32::MAX], "f64", Some(8)),
        infer("x", &[u32::MAX, u32::MAX, 0], "f32", Some(0)),
        infer("x", &[1 << 31, 2, 2, 1 << 31], "u8", Some(0)),
        infer("z", &[3], "f32", None),
        infer("", &[3], "f32", None),
    ];
    wrong.extend(["f16", "f64", "bf16", "u8", "i32", "i64"].map(|element| infer("x", &[3], element, None)));
    wrong.push(json!({"action": "infer", "model": "relu", "inputs": []}));
    for params in wrong {
        let ran = bed.run(params.clone()).await;
        assert_eq!(ran.json()["error"]["code"], "invalid-argument", "{params}: {}", ran.json());
        assert!(ran.reusable);
    }
    let deep = bed.run(infer("x", &[1; 1000], "u8", None)).await;
    assert_eq!(deep.json()["error"]["code"], "too-large");
    assert!(bed.run(infer("x", &[3], "f32", None)).await.json()["outputs"].is_array(), "the instance is sound");
}

#[tokio::test]
async fn only_declared_models_load() {
    let (bed, folder) = bed(|_| {}).await;
    let error = bed.run(json!({"action": "load_model", "name": "other"})).await.json()["error"].clone();
    assert_eq!(error["code"], "not-found");
    assert!(error["message"].as_str().unwrap().contains("declared: gone, relu"), "{error}");
    let path = json!({"action": "load_model", "name": folder.path().join("relu.onnx").display().to_string()});
    assert_eq!(bed.run(path).await.json()["error"]["code"], "not-found");
    assert_eq!(bed.run(json!({"action": "load_model", "name": "gone"})).await.json()["error"]["code"], "not-found");
}

#[tokio::test]
async fn bytes_load_only_where_the_step_allows_it() {
    let (refuses, _folder) = bed(|_| {}).await;
    let ran = refuses.run(json!({"action": "load_bytes", "target": "tpu"})).await;
    assert_eq!(ran.json()["error"]["code"], "security");

    let (allows, folder) = bed(|setup| setup.allow_load = true).await;
    let uri = format!("file://{}/relu.onnx", folder.path().display());
    let load = |target: &str| json!({"action": "load_bytes", "uri": uri, "target": target});
    assert_eq!(allows.run(load("cpu")).await.json(), json!({"loaded": true}));
    assert_eq!(allows.run(load("gpu")).await.json()["error"]["code"], "unsupported-operation");
    assert_eq!(allows.run(load("tpu")).await.json()["error"]["code"], "unsupported-operation");
    assert_eq!(allows.run(json!({"action": "load_bytes"})).await.json()["error"]["code"], "invalid-encoding");
}

#[tokio::test]
async fn tensors_are_held_within_their_quota() {
    let (bed, _folder) = bed(|setup| setup.limits = Limits { tensors: 10 << 20, resources: 500, ..Limits::default() }).await;
    // More than the quota: the constructor cannot fail, and nothing is kept.
    let ran = bed.run(json!({"action": "hold_tensors", "count": 100, "bytes": 1 << 20})).await;
    assert_eq!(ran.json(), json!({"held": 100}));
    // All were dropped again, so a run has room.
    assert!(bed.run(infer("x", &[3], "f32", None)).await.json()["outputs"].is_array());
    let large = bed.run(infer("x", &[11 << 20], "u8", None)).await;
    assert_eq!(large.json()["error"]["code"], "too-large", "{}", large.json());
    // More than the table holds: a trap, for no guest does that by accident.
    let flood = bed.run(json!({"action": "hold_tensors", "count": 1000, "bytes": 1})).await;
    assert_eq!(flood.fault().code, "trap", "{}", flood.fault().message);
    assert!(!flood.reusable);
}
