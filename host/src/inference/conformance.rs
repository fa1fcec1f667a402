//! What every backend must do, run against each of them: tiny models for types, shapes and hostile input, and the OCR
//! models for the real thing.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use half::{bf16, f16};

use super::tiny::{self, Message, graph, node, value};
use super::{Backend, Device, ElementType, InferenceError, Limits, LoadOptions, Model, OnnxRuntimeBackend, RtenBackend, Stop, Tensor};

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
        (tiny::FLOAT16, six(ElementType::F16, bytemuck::cast_slice(&[1.0, -2.0, 0.5, 65504.0, 0.0, 1e-7].map(f16::from_f32)).to_vec()), false),
        (tiny::BFLOAT16, six(ElementType::BF16, bytemuck::cast_slice(&[1.0, -2.0, 0.5, 3e38, 0.0, 1e-30].map(bf16::from_f32)).to_vec()), false),
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
fn garbage_and_cut_files_are_errors_and_never_panics() {
    let whole = tiny::unary("Neg", tiny::FLOAT);
    for backend in backends() {
        for garbage in [vec![], vec![0; 64], vec![0xff; 4096], b"not a model".to_vec(), b"RTEN and more".to_vec(), b"....ORTM....".to_vec()] {
            let error = load(&**backend, garbage).unwrap_err();
            assert!(matches!(error, InferenceError::InvalidEncoding(_) | InferenceError::Unsupported(_)), "{error}");
        }
        let loads = (0..whole.len()).filter(|length| survives(&**backend, whole[..*length].to_vec())).count();
        assert!(loads < 5, "{loads} cut files load");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut file = whole.clone();
                file[at] ^= 1 << bit;
                survives(&**backend, file);
            }
        }
        assert!(load(&**backend, whole.clone()).is_ok());
    }
}

/// Loads and, if that works, runs a damaged file; whether it loaded. A panic inside would be in the error's text.
fn survives(backend: &dyn Backend, file: Vec<u8>) -> bool {
    let no_panic = |error: &InferenceError| assert!(!error.to_string().contains("panicked"), "{error}");
    let model = match load(backend, file) {
        Ok(model) => model,
        Err(error) => {
            no_panic(&error);
            return false;
        }
    };
    let zeros = |port: &super::Port| {
        let dims: Vec<u32> = port.dims.iter().flatten().map(|dim| dim.unwrap_or(2).min(64)).collect();
        let elements: usize = dims.iter().map(|dim| *dim as usize).product();
        Some((port.name.clone(), Tensor::new(dims, port.ty, vec![0; elements * port.ty.size()]).ok()?))
    };
    let inputs = model.inputs().iter().filter_map(zeros).collect();
    if let Err(error) = model.run(inputs, &Stop::default()) {
        no_panic(&error);
    }
    true
}

#[test]
fn chains_of_many_nodes_do_not_overflow_the_stack() {
    let names: Vec<String> = (0..=30_000).map(|n| format!("v{n}")).collect();
    let nodes: Vec<Message> = names.windows(2).map(|pair| node("Neg", &[&pair[0]], &[&pair[1]])).collect();
    let file = tiny::file(graph(&nodes, &[value("v0", tiny::FLOAT, &[1])], &[value("v30000", tiny::FLOAT, &[1])]));
    for backend in backends() {
        let outputs = run(&load(&**backend, file.clone()).unwrap(), vec![("v0", floats(&[1], &[2.5]))]).unwrap();
        assert_eq!(outputs[0].1, floats(&[1], &[2.5]), "{}", backend.name());
    }
}

#[test]
fn outputs_over_the_limit_are_refused() {
    let twice = node("Concat", &["x", "x"], &["y"]).message(5, tiny::integer("axis", 0));
    let file = tiny::file(graph(&[twice], &[value("x", tiny::FLOAT, &[-1])], &[value("y", tiny::FLOAT, &[-2])]));
    let limits = Limits { max_input_bytes: 400, max_output_bytes: 400 };
    for backend in backends() {
        let model = Model::load(&**backend, file.clone(), &LoadOptions::default(), limits).unwrap();
        assert!(run(&model, vec![("x", floats(&[50], &[1.0; 50]))]).is_ok());
        for elements in [51, 101] {
            let error = run(&model, vec![("x", floats(&[elements], &vec![1.0; elements as usize]))]).unwrap_err();
            assert!(matches!(error, InferenceError::TooLarge(_)), "{error}");
        }
    }
}

#[test]
fn a_graphics_card_is_refused_rather_than_replaced() {
    let options = LoadOptions { device: Device::Gpu, ..LoadOptions::default() };
    for backend in backends() {
        let error = Model::load(&**backend, tiny::unary("Neg", tiny::FLOAT), &options, Limits::default()).unwrap_err();
        assert!(matches!(error, InferenceError::Unsupported(_)), "{error}");
    }
}

