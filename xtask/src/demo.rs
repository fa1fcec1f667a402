//! The first command of a newcomer: builds everything and reads the text of a picture.

use crate::{guests, models, picture, shell};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// `demo [PICTURE] [--backend NAME]`.
pub fn demo(arguments: &[&str]) -> Result<(), String> {
    let (mut given, mut backend) = (None, "auto");
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "--backend" => backend = words.next().ok_or("--backend needs a name: auto, rten or onnxruntime")?,
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
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let out = root.join(format!("out/demo/run-{stamp}"));
    eprintln!("── wasm-worker run guests/ocr/pipeline.toml --input {}", input.display());
    let mut run = Command::new(&binary);
    // From the root, where `models` has put a wasm-worker.toml that names ONNX Runtime.
    let input = std::path::absolute(&input).map_err(|e| e.to_string())?;
    run.current_dir(&root).args(["run", "guests/ocr/pipeline.toml", "--json", "--backend", backend]);
    run.arg("--input").arg(&input).arg("--output").arg(&out);
    let record: Value = serde_json::from_str(&shell::output(&mut run)?).map_err(|e| format!("the run printed no JSON: {e}"))?;
    let lines = record["result"]["lines"].as_array().ok_or_else(|| format!("no lines in {record}"))?;
    println!("\n{} lines read from {}:\n", lines.len(), input.display());
    for line in lines {
        println!("  {:.3}  {}", line["score"].as_f64().unwrap_or(0.0), line["text"].as_str().unwrap_or_default());
    }
    let result = record["result_uri"].as_str().unwrap_or_default();
    let folder = result.rsplit_once('/').map_or(result, |(folder, _)| folder).trim_start_matches("file://");
    println!();
    for name in ["result.json", "metrics.json", "annotated.png"] {
        println!("  {:<14} {folder}/{name}", name);
    }
    Ok(())
}
