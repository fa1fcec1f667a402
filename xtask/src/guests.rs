//! Builds the example and test guests for wasm32-wasip2, and puts the OCR guests beside their pipeline file.

use crate::shell::{cargo, output, root, run, target};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds all guests; returns the folder with their components.
pub fn guests() -> Result<PathBuf, String> {
    add_target()?;
    run(cargo().current_dir(root().join("guests")).env("CARGO_TARGET_DIR", target()).args(["build", "--release"]))?;
    let built = target().join("wasm32-wasip2/release");
    for name in ["ocr_detect", "ocr_recognize", "ocr_assemble"] {
        let (from, to) = (built.join(format!("{name}.wasm")), root().join(format!("guests/ocr/{name}.wasm")));
        place(&from, &to).map_err(|e| format!("{} cannot be put to {}: {e}", from.display(), to.display()))?;
    }
    Ok(built)
}

/// rustup does not add the target of `rust-toolchain.toml` to a toolchain that was there before.
fn add_target() -> Result<(), String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut ask = Command::new(rustc);
    let folder = output(ask.current_dir(root()).args(["--print", "target-libdir", "--target", "wasm32-wasip2"]))?;
    if Path::new(folder.trim()).is_dir() {
        return Ok(());
    }
    run(Command::new("rustup").current_dir(root()).args(["target", "add", "wasm32-wasip2"]))
}

/// Copies a component, unless the same bytes stand there: a running worker must not see half of one.
fn place(from: &PathBuf, to: &PathBuf) -> std::io::Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let half = to.with_extension("half");
    fs::write(&half, bytes)?;
    fs::rename(half, to)
}
