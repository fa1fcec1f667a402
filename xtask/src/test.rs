//! Every test, from nothing: guests, models, then the tests of the workspace and the guests' own.

use crate::{guests, models, mutants, picture, servers, shell};
use std::process::Command;
use std::time::Instant;

/// `test [FILTER]`.
pub fn test(arguments: &[&str]) -> Result<(), String> {
    let began = Instant::now();
    let fetched = shell::part("fetch the models", models::models)?;
    let found = shell::part("find the servers that tests talk to", servers::servers)?;
    shell::part("build the guests", guests::guests)?;
    let root = shell::root();
    picture::draw_to(&root.join("out/test/picture.png").to_string_lossy())?;
    let lines: Vec<&str> = picture::LINES.iter().map(|(text, _)| *text).collect();
    std::fs::write(root.join("out/test/picture.txt"), lines.join("\n")).map_err(|e| e.to_string())?;
    shell::part("build the worker", shell::build)?;
    shell::part("tests of the workspace", || {
        let mut command = shell::cargo();
        command.args(["test", "--release", "--workspace"]).args(arguments).envs(found.iter().map(|(name, program)| (name, program)));
        shell::run(with_library(&mut command, &fetched))
    })?;
    shell::part("tests of the guests", || {
        let mut command = shell::cargo();
        command.current_dir(root.join("guests")).env("CARGO_TARGET_DIR", shell::target());
        shell::run(command.args(["test", "--release", "--target", &host_target()?]).args(arguments))
    })?;
    if arguments.is_empty() {
        shell::part("deliberate breaks, each of which a test must notice", || mutants::mutants(&[]))?;
    }
    println!("all tests passed in {:.1} min", began.elapsed().as_secs_f64() / 60.0);
    Ok(())
}

/// Tells the tests where ONNX Runtime is, unless somebody has.
fn with_library<'a>(command: &'a mut Command, fetched: &models::Fetched) -> &'a mut Command {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        command.env("ORT_DYLIB_PATH", &fetched.onnxruntime);
    }
    command
}

/// The machine's own target, as rustc names it: guests are built for wasm unless told otherwise.
fn host_target() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = shell::output(Command::new(rustc).arg("-vV").current_dir(shell::root()))?;
    let line = text.lines().find_map(|l| l.strip_prefix("host: "));
    line.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}
