//! A small service that uses all of the SDK, on the host in memory.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::io::{Read, Write};
use std::time::Duration;
use wasm_worker_guest::context::{self, Level, Progress};
use wasm_worker_guest::inference::{ErrorCode, Graph, InferenceError, Tensor};
use wasm_worker_guest::testing::{Host, Message};
use wasm_worker_guest::{Description, Error, FanOut, Hooks, Input, NextTask, Output, Payload, Setup, Task, Violation, storage};

/// Scales numbers by a model, writes them as a file, and hands each to the next step.
struct Scale {
    graph: Graph,
    unit: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    unit: String,
}

#[derive(Deserialize, JsonSchema)]
struct Params {
    boxes: Vec<Size>,
    #[serde(default)]
    write_as: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Size {
    width: f32,
}

impl Hooks for Scale {
    type Config = Config;
    type Params = Params;
    const NAME: &str = "scale";
    const VERSION: &str = "1.2.3";

    fn load_pipeline(setup: Setup<Config>) -> Result<Self, Error> {
        Ok(Self { graph: Graph::load("double")?, unit: setup.config.unit })
    }

    fn process(&mut self, task: &Task<Params>) -> Result<Output, Error> {
        context::check_cancelled()?;
        let widths: Vec<f32> = task.params.boxes.iter().map(|b| b.width).collect();
        let outputs = self.graph.compute(&[("x", Tensor::f32(&[widths.len() as u32], &widths)?)])?;
        let scaled = outputs.only()?.as_f32()?;
        Progress::new(1).of(2).phase("write").send();
        let mut file = storage::create(task.params.write_as.as_deref().unwrap_or("scaled.txt"), "text/plain")?;
        for width in &scaled {
            writeln!(file, "{width} {}", self.unit)?;
        }
        let uri = file.finish()?;
        context::log_with(Level::Info, "wrote", &json!({ "uri": uri }));
        Output::json(&scaled)?.metrics(&json!({ "boxes": scaled.len() }))
    }

    fn publish_next(&mut self, task: &Task<Params>, output: &Output) -> Result<FanOut, Error> {
        let scaled: Vec<f32> = output.payload.as_ref().map_or(Ok(Vec::new()), Payload::parse)?;
        let child = |(at, width): (usize, &f32)| {
            let uri = format!("{}scaled.txt", task.output_prefix);
            NextTask::new(format!("{at:03}")).input_uri(uri).step("draw").params(&json!({ "width": width }))
        };
        Ok(FanOut::of(scaled.iter().enumerate().map(child).collect::<Result<Vec<_>, _>>()?).then(NextTask::new("all")))
    }

    fn models() -> &'static [&'static str] {
        &["double"]
    }

    fn describe() -> Description {
        let mut description = Description::new::<Config>(Self::NAME, Self::VERSION).limit("memory", "64MiB").next_step("draw");
        description.functions = Self::functions();
        description
    }
}

wasm_worker_guest::export!(Scale);

fn host() -> Host {
    let host = Host::new();
    host.model("double", |inputs| {
        let (_, x) =
            inputs.iter().find(|(name, _)| name == "x").ok_or_else(|| InferenceError::new(ErrorCode::InvalidArgument, "no input x"))?;
        let doubled: Vec<f32> = x.as_f32()?.iter().map(|v| v * 2.0).collect();
        Ok(vec![("y".to_owned(), Tensor::f32(x.dims(), doubled)?)])
    });
    host
}

fn message(boxes: serde_json::Value) -> Message {
    Message::new().params(json!({ "boxes": boxes }))
}

