//! The three hooks on a host in memory. The model is a closure that marks two fixed regions: what is checked here is what the
//! step makes of a map, not what the model sees.

use super::*;
use serde_json::json;
use wasm_worker_guest::inference::InferenceError;
use wasm_worker_guest::testing::{Host, Message};

/// A host with a 400 x 200 picture and a model that sees text in `regions` (left, top, right, bottom, as fractions).
fn host(regions: &'static [[f32; 4]]) -> Host {
    let host = Host::new();
    host.put("mem://in/page.png", Picture::black(400, 200).to_png().unwrap());
    host.model(MODEL, move |inputs| map_of(&inputs[0].1, regions));
    host
}

fn map_of(input: &Tensor, regions: &[[f32; 4]]) -> Result<Vec<(String, Tensor)>, InferenceError> {
    let [_, _, rows, columns] = input.dims().try_into().unwrap();
    let inside = |at: u32, side: u32, low: f32, high: f32| (low..high).contains(&(at as f32 / side as f32));
    let value = |i: u32| {
        let (x, y) = (i % columns, i / columns);
        let text = regions.iter().any(|[l, t, r, b]| inside(x, columns, *l, *r) && inside(y, rows, *t, *b));
        if text { 0.9 } else { 0.0 }
    };
    let values: Vec<f32> = (0..rows * columns).map(value).collect();
    Ok(vec![("map".to_owned(), Tensor::f32(&[1, 1, rows, columns], values)?)])
}

fn message() -> Message {
    Message::new().input_uri("mem://in/page.png")
}

#[test]
fn each_line_becomes_a_crop_and_a_task_and_the_page_comes_after() {
    let host = host(&[[0.1, 0.6, 0.9, 0.7], [0.1, 0.2, 0.5, 0.3]]);
    let run = host.run::<Detect>(json!({}), message()).unwrap();
    let lines = run.json()["lines"].as_array().unwrap().clone();
    assert_eq!((run.json()["width"].as_u64(), run.json()["height"].as_u64()), (Some(400), Some(200)));
    assert_eq!(lines.len(), 2);
    let top: Vec<f64> = lines.iter().map(|l| l["box"][0][1].as_f64().unwrap()).collect();
    assert!(top[0] < 45.0 && (100.0..125.0).contains(&top[1]), "{top:?}");
    let crop = decode(&run.files["crops/001.png"].bytes).unwrap();
    assert!(crop.width() >= 320 && crop.height() < 80, "{crop:?}");

    assert_eq!(run.next.tasks.len(), 2);
    assert_eq!(run.next.tasks[0].key, "000");
    assert_eq!(run.next.tasks[0].input_uri.as_deref(), lines[0]["crop"].as_str());
    let params: serde_json::Value = serde_json::from_str(&run.next.tasks[1].params).unwrap();
    assert_eq!(params["box"], lines[1]["box"]);
    assert_eq!(params["index"], 1);
    assert!(params["width"].as_u64().unwrap() >= 320);
    assert_eq!(run.next.then.unwrap().input_uri.as_deref(), Some("mem://in/page.png"));
}

#[test]
fn a_picture_without_text_is_no_failure() {
    let run = host(&[]).run::<Detect>(json!({}), message()).unwrap();
    assert_eq!(run.json()["lines"], json!([]));
    assert!(run.next.tasks.is_empty() && run.next.then.is_some() && run.files.is_empty());
}

#[test]
fn an_unreadable_picture_is_invalid_and_says_why() {
    let host = host(&[]);
    let whole = Picture::black(400, 200).to_png().unwrap();
    host.put("mem://in/page.png", &whole[..whole.len() / 2]);
    let error = host.run::<Detect>(json!({}), message()).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("png file is cut off"), "{error}");
    host.put("mem://in/page.png", "%PDF-1.7");
    let error = host.run::<Detect>(json!({}), message()).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("25 50 44 46"), "{error}");
}

#[test]
fn another_models_output_is_fatal_and_named() {
    let host = host(&[]);
    host.model(MODEL, |_| Ok(vec![("y".to_owned(), Tensor::f32(&[1, 2], [0.0, 1.0])?)]));
    let error = host.run::<Detect>(json!({}), message()).unwrap_err();
    assert_eq!(error.to_string(), "model-output: model 'det' gave [1, 2], expected 4 dimensions");
}

#[test]
fn config_is_checked_as_a_whole() {
    let error = host(&[]).load::<Detect>(json!({ "threshold": 2, "unclip": -1 })).err().unwrap().to_string();
    assert!(error.contains("/threshold") && error.contains("/unclip"), "{error}");
    assert!(host(&[]).load::<Detect>(json!({ "treshold": 0.3 })).is_err());
}

#[test]
fn a_cancelled_task_stops() {
    let host = host(&[[0.1, 0.2, 0.5, 0.3]]);
    host.cancel();
    assert_eq!(host.run::<Detect>(json!({}), message()), Err(Error::Cancelled));
}
