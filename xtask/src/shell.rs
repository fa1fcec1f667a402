//! Running other programs, and telling how long it took.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_else(|| PathBuf::from("."))
}

/// The cargo that runs this, so that its toolchain stays the same.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` tells this program about itself: build scripts of dependencies watch these, and would run again each time.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH").env_remove("CARGO_MANIFEST_LINKS");
    command
}

/// Runs a command to its end; its output goes through.
pub fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{} cannot be started: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed ({status})", shown(command))) }
}

/// Runs a command and returns what it printed.
pub fn output(command: &mut Command) -> Result<String, String> {
    let out = command.stderr(std::process::Stdio::inherit()).output().map_err(|e| format!("{} cannot be started: {e}", shown(command)))?;
    if !out.status.success() {
        return Err(format!("{} failed ({})\n{}", shown(command), out.status, String::from_utf8_lossy(&out.stdout)));
    }
    String::from_utf8(out.stdout).map_err(|e| format!("{}: {e}", shown(command)))
}

fn shown(command: &Command) -> String {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    format!("`{} {}`", Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy(), arguments.join(" "))
}

/// Does one part of something longer, and says how long it took.
pub fn part<T>(name: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    eprintln!("── {name}");
    let began = Instant::now();
    let done = work()?;
    eprintln!("── {name}: {:.1} s", began.elapsed().as_secs_f64());
    Ok(done)
}

/// Builds every crate of the workspace. Always the whole: a part would be built with other features, and so twice.
pub fn build() -> Result<PathBuf, String> {
    run(cargo().args(["build", "--release", "--workspace"]))?;
    Ok(target().join("release").join(format!("wasm-worker{}", std::env::consts::EXE_SUFFIX)))
}

/// The one target folder.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}
