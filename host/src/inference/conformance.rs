//! What every backend must do, run against each of them: tiny models for types, shapes and hostile input, and the OCR
//! models for the real thing.

mod hostile;
mod ocr;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;

use half::{bf16, f16};

use super::tiny::{self, graph, node, value};
use super::{Backend, ElementType, InferenceError, Limits, LoadOptions, Model, OnnxRuntimeBackend, RtenBackend, Stop, Tensor};

/// The library that the tests run with.
pub(super) fn library() -> PathBuf {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/../downloads/onnxruntime/libonnxruntime.so");
    let path = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map_or_else(|| fetched.into(), PathBuf::from);
    assert!(path.is_file(), "no ONNX Runtime at {}; `cargo xtask models` fetches it", path.display());
    path
}

fn backends() -> &'static [Box<dyn Backend>; 2] {
    static BACKENDS: OnceLock<[Box<dyn Backend>; 2]> = OnceLock::new();
    BACKENDS.get_or_init(|| [Box::new(RtenBackend::default()), Box::new(OnnxRuntimeBackend::open(&library()).unwrap())])
}

fn onnxruntime() -> &'static dyn Backend {
    &*backends()[1]
}

fn rten() -> &'static dyn Backend {
    &*backends()[0]
}

fn load(backend: &dyn Backend, file: Vec<u8>) -> Result<Model, InferenceError> {
    Model::load(backend, file, &LoadOptions::default(), Limits::default())
}

fn run(model: &Model, inputs: Vec<(&str, Tensor)>) -> Result<Vec<(String, Tensor)>, InferenceError> {
    model.run(inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(), &Stop::default())
}

fn floats(dims: &[u32], elements: &[f32]) -> Tensor {
    Tensor::from_elements(dims.to_vec(), ElementType::F32, elements).unwrap()
}

#[test]
fn every_type_passes_through_unchanged_or_is_refused_by_name() {
    let six = |ty, bytes: Vec<u8>| Tensor::new(vec![2, 3], ty, bytes).unwrap();
    let cases = [
        (
            tiny::FLOAT16,
            six(ElementType::F16, bytemuck::cast_slice(&[1.0, -2.0, 0.5, 65504.0, 0.0, 1e-7].map(f16::from_f32)).to_vec()),
            false,
        ),
        (
            tiny::BFLOAT16,
            six(ElementType::BF16, bytemuck::cast_slice(&[1.0, -2.0, 0.5, 3e38, 0.0, 1e-30].map(bf16::from_f32)).to_vec()),
            false,
        ),
        (tiny::FLOAT, six(ElementType::F32, bytemuck::cast_slice(&[1.0_f32, -2.0, f32::MAX, f32::MIN_POSITIVE, 0.0, -0.0]).to_vec()), true),
        (tiny::DOUBLE, six(ElementType::F64, bytemuck::cast_slice(&[1.0_f64, -2.0, f64::MAX, 1e-300, 0.0, 0.1]).to_vec()), false),
        (tiny::UINT8, six(ElementType::U8, vec![0, 1, 127, 128, 254, 255]), true),
        (tiny::INT32, six(ElementType::I32, bytemuck::cast_slice(&[0, 1, -1, i32::MAX, i32::MIN, 7]).to_vec()), true),
        (tiny::INT64, six(ElementType::I64, bytemuck::cast_slice(&[0_i64, 1, -1, 2_147_483_647, -2_147_483_648, 7]).to_vec()), true),
    ];
    for (ty, tensor, rten_takes_it) in cases {
        for backend in backends() {
            let loaded = load(&**backend, tiny::unary("Identity", ty));
            if backend.name() == "rten" && !rten_takes_it {
                assert!(matches!(loaded, Err(InferenceError::Unsupported(_))), "{:?}: {loaded:?}", tensor.ty());
                continue;
            }
            let outputs = run(&loaded.unwrap(), vec![("x", tensor.clone())]).unwrap();
            assert_eq!(outputs, [("y".to_owned(), tensor.clone())], "{} {:?}", backend.name(), tensor.ty());
        }
    }
}

#[test]
fn arithmetic_is_done_in_the_declared_type() {
    let add = |ty| file_of_add(ty, &[-1], &[-1]);
    for backend in backends() {
        let sum = |ty, a: Tensor, b| run(&load(&**backend, add(ty)).unwrap(), vec![("b", b), ("a", a)]).unwrap().remove(0).1;
        let got = sum(tiny::FLOAT, floats(&[2], &[1.5, 2.0]), floats(&[2], &[0.25, -2.0]));
        assert_eq!(got, floats(&[2], &[1.75, 0.0]));
        let wide = |numbers: &[i64]| Tensor::from_elements(vec![2], ElementType::I64, numbers).unwrap();
        assert_eq!(sum(tiny::INT64, wide(&[5, -7]), wide(&[1, 1])), wide(&[6, -6]));
    }
    let double = |numbers: &[f64]| Tensor::from_elements(vec![1], ElementType::F64, numbers).unwrap();
    let model = load(onnxruntime(), add(tiny::DOUBLE)).unwrap();
    let sum = run(&model, vec![("a", double(&[1.0])), ("b", double(&[1e-15]))]).unwrap().remove(0).1;
    assert_eq!(sum, double(&[1.0 + 1e-15]));
}

fn file_of_add(ty: i64, a: &[i64], b: &[i64]) -> Vec<u8> {
    tiny::file(graph(&[node("Add", &["a", "b"], &["c"])], &[value("a", ty, a), value("b", ty, b)], &[value("c", ty, &[-1])]))
}

