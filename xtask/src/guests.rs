//! Builds the example and test guests for wasm32-wasip2, and puts the OCR guests beside their pipeline file.

use crate::shell::{cargo, root, run, target};
use std::fs;
use std::path::PathBuf;

/// Builds all guests; returns the folder with their components.
pub fn guests() -> Result<PathBuf, String> {
    run(cargo().current_dir(root().join("guests")).env("CARGO_TARGET_DIR", target()).args(["build", "--release"]))?;
    let built = target().join("wasm32-wasip2/release");
    for name in ["ocr_detect", "ocr_recognize", "ocr_assemble"] {
        let (from, to) = (built.join(format!("{name}.wasm")), root().join(format!("guests/ocr/{name}.wasm")));
        place(&from, &to).map_err(|e| format!("{} cannot be put to {}: {e}", from.display(), to.display()))?;
    }
    Ok(built)
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