#[test]
fn an_endless_loop_stops_when_told_to() {
    let body = graph(
        &[node("Identity", &["c"], &["c2"]), node("Neg", &["v"], &["v2"])],
        &[value("n", tiny::INT64, &[]), value("c", tiny::BOOL, &[]), value("v", tiny::FLOAT, &[1])],
        &[value("c2", tiny::BOOL, &[]), value("v2", tiny::FLOAT, &[1])],
    );
    let endless = node("Loop", &["", "go", "x"], &["y"]).message(5, tiny::subgraph("body", body));
    let main = graph(&[endless], &[value("go", tiny::BOOL, &[]), value("x", tiny::FLOAT, &[1])], &[value("y", tiny::FLOAT, &[1])]);
    let model = load(onnxruntime(), tiny::file(main)).unwrap();
    let go = |on| vec![("go".to_owned(), Tensor::new(vec![], ElementType::U8, vec![on]).unwrap()), ("x".to_owned(), floats(&[1], &[1.0]))];
    let stop = Stop::default();
    let began = Instant::now();
    let ended = thread::scope(|scope| {
        let run = scope.spawn(|| model.run(go(1), &stop));
        thread::sleep(Duration::from_millis(200));
        stop.stop();
        run.join().unwrap()
    });
    assert_eq!(ended, Err(InferenceError::Stopped));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(model.run(go(0), &Stop::default()).unwrap()[0].1, floats(&[1], &[1.0]), "the model still runs");
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

/// A model of the OCR example.
fn ocr_model(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/ocr/models").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask models` fetches it", path.display()))
}

/// A normalised picture, black on white, of the word HELLO in block letters over the left part of the height, different for
/// each seed in size and place.
fn picture(dims: &[u32], seed: u32) -> Tensor {
    const HELLO: [&[u8; 29]; 7] = [
        b"#   # ##### #     #      ### ",
        b"#   # #     #     #     #   #",
        b"#   # #     #     #     #   #",
        b"##### ####  #     #     #   #",
        b"#   # #     #     #     #   #",
        b"#   # #     #     #     #   #",
        b"#   # ##### ##### #####  ### ",
    ];
    let (height, width) = (dims[2], dims[3]);
    let scale = (height / 12).max(1).min(width / 32).max(1) + seed % 2;
    let (top, left) = ((height - (7 * scale).min(height)) / 2, 2 + seed);
    let pixel = |n: u32| {
        let (x, y) = (n % width, n / width % height);
        let (x, y) = (x.checked_sub(left).map(|x| x / scale), y.checked_sub(top).map(|y| y / scale));
        let ink = x.zip(y).and_then(|(x, y)| HELLO.get(y as usize)?.get(x as usize)).is_some_and(|ink| *ink == b'#');
        if ink { -1.0 } else { 1.0 }
    };
    floats(dims, &(0..dims.iter().product()).map(pixel).collect::<Vec<_>>())
}

#[test]
fn the_ocr_models_agree_on_both_backends_in_parallel() {
    let shapes: [(&str, Vec<Vec<u32>>); 3] = [
        ("det.onnx", vec![vec![1, 3, 96, 160], vec![1, 3, 64, 224], vec![1, 3, 128, 96], vec![1, 3, 96, 160]]),
        ("cls.onnx", vec![vec![1, 3, 48, 192], vec![4, 3, 48, 192], vec![2, 3, 48, 192], vec![1, 3, 48, 192]]),
        ("rec.onnx", vec![vec![1, 3, 48, 96], vec![2, 3, 48, 160], vec![1, 3, 48, 320], vec![1, 3, 48, 40]]),
    ];
    for (name, shapes) in shapes {
        let mut report = format!("{name}:");
        for threads in [1, 2] {
            let options = LoadOptions { threads, parallel: 4, device: Device::Cpu };
            let answers: Vec<Vec<Tensor>> = backends()
                .iter()
                .map(|backend| {
                    let began = Instant::now();
                    let model = Model::load(&**backend, ocr_model(name), &options, Limits::default()).unwrap();
                    let loaded = began.elapsed();
                    let input = model.inputs()[0].name.clone();
                    let one = |seed: usize| run(&model, vec![(&input, picture(&shapes[seed], seed as u32))]).unwrap().remove(0).1;
                    let alone: Vec<Tensor> = (0..4).map(one).collect();
                    let began = Instant::now();
                    let again: Vec<Tensor> = (0..4).map(one).collect();
                    let in_turn = began.elapsed();
                    let parallel = || -> Vec<Tensor> {
                        thread::scope(|scope| {
                            let runs: Vec<_> = (0..4).map(|seed| scope.spawn(move || one(seed))).collect();
                            runs.into_iter().map(|run| run.join().unwrap()).collect()
                        })
                    };
                    // The first time opens what parallel runs need.
                    parallel();
                    let began = Instant::now();
                    let together = parallel();
                    report += &format!(
                        "\n  {} threads={threads}: load {loaded:.1?}, 4 runs in turn {in_turn:.1?}, 4 in parallel {:.1?}",
                        backend.name(),
                        began.elapsed()
                    );
                    for ((alone, again), together) in alone.iter().zip(&again).zip(&together) {
                        assert!(difference(alone, again) < 1e-5 && difference(alone, together) < 1e-5);
                    }
                    alone
                })
                .collect();
            let apart = answers[0].iter().zip(&answers[1]).map(|(a, b)| difference(a, b)).fold(0.0, f32::max);
            report += &format!("\n  threads={threads}: largest difference between backends {apart:.2e}");
            assert!(apart < 1e-3, "{report}");
            assert!(answers[0].iter().any(|answer| answer.elements::<f32>().unwrap().iter().any(|value| *value > 0.1)), "{name} answers nothing");
        }
        println!("{report}");
    }
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    a.elements::<f32>().unwrap().iter().zip(b.elements::<f32>().unwrap().iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
