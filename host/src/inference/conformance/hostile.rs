//! Damaged files, graphs that would take the stack, outputs that would take the memory, runs that would not end.

use std::thread;
use std::time::{Duration, Instant};

use super::super::tiny::{self, Message, graph, node, value};
use super::super::{Backend, Device, ElementType, InferenceError, Limits, LoadOptions, Model, Port, Stop, Tensor};
use super::{backends, floats, load, onnxruntime, run};

#[test]
fn garbage_and_cut_files_are_errors_and_never_panics() {
    let whole = tiny::unary("Neg", tiny::FLOAT);
    for backend in backends() {
        for garbage in [vec![], vec![0; 64], vec![0xff; 4096], b"not a model".to_vec(), b"RTEN and more".to_vec(), b"....ORTM....".to_vec()]
        {
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
    let zeros = |port: &Port| {
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
