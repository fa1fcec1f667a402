//! Inference on the raw `wasi:nn`, so that sizes, types and bytes may disagree.

use crate::action::TensorSpec;
use crate::report;
use serde_json::{Value, json};
use wasm_worker_guest::bindings::wasi::nn::errors;
use wasm_worker_guest::bindings::wasi::nn::graph::{self, ExecutionTarget, Graph, GraphEncoding};
use wasm_worker_guest::bindings::wasi::nn::tensor::{Tensor, TensorType};
use wasm_worker_guest::{Error, Output, storage};

/// What the probe fills by itself where `bytes` does not say; absurd sizes must not run out of the guest's own memory first.
const MOST_FILLED: usize = 64 << 20;

pub(crate) fn load(name: &str) -> Result<Output, Error> {
    report(graph::load_by_name(name).map(loaded).map_err(parts))
}

pub(crate) fn load_bytes(uri: Option<&str>, target: Option<&str>) -> Result<Output, Error> {
    let bytes = uri.map_or(Ok(vec![0; 16]), storage::read)?;
    let target = match target {
        None | Some("cpu") => ExecutionTarget::Cpu,
        Some("gpu") => ExecutionTarget::Gpu,
        Some("tpu") => ExecutionTarget::Tpu,
        Some(other) => return Err(Error::invalid("/target", format!("expected cpu, gpu or tpu, found {other}"))),
    };
    report(graph::load(&[bytes], GraphEncoding::Onnx, target).map(loaded).map_err(parts))
}

pub(crate) fn infer(model: &str, inputs: &[TensorSpec], times: u32) -> Result<Output, Error> {
    let typed = inputs.iter().map(|spec| Ok((spec, element(&spec.element)?))).collect::<Result<Vec<_>, Error>>()?;
    report(run(model, &typed, times).map_err(parts))
}

pub(crate) fn hold(count: u32, bytes: usize) -> Result<Output, Error> {
    let data = vec![0; bytes];
    let held: Vec<_> = (0..count).map(|_| Tensor::new(&[bytes as u32], TensorType::U8, &data)).collect();
    Output::json(&json!({ "held": held.len() }))
}

fn run(model: &str, inputs: &[(&TensorSpec, TensorType)], times: u32) -> Result<Value, errors::Error> {
    let context = graph::load_by_name(model)?.init_execution_context()?;
    let mut outputs = Vec::new();
    for _ in 0..times {
        let tensor = |(spec, ty): &(&TensorSpec, TensorType)| (spec.name.clone(), Tensor::new(&spec.dims, *ty, &data(spec, *ty)));
        outputs = context.compute(inputs.iter().map(tensor).collect())?;
    }
    let shown: Vec<_> = outputs.iter().map(|(name, tensor)| show(name, tensor)).collect();
    Ok(json!({ "outputs": shown }))
}

/// The first values, cut or filled to the length asked for.
fn data(spec: &TensorSpec, ty: TensorType) -> Vec<u8> {
    let mut bytes: Vec<u8> = spec.values.iter().flat_map(|value| number(*value, ty)).collect();
    let expected = spec.dims.iter().try_fold(number(0.0, ty).len(), |n, d| n.checked_mul(*d as usize)).unwrap_or(MOST_FILLED);
    bytes.resize(spec.bytes.unwrap_or(expected.min(MOST_FILLED)), 0);
    bytes
}

fn number(value: f64, ty: TensorType) -> Vec<u8> {
    match ty {
        TensorType::Fp16 | TensorType::Bf16 => (value as u16).to_le_bytes().to_vec(),
        TensorType::Fp32 => (value as f32).to_le_bytes().to_vec(),
        TensorType::Fp64 => value.to_le_bytes().to_vec(),
        TensorType::U8 => vec![value as u8],
        TensorType::I32 => (value as i32).to_le_bytes().to_vec(),
        TensorType::I64 => (value as i64).to_le_bytes().to_vec(),
    }
}

fn show(name: &str, tensor: &Tensor) -> Value {
    let (ty, bytes) = (tensor.ty(), tensor.data());
    let head: Vec<f64> = match ty {
        TensorType::Fp16 | TensorType::Bf16 => first(&bytes, |b| f64::from(u16::from_le_bytes(b))),
        TensorType::Fp32 => first(&bytes, |b| f64::from(f32::from_le_bytes(b))),
        TensorType::Fp64 => first(&bytes, f64::from_le_bytes),
        TensorType::U8 => first(&bytes, |[b]| f64::from(b)),
        TensorType::I32 => first(&bytes, |b| f64::from(i32::from_le_bytes(b))),
        TensorType::I64 => first(&bytes, |b| i64::from_le_bytes(b) as f64),
    };
    json!({ "name": name, "dims": tensor.dimensions(), "element": name_of(ty), "bytes": bytes.len(), "head": head })
}

fn first<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().take(8).map(|chunk| read(*chunk)).collect()
}

const ELEMENTS: [(&str, TensorType); 7] = [
    ("f16", TensorType::Fp16),
    ("f32", TensorType::Fp32),
    ("f64", TensorType::Fp64),
    ("bf16", TensorType::Bf16),
    ("u8", TensorType::U8),
    ("i32", TensorType::I32),
    ("i64", TensorType::I64),
];

fn element(name: &str) -> Result<TensorType, Error> {
    let found = ELEMENTS.iter().find(|(n, _)| *n == name);
    found.map(|(_, ty)| *ty).ok_or_else(|| Error::invalid("/inputs", format!("no element type '{name}'")))
}

fn name_of(ty: TensorType) -> &'static str {
    ELEMENTS.iter().find(|(_, t)| *t == ty).map_or("unknown", |(name, _)| name)
}

fn loaded(_: Graph) -> Value {
    json!({ "loaded": true })
}

/// The code as the standard spells it.
fn parts(error: errors::Error) -> (&'static str, String) {
    use errors::ErrorCode as Code;
    let code = match error.code() {
        Code::InvalidArgument => "invalid-argument",
        Code::InvalidEncoding => "invalid-encoding",
        Code::Timeout => "timeout",
        Code::RuntimeError => "runtime-error",
        Code::UnsupportedOperation => "unsupported-operation",
        Code::TooLarge => "too-large",
        Code::NotFound => "not-found",
        Code::Security => "security",
        Code::Unknown => "unknown",
    };
    (code, error.data())
}