#[test]
fn three_hooks_make_a_result_a_file_and_children() {
    let host = host();
    let run = host.run::<Scale>(json!({ "unit": "px" }), message(json!([{ "width": 1.5 }, { "width": 2 }]))).unwrap();
    assert_eq!(run.json(), json!([3.0, 4.0]));
    assert_eq!(run.output.metrics.as_deref(), Some(r#"{"boxes":2}"#));
    assert_eq!(run.files["scaled.txt"].bytes, b"3 px\n4 px\n");
    assert_eq!(run.files["scaled.txt"].content_type, "text/plain");
    assert_eq!(run.next.tasks[1].key, "001");
    assert_eq!(run.next.tasks[1].params, r#"{"width":4.0}"#);
    assert_eq!(run.next.tasks[1].input_uri.as_deref(), Some("mem://test/jobs/job/scaled.txt"));
    assert_eq!(run.next.then.unwrap().key, "all");
    assert_eq!(host.logs()[0].fields, r#"{"uri":"mem://test/jobs/job/scaled.txt"}"#);
    assert_eq!(host.progress().unwrap().phase.as_deref(), Some("write"));
}

#[test]
fn params_and_config_that_do_not_fit_are_pointed_at() {
    let config = json!({ "unit": "px" });
    let Err(Error::Invalid(all)) = host().run::<Scale>(config, message(json!([{ "width": 1 }, { "width": "wide" }]))) else {
        panic!("not invalid")
    };
    assert_eq!(all[0].pointer, "/boxes/1/width");
    assert!(all[0].message.starts_with("params: invalid type: string \"wide\", expected f32"), "{}", all[0].message);
    let Err(Error::Invalid(all)) = host().load::<Scale>(json!({ "unit": "px", "units": 1 })) else { panic!("not invalid") };
    assert_eq!(all[0].pointer, "/units");
    assert!(all[0].message.starts_with("config: unknown field `units`"), "{}", all[0].message);
}

#[test]
fn failures_of_the_host_reach_the_hook_as_errors() {
    let config = json!({ "unit": "px" });
    let no_model = Host::new().load::<Scale>(config.clone()).unwrap_err();
    assert_eq!(no_model, Error::fatal("inference-not-found", "no model 'double' is registered"));

    let broken = Host::new();
    broken.model("double", |_| Err(InferenceError::new(ErrorCode::RuntimeError, "out of memory")));
    let error = broken.run::<Scale>(config.clone(), message(json!([]))).unwrap_err();
    assert_eq!(error, Error::retryable("inference-runtime-error", "out of memory"));

    for name in ["../x", "a//b", "", "metrics.json", "result.json", "_a/b"] {
        let message = Message::new().params(json!({ "boxes": [], "write_as": name }));
        assert!(matches!(host().run::<Scale>(config.clone(), message), Err(Error::Fatal { code, .. }) if code == "invalid"), "{name}");
    }

    let cancelled = host();
    cancelled.cancel();
    assert_eq!(cancelled.run::<Scale>(config, message(json!([]))).unwrap_err(), Error::Cancelled);
}

#[test]
fn io_errors_keep_the_failure_inside() {
    let busy = storage::Failure { code: "unavailable".into(), message: "slow down".into(), retryable: true };
    let error = Error::from(std::io::Error::from(busy)).after(Duration::from_secs(2));
    assert_eq!(error, Error::Retryable { code: "unavailable".into(), message: "slow down".into(), after: Some(Duration::from_secs(2)) });
    assert_eq!(Error::from(std::io::Error::other("x")), Error::fatal("io", "x"));
    let two = Error::invalid("/a", "is 1").and_invalid("/b", "is 2");
    assert_eq!(two.to_string(), "invalid input: /a is 1; /b is 2");
    assert_eq!(Error::any_of(vec![Violation { pointer: "/a".into(), message: "is 1".into() }]).unwrap_err(), Error::invalid("/a", "is 1"));
    assert_eq!(Error::any_of(Vec::new()), Ok(()));
}

#[test]
fn objects_stream_both_ways_and_pages_end() {
    let host = Host::new();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    host.put("mem://big", bytes.clone());
    for i in 0..40 {
        host.input(Input::done(format!("{i:02}"), None));
    }
    host.enter(|| {
        let mut reader = storage::open("mem://big").unwrap();
        assert_eq!(reader.size(), Some(3_000_000));
        let mut all = Vec::new();
        assert_eq!(reader.read_to_end(&mut all).unwrap(), 3_000_000);
        assert_eq!(all, bytes);
        assert_eq!(storage::read("mem://none").unwrap_err().code, "not-found");
        assert_eq!(storage::write("x", "text/plain", b"").unwrap_err().code, "denied");
        assert_eq!(context::inputs().count(), 40);
        assert_eq!(context::inputs().last().unwrap().key, "39");
    });
    assert_eq!(storage::read("mem://big").unwrap_err().code, "denied", "the host was left");
}

#[test]
fn outputs_are_chosen_by_name() {
    let host = Host::new();
    host.model("two", |_| Ok(vec![("a".into(), Tensor::u8(&[1], [7])?), ("b".into(), Tensor::i64(&[1], [8])?)]));
    host.enter(|| {
        let outputs = Graph::load("two").unwrap().compute(&[]).unwrap();
        assert_eq!(outputs.get("b").unwrap().as_i64().unwrap(), [8]);
        assert_eq!(outputs.first().unwrap().as_u8().unwrap(), [7]);
        assert_eq!(outputs.get("c").unwrap_err().message, "model 'two' has no output 'c' (it has: a, b)");
        assert_eq!(outputs.only().unwrap_err().code, ErrorCode::InvalidArgument);
    });
}

#[test]
fn a_service_describes_itself() {
    let described = serde_json::to_value(Scale::describe()).unwrap();
    assert_eq!(described["schema_version"], 1);
    assert_eq!(described["name"], "scale");
    assert_eq!(described["version"], "1.2.3");
    assert_eq!(described["config"]["required"], json!(["unit"]));
    assert_eq!(described["functions"][0]["name"], "scale");
    assert_eq!(described["functions"][0]["models"], json!(["double"]));
    assert_eq!(described["functions"][0]["params"]["properties"]["boxes"]["type"], "array");
    assert_eq!(described["limits"], json!({ "memory": "64MiB" }));
}
