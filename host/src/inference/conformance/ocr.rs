//! The models of the OCR example on both backends: same answers, also in parallel, at several widths.

use std::path::Path;
use std::thread;
use std::time::Instant;

use super::super::{Device, Limits, LoadOptions, Model, Tensor};
use super::{backends, floats, run};

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
            assert!(
                answers[0].iter().any(|answer| answer.elements::<f32>().unwrap().iter().any(|value| *value > 0.1)),
                "{name} answers nothing"
            );
        }
        println!("{report}");
    }
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    a.elements::<f32>().unwrap().iter().zip(b.elements::<f32>().unwrap().iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
