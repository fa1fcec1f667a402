//! The hook on a host in memory. The models are closures that look at the line's left end: what is checked here is what the step
//! feeds them and makes of their answers.

use super::*;
use serde_json::json;
use wasm_worker_guest::testing::{Host, Message};

/// White on the left, black on the right.
fn half_white() -> Picture {
    let rgb = (0..100 * 20).flat_map(|i| [if i % 100 < 50 { 255 } else { 0 }; 3]).collect();
    Picture::from_rgb(100, 20, rgb).unwrap()
}

/// The angle model says "on its head" with `sureness`; the text model reads `a` from a white left end and `b` from a black one.
fn host(sureness: f32) -> Host {
    let host = Host::new();
    host.put("mem://in/line.png", half_white().to_png().unwrap()).put("mem://models/labels.txt", "a\nb\n");
    host.model(ANGLE, move |_| Ok(vec![("p".to_owned(), Tensor::f32(&[1, 2], [1.0 - sureness, sureness])?)]));
    host.model(TEXT, |inputs| {
        let input = &inputs[0].1;
        let class = if input.as_f32()?[0] > 0.0 { 1 } else { 2 };
        // One step per 8 pixels, all of them the same character.
        let steps = input.dims()[3] / 8;
        let scores: Vec<f32> = (0..steps * 4).map(|i| if i % 4 == class { 0.75 } else { 0.0 }).collect();
        Ok(vec![("s".to_owned(), Tensor::f32(&[1, steps, 4], scores)?)])
    });
    host
}

fn config() -> serde_json::Value {
    json!({ "labels": "mem://models/labels.txt" })
}

fn message() -> Message {
    Message::new().input_uri("mem://in/line.png")
}

#[test]
fn a_line_is_read_and_its_place_handed_on() {
    let quad = json!([[1.0, 2.0], [3.0, 2.0], [3.0, 4.0], [1.0, 4.0]]);
    let run = host(0.9).run::<Recognize>(config(), message().params(json!({ "box": quad, "index": 7, "width": 480 }))).unwrap();
    assert_eq!(run.json(), json!({ "text": "a", "score": 0.75, "box": quad, "index": 7 }));
    assert!(run.next.tasks.is_empty() && run.next.then.is_none());
}

#[test]
fn a_line_on_its_head_is_turned_only_when_the_model_is_sure() {
    assert_eq!(host(0.95).run::<Recognize>(config(), message()).unwrap().json()["text"], "b");
    assert_eq!(host(0.85).run::<Recognize>(config(), message()).unwrap().json()["text"], "a");
}

#[test]
fn the_list_of_characters_comes_from_the_grants() {
    let setup = |extras: Vec<(String, String)>| Setup {
        step: "recognize".to_owned(),
        functions: Vec::new(),
        models: Vec::new(),
        config: Config::default(),
        extras,
    };
    let grants = r#"["s3://b/other.txt", "file:///m/labels.txt", "file:///n/labels.txt"]"#;
    assert_eq!(labels_uri(&setup(vec![(GRANTS.to_owned(), grants.to_owned())])).unwrap(), "file:///m/labels.txt");
    let error = labels_uri(&setup(Vec::new())).unwrap_err();
    assert!(error.to_string().contains("'recognize' needs the list of characters"), "{error}");
}

#[test]
fn a_list_that_does_not_fit_the_model_is_named() {
    let host = host(0.0);
    host.put("mem://models/labels.txt", "a\nb\nc\n");
    let error = host.run::<Recognize>(config(), message()).unwrap_err();
    assert!(error.to_string().contains("steps of 4 do not fit 3 characters"), "{error}");
}

#[test]
fn a_broken_crop_is_invalid() {
    let host = host(0.0);
    host.put("mem://in/line.png", "no picture");
    assert!(matches!(host.run::<Recognize>(config(), message()), Err(Error::Invalid(_))));
}
