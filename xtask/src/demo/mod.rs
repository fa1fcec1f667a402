//! The first command of a newcomer: builds everything and reads the text of a picture, with nothing outside or over real servers.

mod background;
mod cloud;
mod outside;
mod shown;

use crate::{guests, models, picture, shell};
use cloud::Broker;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The pipeline, from the repository's root.
const PIPELINE: &str = "guests/ocr/pipeline.toml";

/// What its last step leaves.
const OUTPUTS: [&str; 3] = ["result.json", "metrics.json", "annotated.png"];

/// What is to be read, by what, and where it goes.
struct Demo<'a> {
    binary: PathBuf,
    input: PathBuf,
    backend: &'a str,
    out: PathBuf,
}

/// `demo [PICTURE] [--backend NAME] [--cloud [sqs|redis]]`.
pub fn demo(arguments: &[&str]) -> Result<(), String> {
    let (mut given, mut backend, mut broker) = (None, "auto", None);
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        match *word {
            "--backend" => backend = words.next().ok_or("--backend needs a name: auto, rten or onnxruntime")?,
            "--cloud" => {
                broker = Some(match words.next_if(|word| matches!(**word, "sqs" | "redis")) {
                    Some(&"redis") => Broker::Redis,
                    _ => Broker::Sqs,
                });
            }
            word if word.starts_with('-') => return Err(format!("unknown option '{word}'")),
            file => given = Some(file),
        }
    }
    let binary = shell::part("build the worker", shell::build)?;
    shell::part("build the guests", guests::guests)?;
    shell::part("fetch the models", models::models)?;
    let root = shell::root();
    let input = match given {
        Some(file) => Path::new(file).to_owned(),
        None => picture::draw_to(&root.join("out/demo/picture.png").to_string_lossy())?,
    };
    let input = input.canonicalize().map_err(|e| format!("{}: {e}", input.display()))?;
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let kind = match broker {
        None => "run",
        Some(Broker::Sqs) => "sqs",
        Some(Broker::Redis) => "redis",
    };
    let demo = Demo { binary, input, backend, out: root.join(format!("out/demo/{kind}-{stamp}")) };
    match broker {
        Some(broker) => cloud::cloud(&demo, broker),
        None => alone(&demo),
    }
}

/// One process, with everything in files.
fn alone(demo: &Demo) -> Result<(), String> {
    eprintln!("── wasm-worker run {PIPELINE} --input {}", demo.input.display());
    let mut run = Command::new(&demo.binary);
    // From the root, where `models` has put a wasm-worker.toml that names ONNX Runtime.
    run.current_dir(shell::root()).args(["run", PIPELINE, "--json", "--backend", demo.backend]);
    run.arg("--input").arg(&demo.input).arg("--output").arg(&demo.out);
    let record: Value = serde_json::from_str(&shell::output(&mut run)?).map_err(|e| format!("the run printed no JSON: {e}"))?;
    show(&record, &demo.input)
}

/// Prints what was read, and where the outputs are.
fn show(record: &Value, input: &Path) -> Result<(), String> {
    let lines = record["result"]["lines"].as_array().ok_or_else(|| format!("no lines in {record}"))?;
    println!("\n{} lines read from {}:\n", lines.len(), input.display());
    for line in lines {
        println!("  {:.3}  {}", line["score"].as_f64().unwrap_or(0.0), line["text"].as_str().unwrap_or_default());
    }
    let result = record["result_uri"].as_str().unwrap_or_default();
    let folder = result.rsplit_once('/').map_or(result, |(folder, _)| folder).trim_start_matches("file://");
    println!();
    for name in OUTPUTS {
        println!("  {name:<14} {folder}/{name}");
    }
    Ok(())
}
