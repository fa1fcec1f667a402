//! The hook on a host in memory, fed with what recognition tasks leave behind.

use super::*;
use ocr_vision::Picture;
use serde_json::{Value, json};
use wasm_worker_guest::Payload;
use wasm_worker_guest::testing::{Host, Message};

fn line(index: u32, text: &str, score: f64) -> Input {
    let y = f64::from(index) * 20.0 + 5.0;
    let quad = json!([[5.0, y], [60.0, y], [60.0, y + 10.0], [5.0, y + 10.0]]);
    let value = json!({ "text": text, "score": score, "box": quad, "index": index });
    Input::done(format!("{index:03}"), Some(Payload::Json(value.to_string())))
}

fn host(inputs: Vec<Input>) -> Host {
    let host = Host::new();
    host.put("mem://in/page.png", Picture::black(80, 100).to_png().unwrap());
    inputs.into_iter().for_each(|input| {
        host.input(input);
    });
    host
}

fn message() -> Message {
    Message::new().input_uri("mem://in/page.png")
}

#[test]
fn lines_come_in_reading_order_and_unsure_ones_are_left_out() {
    let host = host(vec![line(2, "third", 0.9), line(0, "first", 0.5), line(1, "noise", 0.49)]);
    let run = host.run::<Assemble>(json!({}), message()).unwrap();
    assert_eq!(run.json()["text"], "first\nthird");
    assert_eq!(
        run.json()["lines"][1],
        json!({ "box": [[5.0, 45.0], [60.0, 45.0], [60.0, 55.0], [5.0, 55.0]], "text": "third", "score": 0.9 })
    );
    assert_eq!(metrics(&run.output), json!({ "lines": 2, "unsure": 1, "lost": 0 }));
    let drawing = decode(&run.files[DRAWING].bytes).unwrap();
    let red = |x: usize, y: usize| drawing.rgb()[(y * 80 + x) * 3] > 200;
    assert!(red(30, 45) && red(30, 5) && !red(30, 25), "boxes of kept lines are drawn, others not");
    assert_eq!(run.files[DRAWING].content_type, "image/png");
}

#[test]
fn dead_lines_are_missing_logged_and_counted() {
    let mut dead = line(1, "", 0.0);
    (dead.end, dead.payload) = (End::Dead, None);
    let garbled = Input::done("002", Some(Payload::Json("{}".to_owned())));
    let host = host(vec![line(0, "one", 0.9), dead, garbled]);
    let run = host.run::<Assemble>(json!({}), message()).unwrap();
    assert_eq!(run.json()["text"], "one");
    assert_eq!(metrics(&run.output)["lost"], 2);
    let logs = host.logs();
    assert_eq!(logs.iter().filter(|log| log.level == Level::Warn).count(), 2);
    assert!(logs[0].message.contains("line 001 is missing: its task failed"), "{logs:?}");
}

#[test]
fn a_page_without_lines_is_a_page() {
    let run = host(Vec::new()).run::<Assemble>(json!({}), message()).unwrap();
    assert_eq!(run.json(), json!({ "text": "", "lines": [] }));
    assert!(run.files.contains_key(DRAWING));
}

fn metrics(output: &Output) -> Value {
    serde_json::from_str(output.metrics.as_deref().unwrap()).unwrap()
}