#[test]
fn integers_beyond_32_bits_are_exact_or_refused() {
    let big = Tensor::from_elements(vec![1, 3], ElementType::I64, &[1_i64 << 40, 0, -1]).unwrap();
    let file = tiny::unary("Identity", tiny::INT64);
    let exact = run(&load(onnxruntime(), file.clone()).unwrap(), vec![("x", big.clone())]).unwrap();
    assert_eq!(exact[0].1, big);
    let error = run(&load(rten(), file).unwrap(), vec![("x", big)]).unwrap_err();
    assert!(matches!(&error, InferenceError::InvalidArgument(text) if text.contains("1099511627776")), "{error}");
}

#[test]
fn booleans_travel_as_bytes_and_several_outputs_keep_their_order() {
    let nodes = [node("Not", &["p"], &["q"]), node("Cast", &["x"], &["i"]).message(5, tiny::integer("to", tiny::INT64))];
    let inputs = [value("p", tiny::BOOL, &[-1]), value("x", tiny::FLOAT, &[-1])];
    let file = tiny::file(graph(&nodes, &inputs, &[value("i", tiny::INT64, &[-1]), value("q", tiny::BOOL, &[-1])]));
    for backend in backends() {
        let model = load(&**backend, file.clone()).unwrap();
        let p = Tensor::new(vec![3], ElementType::U8, vec![0, 1, 7]).unwrap();
        let outputs = run(&model, vec![("x", floats(&[2], &[2.9, -2.9])), ("p", p)]).unwrap();
        let integers = Tensor::from_elements(vec![2], ElementType::I64, &[2_i64, -2]).unwrap();
        let flipped = Tensor::new(vec![3], ElementType::U8, vec![1, 0, 0]).unwrap();
        assert_eq!(outputs, [("i".to_owned(), integers), ("q".to_owned(), flipped)], "{}", backend.name());
    }
}

#[test]
fn scalars_empty_tensors_and_varying_shapes_run() {
    for backend in backends() {
        let scalar = tiny::file(graph(&[node("Neg", &["x"], &["y"])], &[value("x", tiny::FLOAT, &[])], &[value("y", tiny::FLOAT, &[])]));
        let outputs = run(&load(&**backend, scalar).unwrap(), vec![("x", floats(&[], &[3.0]))]).unwrap();
        assert_eq!(outputs[0].1, floats(&[], &[-3.0]), "{}", backend.name());
        let model = load(&**backend, tiny::unary("Neg", tiny::FLOAT)).unwrap();
        for rows in [1, 5, 2, 0, 100] {
            let x: Vec<f32> = (0..rows * 3).map(|n| n as f32 + 1.0).collect();
            let y: Vec<f32> = x.iter().map(|x| -x).collect();
            let outputs = run(&model, vec![("x", floats(&[rows, 3], &x))]).unwrap();
            assert_eq!(outputs[0].1, floats(&[rows, 3], &y), "{} {rows}", backend.name());
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    for backend in backends() {
        let model = load(&**backend, file_of_add(tiny::FLOAT, &[-1, 3], &[3])).unwrap();
        let (a, b) = (floats(&[1, 3], &[0.0; 3]), floats(&[3], &[0.0; 3]));
        let cases = [
            (vec![("a", a.clone())], r#"missing: "b""#),
            (vec![], r#"missing: "a" "b""#),
            (vec![("a", a.clone()), ("b", b.clone()), ("z", b.clone())], r#"unknown: "z""#),
            (vec![("a", a.clone()), ("b", b.clone()), ("a", a.clone())], r#"given twice: "a""#),
            (vec![("a", floats(&[3], &[0.0; 3])), ("b", b.clone())], "[?, 3]"),
            (vec![("a", floats(&[1, 4], &[0.0; 4])), ("b", b.clone())], "[?, 3]"),
            (vec![("a", Tensor::new(vec![1, 3], ElementType::I32, vec![0; 12]).unwrap()), ("b", b.clone())], "takes fp32"),
        ];
        for (inputs, expected) in cases {
            let error = run(&model, inputs).unwrap_err();
            assert!(matches!(&error, InferenceError::InvalidArgument(text) if text.contains(expected)), "{expected}: {error}");
        }
        assert!(run(&model, vec![("b", b), ("a", a)]).is_ok(), "the model still runs");
        // Shapes that only the graph knows not to fit: the backend's own error.
        let model = load(&**backend, file_of_add(tiny::FLOAT, &[-1], &[-2])).unwrap();
        let error = run(&model, vec![("a", floats(&[2], &[0.0; 2])), ("b", floats(&[3], &[0.0; 3]))]).unwrap_err();
        assert!(matches!(error, InferenceError::Runtime(_) | InferenceError::InvalidArgument(_)), "{error}");
    }
}

#[test]
fn parallel_runs_do_not_mix() {
    let options = LoadOptions { parallel: 2, ..LoadOptions::default() };
    for backend in backends() {
        let model = Model::load(&**backend, tiny::unary("Neg", tiny::FLOAT), &options, Limits::default()).unwrap();
        thread::scope(|scope| {
            for worker in 0..4_u32 {
                let model = &model;
                scope.spawn(move || {
                    for round in 0..200_u32 {
                        let (rows, x) = (worker + 1, (worker * 1000 + round) as f32);
                        let size = rows as usize * 3;
                        let outputs = run(model, vec![("x", floats(&[rows, 3], &vec![x; size]))]).unwrap();
                        assert_eq!(outputs[0].1, floats(&[rows, 3], &vec![-x; size]));
                    }
                });
            }
        });
    }
}
