//! Puts the guest SDK and the contract into the binary, for `wasm-worker new`: a list of paths and texts in `$OUT_DIR/vendored.rs`.
//! And the version of wasmtime, which does not tell it itself, for `wasm-worker doctor`: `WASMTIME_VERSION`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What a guest outside the repository needs, relative to the workspace's root.
const SOURCES: [&str; 3] = ["sdk-guest/Cargo.toml", "sdk-guest/src", "wit"];

fn main() -> io::Result<()> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(format!("{name} is not set")));
    let root = variable("CARGO_MANIFEST_DIR")?.join("..");
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed=../{source}");
        collect(&root, Path::new(source), &mut files)?;
    }
    files.sort();
    let mut text = String::from("&[\n");
    for file in files {
        // Debug quoting: Rust's own string syntax.
        let whole = fs::canonicalize(root.join(&file))?;
        writeln!(text, "    ({file:?}, include_str!({whole:?})),").map_err(io::Error::other)?;
    }
    text.push_str("]\n");
    fs::write(variable("OUT_DIR")?.join("vendored.rs"), text)?;
    let lock = root.join("Cargo.lock");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    println!("cargo::rustc-env=WASMTIME_VERSION={}", version_of("wasmtime", &fs::read_to_string(lock)?));
    Ok(())
}

/// The version of a package in the text of `Cargo.lock`.
fn version_of(package: &str, lock: &str) -> String {
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\"")).skip(1);
    let version = lines.next().and_then(|line| line.strip_prefix("version = "));
    version.unwrap_or("\"unknown\"").trim_matches('"').to_owned()
}

/// Every file at or below `path`, relative to `root`.
fn collect(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if root.join(path).is_dir() {
        for entry in fs::read_dir(root.join(path))? {
            collect(root, &path.join(entry?.file_name()), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}
