//! Benchmarks: builds what they need and starts them. The measuring itself stands in `tests/benches/`.

use crate::{guests, models, shell};
use std::path::PathBuf;
use std::process::Command;

/// What a call across the boundary costs.
pub fn boundary() -> Result<(), String> {
    with_guests(&["boundary"])
}

/// What a task costs from claim to end.
pub fn queue(words: &[&str]) -> Result<(), String> {
    if let ["--redis", rest @ ..] = words {
        let python = peers()?;
        return with_guests(&[&["queue", "--redis", "--python", &python.to_string_lossy()], rest].concat());
    }
    with_guests(&[&["queue"], words].concat())
}

/// How soon a task is picked up.
pub fn pickup(words: &[&str]) -> Result<(), String> {
    with_guests(&[&["pickup"], words].concat())
}

fn with_guests(words: &[&str]) -> Result<(), String> {
    guests::guests()?;
    shell::run(bench().args(words))
}

/// The benches' binary; the words that follow say which of them.
fn bench() -> Command {
    let mut bench = shell::cargo();
    bench.args(["bench", "--quiet", "--profile", "release", "--package", "wasm-worker-tests", "--bench", "bench", "--"]);
    bench
}

/// The OCR pipeline beside the Python original, on the reference picture or, where it is absent, the one drawn here.
pub fn ocr() -> Result<(), String> {
    guests::guests()?;
    let fetched = models::models()?;
    let root = shell::root();
    let folder = std::env::var_os("OCR_REFERENCE_DIR").map_or_else(|| root.join("../shared/data/ocr"), PathBuf::from);
    let mut picture = folder.join("en.jpg");
    if !picture.is_file() {
        eprintln!("{} is absent: measuring on the picture drawn here", picture.display());
        picture = crate::picture::draw_to(&root.join("out/bench/picture.png").to_string_lossy())?;
    }
    let python = peer()?;
    let mut bench = bench();
    bench.arg("ocr").arg(picture.canonicalize().map_err(|e| e.to_string())?).arg(python).arg(fetched.onnxruntime);
    shell::run(&mut bench)
}

/// A Python environment with the original pipeline, made once.
fn peer() -> Result<PathBuf, String> {
    let venv = shell::target().join("bench-python");
    let python = venv.join("bin/python");
    let ready = Command::new(&python).args(["-c", "import rapidocr_onnxruntime"]).output().is_ok_and(|o| o.status.success());
    if !ready {
        eprintln!("installing the Python original into {}", venv.display());
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let packages = ["rapidocr-onnxruntime==1.4.4", "onnxruntime==1.31.1", "opencv-python-headless<5"];
        shell::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
        // The package asks for the OpenCV build with windows, which needs system libraries; the other one serves as well.
        let _ = Command::new(&python).args(["-m", "pip", "uninstall", "--quiet", "--yes", "opencv-python"]).status();
        shell::run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--force-reinstall",
            "--no-deps",
            "opencv-python-headless<5",
        ]))?;
    }
    Ok(python)
}

/// A Python environment with the queues that ours is measured beside, made once.
fn peers() -> Result<PathBuf, String> {
    let venv = shell::target().join("bench-queues");
    let python = venv.join("bin/python");
    let ready = Command::new(&python).args(["-c", "import celery, dramatiq, gevent, redis"]).output().is_ok_and(|o| o.status.success());
    if !ready {
        eprintln!("installing Celery and Dramatiq into {}", venv.display());
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let packages = ["celery[redis]==5.7.0", "dramatiq[redis]==2.2.1", "gevent==26.9.0", "hiredis==3.5.0"];
        shell::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    }
    Ok(python)
}
